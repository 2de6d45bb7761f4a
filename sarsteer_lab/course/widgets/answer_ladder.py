"""The answer ladder: how a greedy answer turns, token by token, as the push grows, until the text
breaks."""

from collections.abc import Sequence
from html import escape

import ipywidgets

from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.live import Answer, LivePrompt
from sarsteer_lab.evaluation.judges import Outcome, PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors

ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
MOST_TOKENS = 24

Rung = tuple[Answer, float, Outcome]
"""An answer, the probability that it opens as a refusal, and the phrase judge's outcome."""


class Ladder(panels.Panel):
    """Chapter 04: one request's greedy answers under growing alpha, from 0 to the one that breaks
    the text.

    A row per strength of `alphas`, in their order, up to the first that is judged broken. Marked is
    the token at which a row turns away from the one above; lines under the tokens are as thick as
    they were likely. `form` chooses typed or spoken, `alpha` adds a row of its own. `rungs` holds
    what was found, by form and alpha. Of an answer 20 words at most are shown. Raises ValueError
    for answers of more than 24 tokens and as `steer` does.
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
        if not 1 <= max_new_tokens <= MOST_TOKENS:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: a ladder's answers have 1 to {MOST_TOKENS}"
            )
        super().__init__()
        self.lalm, self.vectors, self.max_new_tokens = lalm, vectors, max_new_tokens
        self.alphas, self.forms = sorted(alphas), forms(lalm, prompt)
        self.title = panels.words_of(prompt)
        self.rungs: dict[str, dict[float, Rung]] = {form: {} for form in self.forms}
        self._live: dict[str, LivePrompt] = {}
        self.form = ipywidgets.ToggleButtons(options=[*self.forms][::-1])
        top = max(1.0, *self.alphas)
        self.alpha = panels.slider(
            ipywidgets.FloatSlider, "one more alpha", min=0, max=top, step=0.01
        )
        self.view = ipywidgets.HTML()
        self.children = [panels.row(self.form, self.alpha), self.view, self.runner.message]
        self.add_class("sarsteer-ladder")
        self.runner.listen("form", self._climb, self.form)
        self.runner.listen("alpha", self._add, self.alpha)
        self._climb()

    def static(self) -> str:
        """The rows."""
        return self.view.value

    def _find(self, alphas: Sequence[float]) -> None:
        """Answers under these strengths, computed together, up to the first that is judged
        broken."""
        form = self.form.value
        if form not in self._live:
            self._live[form] = LivePrompt(self.lalm, self.forms[form])
        found = self._live[form].answers(self.vectors, alphas, self.max_new_tokens)
        for alpha, (answer, refusal) in zip(alphas, found, strict=True):
            outcome = PhraseJudge().judge(self.title, answer.text)
            self.rungs[form][alpha] = answer, refusal, outcome
            if outcome == "broken":
                break

    def _climb(self) -> None:
        if not self.rungs[self.form.value]:
            self._find(self.alphas)
        self._show()

    def _add(self) -> None:
        alpha = round(self.alpha.value, 2)
        if alpha not in self.rungs[self.form.value]:
            self._find([alpha])
        self._show()

    def _show(self) -> None:
        above: tuple[str, ...] | None = None
        lines = [("<b>alpha</b>", "<b>P(refusal)</b>", "<b>outcome</b>", "<b>answer</b>")]
        for alpha, (answer, refusal, outcome) in sorted(self.rungs[self.form.value].items()):
            said = panels.token_spans(answer, None if above is None else turn(above, answer.tokens))
            lines.append(
                (f"{alpha:g}", f"{refusal:.2f}", f"{panels.MARKS[outcome]} {outcome}", said)
            )
            above = answer.tokens
        cell = '<td style="text-align:left;padding:0 18px 0 0">'
        rows = "".join(
            f"<tr>{''.join(f'{cell}{text}</td>' for text in line)}</tr>" for line in lines
        )
        self.view.value = (
            f"{panels.PARAGRAPH}<b>{escape(self.title)}</b> ({self.form.value}). \u25bc and a box: the first "
            "token that differs from the row above. The thicker the line, the likelier the token was. "
            "P(refusal): the answer opens as a refusal.</p>"
            f'<table style="font-size:16px;line-height:2">{rows}</table>'
        )


def turn(above: Sequence[str], tokens: Sequence[str]) -> int | None:
    """The place of the first token that differs from the answer above; None if there is none."""
    if tuple(above) == tuple(tokens):
        return None
    alike = [a == b for a, b in zip(above, tokens, strict=False)]
    return alike.index(False) if False in alike else len(alike)
