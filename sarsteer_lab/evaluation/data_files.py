"""Data files of other people, read entry by entry: every complaint names the file and the entry.

Four kinds of file (a JSON list, JSON lines, CSV, Parquet) and Hugging Face datasets become the same
thing here: a list of `Entry`s whose fields are asked for by type. Nothing is guessed and nothing is
dropped: what does not fit raises `PromptFileError`.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import numpy as np
import soundfile
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from sarsteer_lab.evaluation.text_files import PromptFileError, parsed_json, read_text
from sarsteer_lab.keys import content_key
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.speech import url_told
from sarsteer_lab.store import kept_file


@dataclass(frozen=True)
class Entry:
    """One entry of a data file: its fields, and where it stands ("record 3", "line 17")."""

    path: Path
    place: str
    fields: dict[str, Any]

    @property
    def where(self) -> str:
        """Its file and its place in it."""
        return f"{self.path}, {self.place}"

    def fail(self, reason: str) -> NoReturn:
        """Raise PromptFileError with the file and the place in front of `reason`."""
        raise PromptFileError(f"{self.where}: {reason}")

    def columns(self) -> str:
        """The names of the fields, for a complaint about another."""
        names = ", ".join(map(repr, self.fields))
        return f"(found: {names or 'none'})"

    def value(self, column: str) -> Any:
        """The field of this name, whatever its type."""
        if column not in self.fields:
            self.fail(f"the key {column!r} is missing {self.columns()}")
        return self.fields[column]

    def text(self, column: str, *, whole: bool = False) -> str:
        """A field as a text with something in it, without white space around it.

        A whole number counts as a text if `whole`.
        """
        value = self.value(column)
        if whole and type(value) is int:
            return str(value)
        return self.checked_text(column, value)

    def choice(self, column: str, choices: Sequence[str]) -> str:
        """A field that has to be one of `choices`."""
        value = self.text(column)
        if value not in choices:
            known = ", ".join(choices)
            self.fail(f"{column!r} is {value!r}, but has to be one of {known}")
        return value

    def told(
        self, form: str, default: str | None = None, *, whole: bool = True, **fixed: Any
    ) -> str:
        """What a form says (`layouts.Layout`): columns filled in, or the first one that is filled.

        `whole` as at `text`; `fixed` are names that are no columns.
        """

        def filled(blank: re.Match[str]) -> str:
            column, only_one = blank.groups()
            if column in fixed:
                return str(fixed[column])
            return self._only_text(column) if only_one else self.text(column, whole=whole)

        if "{" in form:
            return re.sub(r"{(\w+)(\[0\])?}", filled, form)
        for column in form.split():
            if self.fields.get(column) not in (None, ""):
                return self.text(column, whole=whole)
        if default is None:
            self._fail_without(form.split())
        return default

    def _fail_without(self, columns: Sequence[str]) -> NoReturn:
        """Say that none of the columns holds anything."""
        there = [column for column in columns if column in self.fields]
        if there:
            self.fail(f"{there[0]!r} is empty")
        self.fail(f"needs one of the columns {', '.join(columns)} {self.columns()}")

    def clip(self, form: str, folder: Path) -> Path | None:
        """The clip in `folder` that a form tells, or a column is; None where that is empty."""
        if "{" in form:
            return self.inside(folder, self.told(form))
        value = self.fields.get(form)
        if isinstance(value, Path):
            return value
        return self.inside(folder, self.text(form)) if value else None

    def checked_text(self, column: str, value: Any) -> str:
        """`value` if it is a text with something in it that models can read."""
        if not isinstance(value, str):
            self.fail(f"{column!r} has to be a text, but is {value!r:.60}")
        if not value.strip():
            self.fail(f"{column!r} is empty")
        self._refuse_non_characters(repr(column), value)
        return value.strip()

    def inside(self, folder: Path, name: str) -> Path:
        """The path of `name` in `folder`, which it must not leave: data files are not trusted.

        Absolute names, "..", NUL, halves of surrogate pairs and links that lead out of `folder`
        raise PromptFileError. Whether the file exists is not checked.
        """
        if told := url_told(name):
            self.fail(told)
        described = f"the file name {name!r:.200}"
        self._refuse_non_characters(described, name)
        windows = PureWindowsPath(name)  # knows both kinds of slash, and drives
        if windows.anchor or not windows.parts:
            self.fail(f"{described} is absolute or empty; it has to be relative to {folder}")
        if ".." in windows.parts:
            self.fail(f"{described} leaves {folder} by '..'")
        if max(len(part.encode()) for part in windows.parts) > 255:
            self.fail(f"{described} is too long for a file system")
        path = folder / name
        try:
            followed = path.resolve()
        except (OSError, RuntimeError) as error:  # a circle of links, before Python 3.13
            self.fail(f"{described} cannot be followed ({error})")
        if not followed.is_relative_to(folder.resolve()):
            self.fail(
                f"{described} leaves {folder} by a symbolic link; put the file itself there "
                "(from a model hub: download with a local folder as its target)"
            )
        return path

    def _only_text(self, column: str) -> str:
        values = self.value(column)
        if not isinstance(values, list) or len(values) != 1:
            self.fail(f"{column!r} has to be a list of one question, but is {values!r:.60}")
        return self.checked_text(column, values[0])

    def _refuse_non_characters(self, described: str, text: str) -> None:
        if "\0" in text:
            self.fail(f"{described} holds a NUL character; export the file again")
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can hold them: "\\ud800"
            self.fail(f"{described} holds half of a surrogate pair, which is not a character")


def read_json_list(path: Path) -> list[Entry]:
    """The entries of a JSON file that is a list of objects; record 1 is the first."""
    values = parsed_json(read_text(path), str(path))
    if not isinstance(values, list):
        raise PromptFileError(f"{path}: has to be a list of objects, but is {values!r:.60}")
    return _entries(path, "record", enumerate(values, start=1))


def read_json_lines(path: Path) -> list[Entry]:
    """The entries of a file with one JSON object a line; blank lines hold none."""
    numbered = []
    # Not splitlines(): JSON texts may hold U+2028 and its like, which are no line ends here.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            numbered.append((number, parsed_json(line, f"{path}, line {number}")))
    return _entries(path, "line", numbered)


def read_csv(path: Path, columns: Sequence[str]) -> list[Entry]:
    """The entries of a comma-separated file whose header names at least `columns`.

    An entry's place is the line it ends on (quoted fields may hold line breaks).
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        _refuse_other_separator(path, header)
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise PromptFileError(f"{where}: is not valid CSV ({error})") from error
    first = Entry(path, "line 1", dict.fromkeys(header))
    for column in columns:
        if column not in header:
            first.fail(f"the header lacks {column!r} {first.columns()}")
    for name in header:
        if header.count(name) > 1:
            first.fail(f"the header names {name!r} twice; which of them counts cannot be told")
    numbered = []
    for line, row in rows:
        if len(row) != len(header):
            counts = f"has {len(row)} fields, but the header has {len(header)}"
            raise PromptFileError(f"{path}, line {line}: {counts}; quote fields with commas")
        numbered.append((line, dict(zip(header, row, strict=True))))
    return _entries(path, "line", numbered)


def _refuse_other_separator(path: Path, header: Sequence[str]) -> None:
    """Raise PromptFileError for a header that is one name with other separators in it."""
    for separator, word in {";": "semicolons", "\t": "tabs", "|": "bars"}.items():
        if len(header) == 1 and separator in header[0]:
            reason = f"its columns are parted by {word}, not by commas"
            raise PromptFileError(f"{path}, line 1: {reason}; save it as comma-separated CSV")


def read_parquet(path: Path) -> list[Entry]:
    """The entries of a Parquet file, in which clips are paths.

    Clips that the file holds itself (cells of {"bytes", "path"} or {"array", "sampling_rate"}) are
    kept in `cache_folder()`, each once, under a name made of what it holds.
    """
    rows: list[dict[str, Any]] = []
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=32):  # clips are large
                rows += map(_with_clip_files, batch.to_pylist())
    except (OSError, ArrowException) as error:
        reason = str(error).partition("\n")[0]
        advice = "download it again"
        raise PromptFileError(f"{path}: cannot be read as Parquet ({reason}); {advice}") from error
    return _entries(path, "row", enumerate(rows, start=1))


def read_dataset(name: str) -> Iterator[tuple[str, str, list[Entry]]]:
    """The splits of a Hugging Face dataset, each with its column of clips and its entries.

    `name` is ID or ID:CONFIG, in the cache of `datasets` (nothing is downloaded), or a folder that
    it saved. Clips may lie anywhere in the hub's cache. Raises ImportError without the package, and
    PromptFileError.
    """
    try:
        import datasets
    except ImportError as error:
        reason = "Hugging Face datasets need their package: pip install datasets"
        raise ImportError(f"{name}: {reason}") from error
    clips_home = Path(datasets.config.HF_CACHE_HOME).expanduser()
    for split, data in _dataset_splits(name).items():
        kinds = data.features
        audio = [column for column in kinds if isinstance(kinds[column], datasets.Audio)]
        classes = [column for column in kinds if isinstance(kinds[column], datasets.ClassLabel)]
        if len(audio) != 1:
            columns = [f"{column!r} ({type(kinds[column]).__name__})" for column in kinds]
            counts = f"has {len(audio)} Audio columns, not one (found: {', '.join(columns)})"
            raise PromptFileError(f"{name}, {split}: {counts}")
        [clip_column] = audio
        rows = enumerate(data.cast_column(clip_column, datasets.Audio(decode=False)), start=1)
        entries = _entries(Path(name), f"{split}, row", rows)
        for entry in entries:
            fields = entry.fields
            for column in classes:
                fields[column] = _class_name(kinds[column], fields[column])
            clip = _clip_file(fields[clip_column])
            if isinstance(clip, str):
                clip = entry.inside(clips_home, os.path.relpath(clip, clips_home))
            fields[clip_column] = clip
        yield split, clip_column, entries


def _class_name(classes: Any, number: int | None) -> str | None:
    """The name of a class; None where a row has none (null, or -1 as in tests without labels)."""
    if number is None or number < 0:
        return None
    return classes.int2str(number)


def _dataset_splits(name: str) -> dict[str, Any]:
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    repo, _, config = name.partition(":")
    try:
        if Path(repo).is_dir():
            data = datasets.load_from_disk(repo)
        else:
            named = {"dataset_name": Path(repo).name, "config_name": config or None}
            data = Cache(repo_id=repo, version="auto", hash="auto", **named).as_dataset()
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        fetch = f"python -c \"from datasets import load_dataset; load_dataset('{repo}')\""
        raise PromptFileError(f"{name}: {reason}; where there is network, run {fetch}") from error
    return data if isinstance(data, dict) else {str(data.split or "all"): data}


def _with_clip_files(row: dict[str, Any]) -> dict[str, Any]:
    return {column: _clip_file(cell) for column, cell in row.items()}


def _clip_file(cell: Any) -> Any:
    """The file of a cell's clip, or its name if the cell holds no more; other cells as they are."""
    if not isinstance(cell, dict):
        return cell
    if "array" in cell:
        samples = np.asarray(cell["array"], dtype=np.float32)
        rate = cell["sampling_rate"]
        write = partial(
            soundfile.write, data=samples, samplerate=rate, subtype="FLOAT", format="WAV"
        )
        return _kept_clip([samples, rate], ".wav", write)
    if not {"bytes", "path"} <= set(cell):
        return cell
    content = cell["bytes"]
    name = cell["path"]
    if content is None:
        return name
    suffix = PurePosixPath(name or "").suffix
    if not re.fullmatch(r"\.\w{1,8}", suffix):  # a name can hold anything, NUL too
        suffix = ""
    return _kept_clip(content, suffix, lambda file: file.write_bytes(content))


def _kept_clip(content: Any, suffix: str, write: Callable[[Path], Any]) -> Path:
    return kept_file(cache_folder() / "clips", content_key(content), suffix, write)


def _entries(path: Path, unit: str, numbered: Iterable[tuple[int, Any]]) -> list[Entry]:
    """Entries of what stands at numbered places ("line 3" of the unit "line")."""
    entries = []
    for number, fields in numbered:
        entry = Entry(path, f"{unit} {number}", fields)
        if not isinstance(fields, dict):
            entry.fail(f"has to be an object with named fields, but is {fields!r:.60}")
        entries.append(entry)
    if not entries:
        raise PromptFileError(f"{path}: holds no records; download or export it again")
    return entries
