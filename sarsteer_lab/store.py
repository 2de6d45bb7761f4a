"""Everything kept on disk: content keys, a checksum of weights, whole files, a keeper of finished work.

A result is kept under a key made of all that decides it (`content_key`; `LALM.key` adds the model), so a
rerun never reads what another model, prompt or clip gave. Hashes are xxh3 of 128 bits: as fast as memory, for
telling contents apart, not for security.
"""

import json
import os
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from xxhash import xxh3_128


class HookedModelError(RuntimeError):
    """Hooks are on a model whose results were to be kept: they could not be told from the plain model's."""


def data_folder() -> Path:
    """The shipped prompts, clips and pocket weights: `sarsteer_lab/_data` in a wheel, `data/` in a checkout.

    Raises FileNotFoundError if the installation carries no data.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{package} has neither _data/ in it nor data/ next to it: install the wheel, or `pip install -e .`"
    )


@cache
def shipped_table(name: str) -> dict[str, Any]:
    """A TOML file of the shipped data, such as "prompts/refusals.toml", read once; not to be changed."""
    return tomllib.loads((data_folder() / name).read_text(encoding="utf-8"))


def cache_folder() -> Path:
    """Where assembled models and finished results are kept; created if missing.

    The environment variable `SARSTEER_CACHE` names it, else it is `~/.cache/sarsteer-lab`. Everything in it
    can be made again, so it may be deleted at any time.
    """
    folder = Path(os.environ.get("SARSTEER_CACHE") or "~/.cache/sarsteer-lab").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_key(*parts: Any) -> str:
    """A name for contents: 32 hexadecimal digits, the same if and only if all parts are the same.

    Parts are strings, bytes, numbers, None, arrays, tensors (wherever they lie), and lists, tuples and dicts
    of these; 1, 1.0, True and "1" are different, a list and a tuple of the same are not. Raises TypeError
    for anything else: a path, for instance, says nothing about what the file holds.
    """
    return _digest(parts, _hosted if Store.recording is None else Store.recording.look)


def _digest(parts: Any, look: Callable[[Tensor], Any]) -> str:
    digest = xxh3_128()
    _feed(digest, parts, look)
    return digest.hexdigest()


def _feed(digest: Any, part: Any, look: Callable[[Tensor], Any]) -> None:
    """Add a part to a hash: its kind, its size, its content, so that no two lists of parts read alike."""
    inner: list[Any] = []
    content: Any = b""
    if isinstance(part, Mapping):
        for item in sorted(part.items(), key=lambda pair: content_key(pair[0])):
            inner += item
        kind = f"dict {len(inner)}"
    elif isinstance(part, list | tuple):
        inner, kind = list(part), f"list {len(part)}"
    elif isinstance(part, Tensor):
        kind, content = f"tensor {part.dtype} {list(part.shape)}", look(part)
    elif isinstance(part, np.ndarray) and not part.dtype.hasobject:
        kind = f"array {part.dtype.str} {list(part.shape)}"
        content = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    elif isinstance(part, str | bytes):
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        kind = f"{'text' if isinstance(part, str) else 'bytes'} {len(content)}"
    elif part is None or isinstance(part, bool | int | float | np.bool_ | np.integer | np.floating):
        number = part.item() if isinstance(part, np.generic) else part
        kind = f"{type(number).__name__} {number!r}"
    else:
        raise TypeError(f"a key is made of texts, numbers, arrays and lists of them, not of {part!r:.80}")
    digest.update(kind.encode() + b"\0")
    digest.update(content)
    for each in inner:
        _feed(digest, each, look)


def settings_of(configs: Iterable[Mapping[str, Any]]) -> str:
    """Configurations as one text, without what tells only where a checkpoint came from."""
    origin = {"_name_or_path", "transformers_version", "architectures", "dtype"}

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: kept(inner) for name, inner in value.items() if name not in origin}

    return json.dumps([kept(dict(config)) for config in configs], sort_keys=True, default=str)


def adapter_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that carry adapters (peft's): there it is a bool, on whole models a method."""
    return [part for part in model.modules() if isinstance(getattr(part, "disable_adapters", None), bool)]


@torch.no_grad()
def weights_checksum(weights: nn.Module | Iterable[Tensor]) -> str:
    """A hash of every byte of a model's parameters and buffers, or of some tensors; of a model also which of
    its adapters are on, and how strongly.

    Computed at each call, so it sees `weight.data = ...` and what peft merges. The same on every device: on a
    GPU a sum made there says whether anything has changed, and only then do the weights come to the host.
    """
    adapters: list[Any] = []
    if isinstance(weights, nn.Module):
        for part in adapter_layers(weights):
            adapters.append([part.active_adapters, part.disable_adapters, getattr(part, "scaling", {})])
        # The state holds what quantised layers keep beside their weights; buffers, what is not saved.
        state = {name: value for name, value in weights.state_dict().items() if isinstance(value, Tensor)}
        named = sorted({**dict(weights.named_buffers(remove_duplicate=False)), **state}.items())
    else:
        named = [(str(number), tensor) for number, tensor in enumerate(weights)]
    described = [[name, str(tensor.dtype), *tensor.shape] for name, tensor in named] + adapters
    tensors = [tensor for _, tensor in named]
    if not any(tensor.device.type in SUMMED for tensor in tensors):
        return content_key(described, _hashes(tensors))
    seen = content_key(described, change_sums(tensors))
    if seen not in _known:
        _known[seen] = content_key(described, _hashes(tensors))
    return _known[seen]


SUMMED = ("cuda",)
"""Types of devices that sum faster than their weights come to the host."""

_known: dict[str, str] = {}
"""Checksums of weights on GPUs by what `change_sums` made of them."""


def _hashes(tensors: Sequence[Tensor]) -> list[str]:
    """The hash of each tensor's bytes; tied ones are read once."""
    places = [(t.data_ptr(), t.dtype, t.shape, t.stride(), t.device) for t in tensors]
    distinct = dict(zip(places, tensors, strict=True))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        hashes = pool.map(lambda tensor: xxh3_128(_hosted(tensor)).hexdigest(), distinct.values())
        found = dict(zip(distinct, hashes, strict=True))
    return [found[place] for place in places]


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes in the order of its elements: a view where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _hosted(tensor: Tensor) -> Any:
    """The same as an array on the host, without a copy if it lies there."""
    return _bytes(tensor).cpu().numpy()


CHUNK = 2**20
"""Words of 8 bytes that are mixed at a time on a GPU."""

ODD = 0x9E3779B97F4A7C15 - 2**64
"""An odd number with bits everywhere (2^64 over the golden ratio): to multiply by it loses nothing."""


def change_sums(tensors: Sequence[Tensor]) -> list[int]:
    """Sums over the tensors' bytes, on their own devices, that any change of them changes.

    Every word of 8 bytes is mixed with its place in its chunk by steps that can be undone, so a change of one
    word surely changes its chunk's sum; several cancel out no more often than a hash of 32 bits collides.
    """
    groups: dict[Any, list[Tensor]] = {}
    for place, data in enumerate(map(_bytes, tensors)):
        # Small ones together, for a start of the GPU costs as much as a small tensor.
        groups.setdefault(data.device if len(data) < CHUNK else place, []).append(data)
    sums: list[Tensor] = []
    for parts in groups.values():
        data = torch.cat(parts) if len(parts) > 1 else parts[0]
        if len(data) % 8 or data.storage_offset() % 8:
            data = nn.functional.pad(data, (0, -len(data) % 8))  # a copy, so it is aligned too
        words = data.view(torch.int64)
        places = torch.arange(min(CHUNK, len(words)), device=words.device).mul_(ODD)
        for chunk in words.split(CHUNK):
            mixed = chunk ^ places[: len(chunk)]
            halves = mixed.view(torch.int32).view(-1, 2)
            for _ in range(2):
                # Lower bits reach the upper ones by the product, upper ones the lower ones by the shift.
                mixed *= ODD
                halves[:, 0] ^= halves[:, 1]
            sums.append(mixed.sum())
    return torch.stack([total.to(sums[0].device) for total in sums]).tolist() if sums else []


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A name to write to, which becomes `path` once the block ends: readers see a whole file or none.

    Folders on the way are made. If the block fails, nothing is left. Raises IsADirectoryError for a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield scratch
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


class Store:
    """Finished work in a folder: small JSON-able values and tensors under keys, a file each.

    Files appear whole or not at all, so a run may be killed at any time and several may share a folder; one
    whose content does not match its checksum counts as absent, with a warning. The folder may be deleted at
    any time. Keys come from `content_key` or `LALM.key`. While a course is recorded or replayed, `recording`
    (`probe.recorded`) says what tensors count as in keys, and what is found under them.
    """

    recording: Any = None

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def read(self, key: str) -> Any:
        """The value or tensor kept under a key; None if there is none, or if it is damaged."""
        return self.find(key) if Store.recording is None else Store.recording.kept(key, self.find)

    def find(self, key: str) -> Any:
        """The same of this folder alone."""
        for kind in ("json", "safetensors"):
            path = self._path(key, kind)
            try:
                if kind == "json":
                    content = json.loads(path.read_text(encoding="utf-8"))
                    value, checksum = content["value"], content["checksum"]
                else:
                    with safe_open(path, "pt") as file:
                        value, checksum = file.get_tensor("value"), file.metadata()["checksum"]
                if checksum != _checksum(key, value):
                    raise ValueError("its checksum is wrong")
                return value
            except FileNotFoundError:
                continue
            except (SafetensorError, ValueError, LookupError, TypeError, OSError) as error:
                warnings.warn(f"{path} is damaged ({error}): what it held is computed again", stacklevel=3)
        return None

    def write(self, key: str, value: Any) -> Any:
        """Keep a tensor, or a value that JSON can hold, under a key; returns it as `read` will.

        Raises TypeError for other values, and ValueError for None, which `read` could not tell from nothing.
        """
        if value is None:
            raise ValueError("None cannot be kept: reading it would look like finding nothing")
        value = value if Store.recording is None else Store.recording.rounded(value)
        try:
            self._write(key, value)
        except FileNotFoundError:  # the folder was deleted meanwhile
            self._write(key, value)
        return value

    def _write(self, key: str, value: Any) -> None:
        checksum = _checksum(key, value)
        kind = "safetensors" if isinstance(value, Tensor) else "json"
        with atomic_write(self._path(key, kind)) as scratch:
            if isinstance(value, Tensor):
                save_file({"value": value.detach().cpu().contiguous()}, scratch, {"checksum": checksum})
            else:
                scratch.write_text(json.dumps({"value": value, "checksum": checksum}), encoding="utf-8")

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / key[:2] / f"{key}.{kind}"


def _checksum(key: str, value: Any) -> str:
    """Of the key too, so that a file under another's name is noticed."""
    return _digest((key, value if isinstance(value, Tensor) else json.dumps(value)), _hosted)
