"""Defences behind one small class: what is fed for a request, and what is done meanwhile.

Prompt defences change the text beside the clip, steering defences the hidden states. The clip
itself is never touched.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import capture
from sarsteer_lab.directions import difference_in_means
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
from sarsteer_lab.prompts import REFUSAL, Form, Prompt, Request
from sarsteer_lab.steering import Alpha, steer
from sarsteer_lab.vectors import SteeringVectors

StatesOf = Callable[[Sequence[int]], Float[Tensor, "prompt layer d_model"]]
"""Gives the prompts' last-token states of some layers, unsteered."""

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

    A defence is what is fed for a request (`prompt`) and what is done meanwhile (`applied`): a push
    with a strength for each prompt, so that several defences may share a batch.
    """

    name: str

    def prompt(self, request: Request, form: Form = "spoken") -> Prompt:
        """What the model is fed for a request: the clip and the usual instruction, or its words."""
        return request.typed() if form == "typed" else request.spoken()

    @contextmanager
    def applied(self, lalm: LALM, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Defend calls of the model with just these prompts, while the block lasts."""

        def states(layers: Sequence[int]) -> Float[Tensor, "prompt layer d_model"]:
            return capture(lalm, prompts, layers=layers)

        with self.push(lalm, self.strengths(len(prompts), states)):
            yield

    def strengths(self, n_prompts: int, states: StatesOf) -> Float[Tensor, "prompt"]:
        """How far each prompt is pushed; a defence that first looks at them calls `states`."""
        return torch.zeros(n_prompts, dtype=torch.float32)

    def push(self, lalm: LALM, alpha: Alpha) -> AbstractContextManager[None]:
        """Push at this strength, one for all or one per prompt."""
        return nullcontext()

    def effect(self) -> dict[str, Any] | None:
        """What the push does, whatever it is called, tensors and all; None if it does nothing.

        Keys are made of it. By default all fields of a defence that pushes, but its name: so a
        defence of one's own is a dataclass whose fields say all that it depends on.
        """
        if type(self).push is Defence.push:
            return None
        parts = self.parts()
        del parts["name"]
        return parts

    def parts(self) -> dict[str, Any]:
        """All that the defence depends on, tensors and all."""
        return {"kind": type(self).__name__, **fields_of(self)}

    def settings(self) -> dict[str, Any]:
        """The same as JSON has it: an evaluation goes on only with the same."""
        return hashed(self.parts())


@dataclass(frozen=True)
class PromptDefence(Defence):
    """Text before and after the instruction, or the typed request; without any: none."""

    before: str = ""
    after: str = ""

    def prompt(self, request: Request, form: Form = "spoken") -> Prompt:
        """The usual prompt with the texts around its own."""
        usual = super().prompt(request, form)
        parts = [part for part in (self.before, usual.text, self.after) if part]
        return Prompt(" ".join(parts), usual.audio, usual.system)


@dataclass(frozen=True)
class SteeringDefence(Defence):
    """`alpha * vectors` is added for every request: SARSteer, and baselines with other vectors.

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
                f"{self.name!r} means the paper's refusal text, but these vectors are of "
                f"{text!r:.60}: let the name say which, as 'SARSteer, examples'"
            )

    def strengths(self, n_prompts: int, states: StatesOf) -> Float[Tensor, "prompt"]:
        """The same for every prompt."""
        return torch.full((n_prompts,), self.alpha, dtype=torch.float32)

    def push(self, lalm: LALM, alpha: Alpha) -> AbstractContextManager[None]:
        """See `steering.steer`."""
        return steer(lalm, self.vectors, alpha, self.layers)

    def effect(self) -> dict[str, Any] | None:
        """All but the name; None if `alpha` is 0."""
        return super().effect() if self.alpha else None

    def parts(self) -> dict[str, Any]:
        """Strength and vectors, and the layers that are steered."""
        layers = self.vectors.layers if self.layers is None else self.layers
        return super().parts() | {"layers": list(layers)}


@dataclass(frozen=True, kw_only=True)
class ConditionalDefence(SteeringDefence):
    """Steers only the requests for which the condition fires (CAST)."""

    condition: Condition

    def strengths(self, n_prompts: int, states: StatesOf) -> Float[Tensor, "prompt"]:
        """`alpha` for prompts whose state fires, 0 for others: one pass looks, the next answers."""
        of_layer = states([self.condition.layer])[:, 0]
        return self.alpha * self.condition.fires(of_layer).float()


@dataclass(frozen=True, kw_only=True)
class GatedDefence(SteeringDefence):
    """Pushes each request as far as its own state opens the gate (AlphaSteer)."""

    gate: NullSpaceGate

    def push(self, lalm: LALM, alpha: Alpha) -> AbstractContextManager[None]:
        """See `gates.steer_gated`."""
        return steer_gated(lalm, self.gate, alpha, self.layers)


def prompt_defences(names: Sequence[str] | None = None) -> list[Defence]:
    """No defence, and those that only change the prompt; of these names (None: all)."""
    defences: list[Defence] = []
    for name, texts in {"none": {}, **PROMPTING}.items():
        if names is None or name in names:
            defences.append(PromptDefence(name, **texts))
    return defences


def steering_defence(
    name: str,
    states: BaseStates,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    refusal: str = "paper",
) -> SteeringDefence:
    """The steering defence of a name in `STEERING_NAMES`.

    The paper's baselines, SARSteer, and two beyond it, all at the same `alpha`; vectors differ in
    length, so compare whole curves (`curves.sweep`) before saying that one is better. A defence
    made of the refusal text `refusal` says so in its own name, unless that is the paper's. SARSteer
    as in the paper has the paper's text and settings, whatever the others'. Raises ValueError for
    another name, and KeyError for a text that the states are not of.
    """
    if name not in STEERING_NAMES:
        choices = ", ".join(STEERING_NAMES)
        raise ValueError(f"there is no steering defence {name!r}; choose from: {choices}")
    compared = {
        "typed difference-in-means": (states.typed_harmful, states.typed_harmless),
        "spoken difference-in-means": (states.harmful, states.harmless),
    }
    if name in compared:
        means = difference_in_means(*compared[name])
        return SteeringDefence(name, states.vectors(name, means), alpha)
    if name == AS_IN_PAPER:
        return SteeringDefence(name, states.sarsteer())
    full_name = name if refusal == "paper" else f"{name}, {refusal}"
    if name == "SARSteer":
        return SteeringDefence(full_name, states.sarsteer(lam, k, refusal), alpha)
    direction = states.refusal_direction(refusal)
    if name == "conditional (CAST)":
        condition = fit_condition(states.harmful, states.harmless)
        return ConditionalDefence(full_name, direction, alpha, condition=condition)
    if name == "null-space (AlphaSteer)":
        gate = fit_null_space_gate(states.harmful, states.harmless, direction)
        return GatedDefence(full_name, direction, alpha, gate=gate)
    return SteeringDefence(full_name, direction, alpha)


def default_defences(
    states: BaseStates,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    refusal: str = "paper",
    layers: tuple[int, ...] | None = None,
    names: Sequence[str] | None = None,
) -> list[Defence]:
    """The defences of these names (None: all): those that change the prompt, then steering.

    SARSteer as in the paper, which steers all layers and not `layers` alone, is only among all
    beside another one.
    """
    defences = prompt_defences(names)
    settings = (alpha, lam, k, refusal)
    if names is None:
        is_paper = settings == (0.1, 1.0, 10, "paper") and layers is None
        names = STEERING_NAMES[:-1] if is_paper else STEERING_NAMES
    for name in STEERING_NAMES:
        if name in names:
            defence = steering_defence(name, states, *settings)
            of_layers = None if name == AS_IN_PAPER else layers
            defences.append(replace(defence, layers=of_layers))
    return defences


def defence_names() -> list[str]:
    """The defences that can be asked for by name, those that only change the prompt first."""
    return ["none", *PROMPTING, *STEERING_NAMES]


def choose_defences(
    names: Sequence[str] | None,
    source: tuple[LALM, Sequence[Request]] | None,
    refusal: str = "paper",
    **settings: Any,
) -> list[Defence]:
    """`default_defences`, with their settings, of a model and the requests to derive from.

    `refusal` is the text that steering is derived from, or its name (`base.refusal_text`). Without
    a `source`, names are checked and only the defences that need no model are returned. Raises
    ValueError for a name that there is not or one twice.
    """
    text_name, text = refusal_text(refusal)
    choices = defence_names()
    wanted = choices if names is None else names
    for name in wanted:
        if name not in choices:
            raise ValueError(f"there is no defence {name!r}; choose from: {', '.join(choices)}")
    if len(set(wanted)) < len(wanted):
        raise ValueError("a defence is named twice")
    if source is None or not set(wanted) & set(STEERING_NAMES):
        return prompt_defences(names)
    lalm, requests = source
    texts = {text_name: text, **PAPER_TEXT}
    states = collect_states(lalm, requests, refusals=texts, store=activation_store())
    return default_defences(states, refusal=text_name, names=names, **settings)


def fields_of(value: Any) -> Any:
    """A dataclass by its fields, those inside too, but for provenance; anything else as it is."""
    if not is_dataclass(value):
        return value
    by_field = {}
    for field in fields(value):
        if field.name != "provenance":
            by_field[field.name] = fields_of(getattr(value, field.name))
    return by_field


def hashed(value: Any) -> Any:
    """Fields as JSON has them: tensors by their shapes and hashes."""
    if isinstance(value, dict):
        return {name: hashed(inner) for name, inner in value.items()}
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of the content {content_key(value)}"
    return value
