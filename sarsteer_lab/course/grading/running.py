"""One student's notebook run anew in a kernel of its own, and its tasks checked.

A cell that fails does not stop the ones below it. A task that does not end in time, or that ends
the kernel, is left out of another run, in which the others get their time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync

from sarsteer_lab.course.checks.tools import CHECK_MIME
from sarsteer_lab.course.grading.inside import GRADE_MIME
from sarsteer_lab.course.grading.tasks import Exercise, Task, import_statements
from sarsteer_lab.course.run_notebooks import Client

PASSED, FAILED, ERROR = "passed", "failed", "error"
NOT_REACHED, TIMED_OUT = "not reached", "timed out"

BENCH = "_sarsteer_lab_bench"
"""The variable of the kernel that holds the setup."""

SETUP_SECONDS = 1800
"""How long loading the model may take: on a first run its base weights are fetched."""

SECONDS_FOR_OUTPUT = 60
"""How long what cells have printed may delay what a check says."""

_OPEN = "from sarsteer_lab.course.grading import inside; inside.look_here_last()"
_SET_UP = f"from sarsteer_lab.course.grading import inside; {BENCH} = inside.bench(globals())"


@dataclass(frozen=True)
class Result:
    """What became of a task, and why."""

    result: str
    message: str


class SetupError(RuntimeError):
    """The shipped setup cells do not run here: that is not a student's fault."""


class _Stopped(Exception):
    """A task's cells, or its check, did not end in time or ended the kernel."""

    def __init__(self, task: int, result: Result) -> None:
        self.task, self.result = task, result


class _Client(Client):
    """A kernel of whose outputs errors and grades are kept: one that prints for ever fills no
    memory."""

    def output(self, outs: Any, msg: Any, display_id: Any, cell_index: int) -> Any:
        """See nbclient."""
        data = msg["content"].get("data", {})
        if msg["msg_type"] == "error" or GRADE_MIME in data:
            return super().output(outs, msg, display_id, cell_index)
        return None


class _Kernel:
    """A started kernel: runs one cell after another until a point in time."""

    def __init__(self, client: _Client, deadline: float) -> None:
        self.client, self.deadline = client, deadline

    async def run(self, source: str) -> list[nbformat.NotebookNode]:
        """A cell's errors and grades. Raises as nbclient does when time is up or it died."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells[:] = [cell]
        self.client.timeout = max(1, round(self.deadline - time.monotonic()))
        await self.client.async_execute_cell(cell, 0)
        return cell.outputs


def run_hand_in(
    notebook: nbformat.NotebookNode,
    exercise: Exercise,
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
) -> dict[int, Result]:
    """What became of each task, by number. The kernel starts in `folder`; `seconds` is its time.

    Raises SetupError if the exercise's own setup cells fail.
    """
    stopped: dict[int, Result] = {}
    while True:
        try:
            run = run_sync(_run_once)
            results = run(notebook, exercise, set(stopped), folder, environment, seconds)
        except _Stopped as stop:
            stopped[stop.task] = stop.result  # which is then left out, so it cannot stop again
        else:
            return with_remarks({**results, **stopped}, notebook, exercise)


async def _run_once(
    notebook: nbformat.NotebookNode,
    exercise: Exercise,
    left_out: set[int],
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
) -> dict[int, Result]:
    client = _Client(
        nbformat.v4.new_notebook(),
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        iopub_timeout=SECONDS_FOR_OUTPUT,
        allow_errors=True,
        record_timing=False,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(folder)}},
    )
    client.log.setLevel("CRITICAL")  # what happens is told in the table
    async with client.async_setup_kernel(env=dict(environment)):
        kernel = _Kernel(client, time.monotonic() + SETUP_SECONDS)
        await _set_up(kernel, exercise)
        kernel.deadline = time.monotonic() + seconds  # the student's time begins here
        return await _run_tasks(kernel, notebook, exercise, left_out)


async def _set_up(kernel: _Kernel, exercise: Exercise) -> None:
    for source in (_OPEN, *exercise.setup, _SET_UP):
        try:
            outputs = await kernel.run(source)
        except (CellTimeoutError, DeadKernelError) as error:
            raise SetupError(f"{exercise.name}: its setup cells do not end: {error}") from error
        if outputs:
            told = _error(outputs)
            raise SetupError(f"{exercise.name}: its setup cells fail: {told}")


async def _run_tasks(
    kernel: _Kernel, notebook: nbformat.NotebookNode, exercise: Exercise, left_out: set[int]
) -> dict[int, Result]:
    """Run the cells in their order, and each task's check behind its last cell."""
    by_number = {task.number: task for task in exercise.tasks}
    cells = list(student_cells(notebook, exercise))
    last = {task: place for place, (task, _) in enumerate(cells)}
    errors: dict[int, str] = {}
    results = {}
    for place, (number, source) in enumerate(cells):
        if number in left_out:
            continue
        outputs = await _run_part(kernel, number, source)
        if outputs:
            errors[number] = _error(outputs)
        if last[number] == place and number in by_number:
            results[number] = await _check(kernel, by_number[number], exercise, errors.get(number))
    for number, task in by_number.items():
        if number not in results and number not in left_out:
            error = errors.get(number, errors.get(0))
            results[number] = await _check(kernel, task, exercise, error)
    return results


def student_cells(notebook: nbformat.NotebookNode, exercise: Exercise) -> list[tuple[int, str]]:
    """The student's code cells, each with the number of its task (0: before the first).

    Without the setup cells and checks that are as shipped: those are run anyway.
    """
    as_shipped = {*exercise.setup, *(task.check for task in exercise.tasks)}
    as_shipped = {source.strip() for source in as_shipped}
    cells = []
    current = 0
    for cell in notebook.cells:
        current = exercise.task_of(cell) or current
        if cell.cell_type == "code":
            source = cell.source.strip()
            # An empty cell marks where its task ends.
            cells.append((current, "" if source in as_shipped else cell.source))
    return cells


async def _run_part(kernel: _Kernel, number: int, source: str) -> list[nbformat.NotebookNode]:
    """Run a cell of a task. Raises `_Stopped` if it does not end in time, or ends the kernel."""
    try:
        return await kernel.run(source)
    except CellTimeoutError:
        message = "did not end in time: is there a loop that never stops?"
        raise _Stopped(number, Result(TIMED_OUT, message)) from None
    except DeadKernelError:
        message = "ended the kernel: did it crash, or take too much memory?"
        raise _Stopped(number, Result(ERROR, message)) from None


async def _check(kernel: _Kernel, task: Task, exercise: Exercise, error: str | None) -> Result:
    """A task's result; `error` is what one of its cells stopped with."""
    imports = import_statements(exercise.setup)
    call = f"{BENCH}.check({imports!r}, {task.given!r}, {task.wanted!r}, {task.check!r})"
    outputs = await _run_part(kernel, task.number, call)
    for output in outputs:
        if told := output.get("data", {}).get(GRADE_MIME):
            result, message = told["result"], told["message"]
            if result == PASSED or (result == FAILED and error is None):
                return Result(result, message)
            if error is not None:
                return Result(ERROR, error)
            return Result(NOT_REACHED if result == "missing" else ERROR, message)
    return Result(ERROR, _error(outputs) or "the check said nothing")


def _error(outputs: list[nbformat.NotebookNode]) -> str:
    """The last error among a cell's outputs, in words."""
    for output in reversed(outputs):
        if output.output_type == "error":
            return f"{output.ename}: {output.evalue}"
    return ""


def with_remarks(
    results: Mapping[int, Result], notebook: nbformat.NotebookNode, exercise: Exercise
) -> dict[int, Result]:
    """The results, with a word where the notebook as handed in shows something else."""
    told = {}
    for task in exercise.tasks:
        result = results[task.number]
        message = result.message
        if result.result != PASSED and _shows_passed(notebook, task):
            message += " (as handed in, the notebook shows 'passed')"
        if _check_is_changed(notebook, task):
            message += " (its check cell was changed; the shipped one has been run)"
        told[task.number] = Result(result.result, message)
    return told


def _shows_passed(notebook: nbformat.NotebookNode, task: Task) -> bool:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get(CHECK_MIME, {})
            if shown.get("check") == task.check_name and shown.get("passed"):
                return True
    return False


def _check_is_changed(notebook: nbformat.NotebookNode, task: Task) -> bool:
    """Whether the notebook calls the check otherwise, or has given its name to something else."""
    name = task.check_name
    code = [cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"]
    calls = [source for source in code if source.startswith(f"{name}(")]
    renamed = any(f"def {name}(" in source or f"{name} =" in source for source in code)
    return renamed or (bool(calls) and task.check.strip() not in calls)
