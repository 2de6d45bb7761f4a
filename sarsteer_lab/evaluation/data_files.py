"""Data files of other people, read record by record, so that every complaint names the file and the
record.

Four kinds of file (a JSON list, JSON lines, CSV, Parquet) become the same thing here: a list of
`Entry`s whose fields are asked for by type. Nothing is guessed and nothing is dropped: what does
not fit raises `PromptFileError`.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import numpy as np
import soundfile
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from sarsteer_lab.keys import content_key
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import atomic_write


class PromptFileError(ValueError):
    """A file of prompts cannot be used. The message names the file and the record, and says what is
    wrong."""


@dataclass(frozen=True)
class Entry:
    """One entry of a data file: its fields, and where it stands ("record 3", "line 17")."""

    path: Path
    place: str
    fields: dict[str, Any]

    def fail(self, reason: str) -> NoReturn:
        """Raise PromptFileError with the file and the place in front of `reason`."""
        raise PromptFileError(f"{self.path}, {self.place}: {reason}")

    def found(self) -> str:
        """The names of the fields, for a complaint about another."""
        return f"found: {', '.join(map(repr, self.fields)) or 'none'}"

    def value(self, key: str) -> Any:
        """The field `key`, whatever its type."""
        if key not in self.fields:
            self.fail(f"the key {key!r} is missing ({self.found()})")
        return self.fields[key]

    def text(self, key: str, *, whole: bool = False) -> str:
        """The field `key` as a text with something in it, without white space around it.

        A whole number counts as a text if `whole`.
        """
        value = self.value(key)
        return str(value) if whole and type(value) is int else self.checked_text(key, value)

    def optional_text(self, key: str) -> str | None:
        """The field `key` as a text, or None where it is null or missing."""
        return None if self.fields.get(key) is None else self.text(key)

    def told(
        self, form: str, default: str | None = None, *, whole: bool = True, **fixed: Any
    ) -> str:
        """What a form says (`readers.Layout`): columns filled in, or the first column that holds
        anything.

        `whole` as at `text`; `fixed` are names that are no columns.
        """

        def filled(found: re.Match[str]) -> str:
            key, listed = found.groups()
            if key in fixed:
                return str(fixed[key])
            if not listed:
                return self.text(key, whole=whole)
            entries = self.value(key)
            if not isinstance(entries, list) or len(entries) != 1:
                self.fail(f"{key!r} has to be a list of one question, but is {entries!r:.60}")
            return self.checked_text(key, entries[0])

        if "{" in form:
            return re.sub(r"{(\w+)(\[0\])?}", filled, form)
        if held := [key for key in form.split() if self.fields.get(key) not in (None, "")]:
            return self.text(held[0], whole=whole)
        if default is None:
            self.fail(f"needs one of the columns {', '.join(form.split())} ({self.found()})")
        return default

    def clip(self, form: str, folder: Path) -> Path | None:
        """The clip that a form names in `folder`, or a column is; None where that is empty or
        missing."""
        value = self.fields.get(form)
        if isinstance(value, Path):
            return value
        return (
            self.inside(folder, self.told(form, whole="{" in form))
            if value or "{" in form
            else None
        )

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """The field `key`, which has to be one of `choices`."""
        value = self.text(key)
        if value not in choices:
            self.fail(f"{key!r} is {value!r}, but has to be one of {', '.join(choices)}")
        return value

    def checked_text(self, key: str, value: Any) -> str:
        """`value` if it is a text with something in it that models can read; `key` says what it
        is."""
        if not isinstance(value, str):
            self.fail(f"{key!r} has to be a text, but is {value!r:.60}")
        if not value.strip():
            self.fail(f"{key!r} is empty")
        self._refuse_non_characters(repr(key), value)
        return value.strip()

    def inside(self, folder: Path, name: str) -> Path:
        """The path of `name` in `folder`, which it must not leave: data files are not trusted.

        Absolute names, "..", NUL, halves of surrogate pairs and links that lead out of `folder`
        raise PromptFileError. Whether the file exists is not checked.
        """
        windows = PureWindowsPath(name)  # knows both kinds of slash, and drives
        self._refuse_non_characters(f"the file name {name!r}", name)
        if windows.anchor or not windows.parts:
            self.fail(
                f"the file name {name!r} is absolute or empty; it has to be relative to {folder}"
            )
        if ".." in windows.parts:
            self.fail(f"the file name {name!r} leaves {folder} by '..'")
        if max(len(part.encode()) for part in windows.parts) > 255:
            self.fail(f"the file name {name[:40]!r}... is too long for a file system")
        path = folder / name
        try:
            resolved = path.resolve()
        except (
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: links that go in circles, before Python 3.13
            self.fail(f"the file name {name!r} cannot be followed ({error})")
        if not resolved.is_relative_to(folder.resolve()):
            self.fail(
                f"the file name {name!r} leaves {folder} by a symbolic link; put the file itself there "
                "(from a model hub: download with a local folder as its target)"
            )
        return path

    def _refuse_non_characters(self, what: str, text: str) -> None:
        if "\0" in text:
            self.fail(f"{what} holds a NUL character; export the file again")
        if any(
            "\ud800" <= character <= "\udfff" for character in text
        ):  # JSON can hold them: "\\ud800"
            self.fail(f"{what} holds half of a surrogate pair, which is not a character")


def read_json_list(path: Path) -> list[Entry]:
    """The records of a JSON file that is a list of objects; record 1 is the first."""
    entries = _parsed(read_text(path), str(path))
    if not isinstance(entries, list):
        raise PromptFileError(f"{path}: has to be a list of objects, but is {entries!r:.60}")
    return _records(path, [(f"record {n}", entry) for n, entry in enumerate(entries, start=1)])


def read_json_lines(path: Path) -> list[Entry]:
    """The records of a file with one JSON object a line; blank lines hold none."""
    # Not splitlines(): JSON texts may hold U+2028 and its like, which are no line ends here.
    lines = [
        (f"line {n}", line)
        for n, line in enumerate(read_text(path).split("\n"), start=1)
        if line.strip()
    ]
    return _records(path, [(place, _parsed(line, f"{path}, {place}")) for place, line in lines])


def read_csv(path: Path, columns: Sequence[str]) -> list[Entry]:
    """The records of a comma-separated file whose header names at least `columns`.

    A record's place is the line it ends on (quoted fields may hold line breaks).
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header, *entries = [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise PromptFileError(
            f"{path}, line {rows.line_num}: is not valid CSV ({error})"
        ) from error
    names = [name.strip() for name in header[1]]
    if absent := [name for name in columns if name not in names]:
        raise PromptFileError(
            f"{path}, line {header[0]}: the header lacks {', '.join(map(repr, absent))} "
            f"(found: {', '.join(map(repr, names))})"
        )
    for line, row in entries:
        if row and len(row) != len(names):
            reason = (
                f"has {len(row)} fields, but the header has {len(names)}; quote fields with commas"
            )
            raise PromptFileError(f"{path}, line {line}: {reason}")
    return _records(
        path, [(f"line {n}", dict(zip(names, row, strict=True))) for n, row in entries if row]
    )


def read_parquet(path: Path) -> list[Entry]:
    """The records of a Parquet file, in which clips are paths.

    Clips that the file holds itself (cells of {"bytes", "path"} or {"array", "sampling_rate"}) are
    kept in `cache_folder()`, each once, under a name made of what it holds.
    """
    entries: list[tuple[str, Any]] = []
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=32):
                for row in batch.to_pylist():
                    fields = {name: _kept_clip(cell) for name, cell in row.items()}
                    entries.append((f"row {len(entries) + 1}", fields))
    except (OSError, ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise PromptFileError(
            f"{path}: cannot be read as Parquet ({reason}); download it again"
        ) from error
    return _records(path, entries)


def read_dataset(name: str) -> Iterator[tuple[str, str, list[Entry]]]:
    """The splits of a Hugging Face dataset, each with its column of clips and its records.

    `name` is ID or ID:CONFIG, in the cache of `datasets` (nothing is downloaded), or a folder that
    it saved. Clips may lie anywhere in the hub's cache. Raises ImportError without the package, and
    PromptFileError.
    """
    repo, _, config = name.partition(":")
    try:
        import datasets
        from datasets.packaged_modules.cache.cache import Cache

        if Path(repo).is_dir():
            found = datasets.load_from_disk(repo)
        else:
            which = {
                "repo_id": repo,
                "dataset_name": Path(repo).name,
                "config_name": config or None,
            }
            found = Cache(**which, version="auto", hash="auto").as_dataset()
    except ImportError as error:
        raise ImportError(
            f"{name}: Hugging Face datasets need their package: pip install datasets"
        ) from error
    except (ValueError, OSError) as error:
        fetch = f"python -c \"from datasets import load_dataset; load_dataset('{repo}')\""
        reason = " ".join(str(error).split())
        raise PromptFileError(f"{name}: {reason}; where there is network, run {fetch}") from error
    home = Path(datasets.config.HF_CACHE_HOME).expanduser()
    for split, data in (found if isinstance(found, dict) else {str(found.split): found}).items():
        kinds = data.features
        heard = [column for column, kind in kinds.items() if isinstance(kind, datasets.Audio)]
        if len(heard) != 1:
            columns = ", ".join(
                f"{column!r} ({type(kind).__name__})" for column, kind in kinds.items()
            )
            raise PromptFileError(
                f"{name}, {split}: has {len(heard)} Audio columns, not one (found: {columns})"
            )
        rows = data.cast_column(heard[0], datasets.Audio(decode=False))
        records = _records(
            Path(name), [(f"{split}, row {n}", row) for n, row in enumerate(rows, start=1)]
        )
        for record in records:
            for column, kind in kinds.items():
                if isinstance(kind, datasets.ClassLabel):
                    record.fields[column] = kind.int2str(record.fields[column])
            clip = _kept_clip(record.fields[heard[0]])
            if isinstance(clip, str):
                clip = record.inside(home, os.path.relpath(clip, home))
            record.fields[heard[0]] = clip
        yield split, heard[0], records


def _kept_clip(cell: Any) -> Any:
    """The file of a clip in a cell, or its name if the cell holds no more; any other cell as it
    is."""
    if not isinstance(cell, dict) or not ({"bytes", "path"} <= set(cell) or "array" in cell):
        return cell
    if "array" not in cell and cell["bytes"] is None:
        return cell["path"]
    ending = PurePosixPath(cell.get("path") or "").suffix if "array" not in cell else ".wav"
    key = content_key(
        cell["bytes"] if "array" not in cell else [cell["array"], cell["sampling_rate"]]
    )
    kept = cache_folder() / "clips" / f"{key}{ending}"
    if not kept.exists():
        with atomic_write(kept) as scratch:
            if "array" in cell:
                samples = np.asarray(cell["array"], dtype=np.float32)
                soundfile.write(scratch, samples, cell["sampling_rate"], "FLOAT", format="WAV")
            else:
                scratch.write_bytes(cell["bytes"])
    return kept


def read_text(path: Path) -> str:
    """A file's text, which has to be UTF-8 (with or without a byte order mark) and not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptFileError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptFileError(
            f"{path}, line {line}: is not UTF-8 (byte {content[error.start]:#04x}); "
            "convert it, for instance with `iconv -t UTF-8`"
        ) from error
    if not text.strip():
        raise PromptFileError(f"{path}: is empty; download or export it again")
    return text


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise PromptFileError(f"{where}: is not valid JSON ({reason})") from error


def _records(path: Path, entries: list[tuple[str, Any]]) -> list[Entry]:
    """Records of places and what stands there."""
    if not entries:
        raise PromptFileError(f"{path}: holds no records; download or export it again")
    records = [Entry(path, place, entry) for place, entry in entries]
    for record in records:
        if not isinstance(record.fields, dict):
            record.fail(f"has to be an object with named fields, but is {record.fields!r:.60}")
    return records
