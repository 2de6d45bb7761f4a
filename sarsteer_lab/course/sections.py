"""Parts of Markdown files that a program writes, each between two marks of its own."""

from pathlib import Path

from sarsteer_lab.store import atomic_write


def write_between(file: Path, section: str, begin: str, end: str) -> None:
    """Put a text between two marks of a file. Raises ValueError if it lacks one."""
    text = file.read_text(encoding="utf-8")
    before, begun, rest = text.partition(begin)
    if not begun:
        raise ValueError(f"{file} has no line {begin}")
    _, ended, after = rest.partition(end)
    if not ended:
        raise ValueError(f"{file} has no line {end} behind {begin}")
    with atomic_write(file) as scratch:
        scratch.write_text(f"{before}{begin}\n\n{section}\n\n{end}{after}", encoding="utf-8")
