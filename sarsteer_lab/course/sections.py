"""Parts of Markdown files that a program writes, each between two marks of its own."""

from pathlib import Path


def write_between(file: Path, section: str, begin: str, end: str) -> None:
    """Put a text between two marks of a file. Raises ValueError if it lacks one."""
    text = file.read_text(encoding="utf-8")
    for mark in (begin, end):
        if mark not in text:
            raise ValueError(f"{file} has no line {mark}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    file.write_text(f"{before}{begin}\n\n{section}\n\n{end}{after}", encoding="utf-8")
