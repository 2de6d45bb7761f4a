"""The committed appendix keeps the chapters' rules, and compares rivals as chapter 7 does.

All of it is read off the notebook as it is committed, with its outputs.
"""

import re
from typing import get_args

import nbformat
import pytest
from PIL import Image
from test_chapters import MOST_SHOWN, is_shown
from test_story import ROOT, told

from sarsteer_lab.course.claims import RULE, Verdict
from sarsteer_lab.course.executed import closing_tables, rows_of
from sarsteer_lab.course.tables import cells_of

APPENDIX = ROOT / "notebooks" / "appendix" / "A_study.ipynb"

RIVALS = ("typed difference-in-means", "spoken difference-in-means", "self-reminder before")

FALLS_SHORT = re.compile(r"(?<!\w)(more|less) often refused|makes \w+ refused")
"""Ways to say it that are no English."""


@pytest.fixture(scope="module")
def appendix() -> nbformat.NotebookNode:
    return nbformat.read(APPENDIX, as_version=4)


@pytest.fixture(scope="module")
def text(appendix: nbformat.NotebookNode) -> str:
    return "\n".join(told(cell) for cell in appendix.cells)


@pytest.fixture(scope="module")
def rows(appendix: nbformat.NotebookNode) -> dict[str, list[str]]:
    """The closing table: measured, interval and verdict by claim."""
    [table] = closing_tables(appendix)
    return {claim: rest for claim, *rest in rows_of(table)}


def table_with(appendix: nbformat.NotebookNode, heading: str) -> dict[str, dict[str, str]]:
    """The one table with this heading: its cells by row and column."""
    found = []
    for cell in appendix.cells:
        for output in cell.get("outputs", []):
            lines = output.get("data", {}).get("text/markdown", "").partition("\n\n")[0].split("\n")
            if heading in cells_of(lines[0]):
                found.append(lines)
    [lines] = found
    columns = cells_of(lines[0])
    table = {}
    for line in lines[2:]:
        name, *_ = cells_of(line)
        table[name] = dict(zip(columns, cells_of(line), strict=True))
    return table


def test_both_predictions_are_answered_with_numbers_below_them(
    appendix: nbformat.NotebookNode,
) -> None:
    waiting, answered = "", 0
    for cell in appendix.cells:
        said = told(cell)
        if "**Debrief.**" in said:
            assert waiting and re.search(r"\d", said.partition("**Debrief.**")[2])
            assert cell.cell_type == "code", "a debrief is computed"
            waiting, answered = "", answered + 1
        asked = re.search(r"> \*\*Predict.*", cell.source)
        if asked and cell.cell_type == "markdown":
            assert not waiting, f"nobody answers: {waiting}"
            waiting = asked[0]
    assert not waiting and answered == 2


def test_findings_come_first_and_are_compared_with_chapter_7(
    appendix: nbformat.NotebookNode,
) -> None:
    *_, came_out, remember, last = appendix.cells
    assert came_out.cell_type == remember.cell_type == "code"
    assert re.match(r"\*\*Remember\.\*\* \(1\) Of \d+ verdicts", told(remember))
    assert last.source.startswith("**Before you go on**")
    found = told(came_out)
    assert found.startswith("**What came out.**") and re.search(r"\d", found)
    assert "**Do chapter 7's results hold?**" in found and "**Does the model know?**" in found


def test_it_shows_six_figures_and_tables_at_most(appendix: nbformat.NotebookNode) -> None:
    shown, columns = [], []
    for cell in appendix.cells:
        for output in cell.get("outputs", []):
            if is_shown(output):
                shown.append(cell.id)
                columns.append(output["data"].get("text/markdown", "").partition("\n")[0])
    assert 2 <= len(shown) <= MOST_SHOWN, shown
    assert max(len(cells_of(line)) for line in columns) <= 8, "a table that nobody can read"


def test_its_figures_are_those_that_it_shows(appendix: nbformat.NotebookNode) -> None:
    sources = "\n".join(cell.source for cell in appendix.cells)
    pictures = sorted((ROOT / "figures" / "A_study").iterdir())
    assert [path.stem for path in pictures] == ["curves", "defences"]
    for path in pictures:
        assert f'"{path.stem}"' in sources
        with Image.open(path) as picture:
            assert min(picture.size) > 600


def test_verdicts_have_four_words_and_are_judged_together(
    appendix: nbformat.NotebookNode, rows: dict[str, list[str]]
) -> None:
    for claim, (_, _, verdict) in rows.items():
        found = re.match(r"\*\*(.+?)\*\*", verdict)
        assert found and found[1] in get_args(Verdict), claim
    [table] = closing_tables(appendix)
    assert RULE in table and f"all {len(rows)} hold the truth together" in table


def test_rivals_are_compared_at_equal_refusal_or_beside_the_bound(
    appendix: nbformat.NotebookNode, rows: dict[str, list[str]]
) -> None:
    for rival in RIVALS:
        claim = "At equal refusal SARSteer as chosen leaves more benign requests answered than"
        assert f"{claim} *{rival}*" in rows
    for defence in ("conditional (CAST)", "null-space (AlphaSteer)", "SARSteer, chosen"):
        assert any(defence in claim and "uniform push could" in claim for claim in rows)
    assert not any("more harmful requests than" in claim for claim in rows)
    sources = "\n".join(cell.source for cell in appendix.cells)
    assert "course.choosing.matched(" in sources and "course.choosing.choose(" in sources


def test_numbers_of_the_table_and_of_the_claims_are_those_of_the_same_requests(
    appendix: nbformat.NotebookNode, rows: dict[str, list[str]]
) -> None:
    beside = table_with(appendix, "beyond the bound")
    chosen, none = beside["SARSteer, chosen"], beside["none"]
    [measured] = [
        row[0] for claim, row in rows.items() if "as chosen the model refuses harmful" in claim
    ]
    assert chosen["harmful refused"] in measured and none["harmful refused"] in measured
    for defence, row in beside.items():
        answered, bound, beyond = (
            float(re.findall(r"[-+]?\d+", row[column])[0])
            for column in ("benign answered", "bound at that refusal", "beyond the bound")
        )
        assert beyond == pytest.approx(answered - bound, abs=1), defence
        refused, n = map(int, re.findall(r"\d+", row["harmful refused"])[:2])
        assert int(row["answered on topic"]) <= n - refused, "only what is answered is on topic"


def test_a_typed_direction_acts_as_in_chapter_7(
    appendix: nbformat.NotebookNode, text: str, rows: dict[str, list[str]]
) -> None:
    [(measured, _, verdict)] = [
        row for claim, row in rows.items() if "(a typed direction acts on speech)" in claim
    ]
    assert verdict.startswith("**seen**"), measured
    assert "A lesson in a changed verdict" in text and "At its matched strength" in text


def test_answers_on_topic_are_told_with_what_was_heard(appendix: nbformat.NotebookNode) -> None:
    [cell] = [cell for cell in appendix.cells if "run_defences(" in cell.source]
    assert "heard=heard" in cell.source and '"max_new_tokens": 14' in cell.source


def test_benign_has_the_meaning_of_chapters_6_and_7(text: str) -> None:
    assert "*Benign* requests are the harmless and the pseudo-harmful ones together" in text
    assert "everything but harmful" not in text


def test_a_sentence_is_no_chain(appendix: nbformat.NotebookNode, text: str) -> None:
    for cell in appendix.cells[:-1]:  # the last lists questions
        if cell.cell_type == "markdown":
            assert ";" not in re.sub(r"`[^`]*`", "", cell.source), cell.source
    assert not FALLS_SHORT.search(text)
