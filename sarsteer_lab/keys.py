"""Content keys (hashes) of all that decides a result, so that it is found again, never mistaken.

Hashes are xxh3 of 128 bits: as fast as memory, for telling contents apart, not for security.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128


def content_key(*parts: object) -> str:
    """A name for contents: 32 hexadecimal digits, the same if and only if all parts are the same.

    Parts are strings, bytes, numbers, None, arrays, tensors (wherever they lie), and lists, tuples
    and dicts of these; 1, 1.0, True and "1" are different, a list and a tuple of the same are not.
    Raises TypeError for anything else: a path, for instance, says nothing about what the file
    holds.
    """
    digest = xxh3_128()
    _feed(digest, parts)
    return digest.hexdigest()


def _feed(digest: Any, part: object) -> None:
    """Add a part to a hash: its kind with its size, then its content, so that no two read alike."""
    inner: list[object] = []
    content: Any = b""
    if isinstance(part, Mapping):
        for name in sorted(part, key=content_key):
            inner += [name, part[name]]
        kind = f"dict {len(inner)}"
    elif isinstance(part, list | tuple):
        inner = list(part)
        kind = f"list {len(part)}"
    else:
        kind, content = _described(part)
    digest.update(kind.encode() + b"\0")
    digest.update(content)
    for inner_part in inner:
        _feed(digest, inner_part)


def _described(part: object) -> tuple[str, Any]:
    """The kind of a part that holds no others, and its content in bytes."""
    if isinstance(part, np.generic):
        part = part.item()
    if isinstance(part, Tensor):
        return f"tensor {part.dtype} {list(part.shape)}", host_bytes(part)
    if isinstance(part, np.ndarray) and not part.dtype.hasobject:
        flat = np.ascontiguousarray(part).reshape(-1)
        return f"array {part.dtype.str} {list(part.shape)}", flat.view(np.uint8)
    if isinstance(part, str):
        part = part.encode("utf-8", "surrogatepass")
        return f"text {len(part)}", part
    if isinstance(part, bytes):
        return f"bytes {len(part)}", part
    if part is None or isinstance(part, int | float):
        return f"{type(part).__name__} {part!r}", b""
    raise TypeError(f"a key is made of texts, numbers, arrays and lists, not of {part!r:.80}")


def tensor_bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes in the order of its elements: a view where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def host_bytes(tensor: Tensor) -> Any:
    """The same as an array on the host, without a copy if it lies there."""
    return tensor_bytes(tensor).cpu().numpy()


PACKAGES = ("sarsteer-lab", "torch", "transformers")


def versions() -> dict[str, str]:
    """Versions of what computes results: under others they may differ, so they are part of keys."""
    return {name: version(name) for name in PACKAGES}


ORIGIN = {"_name_or_path", "transformers_version", "architectures", "dtype"}
"""Settings that tell only where a checkpoint came from."""


def settings_of(configs: Iterable[Mapping[str, object]]) -> str:
    """Configurations as one text, without `ORIGIN`."""
    return json.dumps([_told(dict(config)) for config in configs], sort_keys=True, default=str)


def _told(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: _told(inner) for name, inner in value.items() if name not in ORIGIN}
