"""Outputs between a prediction and its debrief are folded, in notebooks and on pages."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from sarsteer_lab.course.folding import GUESS_MIME, fold, page_of
from sarsteer_lab.course.run_notebooks import run_notebooks

PREDICT = "Some words.\n\n> **Predict.** How many?"


def markdown(text: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(text)


def code(
    shown: object = "12 of 40", kind: str = "text/markdown", **metadata: object
) -> NotebookNode:
    output = nbformat.v4.new_output("display_data", {kind: shown})
    return nbformat.v4.new_code_cell("course.say(...)", outputs=[output], metadata=metadata)


def folded(notebook: NotebookNode) -> list[int]:
    """The places of folded cells; MyST-NB's tag and JupyterLab's metadata have to agree."""
    tagged, hidden = [], []
    for number, cell in enumerate(notebook.cells):
        if "hide-output" in cell.metadata.get("tags", []):
            tagged.append(number)
        if cell.metadata.get("jupyter", {}).get("outputs_hidden"):
            hidden.append(number)
        # Of what it folds JupyterLab shows the first line of the first output.
        empty = [output.get("data") == {"text/plain": ""} for output in cell.get("outputs", [])]
        assert any(empty[:1]) == (number in tagged and len(empty) > 0)
        assert sum(empty) == any(empty[:1])
    assert tagged == hidden
    nbformat.validate(notebook)
    return tagged


def test_what_lies_between_a_prediction_and_its_debrief_is_folded() -> None:
    cells = [
        code(),  # 0: before
        markdown(PREDICT),
        code({"key": "04-refused"}, GUESS_MIME),  # 2: a question
        code(tags=["by-hand"]),
        markdown("We count them."),
        code("**Debrief.** It is 12."),  # 5: computed
        code(),  # 6: after
        markdown("> **Predict before you run.** And now?"),
        code(),  # 8
        markdown("> **Debrief.** It is less.\n\n> **Predict.** Again?"),  # 9: answers and asks
        code(),  # 10
        code(),
        markdown("## Nobody answers"),
        code(),  # 13
        markdown(PREDICT),
        code("panel", "application/vnd.jupyter.widget-view+json"),  # 15: its still may tell
        code({"key": "04-refused", "truth": 12}, GUESS_MIME),  # 16
        markdown(PREDICT),
        code("panel", tags=["stays-open"]),  # 18: to be tried
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    fold(notebook)
    assert folded(notebook) == [3, 5, 8, 10, 11, 15, 16]
    assert notebook.cells[3].metadata.tags == ["by-hand", "hide-output"]
    before = nbformat.writes(notebook)
    fold(notebook)
    assert nbformat.writes(notebook) == before, "once more changes nothing"
    # A prediction that is gone leaves nothing folded.
    notebook.cells[1].source = "Some words."
    fold(notebook)
    assert folded(notebook) == [8, 10, 11, 15, 16]
    assert notebook.cells[3].metadata == {"tags": ["by-hand"]}
    assert not notebook.cells[5].metadata


def test_a_prediction_that_is_overtaken_folds_up_to_the_next_text() -> None:
    cells = [markdown(PREDICT), code(), markdown("Words."), code(), markdown(PREDICT), code()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    fold(notebook)
    assert folded(notebook) == [1, 5]


def test_a_notebook_that_is_saved_is_folded_and_so_is_its_page(tmp_path: Path) -> None:
    answer = "from IPython.display import Markdown\nMarkdown('**Debrief.** ' + 'It is a dozen.')"
    cells = [markdown(PREDICT), nbformat.v4.new_code_cell("print('eleven' + 'teen')")]
    cells += [nbformat.v4.new_code_cell(answer), nbformat.v4.new_code_cell("print('af' + 'ter')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    run_notebooks([tmp_path / "a.ipynb"], html=tmp_path / "pages")
    assert folded(nbformat.read(tmp_path / "a.ipynb", as_version=4)) == [1, 2]
    page = (tmp_path / "pages" / "a.html").read_text()
    parts = page.split("<details><summary>What came out</summary>")
    assert len(parts) == 3 and "eleventeen" not in parts[0]
    assert "eleventeen" in parts[1].partition("</details>")[0]
    assert "It is a dozen." in parts[2].partition("</details>")[0]
    assert "after" in parts[2].partition("</details>")[2]


def test_a_page_holds_all_outputs() -> None:
    notebook = nbformat.v4.new_notebook(cells=[code("a dozen"), code("a score")])
    fold(notebook)
    page = page_of(notebook)
    assert "a dozen" in page and "a score" in page and "<details>" not in page


ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_chapters_give_no_answer_away() -> None:
    appendix = ROOT / "notebooks" / "appendix"
    paths = [*(ROOT / "notebooks").glob("*.ipynb"), *appendix.glob("*.ipynb")]
    assert len(paths) > 10
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        before = folded(notebook)
        fold(notebook)
        assert folded(notebook) == before, path.stem
        assert len(before) > 2, path.stem
