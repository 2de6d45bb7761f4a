"""The committed chapters tell what came out, answer their predictions, and keep their flaws mended.

All of it is read off the notebooks as they are committed, with their outputs.
"""

import re
from functools import cache
from pathlib import Path
from typing import get_args

import nbformat
import pytest

from sarsteer_lab.course.claims import Verdict
from sarsteer_lab.course.executed import closing_tables
from sarsteer_lab.evaluation.curves import RULE as CHOICE

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "meet_the_model",
    "audio_text_gap",
    "refusal_directions",
    "safe_space",
    "steering",
    "where_refusal_happens",
    "measure_one_defence",
    "compare_defences",
    "when_the_model_knows",
    "probe_your_own_lalm",
)
"""The chapters without their numbers."""

CHAPTERS = {name: next((ROOT / "notebooks").glob(f"0*_{name}.ipynb")) for name in NAMES}

chapters = pytest.mark.parametrize("name", NAMES)


@cache
def cells(name: str) -> list[nbformat.NotebookNode]:
    return list(nbformat.read(CHAPTERS[name], as_version=4).cells)


def told(cell: nbformat.NotebookNode) -> str:
    """What a cell says to a reader: its words, and those among its outputs."""
    parts = [cell.source] if cell.cell_type == "markdown" else []
    for output in cell.get("outputs", []):
        parts.append(output.get("text") or output.get("data", {}).get("text/markdown", ""))
    return "\n".join(parts)


def chapter(name: str) -> str:
    return "\n".join(told(cell) for cell in cells(name))


def rows(name: str) -> dict[str, list[str]]:
    """The closing table of a chapter: measured, interval and verdict by claim."""
    [table] = closing_tables(nbformat.read(CHAPTERS[name], as_version=4))
    found = {}
    for line in table.splitlines()[2:]:
        if line.startswith("|"):
            claim, *rest = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[claim] = rest
    return found


def row(name: str, words: str) -> list[str]:
    """The one claim with these words."""
    [claim] = [claim for claim in rows(name) if words in claim]
    return rows(name)[claim]


@chapters
def test_findings_come_first_and_answer_the_one_question(name: str) -> None:
    places = [i for i, cell in enumerate(cells(name)) if "**Remember.**" in cell.source]
    [place] = places
    before = cells(name)[place - 1]
    if before.source.startswith("("):  # a remark on the table
        before = cells(name)[place - 2]
    assert before.cell_type == "code", "what came out is computed"
    text = told(before)
    assert text.startswith("**What came out.**") and re.search(r"\d", text)
    assert "**Does the model know?**" in text


@chapters
def test_every_prediction_is_answered_before_the_next_is_asked(name: str) -> None:
    waiting = ""
    for cell in cells(name):
        text = told(cell)
        if "**Debrief.**" in text:
            waiting = ""
        asked = re.search(r"> \*\*Predict.*", cell.source)
        if asked and cell.cell_type == "markdown":
            assert not waiting, f"nobody answers: {waiting}"
            waiting = asked[0]
    assert not waiting, f"nobody answers: {waiting}"


@pytest.mark.parametrize("name", ["safe_space", "steering"])
def test_debriefs_and_what_to_remember_are_computed(name: str) -> None:
    debriefs = 0
    for cell in cells(name):
        words = [part for part in told(cell).split("\n\n") if "**Debrief.**" in part]
        words += [part for part in told(cell).split("\n\n") if "**Remember.**" in part]
        for part in words:
            assert cell.cell_type == "code" and re.search(r"\d", part), part
            assert "?" not in part.partition("**Debrief.**")[2], "a debrief asks nothing back"
        debriefs += len(words)
    assert debriefs >= 6


@chapters
def test_verdicts_have_four_words_and_are_judged_together(name: str) -> None:
    words = get_args(Verdict)
    [table] = closing_tables(nbformat.read(CHAPTERS[name], as_version=4))
    for measured, interval, verdict in rows(name).values():
        assert re.match(r"\*\*(.+?)\*\*", verdict)[1] in words, (measured, interval)
    assert f"all {len(rows(name))} hold the truth together" in table


def test_the_dial_is_read_at_a_quarter() -> None:
    assert "evidence for a threshold is at a quarter" in chapter("meet_the_model")
    assert row("meet_the_model", "at a quarter the model refuses fewer")[2] == "**seen**"


def test_claim_2_is_asked_of_all_layers_by_one_rule() -> None:
    for name in ("audio_text_gap", "probe_your_own_lalm"):
        [measured] = [
            found[0] for claim, found in rows(name).items() if "(paper, claim 2)" in claim
        ]
        assert "all 30 layers" in measured


def test_the_exercise_on_claim_2_goes_by_the_same_rule() -> None:
    solution = ROOT / "notebooks" / "solutions" / CHAPTERS["audio_text_gap"].name
    text = "\n".join(told(cell) for cell in nbformat.read(solution, as_version=4).cells)
    assert "over all layers typed and spoken states lie" in text
    assert "reproduced at this layer" not in text


def test_a_first_run_takes_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told_to_lecturers = (ROOT / "notebooks" / "LECTURER.md").read_text(encoding="utf-8")
    [(minutes, seconds)] = re.findall(r"(\d+) min (\d+) s for all ten", told_to_lecturers)
    [(least, most)] = re.findall(r"chapters take (\d+) to (\d+) minutes on two", readme)
    measured = int(minutes) + int(seconds) / 60
    assert int(most) - 5 <= measured <= int(most)
    # The fastest machines of two cores that were seen are 2.4 times as fast.
    assert measured / 2.4 <= int(least)


def test_claim_2_has_fair_controls() -> None:
    for control in ("fresh weights", "dial at 0"):
        assert row("probe_your_own_lalm", f"(control of claim 2: {control})")
    assert "Weights that nobody trained" in chapter("probe_your_own_lalm")


def test_the_random_control_is_shared_by_all_layers_everywhere() -> None:
    for name in CHAPTERS:
        for cell in cells(name):
            if "shared=False" in cell.source:  # the one place that compares the two
                assert name == "steering" and "random, another in each layer" in cell.source
    assert row("steering", "than one random direction for all layers")


def test_selectivity_is_a_difference_of_differences() -> None:
    for name in ("refusal_directions", "steering"):
        assert row(name, "(control of claim 4: is it selective?)")
    assert "request by request with their twins" not in chapter("steering")


def test_rivals_are_compared_at_equal_refusal() -> None:
    text = chapter("measure_one_defence")
    assert "*benign* requests are the harmless and the pseudo-harmful ones together" in text
    assert "benign" not in CHOICE, "the rule speaks of other requests"
    for defence in ("spoken difference-in-means", "conditional (CAST)", "null-space (AlphaSteer)"):
        assert any(
            defence in claim and "uniform push could" in claim for claim in rows("compare_defences")
        )
    assert row("measure_one_defence", "than a uniform push could at its refusal")
    for prompt in ("self-reminder before", "self-reminder after"):
        assert row(
            "compare_defences",
            f"At equal refusal SARSteer leaves more benign requests answered than *{prompt}*",
        )


def test_conditional_defences_have_equations_sources_and_lines_by_hand() -> None:
    text = chapter("compare_defences")
    for source in ("arXiv 2409.05907", "arXiv 2506.07022"):
        assert source in text
    for equation in (r"\cos(h_l - c", r"w = X (X^\top X"):
        assert equation in text
    [by_hand] = [
        cell.source
        for cell in cells("compare_defences")
        if "cast.similarity" in cell.source and "assert" in cell.source
    ]
    assert "gate.weights[layer]" in by_hand


def test_the_ground_truth_that_was_built_in_is_told() -> None:
    for name in ("audio_text_gap", "refusal_directions", "steering", "where_refusal_happens"):
        assert re.search(r"adapter \w+ (in )?layers \**10 to 29", chapter(name)), name
    assert "ears were trained" in chapter("audio_text_gap")


def test_causes_stand_beside_their_controls() -> None:
    """Another request, another time, equal size; and claims that stood before the results."""
    name = "where_refusal_happens"
    for control in (
        "a shift of equal size with other signs",
        "another harmful request's typed state",
        "the typed state of its harmless twin",
        "as much silence at another time",
        "than without as many random ones",
        "than after a random shift of equal size",
    ):
        assert any(control in claim for claim in rows(name)), control
    assert "heard right" in chapter(name) and "misheard" in chapter(name)
    sources = [cell.source for cell in cells(name)]
    [claimed] = [i for i, text in enumerate(sources) if "What was claimed before looking" in text]
    [measured] = [i for i, text in enumerate(sources) if "into_spoken" in text]
    assert claimed < measured


def test_the_instruction_is_controlled_for() -> None:
    for name in ("meet_the_model", "measure_one_defence"):
        assert row(name, "(control of claim 1: the instruction)")


def test_areas_are_read_of_the_whole_test_split() -> None:
    name = "measure_one_defence"
    for control in ("what the model repeats of the clip", "a probe of spoken states"):
        assert "(n = 100 + 100)" in row(name, control)[0]
    assert "| typed, with the instruction, in lower case without punctuation | 100 |" in chapter(
        name
    )
    for condition in ("CAST", "AlphaSteer"):
        assert "(n = 100 + 180)" in row("compare_defences", f"{condition}'s condition tells")[0]


@pytest.mark.parametrize("name", ["measure_one_defence", "compare_defences"])
def test_what_to_remember_begins_with_what_came_out(name: str) -> None:
    [cell] = [cell for cell in cells(name) if "**Remember.**" in cell.source]
    assert cell.cell_type == "code" and re.match(r"\*\*Remember\.\*\*[^(]*\d", told(cell))


def test_a_text_that_refuses_everything_is_called_so() -> None:
    assert "a text that makes the model refuse nearly everything" in chapter("refusal_directions")
    assert "text 'conditional'" in chapter("refusal_directions")
    assert "the paper's text, its own length" in chapter("refusal_directions")


def test_answers_that_come_back_at_large_strength_are_read() -> None:
    assert "open as an excuse" in chapter("steering")


def test_answers_about_something_else_are_told_apart() -> None:
    assert row("meet_the_model", "(control of claim 1: on topic)")
    text = chapter("measure_one_defence")
    assert "| off topic |" in text and "on topic or off" in text
    assert chapter("compare_defences").count("| benign answered on topic |") == 2


def test_the_appendix_is_of_the_model_that_ships_and_teaches_the_flip() -> None:
    appendix = nbformat.read(ROOT / "notebooks" / "appendix" / "A_study.ipynb", as_version=4)
    text = "\n".join(told(cell) for cell in appendix.cells)
    assert "before its ears were polished" not in text
    assert "A lesson in a changed verdict" in text
    [table] = closing_tables(appendix)
    assert "(a typed direction acts on speech)" in table and "**seen here**" not in table


def test_the_method_is_tried_where_the_model_knows() -> None:
    """Typed, and by ear with enough requests to tell; benign means what it means elsewhere."""
    name = "when_the_model_knows"
    assert row(name, "typed harmful requests more often")
    assert row(name, "Typed, SARSteer leaves more benign requests answered than a uniform push")
    assert "(n = 100 + 180)" in row(name, "Typed, SARSteer leaves more benign")[0]
    same_push = row(name, "With the same text, ablation, strength and safety dial")
    assert re.match(r"typed \+\d+% refused for", same_push[0]), "nothing but the form differs"
    measured, _, verdict = row(name, "(paper, claim 4)")
    assert "/100" in measured and verdict.split(" (")[0] != "**cannot tell**"
    text = chapter(name)
    assert "are the harmless and the pseudo-harmful ones together" in text
    assert "/80" in text and "/120" not in text, "everyday requests are not counted as benign"
    assert re.search(r"selective text \*conditional\* was (not )?chosen", text)


def test_no_exercise_and_no_workshop_asks_what_another_asks() -> None:
    """By their headings here; by what they want written in `test_workshop_steps`."""
    headings = []
    for folder in ("exercises", "workshops"):
        for path in sorted((ROOT / "notebooks" / folder).glob("*.ipynb")):
            for cell in nbformat.read(path, as_version=4).cells:
                heading = re.match(r"## (?:(?:Step|Bug) \d+ · )?[^A-Z]*(.+)", cell.source)
                if heading and cell.cell_type == "markdown" and "problem" not in heading[1]:
                    headings.append(heading[1])
                assert "takes an evening" not in cell.source
    assert len(headings) == len(set(headings)) >= 60
    assert sum("typed direction" in heading for heading in headings) == 1
