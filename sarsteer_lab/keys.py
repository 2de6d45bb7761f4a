"""Content keys: a name for all that decides a result, so that it is found again and never mistaken.

Hashes are xxh3 of 128 bits: as fast as memory, for telling contents apart, not for security.
"""

import json
from collections.abc import Iterable, Mapping
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
    content: Any = b""
    inner: list[object] = []
    if isinstance(part, np.generic):
        part = part.item()
    if isinstance(part, Mapping):
        for name in sorted(part, key=content_key):
            inner += [name, part[name]]
        kind = f"dict {len(inner)}"
    elif isinstance(part, list | tuple):
        inner = list(part)
        kind = f"list {len(part)}"
    elif isinstance(part, Tensor):
        kind = f"tensor {part.dtype} {list(part.shape)}"
        content = host_bytes(part)
    elif isinstance(part, np.ndarray) and not part.dtype.hasobject:
        kind = f"array {part.dtype.str} {list(part.shape)}"
        content = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    elif isinstance(part, str):
        content = part.encode("utf-8", "surrogatepass")
        kind = f"text {len(content)}"
    elif isinstance(part, bytes):
        content = part
        kind = f"bytes {len(content)}"
    elif part is None or isinstance(part, int | float):
        kind = f"{type(part).__name__} {part!r}"
    else:
        raise TypeError(f"a key is made of texts, numbers, arrays and lists, not of {part!r:.80}")
    digest.update(kind.encode() + b"\0")
    digest.update(content)
    for inner_part in inner:
        _feed(digest, inner_part)


def tensor_bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes in the order of its elements: a view where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def host_bytes(tensor: Tensor) -> Any:
    """The same as an array on the host, without a copy if it lies there."""
    return tensor_bytes(tensor).cpu().numpy()


ORIGIN = {"_name_or_path", "transformers_version", "architectures", "dtype"}
"""Settings that tell only where a checkpoint came from."""


def settings_of(configs: Iterable[Mapping[str, object]]) -> str:
    """Configurations as one text, without `ORIGIN`."""
    return json.dumps([_told(dict(config)) for config in configs], sort_keys=True, default=str)


def _told(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: _told(inner) for name, inner in value.items() if name not in ORIGIN}
