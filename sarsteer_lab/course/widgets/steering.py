"""The panels in which one speaks to the model: the safety dial turned live, and steering live."""

import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ipywidgets import HTML, Button, Dropdown, SelectionSlider, Widget
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import live_figure
from sarsteer_lab.course.hearing import read_out
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.live import Answer, LivePrompt, answers
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.safe_space import ablate
from sarsteer_lab.steering import SteeringVectors

MOST_TOKENS = 16
SWEPT_ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
DIAL_SETTINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

Shown = tuple[Answer, float]
"""An answer and the probability that it opens as a refusal."""


class _TwoAnswers(panels.Panel):
    """A request on top, controls, two answers side by side, and a curve over a control's values.

    `swept` is what that control turns, and its values. Raises ValueError for answers too long to be
    live (and, of harmful requests, to be shown).
    """

    swept: tuple[str, tuple[float, ...]]

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Request],
        max_new_tokens: int,
        *controls: Widget,
    ) -> None:
        panels.check_length(max_new_tokens, MOST_TOKENS)
        super().__init__()
        self.lalm = lalm
        self.max_new_tokens = max_new_tokens
        self.request = panels.RequestPicker(lalm, prompts, self.runner)
        wide = {"flex": "1 1 320px", "width": "auto"}
        self.left, self.right = HTML(layout=wide), HTML(layout=wide)
        self.heard, self.curve = HTML(), HTML()
        self.sweep = Button(description="Try all values", icon="line-chart")
        answers = panels.row(self.left, self.right)
        status = panels.row(self.sweep, self.runner.progress, self.runner.message)
        above = [self.request, panels.row(*controls), self.heard]
        self.children = [*above, answers, status, self.curve]
        self._kept: dict[tuple[Any, ...], dict[str, Shown]] = {}
        self.runner.listen("answer", self._answer, *controls)
        self.sweep.on_click(lambda _: self.runner.soon("sweep", self._start_sweep))
        self.request.changed = self._changed
        self._new_request()
        self._hear()

    def static(self) -> str:
        """The request and both answers."""
        cards = self.left.value + self.right.value
        shown = {"heard": self.heard.value, "cards": cards, "curve": self.curve.value}
        return panels.piece("two_answers", request=self.request.title, **shown)

    def _show(self) -> None:
        """Put both answers into their places."""
        raise NotImplementedError

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """The answers, by their curve, at some values of that control.

        Each is computed once per request.
        """
        raise NotImplementedError

    def _changed(self) -> None:
        self.heard.value = ""
        self._new_request()
        self.runner.soon("heard", self._hear)  # after the answer, which is what was asked for

    def _hear(self) -> None:
        """Show what the model heard, by its own read-out."""
        words = self.request.typed.text if self.request.typed else ""
        heard = read_out(self.lalm, self.request.spoken.audio)
        self.heard.value = f"<p>{panels.heard_line(words, heard)}</p>"

    def _new_request(self) -> None:
        self.runner.cancel()
        self._kept.clear()
        self.curve.value = ""
        self._answer()

    def _answer(self) -> None:
        start = time.perf_counter()
        self._show()
        self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")

    def _outcome(self, answer: Answer) -> str:
        return PhraseJudge().judge(self.request.title, answer.text)

    def _card(self, title: str, shown: Shown) -> str:
        answer, refusal_probability = shown
        return panels.answer_card(title, answer, refusal_probability, self._outcome(answer))

    def _start_sweep(self) -> None:
        self.runner.steps(self._sweep(), len(self.swept[1]))

    def _sweep(self) -> Generator[None, None, None]:
        name, values = self.swept
        curves: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for value in values:
            [answers] = self.at(value)
            for curve, (answer, refusal_probability) in answers.items():
                curves[curve].append((value, refusal_probability, self._outcome(answer)))
            self.curve.value = panels.picture(live_figure(curves, name), 520)
            yield


class SteerPanel(_TwoAnswers):
    """Chapter 04: steer the answer to any request, with sliders for alpha, lambda, k and the
    layers.

    `directions` are refusal directions before ablation, of all layers, by the names of their texts,
    of which the menu `text` picks one; `harmless` the harmless states that span the safe space.
    Requests as in `dial_panel`. The sliders are `alpha`, `lam`, `k` and `layers`. Raises ValueError
    for more than 16 new tokens.
    """

    swept = ("strength alpha", SWEPT_ALPHAS)

    def __init__(
        self,
        lalm: LALM,
        directions: Mapping[str, SteeringVectors],
        harmless: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[Request],
        *,
        alpha: float = 0.1,
        k: int = 10,
        max_new_tokens: int = 14,
    ) -> None:
        self.directions = directions
        self.space, self.lam, self.k = panels.ablation_controls(harmless, k)
        self.alpha = panels.slider("alpha", alpha, 0, 1, step=0.01)
        last = lalm.n_layers - 1
        self.layers = panels.slider("layers", (0, last), 0, last)
        self._live: LivePrompt | None = None
        self.text = Dropdown(description="refusal text", options=list(directions))
        controls = (self.text, self.alpha, self.lam, self.k, self.layers)
        super().__init__(lalm, prompts, max_new_tokens, *controls)
        self.add_class("sarsteer-steer")

    def _show(self) -> None:
        first, last = self.layers.value
        setting = f"alpha = {self.alpha.value:.2f}, lambda = {self.lam.value:.1f}"
        title = f"steered: {setting}, k = {self.k.value}, layers {first} to {last}"
        plain, steered = self.at(0.0, self.alpha.value)
        self.left.value = self._card("without steering", plain["steered"])
        self.right.value = self._card(title, steered["steered"])

    def _start_sweep(self) -> None:
        self.at(*SWEPT_ALPHAS)  # in one batch
        super()._start_sweep()

    def vectors(self) -> SteeringVectors:
        """The vectors at the sliders' lambda and k, of the layers in their range."""
        direction = self.directions[self.text.value]
        first, last = self.layers.value
        values = ablate(direction.values, self.space.first(self.k.value), self.lam.value)
        return SteeringVectors(values, direction.provenance).only(range(first, last + 1))

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """See `_TwoAnswers.at`; the sliders but `alpha` stay."""
        others = (self.text.value, self.lam.value, self.k.value, self.layers.value)
        keys = {alpha: (alpha, *others) if alpha else () for alpha in values}
        lacking = [alpha for alpha, key in keys.items() if key not in self._kept]
        if lacking:
            if self._live is None or self._live.prompt is not self.request.spoken:
                self._live = LivePrompt(self.lalm, self.request.spoken)
            answers = self._live.answers(self.vectors(), lacking, self.max_new_tokens)
            for alpha, shown in zip(lacking, answers, strict=True):
                self._kept[keys[alpha]] = {"steered": shown}
        return [self._kept[keys[alpha]] for alpha in values]


class DialPanel(_TwoAnswers):
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    A request is one of `prompts` (their clips have to be there), a sentence typed into the panel
    and spoken at once, or an uploaded clip. `dial` is the slider; the model's own dial stays where
    it is. Raises ValueError for a model without a dial or more than 16 new tokens.
    """

    swept = ("safety dial", DIAL_SETTINGS)

    def __init__(self, lalm: LALM, prompts: Sequence[Request], *, max_new_tokens: int = 12) -> None:
        now = lalm.safety
        if now is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        settings = {f"{value:.1f}": value for value in DIAL_SETTINGS}
        nearest = min(DIAL_SETTINGS, key=lambda value: abs(value - now))
        options = {"options": list(settings.items()), "value": nearest}
        self.dial = SelectionSlider(description="safety dial", **options, **panels.SLIDER)
        super().__init__(lalm, prompts, max_new_tokens, self.dial)

    def _show(self) -> None:
        [answers] = self.at(self.dial.value)
        unknown = "<p>The words of an uploaded clip are not known: type them to compare.</p>"
        cards = {"typed": unknown}
        for form, shown in answers.items():
            cards[form] = self._card(f"{form}, dial at {self.dial.value}", shown)
        self.left.value, self.right.value = cards["typed"], cards["spoken"]

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """See `_TwoAnswers.at`: the request typed, if its words are known, and spoken."""
        asked = {"spoken": self.request.spoken}
        if self.request.typed is not None:
            asked = {"typed": self.request.typed} | asked
        for setting in values:
            if (setting,) not in self._kept:
                with _dial_at(self.lalm, setting):
                    batch = PreparedBatch(self.lalm, list(asked.values()))
                    both = answers(batch, self.max_new_tokens)
                self._kept[setting,] = dict(zip(asked, both, strict=True))
        return [self._kept[setting,] for setting in values]


@contextmanager
def _dial_at(lalm: LALM, setting: float) -> Generator[None, None, None]:
    """The dial at a setting while the block lasts; weights depend on the setting alone."""
    before = lalm.safety
    assert before is not None
    try:
        if setting != before:
            lalm.set_safety(setting)
        yield
    finally:
        if lalm.safety != before:
            lalm.set_safety(before)
