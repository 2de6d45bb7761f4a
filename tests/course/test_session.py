"""What the chapters share: the model, states from the cache, and where figures go."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from sarsteer_lab.activations import capture
from sarsteer_lab.course import folders
from sarsteer_lab.course import session as course
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSAL, Request, load_prompts

pytestmark = pytest.mark.usefixtures("cache")


def test_the_environment_names_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    assert "replica" in course.load_model("pocket").name
    monkeypatch.delenv("SARSTEER_COURSE_MODEL")
    assert "replica" in course.load_model("replica").name


def test_states_under_texts_are_those_of_each_text(tiny: LALM, spoken: list[Request]) -> None:
    texts = {"paper": REFUSAL, "own": "Say no."}
    by_text = course.states_under(tiny, spoken[:3], texts)
    assert list(by_text) == list(texts)
    for name, text in texts.items():
        expected = capture(tiny, [request.spoken(refusal=text) for request in spoken[:3]])
        torch.testing.assert_close(by_text[name], expected, atol=1e-4, rtol=1e-4)
        # What one has kept the other reads.
        kept_alone = kept(capture)(tiny, [spoken[1].spoken(refusal=text)])
        assert torch.equal(kept_alone[0], by_text[name][1])


def test_requests_come_by_label_and_evenly_over_the_topics() -> None:
    everything = course.requests("test")
    assert list(everything) == ["harmful", "harmless"]
    assert everything["harmless"] == load_prompts("test", "harmless")
    some = course.requests("test", 8, ["everyday", "harmful"])
    assert list(some) == ["everyday", "harmful"] and len(some["everyday"]) == 8
    assert len({request.topic for request in some["harmful"]}) > 1
    with pytest.raises(ValueError, match="there is no split 'tests'"):
        course.requests("tests")


def test_answers_are_judged_in_their_order(spoken: list[Request]) -> None:
    answers = ["I cannot help with that.", "Paris is the capital of France.", "a a a a a a a a a a"]
    assert course.judge(spoken[:3], answers) == ["refused", "answered", "broken"]
    with pytest.raises(ValueError, match="longer"):
        course.judge(spoken[:2], answers)


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
