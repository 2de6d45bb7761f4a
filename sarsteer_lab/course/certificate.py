"""A page that says which verdicts came out on this machine, beside those that were shipped.

`run_notebooks.walkthrough` writes it. It holds no name but one that its reader types into it, and
of the machine only what bears on numbers.
"""

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jinja2 import Environment, StrictUndefined

from sarsteer_lab.course.copying import notebooks_folder
from sarsteer_lab.course.executed import COLUMNS, closing_tables, rows_of, title, verdict_word
from sarsteer_lab.course.four_claims import CLAIMS, marked
from sarsteer_lab.course.replaying import MODEL_VARIABLE, read_notebook
from sarsteer_lab.course.tables import plain
from sarsteer_lab.keys import PACKAGES, content_key

TEMPLATE = Path(__file__).with_name("certificate.html.jinja")


@dataclass(frozen=True)
class Row:
    """A claim of a closing table as it came out here, and as it was shipped ("" if it was not)."""

    claim: str
    measured: str
    interval: str
    verdict: str
    shipped_verdict: str
    shipped_measured: str
    paper: int | None

    @property
    def differs(self) -> bool:
        """Whether another verdict came out than was shipped."""
        return self.verdict != self.shipped_verdict


@dataclass(frozen=True)
class Chapter:
    """A chapter as it was run; `code` is the hash of its cells' sources."""

    title: str
    rows: list[Row]
    code: str
    as_shipped: bool


def write_certificate(
    paths: Sequence[Path], executed: Sequence[nbformat.NotebookNode], folder: Path
) -> Path:
    """Write `folder`/certificate.html for chapters that have just been run, from these files."""
    chapters = []
    for path, notebook in zip(paths, executed, strict=True):
        chapters.append(chapter_of(notebook, notebooks_folder() / path.name))
    rows = [row for chapter in chapters for row in chapter.rows]
    told: dict[str, Any] = {"claims": CLAIMS, "chapters": chapters, "rows": rows}
    told["differing"] = [row for row in rows if row.differs]
    told |= {"machine": machine(), "versions": versions()}
    told["date"] = datetime.date.today().isoformat()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(told)
    folder.mkdir(parents=True, exist_ok=True)
    certificate = folder / "certificate.html"
    certificate.write_text(page, encoding="utf-8")
    return certificate


def chapter_of(notebook: nbformat.NotebookNode, shipped: Path) -> Chapter:
    """A chapter as it came out, beside the notebook that was shipped, with its outputs."""
    before: dict[str, list[str]] = {}
    shipped_code = None
    if shipped.is_file():  # else it is a chapter of one's own
        reference = read_notebook(shipped)
        shipped_code = code_hash(reference)
        before = {cells[0]: cells for cells in table_rows(reference)}
    rows = []
    for claim, measured, interval, verdict in table_rows(notebook):
        _, measured_before, _, verdict_before = before.get(claim, [""] * COLUMNS)
        row = Row(
            claim=plain(claim),
            measured=plain(measured),
            interval=plain(interval),
            verdict=verdict_word(verdict),
            shipped_verdict=verdict_word(verdict_before),
            shipped_measured=plain(measured_before),
            paper=marked(claim),
        )
        rows.append(row)
    code = code_hash(notebook)
    return Chapter(title(notebook), rows, code, as_shipped=code == shipped_code)


def table_rows(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """The rows of a notebook's closing tables, without headings."""
    rows = []
    for table in closing_tables(notebook):
        rows += rows_of(table)
    return rows


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Of the sources of a notebook's cells, in their order: outputs differ from run to run."""
    return content_key([[cell.cell_type, cell.source] for cell in notebook.cells])


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    packages = {name: version(name) for name in (*PACKAGES, "numpy", "scipy")}
    return {"Python": platform.python_version(), **packages}


def machine() -> dict[str, str]:
    """What of this machine bears on numbers and times: no name of it, of a user or of a folder."""
    memory = psutil.virtual_memory().total / 2**30
    threads = os.environ.get("OMP_NUM_THREADS")
    found = {
        "system": f"{platform.system()} on {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "model": _model(),
    }
    if threads:
        found["threads"] = threads
    return found


def _model() -> str:
    """The model as it was named, without the folder that it lies in."""
    named = os.environ.get(MODEL_VARIABLE, "")
    kind, colon, place = named.rpartition(":")
    return f"{kind}{colon}{Path(place).name}" if named else "as the chapters name it"
