"""What the audio tower makes of a clip, kept in memory: no clip is encoded twice by the same
weights.

A sweep, a chapter or a widget asks about the same clips again and again. `remember_clips` wraps the
tower's method on one model: rows of features it has heard (a clip, or a window of a long one) come
from memory, and only the others run.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.weights import weights_checksum

BUDGET = 2**29
"""Bytes of encoded rows that are kept (some 1,700 of the pocket model); the longest unused go
first."""


EARS = ("audio", "speech", "sound", "projector", "encoder")
"""What the names of a trunk's parts that hear hold."""


def remember_clips(lalm: LALM) -> "AudioCache | None":
    """Have a model's audio tower encode each clip once; called again, it returns the same memory.

    None for families whose tower is not known to hear each clip by itself (`Family.encoder`).
    """
    if lalm.family.encoder is None:
        return None
    if (memory := _memory_of(lalm)) is None:
        owner, name = _method(lalm)
        # Of a trunk only what hears: the decoder's weights and hooks do not matter here.
        hearing = [
            part
            for n, part in lalm.trunk.named_children()
            if any(word in n.lower() for word in EARS)
        ]
        memory = AudioCache([owner] if owner is not lalm.trunk else hearing, lalm.family.encoder[1])
        setattr(owner, name, partial(memory.encode, getattr(owner, name)))
    return memory


def forget_clips(lalm: LALM) -> None:
    """Have the audio tower encode every clip anew: for what compares or times its work."""
    if lalm.family.encoder is not None and (memory := _memory_of(lalm)) is not None:
        memory.clear()


def _method(lalm: LALM) -> tuple[nn.Module, str]:
    """The part whose method encodes clips, and the method's name."""
    assert lalm.family.encoder is not None
    path, _, name = lalm.family.encoder[0].rpartition(".")
    return lalm.trunk.get_submodule(path), name


def _memory_of(lalm: LALM) -> "AudioCache | None":
    owner, name = _method(lalm)
    found = getattr(getattr(vars(owner).get(name), "func", None), "__self__", None)
    return found if isinstance(found, AudioCache) else None


class AudioCache:
    """Encoded clips of one model, by the contents of their features (and of their masks).

    Nothing is kept or used while gradients are on, and hooks inside the tower turn the memory off:
    what they do depends on more than the clip. Any change of the tower's weights empties it.
    `encoded` counts the rows that the tower has really run.
    """

    def __init__(self, parts: list[nn.Module], field: str) -> None:
        self.encoded = 0
        self._parts, self._field = parts, field
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._weights = ""

    def clear(self) -> None:
        """Forget all clips."""
        self._kept.clear()

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return sum(row.nbytes for row in self._kept.values())

    def encode(self, plain: Callable[..., Any], features: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The wrapped method: from memory what is there, from the tower what is not."""
        given = (features, *args, *kwargs.values())
        if (
            torch.is_grad_enabled()
            or not all(_one_per_row(value, len(features)) for value in given)
            or any(map(foreign_hooks, self._parts))
        ):
            return plain(features, *args, **kwargs)
        self._forget_if_changed()
        keys = [
            content_key([_rows(value, [row]) for value in given]) for row in range(len(features))
        ]
        places = {key: row for row, key in enumerate(keys) if key not in self._kept}
        kept = {key: self._kept[key] for key in keys if key in self._kept}
        if places:
            some = list(places.values())
            less = {name: _rows(value, some) for name, value in kwargs.items()}
            made = getattr(
                plain(*(_rows(value, some) for value in (features, *args)), **less), self._field
            )
            self.encoded += len(some)
            parts = self._by_row(made, [_rows(value, some) for value in given])
            if parts is None:
                return plain(features, *args, **kwargs)
            kept |= {key: part.clone() for key, part in zip(places, parts, strict=True)}
        for key in dict.fromkeys(keys):
            self._kept[key] = kept[key]
            self._kept.move_to_end(key)
        while self.nbytes > BUDGET:
            self._kept.popitem(last=False)
        return BaseModelOutputWithPooling(**{self._field: torch.cat([kept[key] for key in keys])})

    def _by_row(
        self, made: Float[Tensor, "row *position d_model"], given: list[Any]
    ) -> tuple[Tensor, ...] | None:
        """What the tower made, by rows of features; None if it is not known where one ends."""
        rows = len(given[0])
        if made.ndim == 3:
            return made.split(1) if len(made) == rows else None
        masks = [value for value in given[1:] if isinstance(value, Tensor) and value.ndim == 2]
        heard = masks[0].sum(-1) if masks else None
        if heard is None or len(heard.unique()) == 1:
            return made.split(len(made) // rows) if len(made) % rows == 0 else None
        name = "_get_feat_extract_output_lengths"
        knowing = [part for part in self._parts if hasattr(part, name)]
        if not knowing:
            return None
        lengths = getattr(knowing[0], name)(heard.long())[1].tolist()
        return made.split(lengths) if sum(lengths) == len(made) else None

    def _forget_if_changed(self) -> None:
        tensors = [
            tensor for part in self._parts for tensor in (*part.parameters(), *part.buffers())
        ]
        if (weights := weights_checksum(tensors)) != self._weights:
            self._kept.clear()
            self._weights = weights


def _one_per_row(value: Any, rows: int) -> bool:
    """Whether an argument of the tower can be cut down to some rows of features."""
    return len(value) == rows if isinstance(value, Tensor) else isinstance(value, bool | str | None)


def _rows(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) and len(rows) < len(value) else value
