"""What the chapters share: the model, states from the cache, and where figures go."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from sarsteer_lab.course import folders
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
    tiny: LALM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SARSTEER_FIGURES", str(tmp_path / "figures"))
    pocket = LALM.__new__(LALM)
    pocket.name = "pocket"
    assert course.figure_folder("01_gap", pocket) == tmp_path / "figures" / "01_gap"
    folder = course.figure_folder("01_gap", tiny)
    assert folder.parents[1] == tmp_path / "figures" and folder.name == "01_gap"
    fig = Figure()
    fig.subplots().plot([0, 1])
    course.show(fig, "01_gap", "line", tiny, "A line.")
    assert [path.name for path in folder.iterdir()] == ["line.png"]


def test_unless_told_figures_go_where_git_ignores_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SARSTEER_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    repository = Path(__file__).parents[2]
    assert folders.figures_folder() == repository / "build" / "figures"
    assert "\nbuild/\n" in (repository / ".gitignore").read_text()
    monkeypatch.setattr(folders, "data_folder", lambda: tmp_path / "site-packages" / "_data")
    assert folders.figures_folder() == tmp_path / "build" / "figures"  # installed from a wheel
