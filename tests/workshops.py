"""The workshops, opened in a copy and run in this process, with their blanks filled or left."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from sarsteer_lab.course.checks.tools import CheckResult

FOLDER = Path(__file__).resolve().parents[1] / "notebooks" / "workshops"
WORKSHOPS = sorted(FOLDER.glob("*.ipynb"))
WHOLE = next(path for path in WORKSHOPS if path.stem.endswith("your_own_sarsteer"))
"""The workshop that ends with the whole method beside the library's, which takes long."""
BROKEN_LAB = next(path for path in WORKSHOPS if path.stem.endswith("broken_lab"))
CALL = re.compile(r"check_(\w+)\((\w+)")
SYMPTOM = re.compile(r"^symptom_\w+\(.*\)$", re.MULTILINE)


def name(path: Path) -> str:
    return path.stem


def forget() -> None:
    for module in [
        each for each in sys.modules if each.split(".")[0] in ("workshop", "my_sarsteer")
    ]:
        del sys.modules[module]


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the workshops in which nothing is kept yet, on the replica."""
    copy = tmp_path / "workshops"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("mine", "__pycache__"))
    monkeypatch.syspath_prepend(copy)
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    forget()
    yield copy
    forget()


def new_shell() -> InteractiveShell:
    return InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))


def cells_of(path: Path) -> list[Any]:
    return list(nbformat.read(path, as_version=4).cells)


def filled(source: str, following: str) -> str:
    """A cell with our solution in place of its blank, if the cell after it checks one."""
    from workshop.mine import solution

    step = CALL.match(following)
    if not step or step[1] != step[2]:
        return source
    symptom = SYMPTOM.search(source)
    return solution(step[1]) + (f"\n\n\n{symptom[0]}" if symptom else "")


def expected(path: Path) -> dict[str, str]:
    """What each check is to say once it passes, as it stands beneath it in the notebook."""
    found = {}
    cells = cells_of(path)
    for cell, below in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code" and CALL.match(cell.source.splitlines()[-1]):
            blocks = re.findall(r"```text\n(.*?)\n```", below.source, re.DOTALL)
            if below.source.startswith("*Expected output*") and blocks:
                found[cell.source.splitlines()[-1]] = blocks[-1]
    return found


def run(path: Path, *, solved: bool) -> dict[str, CheckResult]:
    """Run a workshop here, blanks filled with the folded solutions or left: what checks said."""
    shell = new_shell()
    results = {}
    code = [cell.source for cell in cells_of(path) if cell.cell_type == "code"]
    for source, following in zip(code, [*code[1:], ""], strict=True):
        outcome = shell.run_cell(filled(source, following) if solved else source)
        if solved:
            outcome.raise_error()
        if CALL.search(source) and not source.startswith("from "):
            called = source.strip().splitlines()[-1]
            assert isinstance(outcome.result, CheckResult), source
            results[called] = outcome.result
    return results
