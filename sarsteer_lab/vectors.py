"""Hidden states and steering vectors as values: their shapes, the vectors' algebra and files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.keys import content_key
from sarsteer_lab.store import atomic_write

States = Float[Tensor, "prompt layer d_model"]
"""Hidden states of prompts, as `activations.capture` gives them."""

Vectors = Float[Tensor, "*batch layer d_model"]
"""A vector per layer, or several of these."""

FORMAT = "sarsteer-lab steering vectors 1"
ENTRIES = {"format", "layers", "provenance", "values"}


def shapes(first: Tensor, second: Tensor) -> str:
    """Two tensors' shapes in words, for messages about tensors that do not go together."""
    return f"{tuple(first.shape)} and {tuple(second.shape)}"


def check_pairs(first: States, second: States) -> None:
    """Raise ValueError for states that cannot be of the same prompts, row by row."""
    if first.shape != second.shape or first.ndim != 3 or not len(first):
        raise ValueError(
            f"states of shape {shapes(first, second)} are not pairs: "
            "both have to be (prompt, layer, d_model) with the same prompts in the same order"
        )


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
        given = self.values
        if given.ndim != 2 or not given.numel() or not given.is_floating_point():
            what = f"{given.dtype} of {tuple(given.shape)}"
            raise ValueError(f"values have to be floats of shape (layer d_model), not {what}")
        # A copy, so that nobody's later in-place edit changes a frozen value.
        values = given.detach().to(torch.float32, copy=True)
        if not values.isfinite().all():
            raise ValueError("values have to be finite in float32")
        layers = tuple(self.layers) or range(len(values))
        distinct = {layer for layer in layers if _is_layer(layer)}
        if not len(distinct) == len(layers) == len(values):
            raise ValueError(
                f"{len(values)} vectors need as many distinct layers from 0 on, not {layers}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "layers", tuple(map(int, layers)))
        object.__setattr__(self, "provenance", dict(self.provenance))

    def __repr__(self) -> str:
        return f"SteeringVectors(layers={self.layers}, d_model={self.d_model})"

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
        if self.d_model != other.d_model:
            raise ValueError(f"{self} and {other} cannot be added: their widths differ")
        layers = sorted({*self.layers, *other.layers})
        values = self.values.new_zeros(len(layers), self.d_model)
        for vectors in (self, other):
            rows = [layers.index(layer) for layer in vectors.layers]
            values[rows] += vectors.values.to(values.device)
        provenance = {"sum_of": [self.provenance, other.provenance]}
        return SteeringVectors(values, provenance, tuple(layers))

    def __mul__(self, factor: float) -> "SteeringVectors":
        factor = float(factor)
        provenance = {"scaled_by": factor, "from": self.provenance}
        return SteeringVectors(self.values * factor, provenance, self.layers)

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
        """These directions with the other's lengths: the control for "it is only shorter".

        Raises ValueError for other layers or another width, and if a vector is zero where the other
        is not.
        """
        if self.layers != other.layers or self.d_model != other.d_model:
            raise ValueError(f"{self} and {other} cannot be compared layer by layer")
        lengths = self.norm()  # layer
        wanted = other.norm().to(lengths.device)  # layer
        if wanted[lengths == 0].any():
            raise ValueError("a zero vector cannot be rescaled: it has no direction")
        factors = wanted / lengths.clamp_min(torch.finfo(torch.float32).tiny)
        provenance = {"rescaled_to": other.provenance, "from": self.provenance}
        return SteeringVectors(self.values * factors[:, None], provenance, self.layers)

    def only(self, layers: Sequence[int]) -> "SteeringVectors":
        """The vectors of some layers. Raises KeyError for a layer without one."""
        values = torch.stack([self[layer] for layer in layers])
        return SteeringVectors(values, self.provenance, tuple(layers))

    def save(self, path: Path | str) -> None:
        """Write all of it and a checksum to one safetensors file; folders on the way are made.

        Raises OSError, naming the path, if it cannot be written, TypeError for provenance that is
        not JSON.
        """
        layers, provenance = json.dumps(self.layers), json.dumps(self.provenance)
        metadata = {"format": FORMAT, "layers": layers, "provenance": provenance}
        tensors = {"values": self.values.cpu().contiguous()}
        checksum = content_key(tensors, metadata)
        with _writing(path) as scratch:
            save_file(tensors, scratch, {**metadata, "checksum": checksum})

    @classmethod
    def load(cls, path: Path | str) -> "SteeringVectors":
        """Read a file that `save` wrote. Raises ValueError, naming it, for any other file."""
        try:
            with safe_open(Path(path).expanduser(), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            # Files of earlier versions have no checksum; another name in its place is damage.
            checksum = metadata.pop("checksum", None)
            if {*metadata, *tensors} != ENTRIES or metadata["format"] != FORMAT:
                raise ValueError(f"it holds no tensor `values` alone in the format {FORMAT!r}")
            if checksum not in (None, content_key(tensors, metadata)):
                raise ValueError("its checksum is wrong: it was damaged or edited; fetch it again")
            layers = json.loads(metadata["layers"])
            provenance = json.loads(metadata["provenance"])
            if not layers or not isinstance(layers, list) or not isinstance(provenance, dict):
                raise ValueError("its `layers` have to be a list, its `provenance` a record")
            return cls(tensors["values"], provenance, tuple(layers))
        except Exception as error:  # what a damaged file makes its readers raise is of every kind
            raise ValueError(f"{path} cannot be read as steering vectors: {error}") from error

    def export_gguf(self, path: Path | str, *, model_hint: str) -> None:
        """Write a control vector for llama.cpp and repeng (GGUF, architecture "controlvector").

        `model_hint` is the decoder's model type ("llama", "qwen2", ...). Tensor `direction.{l}` is
        added to the output of layer l, as here. llama.cpp has no place for layer 0, so this raises
        ValueError if there is a vector for it that is not zero (`only` drops it), and OSError,
        naming the path, if it cannot be written.
        """
        from gguf import GGUFWriter  # not needed to steer

        layers = [layer for layer in self.layers if layer]
        if 0 in self.layers and self[0].any():
            raise ValueError(f"llama.cpp has no place for layer 0: export vectors.only({layers})")
        with _writing(path) as scratch:
            writer = GGUFWriter(scratch, "controlvector")
            writer.add_string("controlvector.model_hint", model_hint)
            writer.add_uint32("controlvector.layer_count", len(layers))
            for layer in layers:
                writer.add_tensor(f"direction.{layer}", self[layer].cpu().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()


def _is_layer(number: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 0


@contextmanager
def _writing(path: Path | str) -> Iterator[Path]:
    """`atomic_write`, whose errors name the path. Raises OSError."""
    try:
        with atomic_write(path) as scratch:
            yield scratch
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} cannot be written: {error}") from error
