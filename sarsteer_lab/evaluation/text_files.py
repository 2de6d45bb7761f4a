"""Text of other people's files: UTF-8 and JSON, refused in one sentence where it is neither."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer_lab.contents import strange_kind


class PromptFileError(ValueError):
    """A file of prompts cannot be used; the message names file and entry, and what is wrong."""


def read_text(path: Path) -> str:
    """A file's text, which has to be UTF-8 (with or without a byte order mark) and not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path"
        raise PromptFileError(f"{path}: {reason}") from error
    if kind := strange_kind(content, "JSON") or _other_encoding(content):
        raise PromptFileError(f"{path}: {kind}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"is not UTF-8 (byte {content[error.start]:#04x})"
        advice = "convert it, for instance with `iconv -t UTF-8`"
        raise PromptFileError(f"{path}, line {line}: {reason}; {advice}") from error
    if not text.strip():
        raise PromptFileError(f"{path}: is empty; download or export it again")
    return text


def _other_encoding(content: bytes) -> str | None:
    """Which encoding of two or four bytes a character a text has, with what to do; None: none."""
    encoding = None
    even, odd = content[:200:2], content[1:200:2]
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        encoding = "UTF-32"
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif odd.count(0) > len(odd) / 2:
        encoding = "UTF-16LE"  # every other byte of Latin letters is NUL
    elif even.count(0) > len(even) / 2:
        encoding = "UTF-16BE"
    if encoding is None:
        return None
    return f"is {encoding}, not UTF-8; convert it: `iconv -f {encoding} -t UTF-8`"


def parsed_json(text: str, where: str) -> Any:
    """What a JSON text says. Raises PromptFileError, also for an object with a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except ValueError as error:
        raise PromptFileError(f"{where}: is not valid JSON ({error})") from error
    except RecursionError as error:
        raise PromptFileError(f"{where}: is not valid JSON (nested too deeply)") from error


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two that do not, JSON readers silently take the last."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"an object has the key {key!r} twice")
        fields[key] = value
    return fields
