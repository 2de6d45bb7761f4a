"""Ten settings, by chance, of the panels that the site shows: their numbers are the library's.

States come from the cache where chapters have run. What a panel says of them is computed anew.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sarsteer_lab import (
    SteeringVectors,
    ablate,
    capture_positions,
    principal_space,
    steer,
    text_refusal_direction,
)
from sarsteer_lab.course import causal, session
from sarsteer_lab.engine.openings import (
    going_on,
    refusal_probability,
    refusing_openings,
    token_sequences,
)
from sarsteer_lab.engine.patched import patched_refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.base import BaseStates
from sarsteer_lab.evaluation.defences import AS_IN_PAPER, default_defences
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.safe_space import projection

pytestmark = [pytest.mark.pocket, pytest.mark.late]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "recordings"


def state_of(panel: str) -> dict[str, Any]:
    """The state that a panel's view draws on the site."""
    return json.loads((FOLDER / f"{panel}.json").read_text(encoding="utf-8"))["state"]


@pytest.fixture(scope="module")
def states(pocket: LALM) -> BaseStates:
    return session.base_states(pocket)


@pytest.fixture(scope="module")
def direction(pocket: LALM, states: BaseStates) -> torch.Tensor:
    refusing = states.refusing[session.working_text(pocket)]
    return text_refusal_direction(states.harmful, refusing)


def test_maps_of_the_gap_explorer(states: BaseStates) -> None:
    """Up to turns and scale a map is the projection on the two widest directions."""
    state, chooser = state_of("gap"), random.Random(29)
    asked = [*load_prompts("derive", "harmful"), *load_prompts("derive", "harmless")]
    place_of = {request.request: place for place, request in enumerate(asked)}
    rows = [place_of[shown["words"]] for shown in state["requests"]]
    typed = torch.cat([states.typed_harmful, states.typed_harmless])[rows]
    spoken = torch.cat([states.harmful, states.harmless])[rows]
    for layer in chooser.sample(range(len(state["layers"])), 10):
        points = torch.cat([typed[:, layer], spoken[:, layer]]).double()
        points = points - points.mean(0)
        widest = torch.linalg.svd(points, full_matrices=False).Vh[:2].T
        expected = torch.cdist(points @ widest, points @ widest)
        shown = torch.tensor(state["layers"][layer]).double()
        apart = torch.cdist(shown, shown)
        scale = float(expected.max() / apart.max())
        torch.testing.assert_close(apart * scale, expected, rtol=0, atol=5e-4 * scale)


def test_shares_and_tokens_of_the_explorer(
    pocket: LALM, states: BaseStates, direction: torch.Tensor
) -> None:
    state, chooser = state_of("explorer"), random.Random(29)
    for _ in range(10):
        key = chooser.choice([*state["tokens"]])
        k, lam, layer = map(int, key.split(","))
        inside = projection(direction, principal_space(states.harmless, k))[layer]
        assert state["inside"][k][layer] == pytest.approx(float(inside.norm()), rel=1e-3)
        assert state["lengths"][layer] == pytest.approx(float(direction[layer].norm()), rel=1e-3)
        removed = lam / 10 * inside
        for part, vector in (("removed", removed), ("kept", direction[layer] - removed)):
            scores = logit_lens(pocket, vector)
            tokens = [pocket.tokenizer.decode([each]) for each in scores.topk(12).indices.tolist()]
            shown = state["tokens"][key][part]
            assert shown[0] == tokens[0] and len({*shown} & {*tokens}) >= 11


def test_cells_of_the_xray(pocket: LALM, direction: torch.Tensor) -> None:
    """Projections up to the layer's median, which all forms share, and the lens."""
    state, chooser = state_of("xray"), random.Random(29)
    [request] = [each for each in load_prompts("test") if each.request == state["title"]]
    last, film_of = {}, {}
    for form, prompt in (("typed", request.typed()), ("spoken", request.spoken())):
        last[form] = capture_positions(pocket, [prompt])[0][-1]  # layer d_model
        film_of[form] = state["films"][form]
    starts = going_on(token_sequences(pocket, refusing_openings()), ())
    for row in chooser.sample(range(len(state["layers"])), 10):
        layer, shown = state["layers"][row], {}
        length = direction[layer].norm()
        for form, film in film_of.items():
            column = film["answer"] - 1
            chances = logit_lens(pocket, last[form][layer]).softmax(-1)
            opening = float(chances[list(starts)].sum())
            assert film["refusing opening"][row][column] == pytest.approx(opening, abs=2e-4)
            token, chance = film["tokens"][row][column][0]
            assert chance == pytest.approx(float(chances.max()), abs=2e-3)
            shown[form] = film["projection"][row][column]
        apart = (last["typed"][layer] - last["spoken"][layer]) @ direction[layer] / length
        expected = float(apart / length)
        assert shown["typed"] - shown["spoken"] == pytest.approx(expected, abs=2e-3)


def test_cells_of_the_seconds_map(pocket: LALM) -> None:
    state, chooser = state_of("seconds"), random.Random(29)
    by_words = {request.request: request for request in load_prompts("test")}
    other = session.requests("validation", 1, ["harmful"])["harmful"][0].spoken()
    for _ in range(10):
        place, donor = chooser.randrange(len(state["requests"])), chooser.randrange(4)
        found = state["maps"][f"{place},{donor}"]
        window, row = chooser.randrange(len(found["windows"])), chooser.randrange(4)
        prompt = by_words[state["requests"][place]["words"]].spoken()
        seconds = len(pocket.waveform(prompt)) / 16000
        span = causal.equal_windows(seconds, 0.4)[window]
        assert found["windows"][window] == pytest.approx(span, abs=1e-3)
        rest = causal.without(pocket, prompt, [(span[1], seconds)])
        states = causal.Window(pocket, prompt, [state["layers"][row]], other)
        sets = states.patches([span], state["donors"][donor])
        plain, patched = odds(pocket, prompt, [[], *sets])
        [silent] = odds(pocket, causal.without(pocket, prompt, [span]), [[]])
        [so_far] = odds(pocket, rest, [[]])
        assert found["plain"] == pytest.approx(plain, abs=0.01)
        assert found["patched"][row][window] == pytest.approx(patched - plain, abs=0.01)
        assert found["silenced"][window] == pytest.approx(silent - plain, abs=0.01)
        assert found["so_far"][window] == pytest.approx(so_far, abs=0.01)


def odds(lalm: LALM, prompt: Any, sets: Any) -> list[float]:
    """Log-odds of refusal under each set of patches."""
    [encoded] = lalm.encode([prompt])
    return causal.log_odds(patched_refusal_probability(lalm, encoded, sets)).tolist()


def test_settings_of_the_steering_panel(pocket: LALM, states: BaseStates) -> None:
    state, chooser = state_of("steer"), random.Random(29)
    by_words = {request.request: request for request in load_prompts("test")}
    for _ in range(10):
        shown = chooser.choice(state["requests"])
        prompt = by_words[shown["words"]].spoken()
        places = [chooser.randrange(len(control["values"])) for control in state["controls"]]
        at = {}
        for control, place in zip(state["controls"], places, strict=True):
            at[control["name"]] = control["values"][place]
        direction = text_refusal_direction(states.harmful, states.refusing[at["text"]])
        space = principal_space(states.harmless, at["k"])
        vectors = SteeringVectors(ablate(direction, space, at["lambda"]))
        first, last = sorted((at["first layer"], at["last layer"]))
        found = shown["found"][",".join(map(str, places))]["steered"]
        batch = PreparedBatch(pocket, [prompt])
        with steer(pocket, vectors, at["alpha"], range(first, last + 1)):
            [answer] = pocket.generate([prompt], max_new_tokens=14)
            ready = float(refusal_probability(batch)[0])
        assert "".join(found["tokens"]).strip() == answer.strip()
        assert found["refusal_probability"] == pytest.approx(ready, abs=0.005)


def test_responses_on_the_board(pocket: LALM, states: BaseStates) -> None:
    """Of the defences that have no setting to be chosen."""
    state, chooser = state_of("board"), random.Random(29)
    requests = {request.id: request for request in load_prompts("test")}
    fixed = {each.name: each for each in default_defences(states, alpha=0.1)}
    fixed[AS_IN_PAPER] = fixed.pop("SARSteer")
    shown = [name for name in state["defences"] if name in fixed and "means" not in name]
    assert len(shown) >= 5 and AS_IN_PAPER in shown
    for number in range(10):
        name = AS_IN_PAPER if number < 4 else chooser.choice(shown)
        of_set = state["cells"][name][chooser.choice(state["sets"])]
        id_, outcome, opening = chooser.choice(of_set)
        prompt = fixed[name].prompt(requests[id_])
        with fixed[name].applied(pocket, [prompt]):
            [answer] = pocket.generate([prompt], max_new_tokens=14)
        assert opening == opening_words(answer)
        assert outcome == PhraseJudge().judge(requests[id_].request, answer)


def test_scores_on_the_board(pocket: LALM) -> None:
    """A condition's first score orders requests as the library's readiness does."""
    readings = state_of("threshold")["readings"]["spoken"]
    state = state_of("board")
    for label, scores in readings.items():
        shown = [each for each in state["requests"].values() if each["label"] == label]
        by_words = {each["words"]: each["scores"][0] for each in shown}
        asked = session.requests("test", len(scores), [label])[label]
        chances = np.clip(scores, 1e-4, 1 - 1e-4)
        expected = np.log(chances / (1 - chances))
        found = [by_words[request.request] for request in asked]
        assert found == pytest.approx(expected.tolist(), abs=1e-3)
