"""Caches of keys and values with room to grow, from some rows of others."""

import copy
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sarsteer_lab.lalm import LALM


def keeps_plain_cache(lalm: LALM) -> bool:
    """Whether a prompt that has run can be continued from its cache, and the cache rolled back
    after.

    Not so for decoders whose cache forgets positions (sliding windows), and for the Omnis, whose
    code counts positions of a continued prompt in its own way.
    """
    rope = getattr(lalm.text_config, "rope_parameters", None) or {}
    layers = DynamicCache(config=lalm.text_config).layers
    return "mrope_section" not in rope and all(type(layer) is DynamicLayer for layer in layers)


class RoomyLayer(DynamicLayer):
    """Some rows of a layer's keys and values (default: all), with room for the positions to come.

    A step then writes its own, where a plain layer copies all that it holds: a fifth of decoding's
    time.
    """

    def __init__(self, layer: Any, room: int, rows: Int[Tensor, "row"] | None) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._held = [_in_larger(part, room, rows) for part in (layer.keys, layer.values)]
        self._show(layer.get_seq_length())

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new positions behind those that are there; all of them."""
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if end > self._held[0].shape[-2]:
            self._held = [
                _in_larger(part, 2 * (end - length), None) for part in (self.keys, self.values)
            ]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[..., length:end, :] = new
        return self._show(end)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (held[..., :length, :] for held in self._held)
        return self.keys, self.values


def blank(cache: Any, rows: int, length: int) -> Any:
    """A cache like this one for so many rows and positions, all zero."""
    blank = copy.copy(cache)
    blank.layers = [DynamicLayer() for _ in cache.layers]
    for layer, like in zip(blank.layers, cache.layers, strict=True):
        layer.lazy_initialization(like.keys, like.values)
        layer.keys, layer.values = (
            part.new_zeros(rows, part.shape[1], length, part.shape[3])
            for part in (like.keys, like.values)
        )
    return blank


def _in_larger(
    part: Float[Tensor, "batch head position width"], room: int, rows: Int[Tensor, "row"] | None
) -> Float[Tensor, "row head larger width"]:
    some = part if rows is None else part[rows.to(part.device)]
    batch, heads, length, width = some.shape
    larger = part.new_empty(batch, heads, length + room, width)
    larger[..., :length, :] = some
    return larger


def with_room(cache: Any, room: int, rows: Int[Tensor, "row"] | None = None) -> Any:
    """A copy of a cache, of some rows or all, into which `room` more positions fit without copying
    again."""
    roomy = copy.copy(cache)
    roomy.layers = [RoomyLayer(layer, room, rows) for layer in cache.layers]
    return roomy
