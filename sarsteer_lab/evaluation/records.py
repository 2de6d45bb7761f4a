"""Data files of other people, read record by record, so that every complaint names the file and the record.

Three kinds of file (a JSON list, JSON lines, CSV) become the same thing here: a list of `Record`s whose
fields are asked for by type. Nothing is guessed and nothing is dropped: what does not fit raises
`PromptFileError`.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn


class PromptFileError(ValueError):
    """A file of prompts cannot be used. The message names the file and the record, and says what is wrong."""


@dataclass(frozen=True)
class Record:
    """One entry of a data file: its fields, and where it stands ("record 3", "line 17")."""

    path: Path
    place: str
    fields: dict[str, Any]

    def fail(self, reason: str) -> NoReturn:
        """Raise PromptFileError with the file and the place in front of `reason`."""
        raise PromptFileError(f"{self.path}, {self.place}: {reason}")

    def value(self, key: str) -> Any:
        """The field `key`, whatever its type."""
        if key not in self.fields:
            self.fail(f"the key {key!r} is missing (found: {', '.join(map(repr, self.fields)) or 'none'})")
        return self.fields[key]

    def text(self, key: str) -> str:
        """The field `key` as a text with something in it, without white space around it."""
        return self.checked_text(key, self.value(key))

    def optional_text(self, key: str) -> str | None:
        """The field `key` as a text, or None where it is null or missing."""
        return None if self.fields.get(key) is None else self.text(key)

    def identifier(self, key: str) -> str:
        """The field `key` as an identifier: a text, or a whole number written as one."""
        value = self.value(key)
        return str(value) if type(value) is int else self.text(key)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """The field `key`, which has to be one of `choices`."""
        value = self.text(key)
        if value not in choices:
            self.fail(f"{key!r} is {value!r}, but has to be one of {', '.join(choices)}")
        return value

    def checked_text(self, key: str, value: Any) -> str:
        """`value` if it is a text with something in it that UTF-8 can hold; `key` says what it is."""
        if not isinstance(value, str):
            self.fail(f"{key!r} has to be a text, but is {_show(value)}")
        if not value.strip():
            self.fail(f"{key!r} is empty")
        if _has_half_pair(value):
            self.fail(f"{key!r} holds half of a surrogate pair, which is not a character")
        return value.strip()

    def inside(self, folder: Path, name: str) -> Path:
        """The path of `name` in `folder`, which it must not leave: data files are not trusted.

        Absolute names, "..", NUL, halves of surrogate pairs and links that lead out of `folder` raise
        PromptFileError. Whether the file exists is not checked.
        """
        windows = PureWindowsPath(name)  # knows both kinds of slash, and drives
        if "\0" in name:
            self.fail(f"the file name {name!r} holds a NUL character")
        if _has_half_pair(name):
            self.fail(f"the file name {name!r} holds half of a surrogate pair, which is not a character")
        if windows.anchor or not windows.parts:
            self.fail(f"the file name {name!r} is absolute or empty; it has to be relative to {folder}")
        if ".." in windows.parts:
            self.fail(f"the file name {name!r} leaves {folder} by '..'")
        if max(len(part.encode()) for part in windows.parts) > 255:
            self.fail(f"the file name {name[:40]!r}... is too long for a file system")
        path = folder / name
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go in circles, before Python 3.13
            self.fail(f"the file name {name!r} cannot be followed ({error})")
        if not resolved.is_relative_to(folder.resolve()):
            self.fail(
                f"the file name {name!r} leaves {folder} by a symbolic link; put the file itself there "
                "(from a model hub: download with a local folder as its target)"
            )
        return path


def read_json_list(path: Path) -> list[Record]:
    """The records of a JSON file that is a list of objects; record 1 is the first."""
    content = read_text(path)
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{path}: is not valid JSON ({_reason(error)})") from error
    if not isinstance(entries, list):
        raise PromptFileError(f"{path}: has to be a list of objects, but is {_show(entries)}")
    return _some(path, [_record(path, f"record {n}", entry) for n, entry in enumerate(entries, start=1)])


def read_json_lines(path: Path) -> list[Record]:
    """The records of a file with one JSON object a line; blank lines hold none."""
    records = []
    # Not splitlines(): JSON texts may hold U+2028 and its like, which are no line ends here.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PromptFileError(
                    f"{path}, line {number}: is not valid JSON ({_reason(error)})"
                ) from error
            records.append(_record(path, f"line {number}", entry))
    return _some(path, records)


def read_csv(path: Path, columns: tuple[str, ...]) -> list[Record]:
    """The records of a comma-separated file whose header names at least `columns`.

    A record's place is the line it ends on (quoted fields may hold line breaks).
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    records = []
    for row in _csv_rows(path, rows):
        if header is None:
            header = [name.strip() for name in row]
            if absent := [name for name in columns if name not in header]:
                raise PromptFileError(
                    f"{path}, line {rows.line_num}: the header lacks {', '.join(map(repr, absent))} "
                    f"(found: {', '.join(map(repr, header))})"
                )
        elif row:
            record = Record(path, f"line {rows.line_num}", dict(zip(header, row, strict=False)))
            if len(row) != len(header):
                record.fail(
                    f"has {len(row)} fields, but the header has {len(header)}; quote fields with commas"
                )
            records.append(record)
    return _some(path, records)


def read_text(path: Path) -> str:
    """A file's text, which has to be UTF-8 (with or without a byte order mark) and not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PromptFileError(f"{path}: cannot be read ({error.strerror}); check the path") from error
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


def _some(path: Path, records: list[Record]) -> list[Record]:
    if not records:
        raise PromptFileError(f"{path}: holds no records; download or export it again")
    return records


def _csv_rows(path: Path, rows: Any) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise PromptFileError(f"{path}, line {rows.line_num}: is not valid CSV ({error})") from error


def _record(path: Path, place: str, entry: Any) -> Record:
    if not isinstance(entry, dict):
        raise PromptFileError(
            f"{path}, {place}: has to be an object with named fields, but is {_show(entry)}"
        )
    return Record(path, place, entry)


def _has_half_pair(text: str) -> bool:
    """JSON can hold such halves ("\\ud800"); they are no characters and no file name can hold one."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}..." if len(text) > 60 else text
