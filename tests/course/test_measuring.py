"""Defences are measured as the runner measures them, and no group is asked twice."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sarsteer_lab.course import measuring, session
from sarsteer_lab.course.hearing import REPEAT, transcript
from sarsteer_lab.evaluation.defences import PromptDefence
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import cache_folder

pytestmark = pytest.mark.usefixtures("cache")

NONE = PromptDefence("none")
BEFORE = PromptDefence("before", before="Be brief.")
SETS = session.requests("test", 2, ["harmful", "harmless"])


def answers_written() -> set[Path]:
    """The files of answers that all evaluations have kept."""
    return set((cache_folder() / "course").glob("measured-*/parts/**/*"))


def test_groups_are_measured_as_by_the_runner_alone(tiny: LALM, tmp_path: Path) -> None:
    heard = {request.id: "a" for requests in SETS.values() for request in requests}
    found = measuring.measure(tiny, [[NONE], [BEFORE]], SETS, heard)
    expected = session.run_defences(
        tiny, [NONE, BEFORE], SETS, tmp_path / "runner", heard=heard, **measuring.OPTIONS
    )
    key = ["defence", "set", "label"]
    counts = [*key, "n", "refused", "answered", "broken", "on_topic"]
    tables = [each[0][counts].sort_values(key, ignore_index=True) for each in (found, expected)]
    pd.testing.assert_frame_equal(*tables)
    said = [{(r.defence, r.id): r.response for r in each[1]} for each in (found, expected)]
    assert said[0] == said[1] and len(said[0]) == 8
    assert len(found[2]) == 8


def test_a_group_that_was_asked_is_only_read(tiny: LALM) -> None:
    measuring.measure(tiny, [[NONE]], SETS, {})
    before = answers_written()
    measuring.measure(tiny, [[NONE]], dict(reversed(SETS.items())), {})
    assert answers_written() == before != set()
    measuring.measure(tiny, [[NONE], [replace(BEFORE, before="Be very brief.")]], SETS, {})
    assert answers_written() > before


def test_read_outs_are_what_the_model_repeats(tiny: LALM) -> None:
    [request] = SETS["harmful"][:1]
    [said] = tiny.generate([request.spoken(REPEAT)], max_new_tokens=measuring.REPEAT_TOKENS)
    assert measuring.read_outs(tiny, [request]) == {request.id: transcript(said)}
