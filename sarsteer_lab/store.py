"""Stores: finished work in a folder, whole files with a checksum, under content keys."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.keys import content_key


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A name to write to, which becomes `path` once the block ends: whole, or not at all.

    Folders on the way are made. If the block fails, nothing is left. Raises IsADirectoryError for a
    folder, and OSError, naming the path, where it cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        reason = f"{path.parent} is no folder, or lies below a file"
        raise NotADirectoryError(f"{path} cannot be written: {reason}") from error
    scratch = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield scratch
        os.replace(scratch, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error})") from error
    except OSError as error:
        if error.filename is None:  # a full disk is said without a name
            error.filename = str(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)


def kept_file(folder: Path, key: str, suffix: str, write: Callable[[Path], object]) -> Path:
    """The file of a key in a folder, made by `write` once, and again where it was damaged.

    Raises OSError where it cannot be written.
    """
    path = folder / f"{key}{suffix}"
    sums = Store(folder / "sums")
    if path.is_file():
        wanted = sums.read(key)
        if wanted == content_key(path.read_bytes()):
            return path
        if wanted is not None:
            warnings.warn(f"{path} is damaged: it is made again", stacklevel=3)
    with atomic_write(path) as scratch:
        write(scratch)
        checksum = content_key(scratch.read_bytes())
    sums.write(key, checksum)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Finished work in a folder: small JSON-able values and tensors under keys, a file each.

    Files appear whole or not at all, so a run may be killed at any time and several may share a
    folder; one whose content does not match its checksum counts as absent, with a warning. The
    folder may be deleted at any time. Keys come from `content_key` or `LALM.key`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def read(self, key: str) -> Any:
        """The value or tensor kept under a key; None if there is none, or if it is damaged."""
        for path in (self._path(key, "json"), self._path(key, "safetensors")):
            try:
                value, checksum = _content(path)
                if checksum != _checksum(key, value):
                    raise ValueError("its checksum is wrong")
                return value
            except FileNotFoundError:
                continue
            except (SafetensorError, ValueError, LookupError, TypeError, OSError) as error:
                damage = f"{path} is damaged ({error}): what it held is computed again"
                warnings.warn(damage, stacklevel=2)
        return None

    def write(self, key: str, value: Any) -> Any:
        """Keep a tensor, or a value that JSON can hold, under a key; returns it as it was given.

        Raises TypeError for other values, and ValueError for None, which `read` could not tell from
        nothing.
        """
        if value is None:
            raise ValueError("None cannot be kept: reading it would look like finding nothing")
        try:
            self._write(key, value)
        except FileNotFoundError:  # the folder was deleted meanwhile
            self._write(key, value)
        return value

    def _write(self, key: str, value: object) -> None:
        checksum = _checksum(key, value)
        if isinstance(value, Tensor):
            tensors = {"value": value.detach().cpu().contiguous()}
            with atomic_write(self._path(key, "safetensors")) as scratch:
                save_file(tensors, scratch, {"checksum": checksum})
        else:
            text = json.dumps({"value": value, "checksum": checksum})
            with atomic_write(self._path(key, "json")) as scratch:
                scratch.write_text(text, encoding="utf-8")

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / key[:2] / f"{key}.{kind}"


class CacheStore(Store):
    """A store in the user's cache: where it cannot be written, nothing is kept, and that is said.

    (On a full disk, or in a folder that may only be read: results are computed each time.)
    """

    def write(self, key: str, value: object) -> object:
        """See `Store.write`."""
        try:
            return super().write(key, value)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            unkept = f"{self.folder} cannot be written ({reason}): results are not kept there"
            warnings.warn(unkept, stacklevel=2)  # which Python shows once
            return value


def _content(path: Path) -> tuple[Any, str]:
    """What a file of the store holds, and the checksum that stands with it."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["value"], content["checksum"]
    with safe_open(path, "pt") as file:
        return file.get_tensor("value"), file.metadata()["checksum"]


def _checksum(key: str, value: object) -> str:
    """Of the key too, so that a file under another's name is noticed."""
    return content_key(key, value if isinstance(value, Tensor) else json.dumps(value))
