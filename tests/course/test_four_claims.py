"""The page of the four claims holds the chapters' own numbers, and nothing that was typed in."""

import shlex
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from sarsteer_lab import course
from sarsteer_lab.cli import main
from sarsteer_lab.course.executed import closing_tables, rows_of, tables_in
from sarsteer_lab.course.four_claims import (
    ASKED,
    CLAIMS,
    QUESTION,
    TITLE,
    Tables,
    answers,
    decisive,
    fates,
    page,
    rows_found,
    short,
)
from sarsteer_lab.course.run_notebooks import find_notebooks, write_summary

ROOT = Path(__file__).resolve().parents[2]
MODEL = "replica:qwen2_audio"

FEW = {"evaluate": ["--limit", "2", "--tokens", "4"]}
"""What makes commands quick."""

CONTROLS: dict[int, set[str]] = {
    1: {"the instruction"},
    2: {"fresh weights"},
    3: set(),
    4: {"the bound"},
}
"""Controls that a claim's commands have to run, too."""

CHAPTER_6 = "06_measure_one_defence.ipynb"

SEEN, OPPOSITE, ALIKE, OPEN = (1.0, 2.0), (-2.0, -1.0), (-0.01, 0.01), (-1.0, 1.0)
"""Intervals that give each of the verdicts."""


def closing(*claims: str, intervals: tuple[tuple[float, float], ...] = ()) -> str:
    """A chapter's closing table of claims with these intervals, or seen ones."""
    made = []
    for number, claim in enumerate(claims):
        ends = intervals[number] if intervals else SEEN
        interval = lambda confidence, ends=ends: ends  # noqa: E731
        made.append(course.claim_on_value(claim, f"measured {number}", interval))
    return course.closing(made).data


def test_rows_are_found_by_their_marks() -> None:
    table = closing(
        "More often spoken (paper, claim 1)",
        "The same (control of claim 1: hearing)",
        "Typed vectors act less (paper, claim 2: they do not transfer)",
        "Something else",
    )
    found = rows_found({"0 · A chapter": [table]})
    marks = [(row.number, row.control) for row in found]
    assert marks == [(1, None), (1, "hearing"), (2, None)]
    assert found[0].claim == "More often spoken" and found[0].measured == "measured 0"
    assert found[0].verdict == "**seen**" and found[0].interval.startswith("[1.00, 2.00]")


def test_the_page_sets_the_four_claims_beside_their_controls() -> None:
    first = closing("More often spoken (paper, claim 1)", "The same (control of claim 1: hearing)")
    third = closing("Prompts cost answers (paper, claim 3)")
    lines = page({"0 · First": [first], "5 · Third": [third]}).splitlines()
    rows = [line for line in lines if line.startswith("| **")]
    assert [row.split(".")[0] for row in rows] == [f"| **{claim.number}" for claim in CLAIMS]
    assert "(0) More often spoken: measured 0 [1.00, 2.00]: **seen**" in rows[0]
    assert "(0) The same: measured 1" in rows[0]
    assert "**Not asked yet** (no tests; no controls)" in rows[1]
    assert "(5) Prompts cost answers" in rows[2]
    for claim, row in zip(CLAIMS, rows, strict=True):
        assert all(f"`{command}`" in row for command in claim.commands)


def four(tests: dict[str, tuple[float, float]], controls: dict[str, tuple[float, float]]) -> Tables:
    """A chapter with tests and controls of claim 4, by their names and intervals.

    What is named "rare ..." the paper denies.
    """
    rows = {}
    for name, ends in tests.items():
        remark = ": hardly" if name.startswith("rare") else ""
        rows[f"{name} (paper, claim 4{remark})"] = ends
    for name, ends in controls.items():
        rows[f"{name} (control of claim 4: {name})"] = ends
    return {"3 · A chapter": [closing(*rows, intervals=tuple(rows.values()))]}


def test_what_the_paper_denies_speaks_against_it_where_it_is_seen() -> None:
    tests = {"A": SEEN, "B": OPPOSITE, "C": ALIKE, "D": OPEN}
    tests |= {f"rare {name}": ends for name, ends in tests.items()}
    sides = {row.claim: row.side for row in rows_found(four(tests, {"E": OPPOSITE}))}
    assert sides == {
        "A": "for",
        "B": "against",
        "C": "against",  # a difference that the paper claims, and there is none
        "D": "open",
        "rare A": "against",
        "rare B": "for",
        "rare C": "for",
        "rare D": "open",
        "E": "against",
    }
    assert "(3) rare A: measured 4 [1.00, 2.00]: **seen**, against the paper" in page(
        four(tests, {})
    )


def test_what_decides_comes_first() -> None:
    tests = {"open": OPEN, "main": SEEN, "alike": ALIKE, "rare one": SEEN, "later": SEEN}
    controls = {"passed": SEEN, "unsure": OPEN, "none": ALIKE, "killed": OPPOSITE}
    fate = fates(four(tests, controls))[3]
    assert [row.claim for row in fate.tests] == ["rare one", "alike", "main", "later", "open"]
    assert [row.claim for row in fate.controls] == ["killed", "none", "unsure", "passed"]
    assert [row.claim for row in decisive(fate)] == ["rare one", "main", "killed"]
    undecided = fates(four({"open": OPEN}, controls))[3]
    assert [row.claim for row in decisive(undecided)] == ["open", "killed"]


def test_a_claims_fate_follows_from_its_verdicts() -> None:
    words = {
        "Holds here": ({"a": SEEN}, {"c": SEEN}),
        "Holds here, with a control open": ({"a": SEEN}, {"c": SEEN, "d": OPEN}),
        "Holds here, but not against its controls": ({"a": SEEN}, {"c": OPEN, "d": OPPOSITE}),
        "Holds in part": ({"a": SEEN, "rare b": SEEN}, {}),
        "Does not hold here": ({"a": OPPOSITE, "b": OPEN}, {"c": SEEN}),
        "Cannot be told": ({"a": OPEN}, {"c": SEEN}),
    }
    for word, (tests, controls) in words.items():
        assert fates(four(tests, controls))[3].word() == word
    assert [fate.word() for fate in fates({})] == ["Not asked yet"] * 4
    fate = fates(four({"a": SEEN, "b": OPEN, "c": SEEN}, {"d": ALIKE}))[3]
    assert fate.counted() == "3 tests: 2 for it, 1 cannot tell; 1 control: 1 against it"


def test_the_short_form_has_fate_numbers_control_what_follows_and_commands() -> None:
    text = short(four({"main": SEEN, "rare one": SEEN, "rest": SEEN}, {"bound": OPPOSITE}))
    entries = text.split("\n4. ")
    lines = entries[1].splitlines()
    assert lines[0].startswith(f"**{CLAIMS[3].says}** *Holds in part*")
    assert lines[1:4] == [
        "   - (3) rare one: measured 1 [1.00, 2.00]: **seen**, against the paper",
        "   - (3) main: measured 0 [1.00, 2.00]: **seen**",
        "   - (3) bound: measured 3 [-2.00, -1.00]: **opposite**, against the paper",
    ]
    assert CLAIMS[3].follows in lines[4]
    assert all(f"`{command}`" in lines[5] for command in CLAIMS[3].commands)
    assert "rest" not in text and len(lines) == 6


def test_the_page_stands_before_the_tables_of_the_chapters(tmp_path: Path) -> None:
    notebooks = []
    for heading, claim in (("# 0 · First", "It is so (paper, claim 4)"), ("# 1 · Other", "No")):
        cell = nbformat.v4.new_code_cell("closing()")
        data = {"text/markdown": closing(claim)}
        cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        cells = [nbformat.v4.new_markdown_cell(heading), cell]
        notebooks.append(nbformat.v4.new_notebook(cells=cells))
    text = write_summary(notebooks, tmp_path).read_text()
    assert text.index(TITLE) < text.index("## 0 · First") < text.index("## 1 · Other")
    alone = write_summary(notebooks[1:], tmp_path).read_text()
    assert TITLE not in alone


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as it stands on the page, with the tiny random model for MODEL."""
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value.replace("MODEL", MODEL))
    assert words.pop(0) == "sarsteer-lab"
    words = [MODEL if word == "MODEL" else word for word in words]
    assert main([*words, *FEW.get(words[0], [])]) == 0


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the notebooks in it, as a clone is."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    for variable in ("SARSTEER_COURSE_MODEL", "SARSTEER_COURSE_OPTIONS"):
        monkeypatch.setenv(variable, "")  # what a command puts there is gone after the test
    return tmp_path


def test_the_commands_of_claim_1_ask_both_forms(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = {}
    evaluations = [command for command in CLAIMS[0].commands if " evaluate " in command]
    for command in evaluations:
        run_command(command, monkeypatch)
        assert "| ASR" in capsys.readouterr().out
    for form in ("typed", "spoken"):
        table = pd.read_csv(checkout / form / "table.csv")
        assert table["measure"].tolist()[0] == "ASR" and (table["n"] == 2).all()
        responses[form] = (checkout / form / "responses.jsonl").read_text()
    assert responses["typed"] != responses["spoken"]


@pytest.mark.late
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_commands_of_a_claim_run_the_chapters_that_test_it(
    number: int, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for command in CLAIMS[number - 1].commands:
        if " walkthrough " not in command:
            continue
        run_command(command, monkeypatch)
        folder = command.rpartition("--folder ")[2]
        found += rows_found(tables_in((checkout / folder / "summary.md").read_text()))
    rows = [row for row in found if row.number == number]
    assert any(row.control is None for row in rows) and all(row.interval for row in rows)
    assert {row.control for row in rows} >= CONTROLS[number]


def test_the_command_of_claim_4_looks_at_the_area_first(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor, _ = CLAIMS[3].commands
    run_command(doctor, monkeypatch)
    assert "| spoken (" in capsys.readouterr().out.partition("area under the ROC curve")[2]


def test_the_question_stands_before_the_claims_with_the_rows_that_answer_it() -> None:
    chapter = {"6 · Areas": [closing("Typed better than spoken (the question)", "Something else")]}
    [answer] = answers(chapter)
    row = "(6) Typed better than spoken: measured 0 [1.00, 2.00]: **seen**"
    assert answer.told() == row
    alike = closing("Better when pushed (the question)", intervals=(ALIKE,))
    [answer] = answers({"6 · Areas": [alike]})
    assert "no difference" in answer.told() and "against the paper" not in answer.told()
    for text in (page(chapter), short(chapter)):
        assert text.index(ASKED) < text.index(row) < text.index(CLAIMS[0].says)
    both = closing("As heard (control of claim 1: hearing) (the question)")
    [control] = rows_found({"6 · Areas": [both]})
    assert control.claim == "As heard" and control.control == "hearing"
    assert ASKED not in short({"6 · Areas": [closing("Something else")]})


def test_the_committed_page_answers_the_question_with_the_decisive_numbers() -> None:
    """Typed, spoken and steered: what the whole course turns on, where everybody looks first."""
    [table] = closing_tables(nbformat.read(ROOT / "notebooks" / CHAPTER_6, as_version=4))
    rows = [cells for cells in rows_of(table) if QUESTION in cells[0]]
    assert len(rows) == 5
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    index = readme.index(CLAIMS[0].says)
    for _, measured, _, verdict in rows:
        assert measured in readme[:index] and verdict in readme[:index]


def test_every_marked_row_is_understood_alone() -> None:
    """On the page of the four claims no row stands behind the one that it stood behind."""
    for path in find_notebooks([ROOT / "notebooks"]):
        [*tables] = closing_tables(nbformat.read(path, as_version=4))
        for row in rows_found({path.stem: tables}):
            assert not row.claim.startswith(("It ", "The same")), (path.stem, row.claim)
