"""Write what comes out beneath each step: the workshops run with our solutions, on one model.

    cd notebooks/workshops && python -m workshop.expected 07 08

runs the workshops named (default: all) and renews their cells of expected outputs. For whoever
maintains the course: a reader has no use for it.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from workshop.mine import ROOT, solution

CALL = re.compile(r"check_(\w+)\((\w+)")
SYMPTOM = re.compile(r"^symptom_\w+\(.*\)$", re.MULTILINE)
KEPT = re.compile(r"\. Kept in `mine/.*", re.DOTALL)
MARK = "*Expected output"


def told(outputs: list[Any]) -> str:
    """What a cell prints and what its check says, without where it was kept; no progress bars."""
    parts = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text.strip("\n"))
        text = output.get("data", {}).get("text/plain", "")
        if re.match(r"(passed|not yet): ", text):
            parts.append(KEPT.sub("", text))
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines())


def checks(source: str) -> bool:
    """Whether a cell is one call of a check."""
    return bool(CALL.match(source.splitlines()[-1])) and not source.startswith("from ")


def expected_cell(given: str, said: str, source: str) -> str:
    """The text of the cell beneath a check, or beneath a cell that only shows something."""
    if given:
        block = f"```text\n{given}\n```\n\nOnce it is mended, the check says:\n\n"
        return f"{MARK}* of the function as it is given:\n\n{block}```text\n{said}\n```"
    if checks(source):
        return f"{MARK}* of the check, once it passes:\n\n```text\n{said}\n```"
    fold = "<details><summary>Expected output (gives the prediction away)</summary>"
    return f"{fold}\n\n```text\n{said}\n```\n\n</details>"


def is_expected(cell: Any) -> bool:
    """Whether a cell was written by this module."""
    starts = (MARK, "<details><summary>Expected output")
    return cell.cell_type == "markdown" and cell.source.startswith(starts)


def solved(cells: list[Any]) -> tuple[list[Any], dict[int, int]]:
    """The code cells to run, with our solutions; and for each that shows something, its number.

    A bug runs as it is given, for its symptom; its repair comes before the check.
    """
    code, place = [], {}
    numbers = [number for number, cell in enumerate(cells) if cell.cell_type == "code"]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        source = cells[number].source
        check = CALL.match(cells[following].source) if following is not None else None
        place[number] = len(code)
        if check and check[1] == check[2]:
            if SYMPTOM.search(source):
                code.append(source)
            code.append(solution(check[1]))
        else:
            code.append(source)
    return [nbformat.v4.new_code_cell(source) for source in code], place


def renew(path: Path) -> None:
    """Run one workshop, and write its expected outputs anew."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if not is_expected(cell)]
    code, place = solved(cells)
    run = nbformat.v4.new_notebook(cells=code)
    NotebookClient(run, timeout=3600, resources={"metadata": {"path": str(ROOT)}}).execute()
    with_outputs = []
    given = ""
    for number, cell in enumerate(cells):
        with_outputs.append(cell)
        if number not in place:
            continue
        said = told(code[place[number]].outputs)
        if SYMPTOM.search(cell.source) and not cell.source.startswith("from "):
            given = said
            continue
        if said:
            text = expected_cell(given, said, cell.source)
            with_outputs.append(nbformat.v4.new_markdown_cell(text, id=f"{cell.id}-out"))
            given = ""
    notebook.cells = with_outputs
    nbformat.write(notebook, path)


def main() -> None:
    """Renew the workshops whose numbers are given, or all."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    for path in sorted(ROOT.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem[:2] in sys.argv[1:]:
            print(path.stem, flush=True)
            renew(path)


if __name__ == "__main__":
    main()
