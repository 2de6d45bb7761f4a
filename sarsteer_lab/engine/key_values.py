"""KV caches (keys and values of attention): copied with room to grow, put together, cut down."""

import copy
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sarsteer_lab.lalm import LALM


def keeps_plain_cache(lalm: LALM) -> bool:
    """Whether a prompt that has run can go on from its cache, and the cache be rolled back.

    Not so for decoders whose cache forgets positions (sliding windows), and for the Omnis, whose
    code counts positions of a continued prompt in its own way.
    """
    rope = getattr(lalm.text_config, "rope_parameters", None) or {}
    if "mrope_section" in rope:
        return False
    layers = DynamicCache(config=lalm.text_config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


class RoomyLayer(DynamicLayer):
    """Some rows of a layer's keys and values (default: all), with room for the positions to come.

    A step then writes its own, where a plain layer copies all that it holds: a fifth of decoding's
    time.
    """

    def __init__(self, layer: Any, room: int, rows: Int[Tensor, "row"] | None) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._all_keys = _in_larger(layer.keys, room, rows)
        self._all_values = _in_larger(layer.values, room, rows)
        self._show(layer.get_seq_length())

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new positions behind those that are there; all of them."""
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            room = 2 * key_states.shape[-2]
            self._all_keys = _in_larger(self.keys, room, None)
            self._all_values = _in_larger(self.values, room, None)
        self._all_keys[..., length:end, :] = key_states
        self._all_values[..., length:end, :] = value_states
        return self._show(end)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys = self._all_keys[..., :length, :]
        self.values = self._all_values[..., :length, :]
        return self.keys, self.values


def blank(cache: Any, rows: int, length: int) -> Any:
    """A cache like this one for so many rows and positions, all zero."""
    blank = copy.copy(cache)
    blank.layers = []
    for like in cache.layers:
        layer = DynamicLayer()
        layer.lazy_initialization(like.keys, like.values)
        _, heads, _, key_width = like.keys.shape
        value_width = like.values.shape[3]
        layer.keys = like.keys.new_zeros(rows, heads, length, key_width)
        layer.values = like.values.new_zeros(rows, heads, length, value_width)
        blank.layers.append(layer)
    return blank


def paste(part: Any, whole: Any, rows: Sequence[int], offset: int) -> None:
    """Write a cache into these rows of a larger one, from position `offset` on."""
    for from_layer, into_layer in zip(part.layers, whole.layers, strict=True):
        into_layer.keys[rows, :, offset:] = from_layer.keys
        into_layer.values[rows, :, offset:] = from_layer.values


def _in_larger(
    states: Float[Tensor, "batch head position width"], room: int, rows: Int[Tensor, "row"] | None
) -> Float[Tensor, "row head larger width"]:
    """A copy of some rows with room behind their positions."""
    wanted = states if rows is None else states[rows.to(states.device)]
    batch, heads, length, width = wanted.shape
    larger = states.new_empty(batch, heads, length + room, width)
    larger[..., :length, :] = wanted
    return larger


def with_room(cache: Any, room: int, rows: Int[Tensor, "row"] | None = None) -> Any:
    """A copy of a cache, of some rows or all, into which `room` more positions fit in place."""
    roomy = copy.copy(cache)
    roomy.layers = [RoomyLayer(layer, room, rows) for layer in cache.layers]
    return roomy
