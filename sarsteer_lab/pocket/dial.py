"""The pocket model's dials: low-rank changes of some weights, from their pristine values, and
another projector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from sarsteer_lab.checkpoints import load_parts
from sarsteer_lab.engine.memory import keep_freed_memory
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import (
    Factors,
    assemble_pocket,
    delta_factors,
    projector_parts,
)
from sarsteer_lab.pocket.soft_tokens import SoftTokens

LOW_RANK = ("safety",)
"""The dials that have a low-rank delta, a file of their name, added in this order."""

DIALS = (*LOW_RANK, "understanding", "spoken_safety")
"""All dials. The last two turn the projector (`soft_tokens`)."""


@dataclass(frozen=True)
class LowRankDeltas:
    """Changes `weight + sum of scale * B @ A` of some weights, and where the pristine ones lie.

    `keys` maps parameter names to tensor names in the checkpoint file; it is read by memory map, so
    that keeping the pristine weights costs no memory and every setting is computed from them, never
    from an earlier one. `factors` holds each dial's changes by parameter name.
    """

    checkpoint: Path
    keys: dict[str, str]
    factors: dict[str, Factors]

    @torch.no_grad()
    def apply(self, model: nn.Module, scales: Mapping[str, float]) -> None:
        """Set every weight to where the dials stand, in float32 on the CPU and then cast.

        A dial at 0 adds nothing, not even rounding.
        """
        with safe_open(self.checkpoint, framework="pt") as file:
            for name, key in self.keys.items():
                weight = file.get_tensor(key).float()
                for dial, factors in self.factors.items():
                    if name in factors and scales[dial] != 0:
                        a, b = factors[name]
                        weight = torch.addmm(weight, b, a, alpha=scales[dial])
                model.get_parameter(name).copy_(weight)


def pocket_deltas(model: Any, folder: Path, factors: dict[str, Factors]) -> LowRankDeltas:
    """Deltas of the pocket model by dial, their parameters matched to the checkpoint's tensors.

    save_pretrained may write Qwen2-Audio's tensors under their hub names. They are compared value
    by value: a wrong match cannot pass. Raises ValueError if one is not in the file.
    """
    checkpoint = folder / "model.safetensors"
    names: dict[str, None] = {}
    for changed in factors.values():
        names |= dict.fromkeys(changed)
    keys = {}
    with safe_open(checkpoint, framework="pt") as file:
        stored = set(file.keys())
        for name in names:
            hub_name = name.replace("model.language_model.", "language_model.model.")
            key = name if name in stored else hub_name
            weight = model.get_parameter(name)
            is_pristine = key in stored and torch.equal(file.get_tensor(key).to(weight), weight)
            if not is_pristine:
                raise ValueError(
                    f"{checkpoint} has no pristine copy of {name}: delete its folder, "
                    "to have it rebuilt"
                )
            keys[name] = key
    return LowRankDeltas(checkpoint, keys, factors)


def load_pocket(
    variant: str = "",
    *,
    safety: float = 1.0,
    understanding: float = 0.0,
    spoken_safety: float = 0.0,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attention: str | None = None,
) -> LALM:
    """The pocket model, assembled on first use, with its dials (`load_lalm("pocket")`).

    `safety` scales the low-rank delta that makes it refuse. `understanding` moves its projector's
    outputs towards the token embeddings that they stand for, by which it knows spoken harm. At 0
    the projector is as it was trained, whatever `spoken_safety` says: that scales what is added to
    these embeddings, as it was learnt from spoken harmful requests.

    Raises ValueError for a variant, of which there are none.
    """
    if variant:
        raise ValueError(
            f"there is one pocket model, and no pocket:{variant}; its dials are {', '.join(DIALS)}"
        )
    keep_freed_memory()
    folder = assemble_pocket()
    model, processor = load_parts(
        folder,
        name="pocket",
        device=device,
        dtype=dtype,
        family=family,
        device_map=device_map,
        attention=attention,
    )
    parts = [projector_parts(dial) for dial in ("understanding", "spoken_safety")]
    soft_tokens = SoftTokens(model.model.multi_modal_projector, *parts)
    lalm = with_dials(model, processor, folder, soft_tokens, family=family)
    lalm.set_dials(safety=safety, understanding=understanding, spoken_safety=spoken_safety)
    return lalm


def with_dials(
    model: Any,
    processor: Any,
    folder: Path,
    soft_tokens: SoftTokens,
    *,
    family: str | None = None,
) -> LALM:
    """The pocket model that was loaded from `folder`, with all its dials, which stand at 0.

    Raises ValueError as `pocket_deltas`.
    """
    factors = {dial: delta_factors(dial) for dial in LOW_RANK}
    deltas = pocket_deltas(model, folder, factors)

    def turn(model: Any, dials: Mapping[str, float]) -> None:
        deltas.apply(model, dials)
        soft_tokens.turn(model, dials["understanding"], dials["spoken_safety"])

    at_zero = dict.fromkeys(DIALS, 0.0)
    return LALM(model, processor, name="pocket", dials=at_zero, turn=turn, family=family)
