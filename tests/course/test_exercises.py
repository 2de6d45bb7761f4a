"""What exercises and solutions show as committed belongs to the cells as they are now."""

import re
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.course.checks.tools import CHECK_MIME

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
EXERCISES = sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))

CALL = re.compile(r"^(check_\w+)\((\w*)", re.M)
"""A check's call: its name, and the name of the answer, if that is one name."""

BLANK = re.compile(r"^def (\w+)\(.*\):\n(?:    .*\n)*?    return \.\.\.", re.M)
"""A function that is left to be written."""


def calls_with_outcomes(path: Path) -> list[tuple[str, str, dict[str, object], str]]:
    """Of each check cell with an output: check, answer, and the outcome for programs and readers.

    An outcome for programs says which check it comes from, and whether it is passed.
    """
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        call = CALL.search(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if call and CHECK_MIME in data:
                found.append((call[1], call[2], data[CHECK_MIME], data["text/plain"]))
    return found


def blanks(path: Path) -> set[str]:
    """The functions that an exercise leaves to be written."""
    found: set[str] = set()
    for cell in nbformat.read(path, as_version=4).cells:
        found |= set(BLANK.findall(cell.source))
    return found


@pytest.mark.parametrize(
    "path", [*EXERCISES, *SOLUTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_committed_outcome_is_that_of_the_check_that_is_called(path: Path) -> None:
    for check, _, outcome, words in calls_with_outcomes(path):
        assert outcome["check"] == check, f"{words!r}: run the notebook again"
        assert outcome["passed"] == (path in SOLUTIONS)


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_committed_outcome_names_the_function_that_its_cell_calls(path: Path) -> None:
    of_chapter = blanks(path)
    assert of_chapter, "an exercise leaves functions to be written"
    for _, answer, _, words in calls_with_outcomes(path):
        if answer in of_chapter and "returns nothing" in words:
            assert f"`{answer}`" in words, "run the notebook again"


def test_calls_and_blanks_are_found() -> None:
    first = EXERCISES[0]
    assert [call[:2] for call in calls_with_outcomes(first)] == [
        ("check_audio_tokens", "tokens_of"),
        ("check_splice", "splice"),
        ("check_dial", "turn"),
        ("check_paired_difference", ""),
    ]
    assert blanks(first) == {"tokens_of", "splice", "turn"}
