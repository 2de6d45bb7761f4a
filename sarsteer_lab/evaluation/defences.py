"""Every defence behind one small class: what is fed for a spoken request, and what is done
meanwhile.

Prompt defences change the text beside the clip, steering defences the hidden states. The clip
itself is never touched.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.directions import difference_in_means
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.base import PAPER_TEXT, BaseStates, collect_states, refusal_text
from sarsteer_lab.evaluation.gates import (
    Condition,
    NullSpaceGate,
    fit_condition,
    fit_null_space_gate,
    steer_gated,
)
from sarsteer_lab.keeping import activation_store
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import shipped_table
from sarsteer_lab.prompts import REFUSAL, Prompt, Request
from sarsteer_lab.steering import SteeringVectors, steer

PROMPTING: dict[str, dict[str, str]] = shipped_table("prompts/defences.toml")
"""Texts before and after the instruction, by the name of a prompt defence."""

AS_IN_PAPER = "SARSteer as in the paper"
"""A name for one thing alone: the paper's text, alpha 0.1, lambda 1, k 10."""

STEERING_NAMES = (
    "typed difference-in-means",
    "spoken difference-in-means",
    "refusal direction",
    "SARSteer",
    "conditional (CAST)",
    "null-space (AlphaSteer)",
    AS_IN_PAPER,
)


@dataclass(frozen=True)
class Defence:
    """By itself none: the usual prompt, and no push. `name` is unique within an evaluation.

    All defences are pushes with a strength for each prompt, so that several of them may share a
    batch.
    """

    name: str

    def prompt(self, request: Request) -> Prompt:
        """What the model is fed for a spoken request: the clip and the usual instruction."""
        return request.spoken()

    def strengths(self, ready: PreparedBatch) -> Float[Tensor, "prompt"]:
        """How far each of the prompts is pushed; what that takes runs unsteered."""
        return torch.zeros(len(ready.prompts))

    def push(
        self, lalm: LALM, alpha: float | Float[Tensor, "prompt"]
    ) -> AbstractContextManager[None]:
        """Push at this strength, one for all or one per prompt."""
        return nullcontext()

    def settings(self) -> dict[str, Any]:
        """All that its effect depends on, JSON-able: an evaluation is only continued if it is the
        same."""
        return {"kind": type(self).__name__, **_described(self)}


@dataclass(frozen=True)
class PromptDefence(Defence):
    """Text before and after the instruction (or the request's own text); without any, no
    defence."""

    before: str = ""
    after: str = ""

    def prompt(self, request: Request) -> Prompt:
        """The usual prompt with the texts around its own."""
        usual = request.spoken()
        text = " ".join(part for part in (self.before, usual.text, self.after) if part)
        return Prompt(text, usual.audio, usual.system)

    def settings(self) -> dict[str, Any]:
        """The texts; the same kind for no defence."""
        return super().settings() | {"kind": "prompt"}


@dataclass(frozen=True)
class SteeringDefence(Defence):
    """`alpha * vectors` is added for every request: SARSteer, and baselines that differ in the
    vectors.

    `layers` (default: all that have a vector) may count from the end. Raises ValueError for the
    paper's name on vectors of another refusal text.
    """

    vectors: SteeringVectors
    alpha: float = 0.1
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        text = self.vectors.provenance.get("refusal", REFUSAL)
        if self.name in ("SARSteer", AS_IN_PAPER) and text != REFUSAL:
            raise ValueError(
                f"{self.name!r} means the paper's refusal text, but these vectors are of {text!r:.60}: "
                "let the name say which, as 'SARSteer, examples'"
            )

    def strengths(self, ready: PreparedBatch) -> Float[Tensor, "prompt"]:
        """The same for every prompt."""
        return torch.full((len(ready.prompts),), self.alpha)

    def push(
        self, lalm: LALM, alpha: float | Float[Tensor, "prompt"]
    ) -> AbstractContextManager[None]:
        """See `steering.steer`."""
        return steer(lalm, self.vectors, alpha, self.layers)

    def settings(self) -> dict[str, Any]:
        """Strength and vectors, and the layers that are steered."""
        layers = self.vectors.layers if self.layers is None else self.layers
        return super().settings() | {"layers": list(layers)}


@dataclass(frozen=True, kw_only=True)
class ConditionalDefence(SteeringDefence):
    """Steers only the requests for which the condition fires (CAST): one pass looks, the next
    answers."""

    condition: Condition

    def strengths(self, ready: PreparedBatch) -> Float[Tensor, "prompt"]:
        """`alpha` for prompts whose state fires, 0 for others: one position runs."""
        return self.alpha * self.condition.fires(ready.states([self.condition.layer])[:, 0]).float()


@dataclass(frozen=True, kw_only=True)
class GatedDefence(SteeringDefence):
    """Pushes each request as far as its own state opens the gate (AlphaSteer)."""

    gate: NullSpaceGate

    def push(
        self, lalm: LALM, alpha: float | Float[Tensor, "prompt"]
    ) -> AbstractContextManager[None]:
        """See `gates.steer_gated`."""
        return steer_gated(lalm, self.gate, alpha, self.layers)


def prompt_defences(names: Sequence[str] | None = None) -> list[Defence]:
    """No defence, and those that only change the prompt; of these names (None: all)."""
    texts = {"none": {}, **PROMPTING}
    return [
        PromptDefence(name, **own) for name, own in texts.items() if names is None or name in names
    ]


def steering_defences(
    states: BaseStates, alpha: float = 0.1, lam: float = 1.0, k: int = 10, refusal: str = "paper"
) -> dict[str, Callable[[], Defence]]:
    """The steering defences of the course by name, each made when it is called: nothing is fitted
    in vain.

    The paper's baselines, SARSteer, and two beyond it, all at the same `alpha`; vectors differ in
    length, so compare whole curves (`curves.sweep`) before saying that one is better. A defence
    made of the refusal text `refusal` says so in its own name, unless that is the paper's. The last
    is SARSteer with the paper's text and settings, whatever the others'.
    """
    return {
        name: partial(_steering, name, states, alpha, lam, k, refusal) for name in STEERING_NAMES
    }


def _steering(
    name: str, states: BaseStates, alpha: float, lam: float, k: int, refusal: str
) -> Defence:
    if name.endswith("difference-in-means"):
        spoken, typed = (
            (states.harmful, states.harmless),
            (states.typed_harmful, states.typed_harmless),
        )
        means = difference_in_means(*(typed if name.startswith("typed") else spoken))
        return SteeringDefence(name, states.vectors(name, means), alpha)
    if name == AS_IN_PAPER:
        return SteeringDefence(name, states.sarsteer(), 0.1)
    own = name if refusal == "paper" else f"{name}, {refusal}"
    if name == "SARSteer":
        return SteeringDefence(own, states.sarsteer(lam, k, refusal), alpha)
    direction = states.refusal_direction(refusal)
    if name == "conditional (CAST)":
        condition = fit_condition(states.harmful, states.harmless)
        return ConditionalDefence(own, direction, alpha, condition=condition)
    if name == "null-space (AlphaSteer)":
        gate = fit_null_space_gate(states.harmful, states.harmless, direction)
        return GatedDefence(own, direction, alpha, gate=gate)
    return SteeringDefence(own, direction, alpha)


def default_defences(
    states: BaseStates,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    refusal: str = "paper",
    names: Sequence[str] | None = None,
) -> list[Defence]:
    """The defences of these names (None: all), those that change the prompt, then
    `steering_defences`.

    SARSteer as in the paper is only among all beside another one.
    """
    makers = steering_defences(states, alpha, lam, k, refusal)
    if names is None and (alpha, lam, k, refusal) == (0.1, 1.0, 10, "paper"):
        del makers[AS_IN_PAPER]
    chosen = [make() for name, make in makers.items() if names is None or name in names]
    return [*prompt_defences(names), *chosen]


def defence_names() -> list[str]:
    """The defences that can be asked for by name, those that only change the prompt first."""
    return [*(defence.name for defence in prompt_defences()), *STEERING_NAMES]


def choose_defences(
    names: Sequence[str] | None,
    source: tuple[LALM, Sequence[Request]] | None,
    refusal: str = "paper",
    **settings: Any,
) -> list[Defence]:
    """`default_defences`, with their settings, of a model and the requests to derive from
    (`source`).

    `refusal` is the text that steering is derived from, or its name (`base.refusal_text`). Without
    a source, names are checked and only the defences that need no model are returned. Raises
    ValueError for a name that there is not or one twice.
    """
    text_name, text = refusal_text(refusal)
    wanted = defence_names() if names is None else names
    if unknown := [name for name in wanted if name not in defence_names()]:
        raise ValueError(
            f"there is no defence {unknown[0]!r}; choose from: {', '.join(defence_names())}"
        )
    if len(set(wanted)) < len(wanted):
        raise ValueError("a defence is named twice")
    if source is None or not set(wanted) & set(STEERING_NAMES):
        return prompt_defences(names)
    lalm, requests = source
    texts = {text_name: text, **PAPER_TEXT}
    states = collect_states(lalm, requests, refusals=texts, cache=activation_store())
    return default_defences(states, refusal=text_name, names=names, **settings)


def _described(value: Any) -> Any:
    """A value as JSON has it: tensors by their hashes, dataclasses by their fields but for
    provenance."""
    if isinstance(value, Tensor):
        return content_key(value)
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "provenance"]
        return {name: _described(getattr(value, name)) for name in names}
    return value
