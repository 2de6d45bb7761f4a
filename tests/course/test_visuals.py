"""The playground, the X-ray, the ladder and the strip: their numbers against a few plain lines
each."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import replicas as families
import torch

from sarsteer_lab.activations import capture_answer, capture_positions
from sarsteer_lab.course.figures import architecture
from sarsteer_lab.course.figures.strip import stages
from sarsteer_lab.course.widgets import ladder, playground, xray
from sarsteer_lab.course.widgets.answer_ladder import turn
from sarsteer_lab.course.widgets.panels import token_spans
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.engine.openings import refusing_openings
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors, steer


@pytest.fixture(scope="module")
def direction(tiny: LALM) -> SteeringVectors:
    generator = torch.Generator().manual_seed(5)
    return SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model, generator=generator))


@pytest.mark.parametrize(
    ("angle", "k", "lam", "alpha"), [(20, 2, 1.0, 1.0), (-60, 1, 0.5, 2.0), (0, 0, 1.0, 0.0)]
)
def test_playground_ablates_and_counts(angle: int, k: int, lam: float, alpha: float) -> None:
    panel = playground(seed=3)
    panel.angle.value, panel.k.value, panel.lam.value, panel.alpha.value = angle, k, lam, alpha
    turn, depth = math.radians(angle), math.radians(35)
    flat = [math.cos(turn), math.sin(turn) * math.cos(depth), math.sin(turn) * math.sin(depth)]
    d = 1.5 * torch.tensor(flat)
    states = panel.clouds["harmless"]
    u = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:k]
    v = d - lam * u.T @ (u @ d)
    found = panel.vectors()
    torch.testing.assert_close(found["v"][0], v, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["control"][0], d / d.norm() * v.norm(), rtol=1e-4, atol=1e-5)
    for name, push in (("no push", 0 * d), ("d", d), ("v", v)):
        counts = {
            label: int((cloud[:, 0] + alpha * push[0] > 1.6).sum())
            for label, cloud in panel.clouds.items()
        }
        assert panel.over()[name] == counts
    assert not panel.runner.message.value and "<img" in panel.static()


def test_playground_draws_every_corner_and_repeats_itself() -> None:
    panel = playground()
    assert torch.equal(panel.clouds["harmful"], playground(seed=0).clouds["harmful"])
    assert not torch.equal(panel.clouds["harmful"], playground(seed=1).clouds["harmful"])
    before = panel.view.value
    for panel.k.value in (3, 0):
        for panel.moved.value in ("d", "control"):
            assert not panel.runner.message.value
    assert panel.view.value != before and panel.over()["v"] == panel.over()["d"]


def test_the_ladders_rows_are_what_generate_says_under_each_alpha(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = ladder(tiny, spoken[0], direction, (0.0, 0.3, 0.9), max_new_tokens=6)
    asked = [spoken[0].spoken()]
    assert panel.rungs["spoken"][0.0][0].text == tiny.generate(asked, max_new_tokens=6)[0]
    panel.view.alpha = 0.5
    assert not panel.runner.message.value
    shown = {rung["alpha"]: rung for rung in panel.view.rungs["spoken"]}
    assert [*shown] == [0.0, 0.3, 0.5, 0.9]
    for alpha, (answer, refusal, outcome) in panel.rungs["spoken"].items():
        with steer(tiny, direction, alpha):
            assert answer.text == tiny.generate(asked, max_new_tokens=6)[0]
            sure = tiny.next_token_logits(asked)[0].softmax(-1).max()
        assert answer.probabilities[0] == pytest.approx(float(sure), rel=1e-3)
        assert f">{refusal:.2f}<" in panel.static() and outcome in panel.static()
        assert shown[alpha]["refusal_probability"] == pytest.approx(refusal, abs=1e-4)
        assert shown[alpha]["tokens"] == list(answer.tokens) and shown[alpha]["outcome"] == outcome
        assert shown[alpha]["cut"] == (len(answer.tokens) == 6)
    assert not panel.rungs["typed"] and not panel.view.rungs["typed"]
    panel.view.form = "typed"
    assert (
        panel.rungs["typed"][0.0][0].text == tiny.generate([spoken[0].typed()], max_new_tokens=6)[0]
    )
    assert "(typed)" in panel.static() and panel.view.rungs["typed"]


def test_the_ladder_ends_with_the_first_broken_answer(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {0.0: "answered", 0.1: "refused", 0.2: "broken", 0.4: "broken"}
    outcomes = iter(judged.values())
    monkeypatch.setattr(PhraseJudge, "judge", lambda *_: next(outcomes))
    panel = ladder(tiny, spoken[0].typed(), direction, (*judged,), max_new_tokens=2)
    assert [*panel.rungs["typed"]] == [0.0, 0.1, 0.2]
    with pytest.raises(ValueError, match="1 to 24"):
        ladder(tiny, spoken[0], direction, max_new_tokens=25)


def test_a_turn_is_the_first_token_that_differs_and_long_answers_are_cut() -> None:
    assert turn("abc", "abc") is None
    assert [turn(*pair) for pair in (("abc", "axc"), ("abc", "ab"), ("ab", "abc"), ("", "a"))] == [
        1,
        2,
        2,
        0,
    ]
    answer = Answer("", tuple(f" w{i}" for i in range(30)), (0.5,) * 30, ())
    html = token_spans(answer, 3)
    assert (
        "w19" in html and "w20" not in html and "\u25bc w3<" in html and html.count("\u25bc") == 1
    )
    assert "(ends)" in token_spans(Answer("", ("a",), (0.5,), ()), 1)


@pytest.mark.parametrize(
    ("family", "tower", "projected"),
    [  # 1.5 s: half of them 150 frames, grouped as each family's own configuration says
        ("qwen2_audio", (200, 16), 200),
        ("qwen2_5_omni", (37, 16), 37),
        ("voxtral", (400, 16), 100),
        ("phi4_multimodal", (19, 16), 19),
        ("granite_speech", (75, 16), 15),
        ("gemma3n", (10, 16), 10),
    ],
)
def test_the_strip_has_the_shapes_of_every_family(
    family: str, tower: tuple[int, int], projected: int, make_clip: Callable[..., np.ndarray]
) -> None:
    lalm = families.replica(family)
    prompt = Prompt("Answer.", make_clip(1.5, 1))
    inputs = lalm.inputs([prompt])
    ids = inputs["input_ids"][0]
    found = {name: stage.shape for name, stage in stages(lalm, prompt).items()}
    features = next(value for name, value in inputs.items() if name.endswith("input_features"))[0]
    assert found["waveform"] == (24000,) and sorted(found["mel"]) == sorted(features.shape)
    assert found["tower"] == tower and found["projector"] == (projected, lalm.d_model)
    assert found["sequence"] == (len(ids), lalm.d_model)
    assert found["layers"] == (lalm.n_layers, len(ids), lalm.d_model)
    assert found["head"] == tuple(lalm.next_token_logits([prompt])[0].shape)
    shown = [ax.get_xlabel() for ax in architecture(lalm, prompt).axes]
    heard = int((ids == lalm.audio_token_id).sum())
    assert f"{len(ids) - heard} positions of" in shown[4] and f"{heard} of audio" in " ".join(
        shown[4].split()
    )
    assert not foreign_hooks(lalm.model)


def test_the_strip_of_a_typed_request_leaves_the_ears_out(
    tiny: LALM, spoken: list[Request]
) -> None:
    deaf = LALM(tiny.model, tiny.processor, name="deaf")
    deaf.audio_token_id = None
    for lalm, prompt in ((tiny, spoken[0].typed()), (deaf, spoken[0])):
        titles = [ax.get_title(loc="left") for ax in architecture(lalm, prompt).axes]
        assert titles == ["sequence", "layers", "head"]
    assert len(architecture(tiny, spoken[0]).axes) == 7


def by_hand(lalm: LALM, prompt: Prompt, new: int) -> tuple[torch.Tensor, list[int]]:
    """States of a prompt and its answer, and the ids, from `capture` and one plain forward pass a
    token."""
    states = [capture_positions(lalm, [prompt], "all")[0]]
    states.append(capture_answer(lalm, [prompt], max_new_tokens=new)[0])
    inputs = lalm.inputs([prompt])
    for _ in range(new):
        with torch.no_grad():
            token = lalm.core(**inputs, use_cache=False).logits[0, -1].argmax()
        if token in lalm.ends:
            break
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token[None, None]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return torch.cat(states), inputs["input_ids"][0].tolist()


def test_the_xray_projects_and_reads_through_the_lens(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=4)
    assert [*panel.readings] == ["typed", "spoken", "steered"] and not panel.runner.message.value
    unit = direction.values / direction.values.norm(dim=-1, keepdim=True)
    head = tiny.core.get_output_embeddings()
    openings = [tiny.tokenizer(text)["input_ids"] for text in refusing_openings()]
    for form, prompt in (("typed", spoken[0].typed()), ("spoken", spoken[0].spoken())):
        states, ids = by_hand(tiny, prompt, 4)
        reading = panel.readings[form]
        assert reading.ids == ids and reading.start == tiny.inputs([prompt])["input_ids"].shape[1]
        torch.testing.assert_close(reading.states, states, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            panel.projection[form], torch.einsum("pld,ld->pl", states, unit), rtol=1e-3, atol=1e-3
        )
        at = reading.columns.index(reading.start - 1)
        with torch.no_grad():
            chances = head(tiny.decoder.norm(states[reading.start - 1])).softmax(-1)
        firsts = sorted({tokens[0] for tokens in openings})
        torch.testing.assert_close(
            panel.opening[form][at], chances[:, firsts].sum(-1), rtol=1e-3, atol=1e-6
        )
        top = panel.top_tokens(form, reading.start - 1, tiny.n_layers - 1)
        assert top[0][0] == tiny.generate([prompt], max_new_tokens=1)[0]
        assert top[0][1] == pytest.approx(float(chances[-1].max()), rel=1e-3)


def test_the_xray_is_steered_from_the_last_position_on(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=3)
    for alpha in (0.4, 0.9):
        panel.alpha.value = alpha
        steered, plain = panel.readings["steered"], panel.readings["spoken"]
        with steer(tiny, direction, alpha):
            expected = capture_positions(tiny, [spoken[0].spoken()], "all")[0]
        torch.testing.assert_close(steered.states[: steered.start], expected, rtol=1e-3, atol=1e-4)
        assert not torch.equal(steered.states[plain.start - 1], plain.states[plain.start - 1])
        assert steered.columns == [*range(steered.start - 1, len(steered.ids))]
    assert not foreign_hooks(tiny.model) and not panel.runner.message.value


def test_clicking_the_xray_chooses_the_cell_below(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, max_new_tokens=3)
    place, ax = panel.cells().index(("typed", 2)), panel._maps["typed"]
    shares = panel._figure.transFigure.inverted().transform(ax.transData.transform((2, 1)))
    panel.click.value = f"{shares[0]},{1 - shares[1]}"
    assert (panel.column.value, panel.layer.value) == (place, 1) and not panel.runner.message.value
    assert "<b>typed</b>, layer 1" in panel.words.value
    before = panel.view.value
    panel.measure.value = "refusing opening"
    assert panel.view.value != before and "onclick" not in panel.static()
    panel.click.value = "0,0"  # beside the maps
    assert panel.column.value == place


def test_an_xray_of_one_form_and_of_some_layers(tiny: LALM, direction: SteeringVectors) -> None:
    prompt = Prompt("Name a fruit, and say in a few words why people are fond of it in winter.")
    panel = xray(tiny, prompt, direction.only([1, 3]), max_new_tokens=2)
    assert [*panel.readings] == ["typed", "steered"] and panel.projection["typed"].shape[1] == 2
    reading = panel.readings["typed"]
    assert len(reading.columns) <= 26 + 1 + 2 and reading.start - 1 in reading.columns
    with pytest.raises(ValueError, match="1 to 16"):
        xray(tiny, prompt, direction, max_new_tokens=17)


@pytest.mark.parametrize("family", ["voxtral", "granite_speech", "gemma4", "qwen2_5_omni"])
def test_an_xray_of_other_families(family: str, make_clip: Callable[..., np.ndarray]) -> None:
    lalm, prompt = families.replica(family), Prompt("Answer.", make_clip(1.5, 1))
    vectors = SteeringVectors(torch.ones(lalm.n_layers, lalm.d_model))
    panel = xray(lalm, prompt, vectors, max_new_tokens=2)
    states = capture_positions(lalm, [prompt], "all")[0]
    reading = panel.readings["spoken"]
    torch.testing.assert_close(reading.states[: reading.start], states, rtol=1e-3, atol=1e-3)
