"""The panels in which one speaks to the model: the safety dial turned live, and steering live."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ipywidgets
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import live_figure
from sarsteer_lab.course.hearing import read_out
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.live import Answer, LivePrompt
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.safe_space import ablate
from sarsteer_lab.steering import SteeringVectors, steer

MOST_TOKENS = 16
SWEPT_ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
DIAL_SETTINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

Shown = tuple[Answer, float]
"""An answer and the probability that it opens as a refusal."""

Points = list[tuple[str, float, Callable[[], Shown]]]
"""Points to be drawn: the curve each belongs to, its value there, and what answers."""


class _TwoAnswers(panels.Panel):
    """A request on top, controls, two answers side by side, and a curve over all values of one control.

    Raises ValueError for answers too long to be live (and, of harmful requests, to be shown).
    """

    def __init__(
        self, lalm: LALM, prompts: Sequence[SpokenPrompt], max_new_tokens: int, *controls: ipywidgets.Widget
    ) -> None:
        if not 1 <= max_new_tokens <= MOST_TOKENS:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: a panel's answers have 1 to {MOST_TOKENS} tokens"
            )
        super().__init__()
        self.lalm, self.max_new_tokens = lalm, max_new_tokens
        self.request = panels.RequestPicker(lalm, prompts, self.runner)
        wide = {"flex": "1 1 320px", "width": "auto"}
        self.heard = ipywidgets.HTML()
        self.left, self.right = ipywidgets.HTML(layout=wide), ipywidgets.HTML(layout=wide)
        self.curve = ipywidgets.HTML()
        self.sweep = ipywidgets.Button(description="Try all values", icon="line-chart")
        progress = panels.row(self.sweep, self.runner.progress, self.runner.message)
        answers = panels.row(self.left, self.right)
        self.children = [self.request, panels.row(*controls), self.heard, answers, progress, self.curve]
        self._kept: dict[tuple[Any, ...], Shown] = {}
        self.runner.listen("answer", self._answer, *controls)
        self.sweep.on_click(lambda _: self.runner.soon("sweep", self._start_sweep))
        self.request.changed = self._changed
        self._new_request()
        self._hear()

    def static(self) -> str:
        """The request and both answers."""
        cards = f'<div style="display:flex">{self.left.value}{self.right.value}</div>'
        return f"<p>Request: <b>{self.request.title}</b></p>{self.heard.value}{cards}{self.curve.value}"

    def _show(self) -> None:
        """Put both answers into their places."""
        raise NotImplementedError

    def _swept(self) -> tuple[str, Points]:
        """What is varied when all values are tried, and the points."""
        raise NotImplementedError

    def _changed(self) -> None:
        self.heard.value = ""
        self._new_request()
        self.runner.soon("heard", self._hear)  # after the answer, which is what was asked for

    def _hear(self) -> None:
        """Show what the model heard, by its own read-out."""
        request = self.request.typed.text if self.request.typed else ""
        said = read_out(self.lalm, self.request.spoken.audio)
        self.heard.value = f"<p>{panels.heard_line(request, said)}</p>"

    def _new_request(self) -> None:
        self.runner.cancel()
        self._kept.clear()
        self.curve.value = ""
        self._answer()

    def _answer(self) -> None:
        start = time.perf_counter()
        self._show()
        self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")

    def _ask(self, live: LivePrompt) -> Shown:
        return live.answer(self.max_new_tokens), live.refusal_probability()

    def _outcome(self, answer: Answer) -> str:
        return PhraseJudge().judge(self.request.title, answer.text)

    def _card(self, title: str, shown: Shown) -> str:
        return panels.answer_card(title, *shown, self._outcome(shown[0]))

    def _start_sweep(self) -> None:
        name, points = self._swept()
        self.runner.steps(self._sweep(name, points), len(points))

    def _sweep(self, name: str, points: Points) -> Generator[None, None, None]:
        found: dict[str, list[tuple[float, float, str]]] = {}
        for curve, value, shown in points:
            answer, refusal = shown()
            found.setdefault(curve, []).append((value, refusal, self._outcome(answer)))
            self.curve.value = panels.picture(live_figure(found, name), 520)
            yield


class SteerPanel(_TwoAnswers):
    """Chapter 04: steer the answer to any request, with sliders for alpha, lambda, k and the layers.

    `directions` are refusal directions before ablation, of all layers, by the names of their texts, of which
    the menu `text` picks one; `harmless` the harmless states that span the safe space. Requests as in
    `dial_panel`. The sliders are `alpha`, `lam`, `k` and `layers`. Raises ValueError for more than 16 new
    tokens.
    """

    def __init__(
        self,
        lalm: LALM,
        directions: Mapping[str, SteeringVectors],
        harmless: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[SpokenPrompt] = (),
        *,
        alpha: float = 0.1,
        k: int = 10,
        max_new_tokens: int = 14,
    ) -> None:
        self.directions = directions
        self.space, self.lam, self.k = panels.ablation_controls(harmless, k)
        last = lalm.n_layers - 1
        self.alpha = panels.slider(ipywidgets.FloatSlider, "alpha", value=alpha, min=0, max=1, step=0.01)
        self.layers = panels.slider(ipywidgets.IntRangeSlider, "layers", value=(0, last), min=0, max=last)
        self._live: LivePrompt | None = None
        self.text = ipywidgets.Dropdown(description="refusal text", options=list(directions))
        controls = (self.text, self.alpha, self.lam, self.k, self.layers)
        super().__init__(lalm, prompts, max_new_tokens, *controls)
        self.add_class("sarsteer-steer")

    def _show(self) -> None:
        first, last = self.layers.value
        title = (
            f"steered: alpha = {self.alpha.value:.2f}, lambda = {self.lam.value:.1f}, k = {self.k.value}, "
            f"layers {first} to {last}"
        )
        self.left.value = self._card("without steering", self.shown(0.0))
        self.right.value = self._card(title, self.shown(self.alpha.value))

    def vectors(self) -> SteeringVectors:
        """The vectors at the sliders' lambda and k, of the layers in their range."""
        direction, (first, last) = self.directions[self.text.value], self.layers.value
        values = ablate(direction.values, self.space.first(self.k.value), self.lam.value)
        return SteeringVectors(values, direction.provenance).only(range(first, last + 1))

    def shown(self, alpha: float) -> Shown:
        """The answer at this strength and the sliders' other values; each is computed once per request."""
        key = (alpha, self.text.value, self.lam.value, self.k.value, self.layers.value) if alpha else ()
        if key not in self._kept:
            if self._live is None or self._live.prompt is not self.request.spoken:
                self._live = LivePrompt(self.lalm, self.request.spoken)
            with steer(self.lalm, self.vectors(), alpha):
                self._kept[key] = self._ask(self._live)
        return self._kept[key]

    def _swept(self) -> tuple[str, Points]:
        return "strength alpha", [("steered", alpha, partial(self.shown, alpha)) for alpha in SWEPT_ALPHAS]


class DialPanel(_TwoAnswers):
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    A request is one of `prompts` (their clips have to be there), a sentence typed into the panel and spoken
    at once, or an uploaded clip. `dial` is the slider; the model's own dial stays where it is. Raises
    ValueError for a model without a dial or more than 16 new tokens.
    """

    def __init__(self, lalm: LALM, prompts: Sequence[SpokenPrompt] = (), *, max_new_tokens: int = 12) -> None:
        if lalm.safety is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        options = [(f"{value:.1f}", value) for value in DIAL_SETTINGS]
        nearest = min(DIAL_SETTINGS, key=lambda value: abs(value - (lalm.safety or 0.0)))
        self.dial = panels.slider(ipywidgets.SelectionSlider, "safety dial", options=options, value=nearest)
        super().__init__(lalm, prompts, max_new_tokens, self.dial)

    def _show(self) -> None:
        setting = self.dial.value
        if self.request.typed is None:
            self.left.value = "<p>The words of an uploaded clip are not known: type them to compare.</p>"
        else:
            self.left.value = self._card(f"typed, dial at {setting}", self.shown("typed", setting))
        self.right.value = self._card(f"spoken, dial at {setting}", self.shown("spoken", setting))

    def shown(self, form: str, setting: float) -> Shown:
        """The answer to the request "typed" or "spoken" at a setting; each is computed once per request."""
        if (form, setting) not in self._kept:
            prompt = self.request.typed if form == "typed" else self.request.spoken
            assert prompt is not None
            with _dial_at(self.lalm, setting):
                self._kept[form, setting] = self._ask(LivePrompt(self.lalm, prompt))
        return self._kept[form, setting]

    def _swept(self) -> tuple[str, Points]:
        forms = ["spoken"] if self.request.typed is None else ["typed", "spoken"]
        points = [(form, setting) for setting in DIAL_SETTINGS for form in forms]
        return "safety dial", [(form, value, partial(self.shown, form, value)) for form, value in points]


@contextmanager
def _dial_at(lalm: LALM, setting: float) -> Generator[None, None, None]:
    """The dial at a setting while the block lasts; weights depend on the setting alone, so this undoes."""
    before = lalm.safety
    assert before is not None
    try:
        if setting != before:
            lalm.set_safety(setting)
        yield
    finally:
        if lalm.safety != before:
            lalm.set_safety(before)
