"""The playground, the X-ray, the ladder and the strip: their numbers against a few plain lines
each."""

import asyncio
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import replicas as families
import torch

from sarsteer_lab.activations import capture_answer, capture_positions
from sarsteer_lab.course.figures import architecture
from sarsteer_lab.course.figures.strip import stages
from sarsteer_lab.course.widgets import ladder, playground, xray
from sarsteer_lab.course.widgets.steering import Ladder
from sarsteer_lab.course.widgets.web import answer_state
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.engine.openings import refusing_openings
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors, steer


@pytest.fixture(scope="module")
def direction(tiny: LALM) -> SteeringVectors:
    generator = torch.Generator().manual_seed(5)
    return SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model, generator=generator))


def test_playground_gives_its_view_the_clouds_and_their_space() -> None:
    panel = playground(seed=3)
    state = panel.view.state
    harmless = panel.clouds["harmless"]
    assert torch.equal(torch.tensor(state["clouds"]["harmless"]), harmless)
    found = torch.linalg.svd(harmless - harmless.mean(0), full_matrices=False)
    for u, v in zip(torch.tensor(state["directions"]), found.Vh, strict=True):
        assert abs(float(u @ v)) == pytest.approx(1, abs=1e-4)
    spreads = found.S / math.sqrt(len(harmless) - 1)
    assert state["spreads"] == pytest.approx(spreads.tolist(), rel=1e-3)
    assert torch.equal(panel.clouds["harmful"], playground(seed=3).clouds["harmful"])
    assert not torch.equal(panel.clouds["harmful"], playground(seed=1).clouds["harmful"])
    d = panel.direction()[0]
    for k, row in enumerate(re.findall(r"<td>(\d)</td>\s*<td>(.*?)</td>", panel.static())):
        inside = (found.Vh[:k] @ d).square().sum() / d.square().sum()
        assert row[0] == str(k) and float(row[1]) == pytest.approx(float(inside), abs=0.006)


def rungs_of(panel: Ladder, form: str) -> dict[float, dict[str, Any]]:
    """A ladder's answers in a form, by alpha."""
    rungs = {}
    for key, by_form in panel.view.state["requests"][0]["found"].items():
        if form in by_form:
            alpha = panel.controls["alpha"][int(key.partition(",")[0])]
            rungs[alpha] = by_form[form]
    return dict(sorted(rungs.items()))


def test_the_ladders_rows_are_what_generate_says_under_each_alpha(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = ladder(tiny, spoken[0], direction, (0.0, 0.3, 0.9), max_new_tokens=6)
    asked = [spoken[0].spoken()]
    assert [*rungs_of(panel, "spoken")] == [0.0, 0.3, 0.9] and not rungs_of(panel, "typed")
    panel.pick(alpha=panel.controls["alpha"].index(0.5))
    assert not panel.runner.message.value.startswith("<b>")
    rungs = rungs_of(panel, "spoken")
    assert [*rungs] == [0.0, 0.3, 0.5, 0.9] and panel.view.state["rungs"]
    for alpha, rung in rungs.items():
        with steer(tiny, direction, alpha):
            answer = tiny.generate(asked, max_new_tokens=6)[0]
            sure = tiny.next_token_logits(asked)[0].softmax(-1).max()
        assert "".join(rung["tokens"]).replace("<unk>", "").strip() == answer
        assert rung["probabilities"][0] == pytest.approx(float(sure), rel=1e-3)
        assert rung["outcome"] == PhraseJudge().judge(spoken[0].request, answer)
        assert rung["cut"] == (len(rung["tokens"]) == 6)
    still = panel.static()
    shown = re.findall(r"<td>alpha ([\d.]+)</td>\s*<td>(\w+)</td>\s*<td>([\d.]+)</td>", still)
    expected = []
    for alpha, rung in rungs.items():
        expected.append((f"{alpha:g}", rung["outcome"], f"{rung['refusal_probability']:.2f}"))
    broken = [place for place, row in enumerate(expected) if row[1] == "broken"]
    last = broken[0] if broken else len(expected)
    kept = [row for place, row in enumerate(expected) if place <= last or row[0] == "0.5"]
    assert shown == kept, "the whole ladder, and not one rung"
    panel.pick(form=panel.controls["form"].index("typed"))
    plain = tiny.generate([spoken[0].typed()], max_new_tokens=6)[0]
    said = "".join(rungs_of(panel, "typed")[0.0]["tokens"])
    assert said.replace("<unk>", "").strip() == plain
    recorded = ladder(tiny, spoken[0], direction, (0.0, 0.3), max_new_tokens=2, more=False)
    recorded.complete()
    for form in ("spoken", "typed"):
        assert [*rungs_of(recorded, form)] == [0.0, 0.3]
    assert recorded.controls["alpha"] == [0.0, 0.3]
    with pytest.raises(ValueError, match="1 to 24"):
        ladder(tiny, spoken[0], direction, max_new_tokens=25)


def test_a_ladder_of_what_is_only_typed(tiny: LALM, direction: SteeringVectors) -> None:
    panel = ladder(tiny, Prompt("Name a fruit."), direction, (0.0, 0.5), max_new_tokens=2)
    assert [*rungs_of(panel, "typed")] == [0.0, 0.5] and panel.controls["form"] == ["typed"]
    assert not panel.view.clips


def test_long_answers_are_cut() -> None:
    answer = Answer("", tuple(f" w{i}" for i in range(30)), (0.5,) * 30, ())
    state = answer_state(answer, 0.5, "answered", 30)
    assert state["tokens"] == list(answer.tokens[:20]) and state["cut"]


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
        fig = architecture(lalm, prompt)
        titles = [ax.get_title(loc="left") for ax in fig.axes]
        assert titles == ["sequence", "layers", "head"]
        assert fig.get_suptitle().startswith("A typed request becomes ")
    fig = architecture(tiny, spoken[0])
    seconds = len(tiny.waveform(spoken[0].spoken())) / 16_000
    assert len(fig.axes) == 7
    assert fig.get_suptitle().startswith(f"A spoken request of {seconds:.1f} s becomes ")


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
        top = panel.likeliest[form][tiny.n_layers - 1][at]
        assert top[0][0] == tiny.generate([prompt], max_new_tokens=1)[0]
        assert top[0][1] == pytest.approx(float(chances[-1].max()), abs=6e-4)


def test_the_xray_is_steered_from_the_last_position_on(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=3)
    for alpha in (0.4, 0.9):
        panel.pick(alpha=panel.alphas.index(alpha))
        steered, plain = panel.readings["steered"], panel.readings["spoken"]
        with steer(tiny, direction, alpha):
            expected = capture_positions(tiny, [spoken[0].spoken()], "all")[0]
        torch.testing.assert_close(steered.states[: steered.start], expected, rtol=1e-3, atol=1e-4)
        assert not torch.equal(steered.states[plain.start - 1], plain.states[plain.start - 1])
        assert steered.columns == [*range(steered.start - 1, len(steered.ids))]
    assert not foreign_hooks(tiny.model) and not panel.runner.message.value


def test_the_xrays_view_draws_what_it_measures(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=3)
    state, chosen = panel.view.state, panel.chosen
    assert state["forms"] == ["typed", "spoken", "steered"] and state["first"] == [0, 3]
    length = direction.values.norm(dim=-1)
    shown = [panel.projection[form][panel.readings[form].columns] for form in ("typed", "spoken")]
    median = torch.cat(shown).median(0).values
    chooser = random.Random(2)
    for _ in range(10):
        form, layer = chooser.choice(["typed", "spoken", "steered"]), chooser.randrange(4)
        reading = panel.readings[form]
        column = chooser.randrange(len(reading.columns))
        film = state["films"][f"steered,{chosen['alpha']}" if form == "steered" else form]
        position = reading.columns[column]
        expected = (panel.projection[form][position, layer] - median[layer]) / length[layer]
        assert film["projection"][layer][column] == pytest.approx(float(expected), abs=1e-3)
        opening = float(panel.opening[form][column, layer])
        opening = -1 if math.isnan(opening) else opening
        assert film["refusing opening"][layer][column] == pytest.approx(opening, abs=1e-4)
        likeliest = logit_lens(tiny, reading.states[position, layer]).softmax(-1).topk(3)
        found = film["tokens"][layer][column]
        assert [p for _, p in found] == pytest.approx(likeliest.values.tolist(), abs=1e-3)
        assert len(film["names"]) == len(reading.columns)
    film = state["films"]["spoken"]
    assert chosen["form"] == "spoken" and chosen["column"] == film["answer"] - 1
    assert "spoken: opens a refusal" in panel.static()
    panel.complete()
    films = panel.view.state["films"]
    assert len(films) == 2 + len(panel.view.state["alphas"]) and not panel.runner.message.value
    # Without a push the steered columns are the spoken ones.
    plain = np.array(films["spoken"]["projection"])[:, film["answer"] - 1 :]
    assert np.array(films["steered,0"]["projection"]) == pytest.approx(plain, abs=2e-3)


def test_the_xrays_still_is_of_the_strength_that_is_chosen(
    tiny: LALM, spoken: list[Request], direction: SteeringVectors
) -> None:
    panel = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=3)
    at = panel.readings["steered"].columns.index(panel.readings["steered"].start - 1)
    measured = [f"{float(share):.3f}" for share in panel.opening["steered"][at]]
    first = panel.static()
    assert re.findall(r"<td>([\d.]+)</td>\s*</tr>", first) == measured
    panel.pick(alpha=panel.alphas.index(0.9))
    second = panel.static()
    assert second != first
    panel.pick(alpha=panel.alphas.index(0.4))
    assert panel.static() == first
    panel.complete()
    assert panel.static() == first

    async def in_one_cell() -> str:
        live = xray(tiny, spoken[0], direction, alpha=0.4, max_new_tokens=3)
        live.pick(alpha=live.alphas.index(0.9))
        return live.static()

    assert asyncio.run(in_one_cell()) == second


def test_an_xray_of_one_form_and_of_some_layers(tiny: LALM, direction: SteeringVectors) -> None:
    prompt = Prompt("Name a fruit, and say in a few words why people are fond of it in winter.")
    panel = xray(tiny, prompt, direction.only([1, 3]), max_new_tokens=2)
    assert [*panel.readings] == ["typed", "steered"] and panel.projection["typed"].shape[1] == 2
    reading = panel.readings["typed"]
    assert len(reading.columns) <= 26 + 1 + 2 and reading.start - 1 in reading.columns
    with pytest.raises(ValueError, match="1 to 16"):
        xray(tiny, prompt, direction, max_new_tokens=17)


@pytest.mark.parametrize(
    ("family", "length", "heard"),  # seconds that a position stands for, and that all of them do
    [
        ("voxtral", 0.08, 8.0),
        ("granite_speech", 0.1, 1.5),
        ("gemma4", 0.04, 1.5),
        ("qwen2_5_omni", 0.04, 1.5),
    ],
)
def test_an_xray_of_other_families(
    family: str, length: float, heard: float, make_clip: Callable[..., np.ndarray]
) -> None:
    lalm, prompt = families.replica(family), Prompt("Answer.", make_clip(1.5, 1))
    vectors = SteeringVectors(torch.ones(lalm.n_layers, lalm.d_model))
    panel = xray(lalm, prompt, vectors, max_new_tokens=2)
    states = capture_positions(lalm, [prompt], "all")[0]
    reading = panel.readings["spoken"]
    torch.testing.assert_close(reading.states[: reading.start], states, rtol=1e-3, atol=1e-3)
    # Some ears pad a clip: its positions stand for its window, not for its own 1.5 s.
    last = reading.columns.index(reading.heard[-1])
    ends = float(reading.names[last].removesuffix(" s")) + length
    assert ends == pytest.approx(heard, abs=length + 0.05)  # names are rounded to 0.1 s
