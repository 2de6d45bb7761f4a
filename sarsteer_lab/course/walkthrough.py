"""The main job: all chapters of the course run in order, and what they found collected on one page."""

from collections.abc import Sequence
from pathlib import Path

import nbformat

from sarsteer_lab.course.run_notebooks import find_notebooks, run_notebooks

HEADER = "| claim |"
"""How the table begins that `claims.closing` ends a chapter with."""


def walkthrough(notebooks: Path, folder: Path, html: Path | None = None) -> Path:
    """Run the chapters in `notebooks` with one progress bar, and write `folder`/summary.md; returns its path.

    The notebooks themselves stay as they are; `html` also gets each as a page. The summary holds every
    chapter's closing table: claim, measured number, interval and verdict, as computed in this run. Raises
    FileNotFoundError if there are no notebooks, and `NotebookError` at the first cell that fails.
    """
    paths = find_notebooks([notebooks])
    if not paths:
        raise FileNotFoundError(f"{notebooks}: holds no notebooks; run this in a checkout, or name a folder")
    summary = folder / "summary.md"
    done = run_notebooks(paths, save=False, html=html)
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_text(page(paths, done), encoding="utf-8")
    return summary


def page(paths: Sequence[Path], notebooks: Sequence[nbformat.NotebookNode]) -> str:
    """The closing tables of executed notebooks as one Markdown page, in their order."""
    parts = ["# What the chapters found", "Computed by the notebooks in this run; nothing here is typed in."]
    for path, notebook in zip(paths, notebooks, strict=True):
        tables = [table for cell in notebook.cells for table in _closings(cell)]
        if tables:
            parts += [f"## {title(notebook) or path.stem}", *tables]
    return "\n\n".join(parts) + "\n"


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading; empty if it has none."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = (line for text in texts for line in text.splitlines() if line.startswith("# "))
    return next(lines, "").removeprefix("# ")


def _closings(cell: nbformat.NotebookNode) -> list[str]:
    shown = (output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", []))
    return [text for text in shown if text.startswith(HEADER)]
