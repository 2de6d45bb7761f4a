"""Tensors whose numbers are not there: what is computed with them is written down, and looked up when asked.

An `Absent` tensor has a shape and a name. Whatever torch computes with it (a layer, a hook of one's own, an
edit in place, an average) is absent too, and its name is a hash of the call and of what went into it, so the
same code on the same inputs always comes to the same name. Only when numbers are asked for (`float`, `==`,
`argmax`, numpy, a figure) does the recording (`Store.recording`) answer: while it records from the numbers,
which are computed along, and in a replay from what was noted under that name.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from xxhash import xxh3_128

from sarsteer_lab.store import Store

SMALL = 4096
"""So many whole numbers or truth values are looked up at once: code turns on them."""

ASKING = ("__format__", "__repr__", "__contains__", "equal", "allclose")
"""Calls that ask for numbers although torch could answer without any."""

EDITS = tuple(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "and", "or")) + ("__setitem__",)
"""Edits in place whose names do not end in one underscore."""

_shapes: dict[str, Any] = {}
"""Shape, strides and type of results in new memory, by call: torch takes its time to tell them."""


class Behind:
    """What stands behind an absent tensor: shape (a meta tensor), numbers while recording, and its name.

    A view's name follows from that of the tensor it is a view `of`, which an edit through any view changes.
    """

    def __init__(self, meta: Tensor, value: Tensor | None, call: Any, of: "Behind | None" = None) -> None:
        self.meta, self.value, self.of = meta, value, of
        self._call = call if of else name_of(call)

    @property
    def name(self) -> str:
        """32 hexadecimal digits."""
        return name_of(self._call) if self.of else self._call

    def edited(self, call: Any) -> None:
        """Take a new name, and with it all that share this memory."""
        root = self
        while root.of:
            root = root.of
        root.renamed(["edit", root.name, self.name, call])

    def renamed(self, call: Any) -> None:
        """Stand for something else; not for views."""
        self._call = name_of(call)


def name_of(call: Any) -> str:
    """The hash of a call: texts, numbers, and what stands behind tensors."""
    named = tree_map(lambda part: part.name if isinstance(part, Behind) else part, call)
    return xxh3_128(repr(named).encode("utf-8", "surrogatepass")).hexdigest()


class Absent(Tensor):
    """A tensor without numbers; see above. `behind` says what it stands for."""

    behind: Behind

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """All of torch comes through here."""
        return _call(func, [args, kwargs or {}])

    def __iter__(self) -> Any:
        """Through a vector with its numbers: one by one each would be noted. (torch passes this by.)"""
        return iter(numbers(self)) if self.ndim == 1 else super().__iter__()


def absent(behind: Behind, like: Tensor | None = None) -> Absent:
    """A tensor for it, or a real one (`like`) that turns into it where code holds it."""
    if like is None:
        made = (behind.meta if behind.value is None else behind.value.detach()).as_subclass(Absent)
    else:
        like.__class__, made = Absent, like  # type: ignore[assignment]
    made.behind = behind
    return made


def numbers(part: Any) -> Any:
    """The numbers of an absent tensor, by the recording; anything else is itself."""
    if not isinstance(part, Absent):
        return part
    return Store.recording.answer(part.behind.name, lambda: part.behind.value)


@cache
def _title(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__qualname__", repr(func))


def _call(func: Any, given: Any) -> Any:
    """What a call of torch gives, some of whose tensors are absent."""
    title = _title(func)
    first: Any = given[0][0] if given[0] else None
    short = title.removesuffix(".__get__").rpartition(".")[2]
    if title.endswith(".__get__") and short in ("device", "is_meta", "is_cuda"):
        return func(torch.zeros(0) if first.behind.value is None else first.behind.value)
    if short == "view" and given[0][1:] == (torch.uint8,):  # the bytes that stand for it in checksums
        return torch.frombuffer(bytearray(first.behind.name.encode()), dtype=torch.uint8)
    edit = (short.endswith("_") and not short.endswith("__")) or short in EDITS
    try:
        if short in ASKING:
            raise NotImplementedError(short)
        shape = None if edit else _shape(func, title, given)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return _ask(func, title, given)
    shapes, form = tree_flatten(shape)
    if not edit and not any(isinstance(part, Tensor) for part in shapes):
        return shape
    written = tree_map(_written, [title, *given])  # first: an edit changes what it is given
    replaying = Store.recording.replaying
    value = None if replaying else _run(func, given, _value)
    if edit:
        if not isinstance(first, Absent):
            absent(Behind(first.to("meta"), None if replaying else first.detach(), written), first)
        if short != "requires_grad_":
            first.behind.edited(written)
        return first
    inputs = [part.behind for part in tree_leaves(given) if isinstance(part, Absent)]
    values = [None] * len(shapes) if replaying else tree_leaves(value)
    made = [_made(*each, [written, at], inputs) for at, each in enumerate(zip(shapes, values, strict=True))]
    return form.unflatten(made)


def _run(func: Any, given: Any, put: Callable[[Any], Any]) -> Any:
    args, kwargs = tree_map(put, given)
    return func(*args, **kwargs)


def _shape(func: Any, title: str, given: Any) -> Any:
    """A call's results as meta tensors."""
    if title in ("torch.Tensor.cpu", "torch.Tensor.cuda"):
        return given[0][0].behind.meta
    if title == "torch.Tensor.__getitem__":  # an index of truth values says by its numbers how many it takes
        return _run(func, given, lambda part: _meta(part) if isinstance(part, Absent) else part)
    key = repr((title, tree_map(_sort, given)))
    if key in _shapes:
        size, stride, dtype = _shapes[key]
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    metas = tree_map(_meta, given)
    shape = func(*metas[0], **metas[1])
    new = isinstance(shape, Tensor) and _shared(shape, tree_leaves(metas)) is None
    if new and shape.storage_offset() == 0:
        _shapes[key] = shape.shape, shape.stride(), shape.dtype
    return shape


def _shared(meta: Tensor, others: list[Any]) -> int | None:
    """Which of the others lies in the same memory."""
    memory = meta.untyped_storage()._cdata
    found = [isinstance(each, Tensor) and each.untyped_storage()._cdata == memory for each in others]
    return found.index(True) if True in found else None


def _made(shape: Any, value: Any, written: Any, inputs: list[Behind]) -> Any:
    """A result of a call, absent if it is a tensor."""
    if not isinstance(shape, Tensor):
        return shape
    if not shape.is_floating_point() and not shape.is_complex() and shape.numel() <= SMALL:
        return Store.recording.answer(name_of(written), lambda: value)
    at = _shared(shape, [each.meta for each in inputs])
    if at is None:
        return absent(Behind(shape, value, written))
    of = inputs[at]  # all other names stay as they are now
    frozen = tree_map(lambda p: p.name if isinstance(p, Behind) and p is not of else p, written)
    return absent(Behind(shape, value, frozen, of))


def _ask(func: Any, title: str, given: Any) -> Any:
    """Numbers are wanted: those of the one tensor in the call, or the call's own answer."""
    if sum(isinstance(part, Tensor) for part in tree_leaves(given)) == 1:
        return _run(func, given, numbers)
    name = name_of(tree_map(_written, [title, *given]))
    return Store.recording.answer(name, lambda: _run(func, given, _value))


def _value(part: Any) -> Any:
    return part.behind.value if isinstance(part, Absent) else part


def _meta(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.behind.meta if isinstance(part, Absent) else part.to("meta")
    return torch.device("meta") if _is_place(part) else part


def _sort(part: Any) -> Any:
    if isinstance(part, Tensor):
        part = part.behind.meta if isinstance(part, Absent) else part
        return part.shape, part.stride(), part.dtype
    return part


def _written(part: Any) -> Any:
    """A part of a call as it is written down: the same on every machine and device."""
    if isinstance(part, Absent):
        return part.behind
    if isinstance(part, Tensor):
        return f"{part.dtype} {list(part.shape)} {Store.recording.look(part)!r}"
    if isinstance(part, np.ndarray):
        return part.tolist()
    if _is_place(part):
        return "device"
    return part if isinstance(part, str | int | float | None) else repr(part)


def _is_place(part: Any) -> bool:
    place = isinstance(part, str) and part.partition(":")[0] in ("cpu", "cuda", "mps")
    return place or isinstance(part, torch.device)
