"""Grade a class: every student's exercise notebooks run anew, and a table of what came out.

`grade` runs what students wrote, on this machine and with its user's rights. Results are kept
beside the table by the content of what was handed in, so that a run goes on where it was.
"""

import csv
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tqdm import tqdm

from sarsteer_lab import __version__
from sarsteer_lab.course.folders import FIGURES_VARIABLE
from sarsteer_lab.course.grading.hand_ins import HandIn, hand_ins
from sarsteer_lab.course.grading.running import (
    ERROR,
    NOT_REACHED,
    PASSED,
    Result,
    run_hand_in,
)
from sarsteer_lab.course.grading.tasks import Exercise, recognised, shipped_exercises
from sarsteer_lab.course.replaying import MODEL_VARIABLE, NotebookError, read_notebook
from sarsteer_lab.keys import content_key
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import Store, atomic_write

LARGEST_BESIDE = 50e6
"""Bytes of a file beside a notebook; larger ones (a model, a film) are not put into the copy."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what became of one task of one student."""

    student: str
    exercise: str
    task: str
    result: str
    message: str
    file: str


@dataclass(frozen=True)
class Graded:
    """A notebook with what became of its tasks; `exercise` is None where it cannot be told."""

    hand_in: HandIn
    exercise: str | None
    rows: list[Row]

    @property
    def passed(self) -> int:
        """How many tasks are passed."""
        return sum(row.result == PASSED for row in self.rows)


def grade(folder: Path, out: Path, *, model: str | None = None, minutes: float = 15) -> str:
    """Grade what lies in `folder` into the table `out` (CSV); returns a summary in words.

    `folder` holds a folder or zip archive a student, or notebooks; nothing is written there.
    `model` as in SARSTEER_COURSE_MODEL, which it overrides; `minutes` is each notebook's time.
    Raises as `hand_ins.hand_ins` does, `running.SetupError`, and ValueError for an `out` in
    `folder`.
    """
    if folder.resolve() in [out.resolve(), *out.resolve().parents]:
        raise ValueError(f"{out} lies in {folder}, where nothing is written: name another --out")
    exercises = shipped_exercises()
    store = Store(out.with_name(f"{out.stem}.kept"))
    graded = []
    others = []
    with tempfile.TemporaryDirectory(prefix="sarsteer-lab-grade-") as temporary:
        scratch = Path(temporary)
        environment = kernel_environment(model, scratch)
        found = hand_ins(folder, list(exercises), scratch / "unpacked")
        with tqdm(found.files, unit="notebook") as bar:
            for hand_in in bar:
                bar.set_description(hand_in.student[:20])
                run = _Run(hand_in, exercises, environment, 60 * minutes, scratch / "copy")
                of_file = run.graded(store)
                if of_file is None:
                    others.append(hand_in)
                else:
                    graded.append(of_file)
    rows = class_rows(found.students, graded, exercises)
    write_table(rows, out)
    return _summary(rows, others, out)


def kernel_environment(model: str | None, scratch: Path) -> dict[str, str]:
    """What students' kernels are told: the model, and folders that are not the teacher's own."""
    environment = dict(os.environ)
    environment["SARSTEER_CACHE"] = str(cache_folder().resolve())
    environment[FIGURES_VARIABLE] = str(scratch / "figures")
    environment["IPYTHONDIR"] = str(scratch / "ipython")
    environment["PIP_NO_INDEX"] = "1"  # a student's %pip install installs nothing here
    named = model or environment.get(MODEL_VARIABLE)
    if named:
        environment[MODEL_VARIABLE] = _from_anywhere(named)
    return environment


def _from_anywhere(model: str) -> str:
    """A model's name that means the same in another working folder."""
    kind, colon, place = model.rpartition(":")
    folder = Path(place).expanduser()
    return f"{kind}{colon}{folder.resolve()}" if folder.is_dir() else model


@dataclass(frozen=True)
class _Run:
    """A file that was handed in, and how it is to be run."""

    hand_in: HandIn
    exercises: dict[str, Exercise]
    environment: dict[str, str]
    seconds: float
    copy: Path

    def graded(self, store: Store) -> Graded | None:
        """What became of it, from the store where it is; None for a notebook of another kind."""
        name = self.hand_in.path.name
        named = next((exercise for exercise in self.exercises if exercise in name), None)
        try:
            if self.hand_in.damage:
                raise NotebookError(self.hand_in.damage)
            notebook = read_notebook(self.hand_in.path)
        except NotebookError as error:
            reason = str(error).replace(str(self.hand_in.path), name)
            return Graded(self.hand_in, named, [self._row(named or name, "", ERROR, reason)])
        exercise = recognised(notebook, name, self.exercises)
        if exercise is None:
            return None
        results = self._results(exercise, store)
        rows = []
        for task in exercise.tasks:
            result = results[task.number]
            heading = task_name(exercise, task.number)
            rows.append(self._row(exercise.name, heading, result.result, result.message))
        return Graded(self.hand_in, exercise.name, rows)

    def _row(self, exercise: str, task: str, result: str, message: str) -> Row:
        message = " ".join(message.split())
        return Row(self.hand_in.student, exercise, task, result, message, self.hand_in.shown)

    def _results(self, exercise: Exercise, store: Store) -> dict[int, Result]:
        """By task; run in a copy of the student's folder."""
        _copy(self.hand_in, self.copy)
        key = self._key(exercise)
        kept = store.read(key)
        if kept is None:
            notebook = read_notebook(self.hand_in.path)
            run = run_hand_in(notebook, exercise, self.copy, self.environment, self.seconds)
            kept = {}
            for number, result in run.items():
                kept[str(number)] = [result.result, result.message]
            store.write(key, kept)
        return {int(number): Result(*told) for number, told in kept.items()}

    def _key(self, exercise: Exercise) -> str:
        """Of all that decides the results: the notebook, what lies beside it, the shipped one."""
        beside = {}
        for path in sorted(self.copy.rglob("*")):
            if path.is_file() and path.suffix != ".ipynb":
                beside[path.relative_to(self.copy).as_posix()] = path.read_bytes()
        model = self.environment.get(MODEL_VARIABLE, "")
        deciding = [self.hand_in.path.read_bytes(), beside, exercise.source, model, self.seconds]
        return content_key("grade", __version__, *deciding)


def task_name(exercise: Exercise, number: int) -> str:
    """A task as the table names it: "2.1 The text-derived direction"."""
    [title] = [task.title for task in exercise.tasks if task.number == number]
    return f"{int(exercise.name[:2])}.{number} {title}"


def _copy(hand_in: HandIn, copy: Path) -> None:
    """The folder of the notebook, copied: what the student's code may read, and write."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    if not hand_in.own_folder:
        return

    def left_out(folder: str, names: list[str]) -> Iterable[str]:
        for name in names:
            path = Path(folder) / name
            hidden = name.startswith(".") or path.is_symlink()
            if hidden or (path.is_file() and path.stat().st_size > LARGEST_BESIDE):
                yield name

    def names_left_out(folder: str, names: list[str]) -> set[str]:
        return set(left_out(folder, names))

    shutil.copytree(hand_in.path.parent, copy, ignore=names_left_out, dirs_exist_ok=True)


def class_rows(
    students: Iterable[str], graded: Sequence[Graded], exercises: dict[str, Exercise]
) -> list[Row]:
    """A row for each student and task of the exercises that anybody handed in.

    Of several notebooks of one exercise the one with most tasks passed counts, and of equals the
    last by name. What a student has not handed in is "not reached".
    """
    assigned = [name for name in exercises if any(one.exercise == name for one in graded)]
    rows = []
    for student in sorted(students, key=str.casefold):
        own = [one for one in graded if one.hand_in.student == student]
        for one in own:
            if one.exercise is None:
                rows += one.rows
        for name in assigned:
            rows += _rows_of([one for one in own if one.exercise == name], student, exercises[name])
    return rows


def _rows_of(own: Sequence[Graded], student: str, exercise: Exercise) -> list[Row]:
    """A student's rows of one exercise."""
    if own:
        best = own[0]
        for one in own[1:]:
            if one.passed >= best.passed and len(one.rows) >= len(best.rows):
                best = one
        return best.rows
    rows = []
    for task in exercise.tasks:
        heading = task_name(exercise, task.number)
        rows.append(Row(student, exercise.name, heading, NOT_REACHED, "not handed in", ""))
    return rows


def write_table(rows: Sequence[Row], out: Path) -> None:
    """The table as CSV; spreadsheets read its umlauts right, and compute nothing in it."""
    with atomic_write(out) as scratch, scratch.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        for row in rows:
            writer.writerow(list(_as_text(astuple(row))))


def _as_text(cells: Sequence[str]) -> Iterator[str]:
    for cell in cells:
        yield f"'{cell}" if cell.startswith(_FORMULA) else cell


def _summary(rows: Sequence[Row], others: Sequence[HandIn], out: Path) -> str:
    """The table in a few lines: tasks by result, and what was left aside."""
    by_result = Counter(row.result for row in rows)
    counted = ", ".join(f"{result} {n}" for result, n in sorted(by_result.items()))
    students = len({row.student for row in rows})
    of_students = f"{students} student" + "s" * (students != 1)
    lines = [f"{out}: {of_students}, {len(rows)} rows ({counted or 'none'})"]
    if others:
        names = ", ".join(hand_in.shown for hand_in in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        lines.append(f"Left aside, as no exercise of the course: {names}{more}")
    return "\n".join(lines)
