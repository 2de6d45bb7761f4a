"""What the audio tower makes of a clip, kept in memory: no clip is encoded twice by the same weights.

A sweep, a chapter or a widget asks about the same clips again and again. The tower's method is wrapped on
this model alone: clips it has heard come from memory, and only the others run.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sarsteer_lab.families import has_foreign_hooks

Clip = Float[np.ndarray, "samples"]

BUDGET = 2**29
"""Bytes of encoded clips that are kept (some 4,000 of the pocket model); the longest unused go first."""


class AudioCache:
    """Encoded clips of one model. `LALM` makes one for families whose tower it knows (`Family.encoder`).

    Nothing is kept or used while gradients are on, and hooks inside the tower turn the memory off: what they
    do depends on more than the clip. A change of the tower's weights empties it. `encoded` counts the clips
    that the tower has really run.
    """

    def __init__(self, trunk: nn.Module, method: str, field: str) -> None:
        *path, name = method.split(".")
        owner: nn.Module = attrgetter(".".join(path))(trunk) if path else trunk
        self.encoded = 0
        self._field = field
        # Of a trunk only what hears: the decoder's weights and hooks do not matter here.
        self._parts = [owner] if path else [m for n, m in trunk.named_children() if _hears(n)]
        self._kept: OrderedDict[str, tuple[Tensor, torch.Size | None]] = OrderedDict()
        self._expected = WeakTensorKeyDictionary()
        self._weights: Any = None
        plain = getattr(owner, name)
        setattr(owner, name, partial(self._encode, plain))

    def expect(self, features: Tensor, clips: Sequence[Clip], lengths: Sequence[int]) -> None:
        """Say which clips the batch `features` holds, and how many audio positions each takes."""
        names = [hashlib.sha256(np.ascontiguousarray(clip).tobytes()).hexdigest() for clip in clips]
        self._expected[features] = (names, list(lengths))

    def clear(self) -> None:
        """Forget all clips, as for a measurement that has to run the tower."""
        self._kept.clear()

    def _encode(self, plain: Callable[..., Any], features: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The wrapped method: from memory what is there, from the tower what is not."""
        known = self._expected.get(features)
        if known is None or torch.is_grad_enabled() or any(map(has_foreign_hooks, self._parts)):
            return plain(features, *args, **kwargs)
        names, lengths = known
        self._forget_if_changed()
        missing = [row for row, name in enumerate(names) if name not in self._kept]
        if len({self._kept[name][1] for name in names if name in self._kept}) > 1:
            missing = list(range(len(names)))  # padded to different lengths: they do not go together
        if missing:
            given = (features, *args, *kwargs.values())
            if not all(_one_row_per_clip(value, len(names)) for value in given):
                missing = list(range(len(names)))
            found = getattr(
                plain(
                    *(_rows(v, missing) for v in (features, *args)),
                    **{name: _rows(v, missing) for name, v in kwargs.items()},
                ),
                self._field,
            )
            self.encoded += len(missing)
            by_clip = found.ndim == 3 and len(found) == len(missing)
            parts = found if by_clip else found.split([lengths[row] for row in missing])
            for row, part in zip(missing, parts, strict=True):
                # Positions past the clip's end are masked by the model: zeros there are as good.
                self._kept[names[row]] = (part[: lengths[row]].clone(), part.shape if by_clip else None)
        for name in names:
            self._kept.move_to_end(name)
        kept = [self._kept[name] for name in names]
        self._make_room()
        shape = kept[0][1]
        if shape is None:
            whole = torch.cat([part for part, _ in kept])
        else:
            whole = kept[0][0].new_zeros(len(kept), *shape)
            for row, (part, _) in enumerate(kept):
                whole[row, : len(part)] = part
        return BaseModelOutputWithPooling(**{self._field: whole})

    def _forget_if_changed(self) -> None:
        tensors = [tensor for part in self._parts for tensor in (*part.parameters(), *part.buffers())]
        weights = [(id(t), t._version, t.dtype, t.device) for t in tensors]
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights

    def _make_room(self) -> None:
        size = sum(part.nbytes for part, _ in self._kept.values())
        while size > BUDGET:
            size -= self._kept.popitem(last=False)[1][0].nbytes


def _hears(name: str) -> bool:
    return any(word in name.lower() for word in ("audio", "speech", "sound", "projector", "encoder"))


def _one_row_per_clip(value: Any, clips: int) -> bool:
    """Whether an argument of the tower can be cut down to some clips."""
    return len(value) == clips if isinstance(value, Tensor) else isinstance(value, bool | str | None)


def _rows(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) and len(rows) < len(value) else value
