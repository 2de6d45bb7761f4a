"""Steering vectors as values: algebra, files with provenance, and the formats of other packages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "sarsteer-lab steering vectors 1"
GGUF_ARCHITECTURE = "controlvector"
LAYER_TYPE = "decoder_block"


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """One vector per decoder layer, to be added to that layer's output, and where they come from.

    `values` are kept in float32; row i belongs to layer `layers[i]` (default: layers 0, 1, ...).
    `provenance` is any JSON-able record (model, prompts, k, lambda, ...); it travels with the file and
    through the algebra. Raises ValueError for another shape, values that are not finite, or repeated or
    negative layers.
    """

    values: Float[Tensor, "layer d_model"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not len(self.values) or not self.values.isfinite().all():
            raise ValueError(f"values have to be finite and (layer d_model), not {tuple(self.values.shape)}")
        layers = tuple(self.layers) or tuple(range(len(self.values)))
        if (
            len(set(layers)) != len(self.values)
            or len(layers) != len(self.values)
            or min(layers, default=0) < 0
        ):
            raise ValueError(
                f"{len(self.values)} vectors need as many distinct layers from 0 on, not {layers}"
            )
        # A copy, so that nobody's later in-place edit changes a frozen value.
        object.__setattr__(self, "values", self.values.detach().to(torch.float32, copy=True))
        object.__setattr__(self, "layers", layers)

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
        return SteeringVectors(values, {"sum_of": [dict(self.provenance), dict(other.provenance)]}, layers)

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

    def cosine(self, other: "SteeringVectors") -> Float[Tensor, "layer"]:
        """Cosine with another set of vectors over the same layers; 0 where one of them is zero."""
        self._same_layers(other)
        return torch.nn.functional.cosine_similarity(self.values, other.values.to(self.values.device), dim=-1)

    def rescaled_to(self, other: "SteeringVectors") -> "SteeringVectors":
        """These directions with the other's length in every layer: the control for "it is only shorter".

        Raises ValueError if a vector is zero where the other is not (a zero vector has no direction).
        """
        self._same_layers(other)
        ours, theirs = self.norm(), other.norm().to(self.values.device)
        if ((ours == 0) & (theirs > 0)).any():
            raise ValueError("a zero vector cannot be rescaled: it has no direction")
        values = self.values * (theirs / ours.clamp_min(torch.finfo(torch.float32).tiny))[:, None]
        provenance = {"rescaled_to": dict(other.provenance), "from": dict(self.provenance)}
        return SteeringVectors(values, provenance, self.layers)

    def only(self, layers: Sequence[int]) -> "SteeringVectors":
        """The vectors of some layers. Raises KeyError for a layer without one."""
        return SteeringVectors(torch.stack([self[layer] for layer in layers]), self.provenance, tuple(layers))

    def save(self, path: Path | str) -> None:
        """Write values, layers and provenance to one safetensors file."""
        metadata = {
            "format": FORMAT,
            "layers": json.dumps(self.layers),
            "provenance": json.dumps(dict(self.provenance)),
        }
        save_file({"values": self.values.cpu().contiguous()}, path, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "SteeringVectors":
        """Read a file that `save` wrote. Raises ValueError, naming the file, for anything else."""
        metadata, tensors = _open_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} holds no steering vectors of this package (no format {FORMAT!r} in it)")
        return cls(
            tensors["values"], json.loads(metadata["provenance"]), tuple(json.loads(metadata["layers"]))
        )

    def export_gguf(self, path: Path | str, *, model_hint: str) -> None:
        """Write a control vector for llama.cpp and repeng (GGUF, architecture "controlvector").

        `model_hint` is the decoder's model type ("llama", "qwen2", ...). Tensor `direction.{l}` is added to
        the output of layer l, as here. llama.cpp has no place for layer 0, so this
        raises ValueError if there is a vector for it that is not zero (`only` drops it).
        """
        if 0 in self.layers and self[0].any():
            raise ValueError(
                "llama.cpp control vectors start at layer 1, but there is a vector for layer 0; "
                f"leave it out: vectors.only({[layer for layer in self.layers if layer]}).export_gguf(...)"
            )
        writer = GGUFWriter(path, GGUF_ARCHITECTURE)
        kept = [layer for layer in self.layers if layer]
        writer.add_string(f"{GGUF_ARCHITECTURE}.model_hint", model_hint)
        writer.add_uint32(f"{GGUF_ARCHITECTURE}.layer_count", len(kept))
        for layer in kept:
            writer.add_tensor(f"direction.{layer}", self[layer].cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    @classmethod
    def import_gguf(cls, path: Path | str) -> "SteeringVectors":
        """Read a control vector of llama.cpp or repeng. Raises ValueError, naming the file, if it is none."""
        try:
            reader = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise ValueError(f"{path} is not a GGUF file: {error}") from error
        prefix = "direction."
        found = {
            int(tensor.name.removeprefix(prefix)): torch.from_numpy(np.array(tensor.data, np.float32))
            for tensor in reader.tensors
            if tensor.name.startswith(prefix) and tensor.name.removeprefix(prefix).isdecimal()
        }
        if not found:
            raise ValueError(
                f"{path} is a GGUF file without control vectors (no tensor direction.1, direction.2, ...)"
            )
        hint = reader.get_field(f"{GGUF_ARCHITECTURE}.model_hint")
        provenance = {"imported_from": "gguf", "model_hint": hint.contents() if hint else None}
        return cls.from_layer_activations(found, provenance)

    def layer_activations(self) -> dict[int, Float[Tensor, "d_model"]]:
        """Layer -> vector, as the steering-vectors package wants it.

        `steering_vectors.SteeringVector(layer_activations=vectors.layer_activations(),
        layer_type="decoder_block")` adds the same vectors to the same layers' outputs (times its
        `multiplier`).
        """
        return {layer: self[layer].clone() for layer in self.layers}

    @classmethod
    def from_layer_activations(
        cls, layer_activations: Mapping[int, Tensor], provenance: Mapping[str, Any] | None = None
    ) -> "SteeringVectors":
        """From layer -> vector, for instance a `steering_vectors.SteeringVector`'s `layer_activations`."""
        layers = tuple(sorted(layer_activations))
        values = torch.stack([layer_activations[layer].float() for layer in layers])
        return cls(values, provenance or {}, layers)

    def export_steering_vectors(self, path: Path | str) -> None:
        """Write the steering-vectors package's two fields as safetensors (it leaves saving to pickle).

        Tensors `layer_activations.{l}`, metadata `layer_type` = "decoder_block".
        """
        tensors = {f"layer_activations.{layer}": self[layer].cpu().clone() for layer in self.layers}
        save_file(tensors, path, {"layer_type": LAYER_TYPE})

    @classmethod
    def import_steering_vectors(cls, path: Path | str) -> "SteeringVectors":
        """Read what `export_steering_vectors` wrote. Raises ValueError, naming the file, if it is not."""
        metadata, tensors = _open_safetensors(path)
        prefix = "layer_activations."
        if metadata.get("layer_type") != LAYER_TYPE or not all(name.startswith(prefix) for name in tensors):
            raise ValueError(f"{path} holds no steering-vectors activations of decoder blocks")
        found = {int(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
        return cls.from_layer_activations(found, {"imported_from": "steering-vectors"})

    def _same_layers(self, other: "SteeringVectors") -> None:
        if self.layers != other.layers or self.d_model != other.d_model:
            raise ValueError(
                f"vectors of layers {self.layers} (width {self.d_model}) and {other.layers} "
                f"(width {other.d_model}) cannot be compared layer by layer"
            )


def _open_safetensors(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. Raises ValueError, naming it, if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
