"""What an executed notebook holds: its title, and the tables of claims that it ends with."""

import re

import nbformat

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


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    for cell in notebook.cells:
        heading = re.search("^# (.+)", cell.source, flags=re.M)
        if cell.cell_type == "markdown" and heading:
            return heading[1]
    return "A chapter without a title"
