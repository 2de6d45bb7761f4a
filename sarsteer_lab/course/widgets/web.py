"""Views that run in the browser: one ECMAScript module each, and what they are fed with.

The module has anywidget's form, `export default { render({ model, el }) }`. In JupyterLab, VS Code
and Colab a kernel feeds it through anywidget; on the site a recording does.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Bool, Dict, Unicode

from sarsteer_lab.engine.live import Answer
from sarsteer_lab.evaluation.phrases import SHOWN_WORDS

VIEWS = Path(__file__).with_name("views")


def module(name: str) -> str:
    """The source of a view's module."""
    shared = (VIEWS / "common.js").read_text(encoding="utf-8")
    return shared + (VIEWS / f"{name}.js").read_text(encoding="utf-8")


class View(anywidget.AnyWidget):
    """A view in a notebook: a module, the `state` that it draws, and what the reader has `chosen`.

    `live` says that a kernel answers. `clips` are those that can be played: where each is, by name.
    """

    _css = (VIEWS / "views.css").read_text(encoding="utf-8")
    _esm = Unicode().tag(sync=True)
    state = Dict().tag(sync=True)
    chosen = Dict().tag(sync=True)
    clips = Dict().tag(sync=True)
    live = Bool(True).tag(sync=True)


def shown_tokens(answer: Answer) -> int:
    """How many of an answer's tokens make its first `SHOWN_WORDS` words."""
    texts = accumulate(answer.tokens)
    return sum(len(text.split()) <= SHOWN_WORDS for text in texts)


def answer_state(
    answer: Answer, refusal_probability: float, outcome: str, most: int
) -> dict[str, Any]:
    """An answer as views take it: at most `SHOWN_WORDS` words, probabilities with four digits.

    `cut` says that there is or may be more: the answer has `most` tokens, or words were left out.
    """
    shown = shown_tokens(answer)
    tokens = list(answer.tokens[:shown])
    cut = len(tokens) == most or shown < len(answer.tokens)
    sure = [round(probability, 4) for probability in answer.probabilities[:shown]]
    said = {"tokens": tokens, "probabilities": sure, "cut": cut}
    ready = round(refusal_probability, 4)
    return {"refusal_probability": ready, "outcome": outcome} | said
