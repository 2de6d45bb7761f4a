"""The safety dial: a low-rank change of some weights at any scale, from their pristine values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from sarsteer_lab.checkpoints import load_parts
from sarsteer_lab.engine.memory import keep_freed_memory
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import assemble_pocket, safety_delta


@dataclass(frozen=True)
class LowRankDelta:
    """A change `weight + scale * B @ A` of some weights, and where their pristine values lie.

    `keys` maps parameter names to tensor names in the checkpoint file; it is read by memory map, so
    that keeping the pristine weights costs no memory and every scale is computed from them, never
    from an earlier scale.
    """

    checkpoint: Path
    keys: dict[str, str]
    factors: dict[str, tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]]

    @torch.no_grad()
    def apply(self, model: nn.Module, scale: float) -> None:
        """Set every weight to `pristine + scale * B @ A`, in float32 on the CPU and then cast."""
        with safe_open(self.checkpoint, framework="pt") as file:
            for name, (a, b) in self.factors.items():
                pristine = file.get_tensor(self.keys[name]).float()
                changed = torch.addmm(pristine, b.float(), a.float(), alpha=scale)
                model.get_parameter(name).copy_(changed)


def pocket_delta(model: Any, folder: Path) -> LowRankDelta:
    """The pocket model's safety delta, its parameters matched to the checkpoint file's tensors.

    save_pretrained may write Qwen2-Audio's tensors under their hub names. They are compared value
    by value: a wrong match cannot pass. Raises ValueError if one is not in the file.
    """
    checkpoint = folder / "model.safetensors"
    factors = safety_delta()
    keys = {}
    with safe_open(checkpoint, framework="pt") as file:
        stored = set(file.keys())
        for name in factors:
            hub_name = name.replace("model.language_model.", "language_model.model.")
            key = name if name in stored else hub_name
            weight = model.get_parameter(name)
            if key not in stored or not torch.equal(file.get_tensor(key).to(weight), weight):
                raise ValueError(
                    f"{checkpoint} has no pristine copy of {name}: delete its folder, "
                    "to have it rebuilt"
                )
            keys[name] = key
    return LowRankDelta(checkpoint, keys, factors)


def load_pocket(
    variant: str = "",
    *,
    safety: float = 1.0,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attention: str | None = None,
) -> LALM:
    """The pocket model, assembled on first use, with its safety dial (`load_lalm("pocket")`).

    Raises ValueError for a variant, of which there are none.
    """
    if variant:
        raise ValueError(
            f"there is one pocket model, and no pocket:{variant}; its dial is `safety`"
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
    turn = pocket_delta(model, folder).apply
    lalm = LALM(model, processor, name="pocket", turn=turn, family=family)
    lalm.set_safety(safety)
    return lalm
