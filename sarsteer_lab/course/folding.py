"""Folding what gives an answer away: outputs between a prediction and the end of its debrief.

In a saved notebook such an output is folded until its cell is run: JupyterLab unfolds it then. An
empty output stands first, for JupyterLab shows the first line of the first one it folds. On the
site, and on the pages of a walkthrough, the reader unfolds. Questions stay open, and so do cells
with the tag `OPEN`. Other panels do not: a saved panel has its still beside it, which may tell.
"""

import re

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter

FOLDED = "hide-output"
"""The tag of cells whose outputs are folded, as MyST-NB reads it."""

OPEN = "stays-open"
"""The tag of a panel with which a prediction is to be tried, and whose still does not answer it."""

GUESS_MIME = "application/vnd.sarsteer-lab.guess+json"
"""Under this type a question stands in an executed notebook; with its truth, once that is known."""

PAGE = """\
{%- extends "lab/index.html.j2" -%}
{%- block output_group -%}
{%- if "FOLDED" in cell.metadata.get("tags", []) -%}
<details><summary>What came out</summary>{{ super() }}</details>
{%- else -%}
{{ super() }}
{%- endif -%}
{%- endblock output_group -%}
""".replace("FOLDED", FOLDED)
"""A notebook's page as nbconvert makes it, with folded outputs."""

COVER = {"text/plain": ""}
"""The output that stands first in a folded cell, and shows nothing."""

_PREDICT = re.compile(r"^> \*\*Predict", flags=re.M)


def fold(notebook: nbformat.NotebookNode) -> None:
    """Fold a notebook's outputs between each prediction and the end of its debrief, and no others.

    Where nobody debriefs, up to the next cell of text.
    """
    to_fold: set[int] = set()
    open_since: int | None = None
    for number, cell in enumerate(notebook.cells):
        if open_since is not None and "**Debrief.**" in _told(cell):
            to_fold |= set(range(open_since, number + 1))
            open_since = None
        if cell.cell_type == "markdown" and _PREDICT.search(cell.source):
            if open_since is not None:
                to_fold |= _until_text(notebook, open_since)
            open_since = number + 1
    if open_since is not None:
        to_fold |= _until_text(notebook, open_since)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            _set_folded(cell, number in to_fold and not stays_open(cell))


def _told(cell: nbformat.NotebookNode) -> str:
    """A cell's source, and what it says."""
    parts = [cell.source]
    for output in cell.get("outputs", []):
        parts.append(output.get("data", {}).get("text/markdown", ""))
    return "\n".join(parts)


def _until_text(notebook: nbformat.NotebookNode, start: int) -> set[int]:
    """The numbers of the code cells from `start` up to the next cell of text."""
    number = start
    while number < len(notebook.cells) and notebook.cells[number].cell_type == "code":
        number += 1
    return set(range(start, number))


def stays_open(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell asks for a guess, and does not say what came out, or is tagged `OPEN`."""
    if OPEN in cell.metadata.get("tags", []):
        return True
    questions = []
    for output in cell.get("outputs", []):
        questions.append(output.get("data", {}).get(GUESS_MIME))
    return any(question is not None and "truth" not in question for question in questions)


def shown_outputs(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A code cell's outputs that show something."""
    return [output for output in cell.outputs if output.get("data") != COVER]


def _set_folded(cell: nbformat.NotebookNode, folded: bool) -> None:
    """Fold a code cell's outputs, or unfold them, by its metadata."""
    cell.outputs = shown_outputs(cell)
    tags = [tag for tag in cell.metadata.get("tags", []) if tag != FOLDED]
    jupyter = dict(cell.metadata.get("jupyter", {}))
    jupyter.pop("outputs_hidden", None)
    if folded:
        tags.append(FOLDED)
        jupyter["outputs_hidden"] = True
        if cell.outputs:
            cell.outputs.insert(0, nbformat.v4.new_output("display_data", COVER))
    for name, value in (("tags", tags), ("jupyter", jupyter)):
        cell.metadata.pop(name, None)
        if value:
            cell.metadata[name] = value


def page_of(notebook: nbformat.NotebookNode) -> str:
    """A notebook as an HTML page; what is folded unfolds on a click."""
    loader = DictLoader({"folded.html.j2": PAGE})
    exporter = HTMLExporter(extra_loaders=[loader], template_file="folded.html.j2")
    html, _ = exporter.from_notebook_node(notebook)
    return str(html)
