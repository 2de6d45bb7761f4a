"""The shipped exercises, task by task, and which of them a student's notebook is."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from sarsteer_lab.course.copying import notebooks_folder
from sarsteer_lab.course.replaying import read_notebook

CHECKS = "sarsteer_lab.course.checks"

TASK = re.compile(r"^## [★ ]*(?:\d\.)?(\d+) · [★ ]*(.+)", flags=re.M)
"""The heading that begins a task: "## 2 · ★★ Title" or "## ★★ 4.2 · Title"."""

CHECK = re.compile(r"^check_\w+(?=\()")
"""How a check's cell begins."""


@dataclass(frozen=True)
class Task:
    """One task of a shipped exercise.

    `given` are the statements in front of its first blank: they make what the check compares with.
    `wanted` are the names that the others define, the student's answer. `ids` are its cells'.
    """

    number: int
    title: str
    check: str
    given: str
    wanted: tuple[str, ...]
    ids: frozenset[str]

    @property
    def check_name(self) -> str:
        """The function that decides about it."""
        match = CHECK.match(self.check)
        assert match is not None  # `read_exercise` has found it so
        return match[0]


@dataclass(frozen=True)
class Exercise:
    """A shipped exercise notebook: its setup cells, which come before the first task, and tasks."""

    name: str
    title: str
    setup: tuple[str, ...]
    tasks: tuple[Task, ...]
    source: bytes

    def task_of(self, cell: nbformat.NotebookNode) -> int | None:
        """The number of the task that a student's cell says it belongs to, if it does."""
        for task in self.tasks:
            if cell.get("id") in task.ids:
                return task.number
        heading = TASK.search(cell.source) if cell.cell_type == "markdown" else None
        numbers = [task.number for task in self.tasks]
        return int(heading[1]) if heading and int(heading[1]) in numbers else None


@dataclass
class _Begun:
    """A task whose cells are being read."""

    number: int
    title: str
    check: str = ""
    code: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def finished(self) -> Task:
        given, wanted = given_and_wanted("\n".join(self.code))
        return Task(self.number, self.title, self.check, given, wanted, frozenset(self.ids))


def shipped_exercises() -> dict[str, Exercise]:
    """The exercises that this package brings, by the names of their notebooks."""
    paths = sorted((notebooks_folder() / "exercises").glob("*.ipynb"))
    return {path.stem: read_exercise(path) for path in paths}


def read_exercise(path: Path) -> Exercise:
    """A shipped exercise. Raises ValueError for a notebook with a task that has no check."""
    title = ""
    setup: list[str] = []
    begun: list[_Begun] = []
    for cell in read_notebook(path).cells:
        if cell.cell_type == "markdown":
            heading = TASK.search(cell.source)
            if heading:
                begun.append(_Begun(int(heading[1]), heading[2]))
            elif not title:
                title = cell.source.partition("\n")[0]
        elif not begun:
            setup.append(cell.source)
        elif CHECK.match(cell.source):
            begun[-1].check = cell.source
        else:
            begun[-1].code.append(cell.source)
        if begun:
            begun[-1].ids.append(cell.id)
    if not begun or not all(task.check for task in begun):
        raise ValueError(f"{path} is no exercise: each of its tasks needs a check")
    tasks = tuple(task.finished() for task in begun)
    return Exercise(path.stem, title, tuple(setup), tasks, path.read_bytes())


def given_and_wanted(source: str) -> tuple[str, tuple[str, ...]]:
    """The statements before the first one with a blank (`...`), and what the others define."""
    given = []
    wanted: list[str] = []
    for statement in ast.parse(source).body:
        if wanted or any(_is_blank(node) for node in ast.walk(statement)):
            wanted += _defined(statement)
        else:
            given.append(ast.unparse(statement))
    return "\n".join(given), tuple(wanted)


def _defined(statement: ast.stmt) -> list[str]:
    """The names that a statement gives a value to."""
    if isinstance(statement, ast.FunctionDef):
        return [statement.name]
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return [node.id for node in names if isinstance(node.ctx, ast.Store)]


def _is_blank(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def import_statements(sources: Sequence[str]) -> str:
    """The imports among the statements of some cells; cells with a magic command are left out."""
    imports = []
    for source in sources:
        if "\n%" in f"\n{source.replace(' ', '')}":
            continue
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports.append(ast.unparse(statement))
    return "\n".join(imports)


def recognised(
    notebook: nbformat.NotebookNode, file_name: str, exercises: dict[str, Exercise]
) -> Exercise | None:
    """The exercise that a student's notebook is, by what stands in it; None if it is none.

    Files are renamed, and a chapter has the name of its exercises: so the file's name only decides
    where two exercises fit equally well.
    """
    best, most = None, 0.0
    for exercise in exercises.values():
        alike = float(_likeness(notebook, exercise))
        if alike and exercise.name in file_name:
            alike += 0.5
        if alike > most:
            best, most = exercise, alike
    return best


def _likeness(notebook: nbformat.NotebookNode, exercise: Exercise) -> int:
    """How much of an exercise is in a notebook: its title, and calls of its checks."""
    titles = 0
    calls = 0
    of_this_course = False  # the workshops have checks of their own
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles += cell.source.partition("\n")[0] == exercise.title
        else:
            of_this_course |= CHECKS in cell.source
            calls += sum(f"{task.check_name}(" in cell.source for task in exercise.tasks)
    return titles + calls if titles or of_this_course else 0
