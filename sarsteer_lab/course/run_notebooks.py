"""Run the course's notebooks from top to bottom, in order, with one progress bar, and keep their
outputs.

    python -m sarsteer_lab.course.run_notebooks notebooks notebooks/solutions

runs every notebook of these folders in place (a file may be named too); the figures' index,
`figures/README.md`, is brought up to date. `walkthrough` runs all chapters, leaves them as they
are, and collects on a page what they found. Needs the extra `lab`.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbclient.util import run_sync
from nbconvert import HTMLExporter
from tqdm import tqdm

from sarsteer_lab.course.figures.base import write_index
from sarsteer_lab.paths import data_folder

CELL_SECONDS = 3600
"""A cell that takes longer counts as hanging: the appendix's longest takes 15 minutes on a slow
machine."""

HEADER = "| claim |"
"""How the table begins that `claims.closing` ends a chapter with."""

FIGURES = data_folder().parent / "figures"
"""The figures of a checkout, which the chapters write."""

_PROGRESS = re.compile(r"\d+%\|.*\| \d+/\d+ \[")


class NotebookError(RuntimeError):
    """A cell of a notebook failed. The message names the notebook and holds the cell and its
    traceback."""


def find_notebooks(places: Sequence[Path | str]) -> list[Path]:
    """The notebooks named, and those directly in the folders named, in the order of their names.

    Raises FileNotFoundError for a place that is not there.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"{place}: there is no such notebook or folder")
        found += sorted(place.glob("*.ipynb")) if place.is_dir() else [place]
    return found


def run_notebooks(
    paths: Sequence[Path], *, save: bool = True, html: Path | None = None, at_once: int = 1
) -> list[nbformat.NotebookNode]:
    """Run notebooks, each in a fresh kernel that starts in its folder, and return them with their
    outputs.

    With `save` a notebook that ran through replaces its file. `at_once` run at a time, each with
    its share of the cores. Raises `NotebookError` at the first cell that fails; that notebook's
    file then stays as it was.
    """
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    cells = sum(cell.cell_type == "code" for notebook in notebooks for cell in notebook.cells)
    gate = asyncio.Semaphore(at_once)
    # Processes that take all cores each slow one another down three times and more.
    share = (
        {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))} if at_once > 1 else {}
    )

    async def run(path: Path, notebook: nbformat.NotebookNode, bar: "tqdm[NoReturn]") -> None:
        loop = asyncio.get_running_loop()
        async with gate:
            bar.set_description(path.stem)
            client = NotebookClient(
                notebook,
                timeout=CELL_SECONDS,
                record_timing=False,
                # Without a kernel a panel's still is shown; its saved state would need scripts from
                # the web.
                store_widget_state=False,
                shutdown_kernel="immediate",
                resources={"metadata": {"path": str(path.parent)}},
                # Ctrl-C is Python's again: nbclient's own answer to it ends in errors of its own.
                on_notebook_start=lambda **_: (
                    os.name == "nt" or loop.remove_signal_handler(signal.SIGINT)
                ),
                on_cell_complete=lambda **_: bar.update(),
            )
            try:
                await client.async_execute(env=share | os.environ)
            except (CellExecutionError, CellTimeoutError) as error:
                raise NotebookError(f"{path}: {error}") from error
        drop_progress(notebook)
        if save:
            nbformat.write(notebook, path)
        if html is not None:
            html.mkdir(parents=True, exist_ok=True)
            page, _ = HTMLExporter().from_notebook_node(notebook)
            (html / f"{path.stem}.html").write_text(page, encoding="utf-8")

    async def run_all() -> None:
        with tqdm(total=cells, unit="cell") as bar:
            async with asyncio.TaskGroup() as group:
                for path, notebook in zip(paths, notebooks, strict=True):
                    group.create_task(run(path, notebook, bar))

    try:
        run_sync(run_all)()
    except BaseExceptionGroup as failed:  # the first; the others' kernels are shut down
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return notebooks


def drop_progress(notebook: nbformat.NotebookNode) -> None:
    """Take progress bars out of the outputs: once all is done they say nothing, and no kernel moves
    them."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [
                (one, one.get("text") or one.get("data", {}).get("text/plain", ""))
                for one in cell.outputs
            ]
            cell.outputs = [output for output, text in shown if not _PROGRESS.search(text)]


def walkthrough(notebooks: Path, folder: Path, html: Path | None = None, at_once: int = 1) -> Path:
    """Run the chapters in `notebooks` with one progress bar, and write `folder`/summary.md; returns
    its path.

    The notebooks themselves stay as they are; `html` and `at_once` as in `run_notebooks`. The
    summary holds every chapter's closing table: claim, measured number, interval and verdict, as
    computed in this run. Raises FileNotFoundError if there are no notebooks, and `NotebookError` at
    the first cell that fails.
    """
    paths = find_notebooks([notebooks])
    if not paths:
        raise FileNotFoundError(
            f"{notebooks}: holds no notebooks; `sarsteer-lab course FOLDER` copies them"
        )
    summary = folder / "summary.md"
    done = run_notebooks(paths, save=False, html=html, at_once=at_once)
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_text(page(paths, done), encoding="utf-8")
    return summary


def page(paths: Sequence[Path], notebooks: Sequence[nbformat.NotebookNode]) -> str:
    """The closing tables of executed notebooks as one Markdown page, in their order."""
    parts = [
        "# What the chapters found",
        "Computed by the notebooks in this run; nothing here is typed in.",
    ]
    for path, notebook in zip(paths, notebooks, strict=True):
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        shown = [output.get("data", {}).get("text/markdown", "") for output in outputs]
        tables = [text for text in shown if text.startswith(HEADER)]
        if tables:
            parts += [f"## {title(notebook) or path.stem}", *tables]
    return "\n\n".join(parts) + "\n"


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading; empty if it has none."""
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return next((line for line in texts.splitlines() if line.startswith("# ")), "").removeprefix(
        "# "
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every notebook ran through, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m sarsteer_lab.course.run_notebooks", description=__doc__
    )
    parser.add_argument("places", nargs="+", type=Path, help="notebooks, or folders of them")
    try:
        run_notebooks(find_notebooks(parser.parse_args(arguments).places))
        if FIGURES.is_dir():
            write_index(FIGURES)
    except (NotebookError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
