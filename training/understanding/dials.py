"""The pocket model with two dials, safety and understanding, which the package itself has not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sarsteer_lab.checkpoints import load_parts
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import assemble_pocket, factors_of, safety_delta

Factors = dict[str, tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]]
"""A low-rank change: parameter name -> (A, B); `weight + dial * B @ A` is the weight there."""


def read_delta(path: Path) -> Factors:
    """A delta that training has written; the LoRA scale is already inside B."""
    factors = factors_of(load_file(path))
    return {f"{module}.weight": pair for module, pair in factors.items()}


@dataclass(frozen=True)
class LowRankDeltas:
    """Changes `weight + sum of scale * B @ A` of some weights, from their pristine values.

    `keys` maps parameter names to tensor names in the checkpoint file. `deltas` maps a dial's name
    to its factors; they are added in this order whatever was turned last, so that weights depend on
    the scales alone.
    """

    checkpoint: Path
    keys: dict[str, str]
    deltas: dict[str, Factors]

    @torch.no_grad()
    def apply(self, model: nn.Module, scales: Mapping[str, float]) -> None:
        """Set every weight, computed in float32 on the CPU and then cast.

        `scales` has one for each dial. What is at 0 adds nothing, not even rounding.
        """
        with safe_open(self.checkpoint, framework="pt") as file:
            for name, key in self.keys.items():
                weight = file.get_tensor(key).float()
                for dial, factors in self.deltas.items():
                    if name in factors and scales[dial] != 0:
                        a, b = factors[name]
                        weight = torch.addmm(weight, b.float(), a.float(), alpha=scales[dial])
                model.get_parameter(name).copy_(weight)


def pocket_deltas(model: nn.Module, folder: Path, deltas: dict[str, Factors]) -> LowRankDeltas:
    """Some deltas of the pocket model, their parameters matched to the checkpoint's tensors.

    `model` has to be as it was read: values are compared, so that a wrong match cannot pass.
    Raises ValueError if a parameter is not in the file.
    """
    checkpoint = folder / "model.safetensors"
    names: dict[str, None] = {}
    for factors in deltas.values():
        names |= dict.fromkeys(factors)
    keys = {}
    with safe_open(checkpoint, framework="pt") as file:
        stored = set(file.keys())
        for name in names:
            hub_name = name.replace("model.language_model.", "language_model.model.")
            key = name if name in stored else hub_name
            weight = model.get_parameter(name)
            if key not in stored or not torch.equal(file.get_tensor(key).to(weight), weight):
                raise ValueError(f"{checkpoint} has no pristine copy of {name}")
            keys[name] = key
    return LowRankDeltas(checkpoint, keys, deltas)


class TwoDials:
    """The pocket model, its safety dial at 1, and a dial for the delta that is learnt here."""

    def __init__(self, understanding: Path) -> None:
        """`understanding` is the delta's file."""
        folder = assemble_pocket()
        parts = load_parts(folder, name="pocket", device="auto", dtype="auto", family=None)
        self.learnt = read_delta(understanding)
        both = {"safety": safety_delta(), "understanding": self.learnt}
        self._deltas = pocket_deltas(parts[0], folder, both)
        self.lalm = LALM(*parts, name="pocket")
        self.understanding = 0.0
        self.turn(0.0)

    def turn(self, understanding: float) -> None:
        """Set the understanding dial: at 0 this is the shipped model."""
        scales = {"safety": 1.0, "understanding": understanding}
        self._deltas.apply(self.lalm.model, scales)
        self.understanding = understanding
