"""What an executed notebook holds: its title, and the tables of claims that it ends with."""

import re

import nbformat

from sarsteer_lab.course.tables import cells_of

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


def rows_of(table: str) -> list[list[str]]:
    """The cells of the rows of a table of claims, without its headings and what stands below it."""
    lines = table.partition("\n\n")[0].splitlines()[2:]
    return [cells for cells in map(cells_of, lines) if len(cells) == COLUMNS]


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    for cell in notebook.cells:
        heading = re.search("^# (.+)", cell.source, flags=re.M)
        if cell.cell_type == "markdown" and heading:
            return heading[1]
    return "A chapter without a title"
