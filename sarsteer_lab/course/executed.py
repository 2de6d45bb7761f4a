"""What an executed notebook holds: its title, and the tables of claims that it ends with."""

import re
from collections.abc import Iterable

import nbformat

from sarsteer_lab.course.tables import cells_of, plain

COLUMNS = 4
"""Of such a table: claim, measured, interval, verdict."""

HEADER = "| claim |"
"""How the table begins that `claims.closing` ends a chapter with."""


def closing_tables(notebook: nbformat.NotebookNode) -> list[str]:
    """The tables of claims among an executed notebook's outputs, as Markdown."""
    tables = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith(HEADER):
                tables.append(text)
    return tables


def tables_by_title(notebooks: Iterable[nbformat.NotebookNode]) -> dict[str, list[str]]:
    """The tables of claims of those notebooks that have some, by the notebooks' titles."""
    by_title = {}
    for notebook in notebooks:
        if tables := closing_tables(notebook):
            by_title[title(notebook)] = tables
    return by_title


def tables_in(summary: str) -> dict[str, list[str]]:
    """The same from the text of a summary, in which each stands below its chapter's title."""
    by_title: dict[str, list[str]] = {}
    heading = ""
    for part in summary.split("\n\n"):
        if part.startswith("## "):
            heading = part.removeprefix("## ")
        elif part.startswith(HEADER):
            by_title.setdefault(heading, []).append(part)
    return by_title


def rows_of(table: str) -> list[list[str]]:
    """The cells of the rows of a table of claims, without its headings and what stands below it."""
    lines = table.partition("\n\n")[0].splitlines()[2:]
    return [cells for cells in map(cells_of, lines) if len(cells) == COLUMNS]


def verdict_word(verdict: str) -> str:
    """One of the four words of a verdict, without what stands beside it ("" for nothing)."""
    bold = re.match(r"\*\*(.+?)\*\*", verdict)
    return bold[1] if bold else plain(verdict)


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    for cell in notebook.cells:
        heading = re.search("^# (.+)", cell.source, flags=re.M)
        if cell.cell_type == "markdown" and heading:
            return heading[1]
    return "A chapter without a title"
