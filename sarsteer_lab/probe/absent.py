"""Tensors whose numbers are not there: what is computed with them is written down, and looked up when asked.

An `Absent` tensor has a shape and a name. Whatever torch computes with it (a layer, a hook of one's own, an
edit in place, an average) is absent too, and its name is a hash of the call and of what went into it, so the
same code on the same inputs always comes to the same name. Only when numbers are asked for (`float`, `==`,
`argmax`, numpy, a figure) does the `Recording` answer: while recording from the numbers, which are computed
along, and in a replay from what was written down under that name.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import resolve_name
from xxhash import xxh3_128

from sarsteer_lab.store import Store

SMALL = 4096
"""Whole numbers and truth values are looked up at once, where they are no more than these: code turns on them."""

ASKING = ("__format__", "__repr__", "__contains__", "equal", "allclose")
"""Calls that ask for numbers although torch could answer for a tensor without any."""


class Behind:
    """What stands behind an absent tensor: shape (a meta tensor), numbers while recording, and its name.

    A view's name follows from that of the tensor it is a view `of`, which an edit through any view changes.
    """

    def __init__(self, meta: Tensor, value: Tensor | None, call: Any, of: "Behind | None" = None) -> None:
        self.meta, self.value, self.of = meta, value, of
        self._call, self._own = call, "" if of else name_of(call)

    @property
    def root(self) -> "Behind":
        """The tensor whose memory this is."""
        return self.of.root if self.of else self

    @property
    def name(self) -> str:
        """32 hexadecimal digits."""
        return name_of(self._call) if self.of else self._own

    def edited(self, call: Any) -> None:
        """Take a new name, and give one to all that share its memory."""
        root = self.root
        root.renamed(["edit", root.name, self.name, call])

    def renamed(self, call: Any) -> None:
        """Stand for something else, which is no view."""
        self._own = name_of(call)


def name_of(call: Any) -> str:
    """The hash of a call: texts, numbers, and what stands behind tensors."""
    return xxh3_128(repr(_named(call)).encode("utf-8", "surrogatepass")).hexdigest()


def _named(part: Any) -> Any:
    if isinstance(part, Behind):
        return part.name
    if isinstance(part, list | tuple):
        return [_named(each) for each in part]
    if isinstance(part, dict):
        return [(name, _named(each)) for name, each in sorted(part.items())]
    return part


class Absent(Tensor):
    """A tensor without numbers; see above. `behind` says what it stands for."""

    behind: Behind

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """All of torch comes through here."""
        return call(func, args, kwargs or {})


def absent(behind: Behind, like: Tensor | None = None) -> Absent:
    """A tensor for it, or a real one (`like`) that turns into it where code holds it."""
    if like is None:
        made = (behind.meta if behind.value is None else behind.value.detach()).as_subclass(Absent)
    else:
        like.__class__, made = Absent, like  # type: ignore[assignment]
    made.behind = behind
    return made


@cache
def _title(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__qualname__", repr(func))


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """What a call of torch gives, some of whose tensors are absent."""
    title = _title(func)
    short = title.removesuffix(".__get__").rpartition(".")[2]
    if title.endswith(".__get__") and short in ("device", "is_meta", "is_cuda"):
        value = args[0].behind.value
        return func(torch.zeros(0) if value is None else value)
    if short == "view" and args[1:] == (torch.uint8,):  # the bytes that stand for it in checksums
        return torch.frombuffer(bytearray(args[0].behind.name.encode()), dtype=torch.uint8)
    if short == "__iter__" and args[0].ndim == 1:
        return iter(numbers(args[0]))  # one by one they would all be looked up anyway
    edit = (short.endswith("_") and not short.endswith("__")) or short in EDITS
    try:
        if short in ASKING:
            raise NotImplementedError(short)
        shape = None if edit else _shape(func, title, args, kwargs)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return _ask(func, title, args, kwargs)
    results = tuple(shape) if isinstance(shape, tuple) else shape  # some have types of their own
    if not edit and not any(isinstance(part, Tensor) for part in _leaves(results)):
        return shape
    written = _swap([title, args, kwargs], _written, True)  # first: an edit changes what it is given
    value = None
    if not Store.recording.replaying:
        value = func(*_swap(args, _value, True), **_swap(kwargs, _value, True))
    if edit:
        if not _is(args[0]):
            made = None if Store.recording.replaying else args[0].detach()
            absent(Behind(args[0].to("meta"), made, written), args[0])
        if short != "requires_grad_":
            args[0].behind.edited(written)
        return args[0]
    inputs = [part.behind for part in _leaves([args, kwargs]) if _is(part)]
    return _made(shape, value, written, inputs)


def _shape(func: Any, title: str, args: Any, kwargs: Any) -> Any:
    """A call's results as meta tensors; those of new memory from a table, for torch takes its time for them."""
    if title in ("torch.Tensor.cpu", "torch.Tensor.cuda"):
        return args[0].behind.meta
    if title == "torch.Tensor.__getitem__":  # an index of truth values says by its numbers how many it takes
        return func(*_swap(args, _meta, False))
    key = repr((title, _swap([args, kwargs], _sort, True)))
    if (known := _SHAPES.get(key)) is not None:
        size, stride, dtype = known
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    metas = _swap([args, kwargs], _meta, True)
    shape = func(*metas[0], **metas[1])
    if isinstance(shape, Tensor) and shape.storage_offset() == 0:
        memory = shape.untyped_storage()._cdata
        if not any(isinstance(m, Tensor) and m.untyped_storage()._cdata == memory for m in _leaves(metas)):
            _SHAPES[key] = shape.shape, shape.stride(), shape.dtype
    return shape


_SHAPES: dict[str, Any] = {}


def _sort(part: Any) -> Any:
    if isinstance(part, Tensor):
        meta = part.behind.meta if _is(part) else part
        return meta.shape, meta.stride(), meta.dtype
    return part


EDITS = tuple(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "and", "or")) + ("__setitem__",)
"""Edits in place whose names do not end in one underscore."""


def _made(shape: Any, value: Any, written: Any, inputs: list[Behind]) -> Any:
    """The results of a call, absent where they are tensors."""
    if isinstance(shape, list | tuple):
        values = [None] * len(shape) if value is None else value
        parts = [
            _made(s, v, [written, at], inputs) for at, (s, v) in enumerate(zip(shape, values, strict=True))
        ]
        return type(shape)(parts) if type(shape) in (list, tuple) or not parts else _like(shape, parts)
    if not isinstance(shape, Tensor):
        return shape
    if not shape.is_floating_point() and not shape.is_complex() and shape.numel() <= SMALL:
        return Store.recording.answer(name_of(written), lambda: value)
    memory = shape.untyped_storage()._cdata
    of = next((each for each in inputs if each.meta.untyped_storage()._cdata == memory), None)
    return absent(Behind(shape, value, written if of is None else _frozen(written, of), of))


def _like(shape: Any, parts: list[Any]) -> Any:
    """A tuple with names (torch.return_types) of these parts; others are plain tuples."""
    return type(shape)(parts) if type(shape).__module__ == "torch.return_types" else tuple(parts)


def _frozen(part: Any, of: Behind) -> Any:
    """A call with names as they are now, but for that of the tensor of which its result is a view."""
    if isinstance(part, list | tuple):
        return [_frozen(each, of) for each in part]
    if isinstance(part, dict):
        return {name: _frozen(each, of) for name, each in part.items()}
    return part.name if isinstance(part, Behind) and part is not of else part


def _ask(func: Any, title: str, args: Any, kwargs: Any) -> Any:
    """Numbers are wanted: those of the one tensor in the call, or the call's own answer."""
    tensors = [part for part in _leaves([args, kwargs]) if isinstance(part, Tensor)]
    if len(tensors) == 1:
        return func(*_swap(args, numbers, True), **_swap(kwargs, numbers, True))
    written = name_of(_swap([title, args, kwargs], _written, True))
    return Store.recording.answer(
        written, lambda: func(*_swap(args, _value, True), **_swap(kwargs, _value, True))
    )


def numbers(part: Any) -> Any:
    """The numbers of an absent tensor, by the recording; anything else is itself."""
    return Store.recording.answer(part.behind.name, lambda: part.behind.value) if _is(part) else part


def _is(part: Any) -> bool:
    return isinstance(part, Absent)


def _value(part: Any) -> Any:
    return part.behind.value if _is(part) else part


def _meta(part: Any) -> Any:
    if _is(part):
        return part.behind.meta
    if isinstance(part, Tensor):
        return part.to("meta")
    return torch.device("meta") if _is_place(part) else part


def _written(part: Any) -> Any:
    """A part of a call as it is written down: the same on every machine and device."""
    if _is(part):
        return part.behind
    if isinstance(part, Tensor):
        return f"{part.dtype} {list(part.shape)} {Store.recording.look(part)!r}"
    if isinstance(part, np.ndarray):
        return part.tolist()
    if _is_place(part):
        return "device"
    return part if isinstance(part, str | int | float | None) else repr(part)


def _is_place(part: Any) -> bool:
    return isinstance(part, torch.device) or (
        isinstance(part, str) and part.partition(":")[0] in ("cpu", "cuda", "mps")
    )


def _swap(part: Any, put: Callable[[Any], Any], deep: bool) -> Any:
    """A call's arguments with each put in its place; without `deep` real whole numbers stay as they are."""
    kind = type(part)
    if kind is tuple:
        return tuple([_swap(each, put, deep) for each in part])
    if kind is list:
        return [_swap(each, put, deep) for each in part]
    if kind is dict:
        return {name: _swap(each, put, deep) for name, each in part.items()}
    if kind is slice:
        return slice(*(_swap(each, put, deep) for each in (part.start, part.stop, part.step)))
    if not deep and isinstance(part, Tensor) and not _is(part) and not part.is_floating_point():
        return part
    return put(part)


def _leaves(part: Any) -> Iterator[Any]:
    kind = type(part)
    if kind is list or kind is tuple:
        for each in part:
            yield from _leaves(each)
    elif kind is dict:
        yield from _leaves(list(part.values()))
    elif kind is slice:
        yield from _leaves([part.start, part.stop, part.step])
    else:
        yield part
