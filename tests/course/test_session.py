"""What the chapters share: verdicts follow from intervals, nothing is computed twice, checks never
raise."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from sarsteer_lab.course import session as course
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt, Request

pytestmark = pytest.mark.usefixtures("cache")


def test_the_environment_names_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    assert "replica" in course.load_model("pocket").name
    monkeypatch.delenv("SARSTEER_COURSE_MODEL")
    assert "replica" in course.load_model("replica").name


def test_states_are_those_of_the_right_prompts(tiny: LALM, spoken: list[Request]) -> None:
    from sarsteer_lab.activations import capture

    request = spoken[0]
    for form, kwargs, prompt in (
        ("typed", {}, Prompt(request.request)),
        ("typed", {"refusal": REFUSAL}, Prompt(f"{request.request} {REFUSAL}")),
        ("spoken", {}, Prompt(INSTRUCTION, request.clip)),
        ("spoken", {"refusal": REFUSAL}, Prompt(f"{INSTRUCTION} {REFUSAL}", request.clip)),
    ):
        found = course.states(tiny, [request], form, **kwargs)  # type: ignore[arg-type]
        torch.testing.assert_close(found, capture(tiny, [prompt]))


def test_figures_of_other_models_do_not_replace_the_committed_ones(
    tiny: LALM, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = course.figure_folder("01_gap", tiny)
    assert cache in folder.parents and folder.name == "01_gap"
    fig = Figure()
    fig.subplots().plot([0, 1])
    course.show(fig, "01_gap", "line", tiny, "A line.")
    assert [path.name for path in folder.iterdir()] == ["line.png"]
    pocket = LALM.__new__(LALM)
    pocket.name = "pocket"
    assert (
        course.figure_folder("01_gap", pocket) == Path(__file__).parents[2] / "figures" / "01_gap"
    )
