"""Cache of encoded clips, in memory: the audio tower encodes no clip twice.

A sweep, a chapter or a widget asks about the same clips again and again. `remember_clips` wraps the
tower's method on one model: rows of features it has heard (a clip, or a window of a long one) come
from memory, and only the others run.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.own_code import replaced_code
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
    memory = _memory_of(lalm)
    if memory is None:
        owner, name = _method(lalm)
        parts = [owner] if owner is not lalm.trunk else hearing_parts(lalm)
        memory = AudioCache(parts, lalm.family.encoder[1])
        setattr(owner, name, partial(memory.encode, getattr(owner, name)))
    return memory


def forget_clips(lalm: LALM) -> None:
    """Have the audio tower encode every clip anew: for what compares or times its work."""
    memory = None if lalm.family.encoder is None else _memory_of(lalm)
    if memory is not None:
        memory.clear()


def hearing_parts(lalm: LALM) -> list[nn.Module]:
    """What hears of a trunk: the decoder's weights and hooks do not matter to a clip."""
    parts = []
    for name, part in lalm.trunk.named_children():
        if any(word in name.lower() for word in EARS):
            parts.append(part)
    return parts


def _method(lalm: LALM) -> tuple[nn.Module, str]:
    """The part whose method encodes clips, and the method's name."""
    assert lalm.family.encoder is not None
    path, _, name = lalm.family.encoder[0].rpartition(".")
    return lalm.trunk.get_submodule(path), name


def _memory_of(lalm: LALM) -> "AudioCache | None":
    owner, name = _method(lalm)
    wrapped = vars(owner).get(name)  # None, or a partial of a memory's `encode`
    memory = getattr(getattr(wrapped, "func", None), "__self__", None)
    return memory if isinstance(memory, AudioCache) else None


class AudioCache:
    """Encoded clips of one model, by the contents of their features (and of their masks).

    Nothing is kept or used while gradients are on, and hooks or replaced code inside the tower turn
    the memory off: what they do depends on more than the clip. Any change of the tower's weights
    empties it.
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
        arguments = [features, *args, *kwargs.values()]
        if not self._applies(arguments):
            return plain(features, *args, **kwargs)
        self._forget_if_changed()
        keys = [_key(arguments, row) for row in range(len(features))]
        encoded = {key: self._kept[key] for key in keys if key in self._kept}
        row_of_missing = {key: row for row, key in enumerate(keys) if key not in encoded}
        if row_of_missing:
            rows = list(row_of_missing.values())
            options = {name: _rows(value, rows) for name, value in kwargs.items()}
            positional = [_rows(value, rows) for value in (features, *args)]
            output = getattr(plain(*positional, **options), self._field)
            self.encoded += len(rows)
            by_row = self._by_row(output, [*positional, *options.values()])
            if by_row is None:
                return plain(features, *args, **kwargs)
            for key, clip in zip(row_of_missing, by_row, strict=True):
                encoded[key] = clip.clone()
        self._keep(encoded)
        together = torch.cat([encoded[key] for key in keys])
        return BaseModelOutputWithPooling(**{self._field: together})

    def _applies(self, arguments: list[Any]) -> bool:
        """Whether rows can be told apart, and what is made of one depends on the clip alone."""
        if torch.is_grad_enabled():
            return False
        for part in self._parts:
            if foreign_hooks(part) or any(replaced_code(part)):
                return False
        n_rows = len(arguments[0])
        return all(_one_per_row(value, n_rows) for value in arguments)

    def _keep(self, encoded: Mapping[str, Tensor]) -> None:
        """Keep clips as those used last; the longest unused go once there is too much."""
        for key, clip in encoded.items():
            self._kept[key] = clip
            self._kept.move_to_end(key)
        while self.nbytes > BUDGET:
            self._kept.popitem(last=False)

    def _by_row(
        self, output: Float[Tensor, "row *position d_model"], arguments: list[Any]
    ) -> Sequence[Tensor] | None:
        """What the tower made, by rows of features; None if it is not known where one ends."""
        n_rows = len(arguments[0])
        if output.ndim == 3:
            return output.split(1) if len(output) == n_rows else None
        masks = [value for value in arguments[1:] if isinstance(value, Tensor) and value.ndim == 2]
        n_frames = masks[0].sum(-1) if masks else None  # row
        if n_frames is None or len(n_frames.unique()) == 1:
            return output.split(len(output) // n_rows) if len(output) % n_rows == 0 else None
        for part in self._parts:
            length_of: Any = getattr(part, "_get_feat_extract_output_lengths", None)
            if length_of is not None:
                lengths = length_of(n_frames.long())[1].tolist()
                return output.split(lengths) if sum(lengths) == len(output) else None
        return None

    def _forget_if_changed(self) -> None:
        tensors: list[Tensor] = []
        for part in self._parts:
            tensors += [*part.parameters(), *part.buffers()]
        weights = weights_checksum(tensors)
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights


def _one_per_row(value: Any, n_rows: int) -> bool:
    """Whether an argument of the tower can be cut down to some rows of features."""
    if isinstance(value, Tensor):
        return len(value) == n_rows
    return isinstance(value, bool | str | None)


def _rows(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) else value


def _key(arguments: list[Any], row: int) -> str:
    return content_key([_rows(value, [row]) for value in arguments])
