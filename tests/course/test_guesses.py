"""Guesses are kept, told beside what came out, and scored; what is committed holds nobody's."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from sarsteer_lab import course
from sarsteer_lab.course.guesses import GUESS_MIME, SCORE_MIME, Guess
from sarsteer_lab.course.run_notebooks import run_notebooks
from sarsteer_lab.paths import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SARSTEER_GUESSES", raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def shell() -> InteractiveShell:
    """What displays rich outputs."""
    return InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))


def shown(call: Any, *arguments: Any) -> list[dict[str, Any]]:
    """The outputs of a call, each by type."""
    with capture_output() as captured:
        call(*arguments)
    return [output.data for output in captured.outputs]


def guessed(panel: Guess, value: int) -> None:
    """Guess as a reader does, with the panel's slider and button."""
    panel.pick(**{panel.question.key: value})


def test_a_guess_is_kept_and_told_beside_what_came_out(cache: Path) -> None:
    guessed(course.guess("04-harmful", "Harmful requests refused", 40), 25)
    [output] = shown(course.came_out, "04-harmful", 30)
    assert output["text/markdown"] == (
        "*Harmful requests refused (0 to 40).* You guessed 25, it came out as **30**: "
        "your guess was 5 too low."
    )
    asked = {"key": "04-harmful", "words": "Harmful requests refused", "most": 40}
    assert output[GUESS_MIME] == asked | {"truth": 30}
    # In another kernel the guess is there; and what came out is not told before the debrief.
    again = course.guess("04-harmful", "Harmful requests refused", 40)
    assert again.chosen == {"04-harmful": 25}
    assert again._repr_mimebundle_()[GUESS_MIME] == asked
    guessed(again, 30)
    [output] = shown(course.came_out, "04-harmful", 30.4)
    assert output["text/markdown"].endswith("it came out as **30**: your guess was right.")
    [file] = (cache_folder() / "guesses").iterdir()
    assert json.loads(file.read_text())["guess"] == 30 and cache in file.parents


def test_without_a_guess_only_what_came_out_is_told() -> None:
    course.guess("01-areas", "Area, in hundredths", 100)
    [output] = shown(course.came_out, "01-areas", 68)
    assert output["text/markdown"] == "*Area, in hundredths (0 to 100).* It came out as **68**."
    assert shown(course.came_out, "01-areas", float("nan")) == []
    with pytest.raises(LookupError, match="'02-other': run the cell with course.guess first"):
        course.came_out("02-other", 1)


def test_a_question_that_is_asked_again_keeps_what_came_out() -> None:
    guessed(course.guess("04-harmful", "Harmful requests refused", 40), 25)
    shown(course.came_out, "04-harmful", 30)
    course.guess("04-harmful", "Harmful requests refused", 40)
    output = shown(course.calibration)[-1]
    assert "Of 1 guesses 0 were too high, 1 too low" in output["text/markdown"]


def test_a_guess_at_another_question_is_forgotten() -> None:
    guessed(course.guess("04-harmful", "Harmful requests refused", 40), 25)
    assert course.guess("04-harmful", "Harmful requests refused", 100).chosen == {}


def test_where_no_kernel_runs_the_question_stands_alone() -> None:
    bundle = course.guess("04-a", "Refused & <b>", 40)._repr_mimebundle_()
    assert "Refused &amp; &lt;b&gt; (0 to 40): ______" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_all_guesses_are_scored_beside_the_middle() -> None:
    [output] = shown(course.calibration)
    assert "None is kept so far" in output["text/markdown"] and SCORE_MIME in output
    for key, most, guess, truth in (
        ("00-a", 40, 30, 20),  # 25% too high, and the middle is right
        ("01-b", 100, 40, 100),  # 60% too low, the middle 50%
        ("02-c", 10, 10, 10),  # right, the middle 50%
        ("03-d", 10, None, 1),
    ):
        panel = course.guess(key, f"What of {key}", most)
        if guess is not None:
            guessed(panel, guess)
        shown(course.came_out, key, truth)
    guessed(course.guess("09-e", "Not yet", 10), 1)
    table, output = shown(course.calibration)
    assert "Of 3 guesses 1 were too high, 1 too low and 1 right" in output["text/markdown"]
    assert "missed by 28% of the range" in output["text/markdown"]  # (25 + 60 + 0) / 3
    assert "middle of each range would have missed by 33%" in output["text/markdown"]
    lines = table["text/markdown"].splitlines()
    assert lines[2] == "| What of 00-a | 40 | 30 | 20 |"
    assert lines[5] == "| Not yet | 10 | 1 |  |" and len(lines) == 6


def test_what_is_run_without_a_reader_holds_no_guess(tmp_path: Path) -> None:
    guessed(course.guess("00-mine", "How many", 40), 11)
    code = (
        "from sarsteer_lab import course\ncourse.guess('00-mine', 'How many', 40)",
        "course.came_out('00-mine', 20)",
        "course.calibration()",
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in code])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    (executed,) = run_notebooks([tmp_path / "a.ipynb"])
    question, truth, score = (cell.outputs[0].data for cell in executed.cells)
    assert question[GUESS_MIME] == {"key": "00-mine", "words": "How many", "most": 40}
    assert truth[GUESS_MIME]["truth"] == 20 and "You guessed" not in truth["text/markdown"]
    assert "None is kept so far" in score["text/markdown"]
    assert course.guess("00-mine", "How many", 40).chosen == {"00-mine": 11}, "it is still kept"


CHAPTERS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def questions(path: Path) -> list[dict[str, Any]]:
    """The questions among a committed chapter's outputs; with what came out further below."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if GUESS_MIME in output.get("data", {}):
                found.append(dict(output["data"][GUESS_MIME]))
    return found


def test_the_committed_chapters_ask_and_say_what_came_out() -> None:
    asked: list[str] = []
    for path in CHAPTERS:
        found = questions(path)
        keys = [question["key"] for question in found if "truth" not in question]
        assert keys and all(key.startswith(f"{path.stem[:2]}-") for key in keys), path.stem
        asked += keys
        for key in keys:
            question, told = [each for each in found if each["key"] == key]
            assert told == question | {"truth": told["truth"]}, "asked first, then told"
            assert 0 <= told["truth"] <= told["most"], f"{key}: nobody could guess that"
        assert "You guessed" not in path.read_text(encoding="utf-8")
    assert len(asked) == len(set(asked)) >= 15
    last = nbformat.read(CHAPTERS[-1], as_version=4).cells[-1]
    assert SCORE_MIME in last.outputs[0].data
