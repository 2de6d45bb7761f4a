"""What students have handed in: folders, zip archives in them, and notebooks under any name.

A student is the first folder (or zip archive) below the one that is graded; of notebooks that lie
there without a folder, what stands in front of the exercise's name. Nothing is written there.
"""

import re
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = {".ipynb_checkpoints", "__MACOSX", "__pycache__", ".git", ".venv"}

LARGEST_ARCHIVE = 1e9
"""Bytes that an archive may unpack to: a larger one is not a student's notebooks."""

_ADDED_BY_MOODLE = re.compile(r"_assignsubmission_(file|onlinetext)_?")


@dataclass(frozen=True)
class HandIn:
    """One file of one student: a notebook, or an archive that cannot be unpacked.

    `shown` is its place as the teacher knows it. `own_folder` says whether it lies in a folder of
    the student, whose other files it may read, or among notebooks of many students.
    """

    student: str
    path: Path
    shown: str
    own_folder: bool
    damage: str = ""


@dataclass(frozen=True)
class HandedIn:
    """All files of a class, and its students: one without a notebook in folder or archive, too."""

    students: set[str]
    files: list[HandIn]


def hand_ins(folder: Path, exercises: Sequence[str], scratch: Path) -> HandedIn:
    """Every notebook in a folder, or in the zip archive of one, in the order of their names.

    Archives are unpacked into `scratch`. `exercises` are the names of the course's. Raises
    FileNotFoundError if there is no such folder, or no notebook in it, and ValueError for an
    archive that cannot be unpacked.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if folder.is_file():
        whole = scratch / "whole"
        if damage := unpack(folder, whole):
            raise ValueError(f"{folder}: {damage}")
        folder = whole
    files = list(_in_class_folder(folder, exercises, scratch))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no notebooks (*.ipynb) and no zip archives")
    students = {file.student for file in files}
    for entry in _entries(folder):
        if entry.is_dir():
            students.add(student_name(entry.name))
        elif _is_archive(entry):
            students.add(student_name(entry.stem))
    return HandedIn(students, files)


def _in_class_folder(folder: Path, exercises: Sequence[str], scratch: Path) -> Iterator[HandIn]:
    for number, entry in enumerate(_entries(folder)):
        if entry.is_dir():
            yield from _of_student(student_name(entry.name), entry, scratch / str(number))
        elif _is_archive(entry):
            student = student_name(entry.stem)
            yield from _unpacked(student, entry, entry.name, scratch / str(number))
        elif entry.suffix == ".ipynb":
            name = student_name(_before_exercise(entry.stem, exercises))
            yield HandIn(name, entry, entry.name, False)


def _of_student(student: str, folder: Path, scratch: Path, shown: str = "") -> Iterator[HandIn]:
    """What lies in a student's folder, and in archives there."""
    shown = shown or folder.name
    for number, path in enumerate(_files(folder)):
        place = f"{shown}/{path.relative_to(folder).as_posix()}"
        if path.suffix == ".ipynb":
            yield HandIn(student, path, place, True)
        elif _is_archive(path):
            yield from _unpacked(student, path, place, scratch / f"zip-{number}")


def _unpacked(student: str, archive: Path, shown: str, scratch: Path) -> Iterator[HandIn]:
    if damage := unpack(archive, scratch):
        yield HandIn(student, archive, shown, False, damage)
    else:
        yield from _of_student(student, scratch, scratch / "inner", shown)


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder, without links and hidden files."""
    entries = []
    for entry in sorted(folder.iterdir()):
        hidden = entry.name.startswith(".") or entry.name in LEFT_OUT
        if not hidden and not entry.is_symlink():
            entries.append(entry)
    return entries


def _files(folder: Path) -> Iterator[Path]:
    """All files in a folder, without links and hidden ones."""
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def unpack(archive: Path, folder: Path) -> str:
    """Unpack a zip archive into a folder; returns what is wrong with it, or nothing."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            size = sum(member.file_size for member in members)
            if size > LARGEST_ARCHIVE:
                return f"would unpack to {size / 1e9:.1f} GB"
            for member in members:
                member.filename = _as_written(member)
                zipped.extract(member, folder)  # which leaves out .. and roots
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        return f"cannot be unpacked ({error})"
    return ""


def _as_written(member: zipfile.ZipInfo) -> str:
    """A member's name: some systems write UTF-8 and do not say so, which reads as another code."""
    utf8_is_said = member.flag_bits & 0x800
    if not utf8_is_said:
        try:
            return member.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return member.filename


def student_name(written: str) -> str:
    """A student's name from that of a folder or file; composed, as systems differ in umlauts."""
    name = _ADDED_BY_MOODLE.sub("", written)
    return unicodedata.normalize("NFC", name).strip(" _-") or "unnamed"


def _before_exercise(stem: str, exercises: Sequence[str]) -> str:
    """What stands in front of an exercise's name; the whole where none is found."""
    for exercise in exercises:
        before, found, _ = stem.partition(exercise)
        if found:
            return before
    return stem
