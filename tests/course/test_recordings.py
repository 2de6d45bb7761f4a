"""What the site's panels show is what the model says."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sarsteer_lab import SteeringVectors, steer
from sarsteer_lab.course import recordings, session
from sarsteer_lab.course.widgets.steering import Pushed
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import LABELS, Request, load_prompts

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "recordings"


def state_of(panel: str) -> dict[str, Any]:
    """The state that a panel's view draws on the site."""
    return json.loads((FOLDER / f"{panel}.json").read_text(encoding="utf-8"))["state"]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return state_of("steering")


def test_all_recordings_and_their_clips_take_five_megabytes_at_most() -> None:
    clips = Path(load_prompts("test")[0].clip or "").parent
    sizes = {path.name: path.stat().st_size for path in FOLDER.glob("*.json")}
    for path in FOLDER.glob("*.json"):
        for clip in re.findall(r'"clip": "([^"]+)"', path.read_text(encoding="utf-8")):
            sizes[clip] = (clips / clip).stat().st_size
    assert {path.stem for path in FOLDER.glob("*.json")} <= {"steering", *recordings.CELLS.values()}
    assert sum(sizes.values()) <= 5_000_000


def said(lalm: LALM, prompt: Any, vectors: SteeringVectors, alpha: float) -> tuple[str, float]:
    """The answer and its readiness to refuse by the plain path: one prompt, one strength."""
    batch = PreparedBatch(lalm, [prompt])
    with steer(lalm, vectors, alpha):
        [answer] = lalm.generate([prompt], max_new_tokens=14)
        ready = float(refusal_probability(batch)[0])
    return answer.strip(), ready


def test_answers_are_those_of_the_plain_path(tiny: LALM) -> None:
    request = load_prompts("test", "everyday")[0]
    generator = torch.Generator().manual_seed(0)
    push = torch.randn(tiny.n_layers, tiny.d_model, generator=generator)
    vectors = SteeringVectors(push)
    kept = recordings.recorded(Pushed(tiny, [request], vectors, (0.0, 0.4)))["state"]
    for form, prompt in (("typed", request.typed()), ("spoken", request.spoken())):
        for place, alpha in enumerate((0.0, 0.4)):
            row = kept["requests"][0]["found"][str(place)][form]
            _, ready = said(tiny, prompt, vectors, alpha)
            with steer(tiny, vectors, alpha):
                chances = tiny.next_token_logits([prompt])[0].softmax(-1)
            assert row["tokens"][0] == tiny.tokenizer.decode([int(chances.argmax())])
            assert row["probabilities"][0] == pytest.approx(float(chances.max()), abs=1e-3)
            assert row["refusal_probability"] == pytest.approx(ready, abs=1e-3)
            assert row["cut"] == (len(row["tokens"]) == 14)


def test_outcomes_are_counted_by_strength() -> None:
    rows = []
    for alpha in recordings.ALPHAS:
        rows.append((alpha, "refused" if alpha > 0.1 else "answered"))
        rows.append((alpha, "broken" if alpha > 0.4 else "answered"))
    counts = recordings.counts_of(pd.DataFrame(rows, columns=["alpha", "outcome"]))
    assert counts == {
        "n": 2,
        "refused": [0, 0, 0, 1, 1, 1, 1],
        "answered": [2, 2, 2, 1, 1, 0, 0],
        "broken": [0, 0, 0, 0, 0, 1, 1],
    }


def test_requests_at_two_places_of_each_kind_are_shown_whatever_they_give(
    recorded: dict[str, Any],
) -> None:
    shown: list[Request] = []
    for label in LABELS:
        of_label = load_prompts("test", label)
        shown += [of_label[5], of_label[50]]
    assert [each["words"] for each in recorded["requests"]] == [r.request for r in shown]
    assert [each["clip"] for each in recorded["requests"]] == [r.clip.name for r in shown]


@pytest.mark.parametrize("panel", ["steering", "ladder", "dial", "steer"])
def test_no_answer_is_longer_than_twenty_words_and_every_setting_is_there(panel: str) -> None:
    state = state_of(panel)
    counts = [len(control["values"]) for control in state["controls"]]
    for request in state["requests"]:
        assert len(request["found"]) == math.prod(counts)
        for answers in request["found"].values():
            for answer in answers.values():
                assert len("".join(answer["tokens"]).split()) <= 20
                assert len(answer["tokens"]) == len(answer["probabilities"])


def test_counts_of_outcomes_add_up(recorded: dict[str, Any]) -> None:
    assert recorded["controls"][0]["values"] == list(recordings.ALPHAS)
    for counts in recorded["counts"].values():
        for place in range(len(recordings.ALPHAS)):
            outcomes = ("refused", "answered", "broken")
            assert sum(counts[outcome][place] for outcome in outcomes) == counts["n"]


@pytest.mark.pocket
@pytest.mark.late
@pytest.mark.timeout(1800)
def test_ten_settings_are_those_of_the_library(pocket: LALM, recorded: dict[str, Any]) -> None:
    vectors = recordings.chapter_vectors(pocket, session.working_text(pocket))
    requests = {request.request: request for request in load_prompts("test")}
    chooser = random.Random(29)
    for _ in range(10):
        shown = chooser.choice(recorded["requests"])
        form = chooser.choice(["typed", "spoken"])
        place = chooser.randrange(len(recordings.ALPHAS))
        request, row = requests[shown["words"]], shown["found"][str(place)][form]
        prompt = request.typed() if form == "typed" else request.spoken()
        answer, ready = said(pocket, prompt, vectors, recordings.ALPHAS[place])
        assert "".join(row["tokens"]).strip() == answer
        assert row["refusal_probability"] == pytest.approx(ready, abs=0.005)


@pytest.mark.pocket
@pytest.mark.late
def test_readiness_under_the_threshold_is_the_librarys(pocket: LALM) -> None:
    asked = session.requests("test", 40, ("harmful", "harmless", "pseudo-harmful"))
    readings, chooser = state_of("threshold")["readings"], random.Random(29)
    for _ in range(10):
        form, label = chooser.choice([*readings]), chooser.choice([*asked])
        place = chooser.randrange(40)
        request = asked[label][place]
        prompt = request.typed() if form == "typed" else request.spoken()
        ready = float(refusal_probability(PreparedBatch(pocket, [prompt]))[0])
        assert readings[form][label][place] == pytest.approx(ready, abs=1e-4)


@pytest.mark.pocket
@pytest.mark.late
def test_ten_settings_of_the_dial_are_the_librarys(pocket: LALM) -> None:
    state, chooser = state_of("dial"), random.Random(29)
    [control] = state["controls"]
    words = {request.request: request for request in load_prompts("validation")}
    for _ in range(10):
        shown, place = chooser.choice(state["requests"]), chooser.randrange(6)
        form, request = chooser.choice(["typed", "spoken"]), words[shown["words"]]
        prompt = request.typed() if form == "typed" else request.spoken()
        pocket.set_safety(control["values"][place])
        [answer] = pocket.generate([prompt], max_new_tokens=12)
        ready = float(refusal_probability(PreparedBatch(pocket, [prompt]))[0])
        pocket.set_safety(1.0)
        row = shown["found"][str(place)][form]
        assert "".join(row["tokens"]).strip() == answer.strip()
        assert row["refusal_probability"] == pytest.approx(ready, abs=0.005)


def test_the_maps_of_the_gap_explorer_hold_chapter_1s_requests() -> None:
    state = state_of("gap")
    asked = session.requests("derive")
    words = {request.request for requests in asked.values() for request in requests}
    assert {request["words"] for request in state["requests"]} <= words
    for places in state["layers"]:
        assert len(places) == 2 * len(state["requests"])
        assert max(map(abs, sum(places, []))) == pytest.approx(0.5, abs=1e-3)
