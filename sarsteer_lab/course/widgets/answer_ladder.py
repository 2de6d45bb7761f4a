"""The answer ladder: how a greedy answer turns, token by token, as the push grows."""

from collections.abc import Sequence
from os.path import commonprefix

from traitlets import Dict, Float, List, Unicode

from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.widgets import panels, web
from sarsteer_lab.engine.live import Answer, LivePrompt
from sarsteer_lab.evaluation.judges import Outcome, PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors

ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
MOST_TOKENS = 24

Rung = tuple[Answer, float, Outcome]
"""An answer, the probability that it opens as a refusal, and the phrase judge's outcome."""


class LadderView(web.View):
    """The ladder in the browser (`views/ladder.js`).

    `rungs` holds the rows of each form; the reader chooses `form`, and asks for one more `alpha`.
    """

    title = Unicode().tag(sync=True)
    forms = List(Unicode()).tag(sync=True)
    form = Unicode().tag(sync=True)
    rungs = Dict().tag(sync=True)
    alpha = Float().tag(sync=True)
    most = Float().tag(sync=True)


class Ladder(panels.Panel):
    """Chapter 04: a request's greedy answers under growing alpha, until one breaks the text.

    A row per strength of `alphas`, in their order, up to the first that is judged broken. Marked is
    the token at which a row turns away from the one above; lines under the tokens are as thick as
    they were likely. In `view`, `form` chooses typed or spoken, and `alpha` adds a row of its own.
    `rungs` holds what was found, by form and alpha. Of an answer 20 words at most are shown. Raises
    ValueError for answers of more than 24 tokens and as `steer` does.
    """

    def __init__(
        self,
        lalm: LALM,
        prompt: Request | Prompt,
        vectors: SteeringVectors,
        alphas: Sequence[float] = ALPHAS,
        *,
        max_new_tokens: int = 14,
    ) -> None:
        panels.check_length(max_new_tokens, MOST_TOKENS)
        super().__init__()
        self.lalm = lalm
        self.vectors = vectors
        self.max_new_tokens = max_new_tokens
        self.alphas = sorted(alphas)
        self.forms = forms(lalm, prompt)
        self.title = panels.words_of(prompt)
        self.rungs: dict[str, dict[float, Rung]] = {form: {} for form in self.forms}
        self._live: dict[str, LivePrompt] = {}
        offered = [*self.forms][::-1]
        most = max(1.0, *self.alphas)
        begins = {"form": offered[0], "alpha": self.alphas[0]}
        self.view = LadderView(
            _esm=web.module("ladder"), title=self.title, forms=offered, most=most, **begins
        )
        self.children = [self.view, self.runner.message]
        self.add_class("sarsteer-ladder")
        self.runner.listen("form", self._climb, self.view, trait="form")
        self.runner.listen("alpha", self._add, self.view, trait="alpha")
        self._climb()

    def static(self) -> str:
        """The rows of the form that is shown."""
        form = self.view.form
        rungs = []
        above: tuple[str, ...] | None = None
        for alpha, (answer, refusal_probability, outcome) in sorted(self.rungs[form].items()):
            turns_at = None if above is None else turn(above, answer.tokens)
            spans = panels.token_spans(answer, turns_at)
            rungs.append((alpha, refusal_probability, panels.MARKS[outcome], outcome, spans))
            above = answer.tokens
        return panels.piece("ladder", request=self.title, form=form, rungs=rungs)

    def _find(self, alphas: Sequence[float]) -> None:
        """Answers under these strengths, computed together, up to the first judged broken."""
        form = self.view.form
        if form not in self._live:
            self._live[form] = LivePrompt(self.lalm, self.forms[form])
        answers = self._live[form].answers(self.vectors, alphas, self.max_new_tokens)
        for alpha, (answer, refusal_probability) in zip(alphas, answers, strict=True):
            outcome = PhraseJudge().judge(self.title, answer.text)
            self.rungs[form][alpha] = answer, refusal_probability, outcome
            if outcome == "broken":
                break

    def _climb(self) -> None:
        if not self.rungs[self.view.form]:
            self._find(self.alphas)
        self._show()

    def _add(self) -> None:
        alpha = round(self.view.alpha, 2)
        if alpha not in self.rungs[self.view.form]:
            self._find([alpha])
        self._show()

    def _show(self) -> None:
        """Hand the rows of all forms to the view."""
        states: dict[str, list[dict[str, object]]] = {}
        for form, rungs in self.rungs.items():
            states[form] = []
            for alpha, rung in sorted(rungs.items()):
                state = web.answer_state(*rung, self.max_new_tokens)
                states[form].append({"alpha": alpha} | state)
        self.view.rungs = states


def turn(above: tuple[str, ...], tokens: tuple[str, ...]) -> int | None:
    """The place of the first token that differs from the answer above; None if there is none."""
    return None if above == tokens else len(commonprefix([above, tokens]))
