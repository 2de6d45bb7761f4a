"""Chapters have few imports, plain names, tables in one call, hooks in cells of their own."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.course.replaying import BY_HAND, is_by_hand
from sarsteer_lab.prompts import SPLITS, load_prompts

CHAPTERS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))

MOST_IMPORTS = 8
DEEPEST = 2
"""Modules in the name of one that a chapter imports from: `sarsteer_lab.course`, for instance."""

MOST_SHOWN = 6
"""Figures and tables of a chapter, beside the table that ends it and its panels."""

MOST_TIMES = 2
"""Cells of the whole course that show the same request as an example."""

METHOD = {
    "capture": r"\bcapture\(|\bkept\(capture\)\(",
    "text_refusal_direction": r"\btext_refusal_direction\(",
    "difference_in_means": r"\bdifference_in_means\(",
    "principal_space": r"\bprincipal_space\(",
    "ablate": r"\bablate\(",
    "derive": r"\bderive\(",
    "steer": r"\bsteer\(",
    "project_out": r"\bproject_out\(",
    "evaluate": r"(?<!\.)\bevaluate\(",
}
"""The library's functions that chapters have to call by name."""

INSIDE_THE_MODEL = re.compile(
    r"register_forward_(pre_)?hook|\blalm\.(trunk|decoder)\("
    r"|\.get_(input|output)_embeddings\(\)|\blogit_lens\("
)
"""What shows that a cell runs the model's parts itself, which a replay cannot."""

chapters = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path: Path) -> Iterator[nbformat.NotebookNode]:
    """The code cells after the one that installs the lab."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    yield from cells[1:]


def imports(source: str) -> Iterator[tuple[str, str]]:
    """What a cell imports: the module, and the name that it gets in the chapter."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.module or "", alias.asname or alias.name


def names_read(source: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


def names_made(source: str) -> set[str]:
    """The variables, arguments, functions, classes and imports of a cell."""
    made = {name for _, name in imports(source)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
    return made


def borrowed(cells: list[nbformat.NotebookNode]) -> set[str]:
    """What cells read that up to there only cells by hand have made."""
    made: set[str] = set()
    made_by_hand: set[str] = set()
    read_by_others: set[str] = set()
    for cell in cells:
        if is_by_hand(cell):
            made_by_hand |= names_made(cell.source)
        else:
            made |= names_made(cell.source)
            read_by_others |= (names_read(cell.source) & made_by_hand) - made
    return read_by_others


@chapters
def test_a_cell_imports_little_and_from_nearby(path: Path) -> None:
    by_cell = [list(imports(cell.source)) for cell in code_cells(path)]
    assert any(by_cell), "a chapter that imports nothing"
    for imported in by_cell:
        assert len(imported) <= MOST_IMPORTS, [name for _, name in imported]
        for module, name in imported:
            assert len(module.split(".")) <= DEEPEST, f"{name} comes from {module}"


@chapters
def test_no_cell_writes_a_table_by_itself(path: Path) -> None:
    for cell in code_cells(path):
        assert "| ---" not in cell.source, f"{cell.id}: course.table makes tables"


@chapters
def test_only_cells_by_hand_reach_into_the_model(path: Path) -> None:
    cells = list(code_cells(path))
    for cell in cells:
        if INSIDE_THE_MODEL.search(cell.source):
            assert is_by_hand(cell), f"{cell.id} runs parts of the model: tag it {BY_HAND!r}"
    assert not borrowed(cells), "only a cell by hand makes these, and others read them"


def is_shown(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a figure or a table, and neither a panel nor a closing table."""
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return False
    words = data.get("text/markdown", "")
    is_table = "\n| ---" in words or "<table" in data.get("text/html", "")
    return "image/png" in data or (is_table and "| verdict |" not in words)


@chapters
def test_a_chapter_shows_six_figures_and_tables_at_most(path: Path) -> None:
    shown = [cell.id for cell in code_cells(path) for output in cell.outputs if is_shown(output)]
    assert 2 <= len(shown) <= MOST_SHOWN, shown


def test_an_example_request_is_shown_twice_at_most() -> None:
    shown: dict[str, list[str]] = {}
    requests = {prompt.request for split in SPLITS for prompt in load_prompts(split)}
    for path in CHAPTERS:
        for cell in nbformat.read(path, as_version=4).cells:
            told = cell.source if cell.cell_type == "markdown" else ""
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                # A panel's still has a text, and a table is HTML where it is no Markdown.
                texts = [data.get(kind, "") for kind in ("text/markdown", "text/html")]
                told += "".join(texts) + output.get("text", "")
            told = html.unescape(told)
            for request in requests:
                if request in told:
                    shown.setdefault(request, []).append(f"{path.stem[:2]} {cell.id}")
    assert len(shown) > 20, "examples are found"
    too_often = {request: at for request, at in shown.items() if len(at) > MOST_TIMES}
    assert not too_often


def test_what_is_borrowed_from_a_cell_by_hand_is_found() -> None:
    def cell(source: str, *tags: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})

    by_hand = cell("import torch\ncaught = []\ndef hook(): ...\nshared = 1", BY_HAND)
    assert borrowed([by_hand, cell("torch.stack(caught, hook)")]) == {"torch", "caught", "hook"}
    assert borrowed([cell("caught = 0"), by_hand, cell("print(caught)")]) == set()
    assert borrowed([by_hand, cell("print(shared)", BY_HAND), cell("shared = 2")]) == set()


@pytest.mark.parametrize("function", METHOD)
def test_the_method_is_called_by_name(function: str) -> None:
    cells = [cell for path in CHAPTERS for cell in code_cells(path)]
    assert any(re.search(METHOD[function], cell.source) for cell in cells)
    assert any((name == function) for cell in cells for _, name in imports(cell.source))
