"""The panels in which one speaks to the model: the safety dial turned live, and steering live."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
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
    """A request on top, controls, two answers side by side, and a curve over all values of one
    control.

    `swept` is what that control turns, and its values. Raises ValueError for answers too long to be
    live (and, of harmful requests, to be shown).
    """

    swept: tuple[str, tuple[float, ...]]

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Request],
        max_new_tokens: int,
        *controls: ipywidgets.Widget,
    ) -> None:
        if not 1 <= max_new_tokens <= MOST_TOKENS:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: answers here have 1 to {MOST_TOKENS} tokens"
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
        both = panels.row(self.left, self.right)
        self.children = [
            self.request,
            panels.row(*controls),
            self.heard,
            both,
            progress,
            self.curve,
        ]
        self._kept: dict[tuple[Any, ...], dict[str, Shown]] = {}
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

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """The answers, by their curve, at some values of that control; each is computed once per
        request."""
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

    def _outcome(self, answer: Answer) -> str:
        return PhraseJudge().judge(self.request.title, answer.text)

    def _card(self, title: str, shown: Shown) -> str:
        return panels.answer_card(title, *shown, self._outcome(shown[0]))

    def _start_sweep(self) -> None:
        self.runner.steps(self._sweep(), len(self.swept[1]))

    def _sweep(self) -> Generator[None, None, None]:
        name, values = self.swept
        found: dict[str, list[tuple[float, float, str]]] = {}
        for value in values:
            for curve, (answer, refusal) in self.at(value)[0].items():
                found.setdefault(curve, []).append((value, refusal, self._outcome(answer)))
            self.curve.value = panels.picture(live_figure(found, name), 520)
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
        prompts: Sequence[Request] = (),
        *,
        alpha: float = 0.1,
        k: int = 10,
        max_new_tokens: int = 14,
    ) -> None:
        self.directions = directions
        self.space, self.lam, self.k = panels.ablation_controls(harmless, k)
        last = lalm.n_layers - 1
        self.alpha = panels.slider(
            ipywidgets.FloatSlider, "alpha", value=alpha, min=0, max=1, step=0.01
        )
        self.layers = panels.slider(
            ipywidgets.IntRangeSlider, "layers", value=(0, last), min=0, max=last
        )
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
        plain, steered = self.at(0.0, self.alpha.value)
        self.left.value = self._card("without steering", plain["steered"])
        self.right.value = self._card(title, steered["steered"])

    def _start_sweep(self) -> None:
        self.at(*SWEPT_ALPHAS)  # in one batch
        super()._start_sweep()

    def vectors(self) -> SteeringVectors:
        """The vectors at the sliders' lambda and k, of the layers in their range."""
        direction, (first, last) = self.directions[self.text.value], self.layers.value
        values = ablate(direction.values, self.space.first(self.k.value), self.lam.value)
        return SteeringVectors(values, direction.provenance).only(range(first, last + 1))

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """See `_TwoAnswers.at`; the sliders but `alpha` stay."""
        others = (self.text.value, self.lam.value, self.k.value, self.layers.value)
        keys = {alpha: (alpha, *others) if alpha else () for alpha in values}
        if lacking := [alpha for alpha, key in keys.items() if key not in self._kept]:
            if self._live is None or self._live.prompt is not self.request.spoken:
                self._live = LivePrompt(self.lalm, self.request.spoken)
            found = self._live.answers(self.vectors(), lacking, self.max_new_tokens)
            for alpha, shown in zip(lacking, found, strict=True):
                self._kept[keys[alpha]] = {"steered": shown}
        return [self._kept[keys[alpha]] for alpha in values]


class DialPanel(_TwoAnswers):
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    A request is one of `prompts` (their clips have to be there), a sentence typed into the panel
    and spoken at once, or an uploaded clip. `dial` is the slider; the model's own dial stays where
    it is. Raises ValueError for a model without a dial or more than 16 new tokens.
    """

    swept = ("safety dial", DIAL_SETTINGS)

    def __init__(
        self, lalm: LALM, prompts: Sequence[Request] = (), *, max_new_tokens: int = 12
    ) -> None:
        if lalm.safety is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        options = [(f"{value:.1f}", value) for value in DIAL_SETTINGS]
        nearest = min(DIAL_SETTINGS, key=lambda value: abs(value - (lalm.safety or 0.0)))
        self.dial = panels.slider(
            ipywidgets.SelectionSlider, "safety dial", options=options, value=nearest
        )
        super().__init__(lalm, prompts, max_new_tokens, self.dial)

    def _show(self) -> None:
        found, at = self.at(self.dial.value)[0], f"dial at {self.dial.value}"
        cards = {form: self._card(f"{form}, {at}", shown) for form, shown in found.items()}
        unknown = "<p>The words of an uploaded clip are not known: type them to compare.</p>"
        self.left.value, self.right.value = cards.get("typed", unknown), cards["spoken"]

    def at(self, *values: float) -> list[dict[str, Shown]]:
        """See `_TwoAnswers.at`: the request typed, if its words are known, and spoken, in one
        batch."""
        typed = {} if self.request.typed is None else {"typed": self.request.typed}
        asked = typed | {"spoken": self.request.spoken}
        for setting in values:
            if (setting,) not in self._kept:
                with _dial_at(self.lalm, setting):
                    found = answers(
                        PreparedBatch(self.lalm, [*asked.values()]), self.max_new_tokens
                    )
                self._kept[setting,] = dict(zip(asked, found, strict=True))
        return [self._kept[setting,] for setting in values]


@contextmanager
def _dial_at(lalm: LALM, setting: float) -> Generator[None, None, None]:
    """The dial at a setting while the block lasts; weights depend on the setting alone, so this
    undoes."""
    before = lalm.safety
    assert before is not None
    try:
        if setting != before:
            lalm.set_safety(setting)
        yield
    finally:
        if lalm.safety != before:
            lalm.set_safety(before)
