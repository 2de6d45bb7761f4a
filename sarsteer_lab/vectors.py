"""Steering vectors as values: algebra, and files with provenance (other formats:
`probe.exchange`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.keys import content_key
from sarsteer_lab.store import atomic_write

FORMAT = "sarsteer-lab steering vectors 1"


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """One vector per decoder layer, to be added to that layer's output, and where they come from.

    `values` are floating-point numbers, kept in float32; row i belongs to layer `layers[i]`
    (default: layers 0, 1, ...). `provenance` is any JSON-able record (model, prompts, k, lambda,
    ...); it travels with the file and through the algebra. Raises ValueError for other shapes,
    numbers that are no floats or not finite in float32, and layers that are repeated or not whole
    numbers from 0 on.
    """

    values: Float[Tensor, "layer d_model"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.values.shape), self.values.dtype
        if len(shape) != 2 or not self.values.numel() or not dtype.is_floating_point:
            raise ValueError(
                f"values have to be floats of shape (layer d_model), not {dtype} of {shape}"
            )
        # A copy, so that nobody's later in-place edit changes a frozen value.
        values = self.values.detach().to(torch.float32, copy=True)
        if not values.isfinite().all():
            raise ValueError("values have to be finite in float32")
        layers = tuple(self.layers) or tuple(range(len(values)))
        whole = all(isinstance(each, Integral) and not isinstance(each, bool) for each in layers)
        if (
            not whole
            or len(layers) != len(values)
            or len(set(layers)) != len(layers)
            or min(layers) < 0
        ):
            raise ValueError(
                f"{len(values)} vectors need as many distinct layers from 0 on, not {layers}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "layers", tuple(map(int, layers)))

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return self.values.shape[1]

    def __getitem__(self, layer: int) -> Float[Tensor, "d_model"]:
        """The vector of a layer. Raises KeyError if it has none."""
        if layer not in self.layers:
            raise KeyError(f"no vector for layer {layer}; there are {self.layers}")
        return self.values[self.layers.index(layer)]

    def __add__(self, other: "SteeringVectors") -> "SteeringVectors":
        """Layer by layer; a layer that only one of the two has counts as zero in the other."""
        if not isinstance(other, SteeringVectors):
            return NotImplemented
        if self.d_model != other.d_model:
            raise ValueError(f"vectors of width {self.d_model} and {other.d_model} cannot be added")
        layers = tuple(sorted({*self.layers, *other.layers}))
        values = torch.zeros(len(layers), self.d_model, device=self.values.device)
        for vectors in (self, other):
            rows = [layers.index(layer) for layer in vectors.layers]
            values[rows] += vectors.values.to(values.device)
        return SteeringVectors(
            values, {"sum_of": [dict(self.provenance), dict(other.provenance)]}, layers
        )

    def __mul__(self, factor: float) -> "SteeringVectors":
        if not isinstance(factor, Real):
            return NotImplemented
        provenance = {"scaled_by": float(factor), "from": dict(self.provenance)}
        return SteeringVectors(self.values * float(factor), provenance, self.layers)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVectors":
        return self * (1 / divisor)

    def __neg__(self) -> "SteeringVectors":
        return self * -1.0

    def __sub__(self, other: "SteeringVectors") -> "SteeringVectors":
        return self + -other

    def norm(self) -> Float[Tensor, "layer"]:
        """Length of each layer's vector."""
        return self.values.norm(dim=-1)

    def rescaled_to(self, other: "SteeringVectors") -> "SteeringVectors":
        """These directions with the other's length in every layer: the control for "it is only
        shorter".

        Raises ValueError for other layers or another width, and if a vector is zero where the other
        is not.
        """
        if self.layers != other.layers or self.d_model != other.d_model:
            sizes = [f"layers {each.layers} (width {each.d_model})" for each in (self, other)]
            raise ValueError(
                f"vectors of {sizes[0]} and {sizes[1]} cannot be compared layer by layer"
            )
        ours, theirs = self.norm(), other.norm().to(self.values.device)
        if ((ours == 0) & (theirs > 0)).any():
            raise ValueError("a zero vector cannot be rescaled: it has no direction")
        values = self.values * (theirs / ours.clamp_min(torch.finfo(torch.float32).tiny))[:, None]
        provenance = {"rescaled_to": dict(other.provenance), "from": dict(self.provenance)}
        return SteeringVectors(values, provenance, self.layers)

    def only(self, layers: Sequence[int]) -> "SteeringVectors":
        """The vectors of some layers. Raises KeyError for a layer without one."""
        return SteeringVectors(
            torch.stack([self[layer] for layer in layers]), self.provenance, tuple(layers)
        )

    def save(self, path: Path | str) -> None:
        """Write values, layers, provenance and a checksum to one safetensors file, and make its
        folder.

        Raises OSError, naming the path, if it cannot be written, TypeError for provenance that is
        not JSON.
        """
        layers, provenance = json.dumps(self.layers), json.dumps(dict(self.provenance))
        metadata = {"format": FORMAT, "layers": layers, "provenance": provenance}
        tensors = {"values": self.values.cpu().contiguous()}
        try:
            with atomic_write(path) as scratch:
                save_file(
                    tensors, scratch, {**metadata, "checksum": content_key(tensors, metadata)}
                )
        except (OSError, SafetensorError) as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path | str) -> "SteeringVectors":
        """Read a file that `save` wrote. Raises ValueError, naming it, for any other, or a changed
        one."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata, tensors = (
                    file.metadata() or {},
                    {key: file.get_tensor(key) for key in file.keys()},
                )
            # Files of earlier versions have no checksum; another name in its place is a damaged
            # one.
            checksum = metadata.pop("checksum", None)
            named = {*metadata, *tensors} == {"format", "layers", "provenance", "values"}
            if not named or metadata["format"] != FORMAT:
                raise ValueError(f"it holds no tensor `values` alone in the format {FORMAT!r}")
            if checksum is not None and checksum != content_key(tensors, metadata):
                raise ValueError(
                    "its checksum is wrong, so it was damaged or edited; save or fetch it again"
                )
            layers, provenance = json.loads(metadata["layers"]), json.loads(metadata["provenance"])
            if not isinstance(layers, list) or not layers or not isinstance(provenance, dict):
                raise ValueError(
                    "its `layers` have to be a list with entries, its `provenance` a record"
                )
            return cls(tensors["values"], provenance, tuple(layers))
        # RuntimeError: also what JSON that is nested too deep raises.
        except (
            SafetensorError,
            OSError,
            ValueError,
            TypeError,
            LookupError,
            RuntimeError,
        ) as error:
            raise ValueError(f"{path} cannot be read as steering vectors: {error}") from error
