"""The panels in which one speaks to the model: the safety dial turned live, and steering live."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import live_figure
from sarsteer_lab.course.widgets.panels import LABEL_WIDTH, Panel, RequestPicker, Runner, answer_card, picture
from sarsteer_lab.engine.live import Answer, LivePrompt
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, SpokenPrompt
from sarsteer_lab.safe_space import ablate, principal_space
from sarsteer_lab.steering import SteeringVectors, steer

SWEPT_ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
DIAL_SETTINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

Shown = tuple[Answer, float]
"""An answer and the probability that it opens as a refusal."""


class _TwoAnswers(Panel):
    """A request on top, controls, two answers side by side, and a curve over all values of one control."""

    def __init__(
        self, lalm: LALM, prompts: Sequence[SpokenPrompt], max_new_tokens: int, controls: list[Any]
    ) -> None:
        self.lalm, self.max_new_tokens = lalm, max_new_tokens
        self.runner = Runner()
        self.request = RequestPicker(lalm, prompts, self.runner)
        self.left, self.right = ipywidgets.HTML(), ipywidgets.HTML()
        for card in (self.left, self.right):
            card.layout = ipywidgets.Layout(flex="1 1 320px", width="auto")
        self.sweep = ipywidgets.Button(description="Try all values", icon="line-chart")
        self.curve = ipywidgets.HTML()
        super().__init__(
            [
                self.request,
                *controls,
                ipywidgets.HBox([self.left, self.right], layout={"flex_flow": "row wrap", "width": "100%"}),
                ipywidgets.HBox([self.sweep, self.runner.progress, self.runner.message]),
                self.curve,
            ]
        )
        self.sweep.on_click(lambda _: self.runner.soon("sweep", self._start_sweep))
        self.request.changed = self._new_request

    def static(self) -> str:
        """The request and both answers."""
        cards = f'<div style="display:flex">{self.left.value}{self.right.value}</div>'
        return f"<p>Request: <b>{self.request.title}</b></p>{cards}{self.curve.value}"

    def _new_request(self) -> None:
        raise NotImplementedError

    def _start_sweep(self) -> None:
        raise NotImplementedError

    def _card(self, title: str, shown: Shown) -> str:
        answer, refusal = shown
        outcome = PhraseJudge().judge(self.request.title, answer.text)
        return answer_card(title, answer, refusal, outcome)


class SteerPanel(_TwoAnswers):
    """See `widgets.steer_panel`. `alpha`, `lam`, `k` and `layers` are its sliders."""

    def __init__(
        self,
        lalm: LALM,
        direction: SteeringVectors,
        harmless: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[SpokenPrompt],
        *,
        alpha: float,
        lam: float,
        k: int,
        max_new_tokens: int,
    ) -> None:
        self.direction = direction
        most = min(40, len(harmless) - 1)
        self.space = principal_space(harmless[:, list(direction.layers)], most)
        last = lalm.n_layers - 1

        def slider(kind: type, name: str, **options: Any) -> Any:
            wide = {"width": "min(460px, 95%)"}
            return kind(description=name, continuous_update=False, style=LABEL_WIDTH, layout=wide, **options)

        floating, whole = ipywidgets.FloatSlider, ipywidgets.IntSlider
        self.alpha = slider(floating, "alpha", value=alpha, min=0, max=1, step=0.01)
        self.lam = slider(floating, "lambda", value=lam, min=0, max=1.5, step=0.1, readout_format=".1f")
        self.k = slider(whole, "k", value=min(k, most), min=0, max=most)
        self.layers = slider(ipywidgets.IntRangeSlider, "layers", value=(0, last), min=0, max=last)
        sliders = [self.alpha, self.lam, self.k, self.layers]
        box = ipywidgets.Layout(flex_flow="row wrap")
        super().__init__(lalm, prompts, max_new_tokens, [ipywidgets.HBox(sliders, layout=box)])
        self._kept: dict[tuple[Any, ...], Shown] = {}
        self._live: LivePrompt | None = None
        for control in sliders:
            control.observe(lambda _: self.runner.soon("answer", self._answer), "value")
        self.add_class("sarsteer-steer")
        self._new_request()

    def _new_request(self) -> None:
        self.runner.cancel()
        self._live, self.curve.value = None, ""
        self._kept.clear()
        self.left.value = self._card("without steering", self.shown(alpha=0.0))
        self._answer()

    def _answer(self) -> None:
        start = time.perf_counter()
        first, last = self.layers.value
        title = (
            f"steered: alpha = {self.alpha.value:.2f}, lambda = {self.lam.value:.1f}, k = {self.k.value}, "
            f"layers {first} to {last}"
        )
        self.right.value = self._card(title, self.shown(self.alpha.value))
        self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")

    def vectors(self) -> SteeringVectors:
        """The vectors at the sliders' lambda and k, of the layers in their range."""
        values = ablate(self.direction.values, self.space.first(self.k.value), self.lam.value)
        first, last = self.layers.value
        layers = [layer for layer in self.direction.layers if first <= layer <= last]
        return SteeringVectors(values, self.direction.provenance, self.direction.layers).only(layers)

    def shown(self, alpha: float) -> Shown:
        """The answer at this strength and the sliders' other values; each is computed once per request."""
        key = (alpha, self.lam.value, self.k.value, self.layers.value) if alpha else ()
        if key not in self._kept:
            if self._live is None:
                self._live = LivePrompt(self.lalm, self.request.spoken)
            with steer(self.lalm, self.vectors(), alpha):
                answer = self._live.answer(self.max_new_tokens)
                self._kept[key] = (answer, self._live.refusal_probability())
        return self._kept[key]

    def _start_sweep(self) -> None:
        self.runner.steps(self._sweep(), len(SWEPT_ALPHAS))

    def _sweep(self) -> Generator[None, None, None]:
        found = []
        judge = PhraseJudge()
        for alpha in SWEPT_ALPHAS:
            answer, refusal = self.shown(alpha)
            found.append((alpha, refusal, judge.judge(self.request.title, answer.text)))
            self.curve.value = picture(live_figure({"steered": found}, "strength alpha"), 520)
            yield


class DialPanel(_TwoAnswers):
    """See `widgets.dial_panel`. `dial` is its slider."""

    def __init__(self, lalm: LALM, prompts: Sequence[SpokenPrompt], *, max_new_tokens: int) -> None:
        if lalm.safety is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        self.dial = ipywidgets.SelectionSlider(
            options=[(f"{value:.1f}", value) for value in DIAL_SETTINGS],
            value=min(DIAL_SETTINGS, key=lambda value: abs(value - (lalm.safety or 0.0))),
            description="safety dial",
            continuous_update=False,
            style=LABEL_WIDTH,
            layout={"width": "min(460px, 95%)"},
        )
        super().__init__(lalm, prompts, max_new_tokens, [self.dial])
        self._kept: dict[tuple[str, float], Shown] = {}
        self.dial.observe(lambda _: self.runner.soon("answer", self._answer), "value")
        self._new_request()

    def _new_request(self) -> None:
        self.runner.cancel()
        self._kept.clear()
        self.curve.value = ""
        self._answer()

    def _answer(self) -> None:
        start = time.perf_counter()
        setting = self.dial.value
        if self.request.typed is None:
            self.left.value = "<p>The words of an uploaded clip are not known: type them to compare.</p>"
        else:
            self.left.value = self._card(f"typed, dial at {setting}", self.shown("typed", setting))
        self.right.value = self._card(f"spoken, dial at {setting}", self.shown("spoken", setting))
        self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")

    def shown(self, form: str, setting: float) -> Shown:
        """The answer to the request "typed" or "spoken" at a setting; each is computed once per request."""
        if (form, setting) not in self._kept:
            prompt: Prompt | None = self.request.typed if form == "typed" else self.request.spoken
            assert prompt is not None
            with _dial_at(self.lalm, setting):
                live = LivePrompt(self.lalm, prompt)
                answer = live.answer(self.max_new_tokens)
                self._kept[form, setting] = (answer, live.refusal_probability())
        return self._kept[form, setting]

    def _start_sweep(self) -> None:
        forms = ["spoken"] if self.request.typed is None else ["typed", "spoken"]
        self.runner.steps(self._sweep(forms), len(forms) * len(DIAL_SETTINGS))

    def _sweep(self, forms: list[str]) -> Generator[None, None, None]:
        found: dict[str, list[tuple[float, float, str]]] = {form: [] for form in forms}
        judge = PhraseJudge()
        for setting in DIAL_SETTINGS:
            for form in forms:
                answer, refusal = self.shown(form, setting)
                found[form].append((setting, refusal, judge.judge(self.request.title, answer.text)))
                self.curve.value = picture(live_figure(found, "safety dial"), 520)
                yield


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


def as_vectors(direction: SteeringVectors | Float[Tensor, "layer d_model"]) -> SteeringVectors:
    """Vectors from plain values, which belong to layers 0, 1, ..."""
    return (
        direction if isinstance(direction, SteeringVectors) else SteeringVectors(torch.as_tensor(direction))
    )
