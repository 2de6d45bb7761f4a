"""Run the course's notebooks from top to bottom, in order, with one progress bar.

    python -m sarsteer_lab.course.run_notebooks notebooks notebooks/solutions

runs every notebook of these folders (a file may be named too) and keeps its outputs in it. With
the checkout's own notebooks it also renews what is committed of their results: the figures in
figures/, figures/walkthrough/summary.md and the four claims in README.md. `walkthrough` runs the
chapters and writes into one folder, nowhere else. Needs the extra `lab`.
"""

import argparse
import asyncio
import atexit
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbclient.util import run_sync
from tqdm import tqdm

from sarsteer_lab.course.certificate import write_certificate
from sarsteer_lab.course.executed import tables_by_title
from sarsteer_lab.course.folders import FIGURES_VARIABLE, GUESSES_VARIABLE, checkout
from sarsteer_lab.course.folding import fold, page_of
from sarsteer_lab.course.four_claims import BEGIN, END, page, rows_found, short
from sarsteer_lab.course.replaying import (
    BY_HAND,
    NotebookError,
    read_notebook,
    recorded_outputs,
    recording,
    show_recorded,
)
from sarsteer_lab.course.sections import write_between

CELL_SECONDS = 3600
"""A cell that takes longer hangs: the appendix's longest takes 15 minutes on a slow machine."""

INTRODUCTION = """\
# What the chapters found

Computed by the notebooks in this run; nothing here is typed in."""

_PROGRESS = re.compile(r"\d+%\|.*\| \d+/\d+ \[")


def find_notebooks(places: Sequence[Path | str]) -> list[Path]:
    """The notebooks named, and those directly in the folders named, in the order of their names.

    Raises FileNotFoundError for a place that is not there.
    """
    paths: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"{place}: there is no such notebook or folder")
        paths += sorted(place.glob("*.ipynb")) if place.is_dir() else [place]
    return paths


def find_chapters(folder: Path) -> list[Path]:
    """The chapters in a folder. Raises FileNotFoundError if there are none."""
    chapters = find_notebooks([folder])
    if not chapters:
        raise FileNotFoundError(
            f"{folder}: holds no notebooks; `sarsteer-lab course FOLDER` copies them"
        )
    return chapters


def run_notebooks(
    paths: Sequence[Path],
    *,
    save: bool = True,
    html: Path | None = None,
    figures: Path | None = None,
    at_once: int = 1,
) -> list[nbformat.NotebookNode]:
    """Run notebooks, each in a fresh kernel that starts in its folder; returns them as run.

    Outputs that give a prediction's answer away are folded (`folding`), and no reader's guesses are
    in them. With `save` a notebook that ran through replaces its file; into the folder `html` each
    is written as a page. Their figures go to the folder `figures` (None: as in JupyterLab, see
    `folders.figures_folder`). `at_once` run at a time, each with its share of the cores. In a
    replay, cells by hand are not run, and show what was recorded (`replaying`). Raises
    `NotebookError` at the first cell that fails; that notebook's file then stays as it was.
    """
    notebooks = [read_notebook(path) for path in paths]
    show_what_was_recorded(notebooks)
    environment = kernel_environment(figures, at_once)
    turns = asyncio.Semaphore(at_once)

    async def run_in_turn(path: Path, notebook: nbformat.NotebookNode, bar: "tqdm[Any]") -> None:
        async with turns:
            bar.set_description(path.stem)
            await execute(path, notebook, environment, bar)
        drop_progress(notebook)
        fold(notebook)
        if save:
            nbformat.write(notebook, path)
        if html is not None:
            html.mkdir(parents=True, exist_ok=True)
            (html / f"{path.stem}.html").write_text(page_of(notebook), encoding="utf-8")

    async def run_all() -> list[tuple[Path, asyncio.Task[None]]]:
        cells = [cell for notebook in notebooks for cell in notebook.cells]
        to_run = sum(cell.cell_type == "code" for cell in cells)
        tasks = []
        with tqdm(total=to_run, unit="cell") as bar:
            async with asyncio.TaskGroup() as group:
                for number in beginning_order(len(paths), at_once):
                    run = run_in_turn(paths[number], notebooks[number], bar)
                    tasks.append((paths[number], group.create_task(run)))
        return tasks

    try:
        with TemporaryDirectory() as nobodys:
            environment[GUESSES_VARIABLE] = nobodys
            tasks = run_sync(run_all)()
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]  # the kernels of the others are shut down
        raise first from first.__cause__
    for path, task in tasks:
        # A group of tasks passes over one that was cancelled from inside.
        if task.cancelled():
            raise NotebookError(f"{path}: was not run to its end: its kernel was shut down")
    return notebooks


def show_what_was_recorded(notebooks: Sequence[nbformat.NotebookNode]) -> None:
    """In a replay, put what was recorded into cells by hand."""
    replayed = recording()
    if replayed is None:
        return
    by_hand = recorded_outputs(replayed)
    for notebook in notebooks:
        show_recorded(notebook, by_hand)


def beginning_order(count: int, at_once: int) -> list[int]:
    """The order in which notebooks begin: as named, or from both ends if several run at once.

    The longest chapters stand near the end: begun last they would run alone, on a share of the
    cores. So the second half, the middle of the list, begins from its end, too.
    """
    left = list(range(count))
    order: list[int] = []
    while left:
        is_from_the_end = len(order) % 2 == 1 or len(order) > count / 2
        order.append(left.pop(-1 if at_once > 1 and is_from_the_end else 0))
    return order


def kernel_environment(figures: Path | None, at_once: int) -> dict[str, str]:
    """This process's environment, and what kernels are told: where figures go, and their cores."""
    environment = dict(os.environ)
    if figures is not None:
        environment[FIGURES_VARIABLE] = str(figures.resolve())
    if at_once > 1:
        # Processes that take all cores each slow one another down three times and more.
        share = max(1, (os.cpu_count() or 1) // at_once)
        environment.setdefault("OMP_NUM_THREADS", str(share))
    return environment


class Client(NotebookClient):
    """A notebook's kernel, during which signals stay Python's.

    nbclient answers them itself, and then a notebook whose kernel was still starting counts as run.
    """

    async def async_start_new_kernel(self, **options: Any) -> None:
        """See nbclient, which has taken the signals just before."""
        if os.name != "nt":
            loop = asyncio.get_running_loop()
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)
        # To clean up at exit what is not whole yet fails; a kernel ends when this process does.
        atexit.unregister(self._cleanup_kernel)
        await super().async_start_new_kernel(**options)
        atexit.register(self._cleanup_kernel)


async def execute(
    path: Path, notebook: nbformat.NotebookNode, environment: Mapping[str, str], bar: "tqdm[Any]"
) -> None:
    """Run a notebook's cells in a new kernel, and put their outputs into it.

    Raises `NotebookError` at the first cell that fails or hangs.
    """
    client = Client(
        notebook,
        timeout=CELL_SECONDS,
        record_timing=False,
        skip_cells_with_tag="" if recording() is None else BY_HAND,
        # A panel's still is shown without a kernel; its state would need scripts from the web.
        store_widget_state=False,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_complete=lambda **_: bar.update(),
    )
    try:
        await client.async_execute(env=environment)
    except (CellExecutionError, CellTimeoutError) as error:
        raise NotebookError(f"{path}: {error}") from error


def drop_progress(notebook: nbformat.NotebookNode) -> None:
    """Take out progress bars: once all is done they say nothing, and no kernel moves them."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]


def is_progress(output: nbformat.NotebookNode) -> bool:
    """Whether an output shows a progress bar, as text or as a widget."""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return bool(_PROGRESS.search(text))


def walkthrough(notebooks: Path, folder: Path, at_once: int = 1) -> Path:
    """Run the chapters in `notebooks` with one progress bar; returns the path of the summary.

    Into `folder` go the summary, summary.md, with every chapter's closing table as computed in
    this run (claim, measured number, interval, verdict); certificate.html, where these verdicts
    stand beside the shipped ones; each chapter as a page, NAME.html; and its figures,
    figures/NAME/*.png. The notebooks stay as they are; `at_once` as in
    `run_notebooks`. Raises FileNotFoundError if there are no notebooks, and `NotebookError` at
    the first cell that fails.
    """
    paths = find_chapters(notebooks)
    figures = folder / "figures"
    executed = run_notebooks(paths, save=False, html=folder, figures=figures, at_once=at_once)
    write_certificate(paths, executed, folder)
    return write_summary(executed, folder)


def write_results(repository: Path) -> None:
    """Renew what is committed of the findings, from the chapters and the appendix as they are.

    The summary, and the four claims in README.md. Raises ValueError if the latter lacks its marks.
    """
    paths = find_notebooks([repository / "notebooks"])
    paths += sorted((repository / "notebooks" / "appendix").glob("*.ipynb"))
    executed = [read_notebook(path) for path in paths]
    write_summary(executed, repository / "figures" / "walkthrough")
    write_between(repository / "README.md", short(tables_by_title(executed)), BEGIN, END)


def write_summary(notebooks: Sequence[nbformat.NotebookNode], folder: Path) -> Path:
    """Write what executed notebooks found, in their order, to `folder`/summary.md.

    First the paper's four claims (`four_claims`), where a chapter has tested one; then each closing
    table.
    """
    by_title = tables_by_title(notebooks)
    parts = [INTRODUCTION]
    if rows_found(by_title):
        parts.append(page(by_title))
    for heading, tables in by_title.items():
        parts += [f"## {heading}", *tables]
    folder.mkdir(parents=True, exist_ok=True)
    summary = folder / "summary.md"
    summary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every notebook ran through, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m sarsteer_lab.course.run_notebooks", description=__doc__
    )
    parser.add_argument("places", nargs="+", type=Path, help="notebooks, or folders of them")
    places = parser.parse_args(arguments).places
    repository = checkout()
    try:
        paths = find_notebooks(places)
        # Only the checkout's own notebooks write what is committed.
        if repository and all(repository / "notebooks" in path.resolve().parents for path in paths):
            run_notebooks(paths, figures=repository / "figures")
            write_results(repository)
        else:
            run_notebooks(paths)
    except (NotebookError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
