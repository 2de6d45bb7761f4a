"""What the chapters share: verdicts follow from intervals, nothing is computed twice, checks never raise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from spoken_set import write_set

from sarsteer_lab.course import session as course
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt, SpokenPrompt
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import HookedModelError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def spoken(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[float, int], np.ndarray]
) -> list[SpokenPrompt]:
    return read_set(f"prompts:{write_set(tmp_path_factory.mktemp('set'), make_clip)}").prompts[:4]


def no_model(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("the model ran although its answers are known")


def test_the_environment_names_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    assert "replica" in course.load_model("pocket").name
    monkeypatch.delenv("SARSTEER_COURSE_MODEL")
    assert "replica" in course.load_model("replica").name


def test_states_are_those_of_the_right_prompts(tiny: LALM, spoken: list[SpokenPrompt]) -> None:
    from sarsteer_lab.activations import capture

    request = spoken[0]
    for form, kwargs, prompt in (
        ("typed", {}, Prompt(request.request)),
        ("typed", {"refusal": REFUSAL}, Prompt(f"{request.request} {REFUSAL}")),
        ("typed", {"instruction": "Answer:"}, Prompt(f"Answer: {request.request}")),
        ("spoken", {}, Prompt(INSTRUCTION, request.clip)),
        ("spoken", {"refusal": REFUSAL}, Prompt(f"{INSTRUCTION} {REFUSAL}", request.clip)),
    ):
        found = course.states(tiny, [request], form, **kwargs)  # type: ignore[arg-type]
        torch.testing.assert_close(found, capture(tiny, [prompt]))


def test_answers_are_made_once(
    tiny: LALM, spoken: list[SpokenPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [p.spoken() for p in spoken]
    vectors = SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model))
    plain = course.answers(tiny, prompts, max_new_tokens=6)
    steered = course.answers(tiny, prompts, vectors=vectors, alpha=2.0, max_new_tokens=6)
    assert plain == tiny.generate(prompts, max_new_tokens=6) and plain != steered
    monkeypatch.setattr(tiny.trunk, "forward", no_model)
    assert course.answers(tiny, prompts, max_new_tokens=6) == plain
    assert course.answers(tiny, prompts, vectors=vectors, alpha=2.0, max_new_tokens=6) == steered
    with pytest.raises(AssertionError, match="the model ran"):
        course.answers(tiny, prompts, vectors=vectors, alpha=2.1, max_new_tokens=6)


def test_refusal_probabilities_are_the_live_ones_and_made_once(
    tiny: LALM, spoken: list[SpokenPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model opens nothing as a refusal, so other beginnings stand in for that.
    openings = ("Ia", "I b", "S")
    monkeypatch.setattr(course, "OPENINGS", openings)
    monkeypatch.setattr(course, "NEGLIGIBLE", 0.0)
    prompts = [spoken[0].spoken(), spoken[1].typed()]
    draw = torch.Generator().manual_seed(0)
    vectors = SteeringVectors(3 * torch.randn(tiny.n_layers, tiny.d_model, generator=draw))
    pushes = {"none": (vectors, 0.0), "all": (vectors, 1.0), "one": (vectors.only([2]), 1.0)}
    found = course.refusal_probabilities(tiny, prompts, pushes)
    for i, prompt in enumerate(prompts):
        live = LivePrompt(tiny, prompt)
        # Rows of larger batches round differently.
        expected = live.refusal_probability(openings, negligible=0)
        assert found["none"][i].item() == pytest.approx(expected, rel=1e-4)
        with steer(tiny, vectors, 1.0, layers=[2]):
            expected = live.refusal_probability(openings, negligible=0)
            assert found["one"][i].item() == pytest.approx(expected, rel=1e-4)
    assert (found["none"] > 0).all() and not torch.allclose(found["all"], found["none"])
    monkeypatch.setattr(course, "PreparedBatch", no_model)
    again = course.refusal_probabilities(tiny, prompts, pushes)
    assert all(torch.equal(again[name], values) for name, values in found.items())


def test_nothing_steered_is_kept_for_the_plain_model(tiny: LALM, spoken: list[SpokenPrompt]) -> None:
    prompts = [p.spoken() for p in spoken[:2]]
    vectors = SteeringVectors(5 * torch.randn(tiny.n_layers, tiny.d_model))
    with steer(tiny, vectors, alpha=3.0):
        steered = tiny.generate(prompts, max_new_tokens=4)
        for keep in (
            lambda: course.answers(tiny, prompts, max_new_tokens=4),
            lambda: course.refusal_probabilities(tiny, prompts, {"none": (vectors, 0.0)}),
            lambda: course.evaluation_folder(tiny, "04"),
        ):
            with pytest.raises(HookedModelError, match="hooks are on"):
                keep()
    plain = course.answers(tiny, prompts, max_new_tokens=4)
    assert plain == tiny.generate(prompts, max_new_tokens=4) != steered


def test_figures_of_other_models_do_not_replace_the_committed_ones(
    tiny: LALM, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = course.figure_folder("01_gap", tiny)
    assert cache in folder.parents and folder.name == "01_gap"
    fig = Figure()
    fig.subplots().plot([0, 1])
    course.show(fig, "01_gap", "line", tiny, "A line.")
    assert {path.name for path in folder.iterdir()} == {"line.png", "line.svg"}
    pocket = LALM.__new__(LALM)
    pocket.name = "pocket"
    assert course.figure_folder("01_gap", pocket) == Path(__file__).parents[2] / "figures" / "01_gap"
