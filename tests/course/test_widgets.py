"""The panels without a browser: their controls are set as a student would, and what they show is
read."""

import asyncio
import base64
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from html import unescape
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sarsteer_lab.course.hearing import REPEAT, transcript
from sarsteer_lab.course.widgets import (
    dial_panel,
    gap_explorer,
    over_refusal_board,
    safe_space_explorer,
    steer_panel,
    threshold_panel,
)
from sarsteer_lab.course.widgets.board import OverRefusalBoard
from sarsteer_lab.course.widgets.panels import Runner, wav_bytes
from sarsteer_lab.course.widgets.steering import Answers
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import judge_responses
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import delta_factors
from sarsteer_lab.prompts import INSTRUCTION, Prompt, Request, load_prompts
from sarsteer_lab.safe_space import ablate, principal_space
from sarsteer_lab.speech import read_clip
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.voice import synthesise


@pytest.fixture(scope="module")
def requests(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[..., np.ndarray]
) -> list[Request]:
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for i in range(6):
        clip = folder / f"{i}.wav"
        soundfile.write(clip, make_clip(0.6 + 0.2 * i, i), 16000)
        label = "harmful" if i % 2 == 0 else "harmless"
        made.append(Request(f"r{i}", f"Request number {i}?", label, "topic", "test", clip, "voice"))
    return made


@pytest.fixture(scope="module")
def direction(tiny: LALM) -> torch.Tensor:
    return torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def harmless(tiny: LALM) -> torch.Tensor:
    return torch.randn(9, tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(6))


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def said(panel: Answers, name: str) -> str:
    """An answer's tokens, which tests ask for so few of that none is cut; but special ones."""
    return "".join(panel.found()[name]["tokens"]).replace("<unk>", "").strip()


def test_steer_panel_answers_as_steer_does(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    texts = {"paper": SteeringVectors(direction)}
    panel = steer_panel(tiny, texts, harmless, requests, alpha=0.3, k=3, max_new_tokens=6)
    spoken = [requests[0].spoken()]
    plain = tiny.generate(spoken, max_new_tokens=6)[0]
    chooser, batch = random.Random(4), PreparedBatch(tiny, spoken)
    for _ in range(10):
        places = {name: chooser.randrange(len(each)) for name, each in panel.controls.items()}
        panel.pick(**places)
        setting = panel.setting()
        vectors = ablate(
            direction, principal_space(harmless, 8).first(setting["k"]), setting["lambda"]
        )
        first, last = sorted((setting["first layer"], setting["last layer"]))
        with steer(tiny, vectors, setting["alpha"], range(first, last + 1)):
            expected = tiny.generate(spoken, max_new_tokens=6)[0]
            ready = float(refusal_probability(batch)[0])
        assert said(panel, "steered") == expected
        assert said(panel, "without steering") == plain
        assert panel.found()["steered"]["refusal_probability"] == pytest.approx(ready, abs=1e-3)
    assert not panel.runner.message.value.startswith("<b>")
    panel.pick(sweep=True)
    assert len(panel.view.state["requests"][0]["found"]) >= len(panel.swept)
    assert panel.runner.progress.layout.visibility == "hidden"
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert tiny.generate(spoken, max_new_tokens=6)[0] == plain


def test_steer_panel_takes_the_direction_of_the_text_in_its_menu(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    texts = {"examples": SteeringVectors(direction), "paper": SteeringVectors(direction.flip(0))}
    panel = steer_panel(tiny, texts, harmless, requests, alpha=0.5, k=3, max_new_tokens=6)
    for place, name in ((0, "examples"), (1, "paper"), (0, "examples")):
        panel.pick(text=place)
        vectors = ablate(texts[name].values, principal_space(harmless, 8).first(3), 1.0)
        with steer(tiny, vectors, 0.5):
            expected = tiny.generate([requests[0].spoken()], max_new_tokens=6)[0]
        assert said(panel, "steered") == expected


def test_steer_panel_takes_typed_sentences_and_uploads(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    texts = {"paper": SteeringVectors(direction)}
    panel = steer_panel(tiny, texts, harmless, requests, max_new_tokens=4)

    def ask(name: str, **what: str | bytes) -> dict[str, Any]:
        """Ask a request of one's own as the view does; gives what is then chosen."""
        for kind, value in what.items():
            sent = base64.b64encode(value).decode() if isinstance(value, bytes) else value
            panel.pick(asked={"name": name, kind: sent})
        return panel.view.state["requests"][panel.chosen["request"]]

    ask("the sentence", sentence="What is rain?")
    waveform = synthesise("What is rain?")
    asked = panel.asked[panel.chosen["request"]]
    assert np.array_equal(asked["spoken"].audio, waveform)
    assert asked["typed"].text == "What is rain?"
    expected = tiny.generate([Prompt(INSTRUCTION, waveform)], max_new_tokens=4)[0]
    assert said(panel, "without steering") == expected
    shown = ask("mine.wav", file=wav_bytes(waveform[:16000]))
    asked = panel.asked[panel.chosen["request"]]
    assert "typed" not in asked and shown["words"] == "mine.wav"
    assert len(asked["spoken"].audio) == 16000
    assert panel.view.clips[shown["clip"]].startswith("data:audio/wav;base64,")
    shown = ask("your recording", samples=(waveform[:8000] * 32767).astype("<i2").tobytes())
    assert shown["words"] == "your recording" and len(panel.asked[-1]["spoken"].audio) == 8000
    assert not shown["differs"]  # its words are not known
    # Beside the answer stands what was heard; where the words are known, a mark says that they
    # differ.
    shown = ask("the sentence", sentence="What is rain, then?")
    repeat = Prompt(REPEAT, panel.asked[-1]["spoken"].audio)
    heard = transcript(tiny.generate([repeat], max_new_tokens=32)[0])
    assert shown["heard"] == opening_words(heard) and shown["differs"]
    assert opening_words(heard) in unescape(text_of(panel.static()))
    # What cannot be used is refused with the reason, and the panel stays as it is.
    for name, why, what in (
        ("long", "the model hears at most 8 s", {"sentence": "What is rain made of? " * 20}),
        ("silent.wav", "silent", {"file": wav_bytes(np.zeros(16000, dtype=np.float32))}),
        ("no.wav", "it is text", {"file": b"nothing"}),
    ):
        assert ask(name, **what) is shown and why in panel.runner.message.value


def test_panels_refuse_long_answers_and_models_without_dial(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="1 to 16 tokens"):
        steer_panel(tiny, {"paper": SteeringVectors(direction)}, harmless, [], max_new_tokens=17)
    with pytest.raises(ValueError, match="no safety dial"):
        dial_panel(tiny, [])


@pytest.mark.pocket
def test_dial_panel_leaves_the_dial_where_it_was(pocket: LALM) -> None:
    pocket.set_safety(0.6)
    weight = next(iter(delta_factors("safety")))
    before = pocket.model.get_parameter(weight).clone()
    [request] = load_prompts("test", "everyday")[:1]
    panel = dial_panel(pocket, [request], max_new_tokens=3)
    assert panel.setting() == {"safety dial": 0.6}
    fresh = pocket.generate([request.spoken()], max_new_tokens=3)
    assert said(panel, "spoken") == fresh[0]
    for place in (0, 5):
        panel.pick(**{"safety dial": place})
        assert set(panel.found()) == {"typed", "spoken"}
        assert pocket.safety == 0.6
        assert torch.equal(pocket.model.get_parameter(weight), before)
    pocket.set_safety(1.0)


def test_gap_explorer_maps_states_and_plays_their_requests(
    tiny: LALM, requests: list[Request], harmless: torch.Tensor
) -> None:
    typed, spoken = harmless[:6], harmless[:6] + 2.0
    panel = gap_explorer(typed, spoken, requests, layer=2, limit=4)
    state = panel.view.state
    assert panel.prompts[0] is requests[0] and panel.prompts[-1] is requests[-1]
    rows = [requests.index(prompt) for prompt in panel.prompts]
    for layer, places in enumerate(state["layers"]):
        found = torch.tensor(places)
        assert found.shape == (8, 2) and found.abs().max() == pytest.approx(0.5, abs=1e-3)
        # Up to its scale and place it is the projection on the two widest directions.
        states = torch.cat([typed[rows, layer], spoken[rows, layer]])
        widest = torch.linalg.svd(states - states.mean(0)).Vh[:2].T
        expected = torch.cdist(states @ widest, states @ widest)
        apart = torch.cdist(found, found)
        scale = expected.max() / apart.max()
        torch.testing.assert_close(apart * scale, expected, rtol=1e-2, atol=2e-3 * float(scale))
    panel.pick(point=5)
    shown = state["requests"][5 % 4]
    assert shown["words"] == panel.prompts[1].request
    clip = panel.prompts[1].clip
    sound = base64.b64decode(panel.view.clips[shown["clip"]].partition(",")[2])
    assert shown["clip"] == clip.name and sound == wav_bytes(read_clip(clip))
    assert "<img" in panel.static()
    with pytest.raises(ValueError, match="need as many"):
        gap_explorer(typed, spoken, requests[:3], layer=2)


def test_safe_space_explorer_removes_what_ablate_removes(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor
) -> None:
    panel = safe_space_explorer(direction, harmless, lalm=tiny, layer=2, k=3)
    chooser = random.Random(3)
    state = panel.view.state
    for _ in range(10):
        k, lam, layer = chooser.randrange(1, 8), chooser.randrange(1, 16), chooser.randrange(4)
        panel.pick(k=k, lam=lam, layer=layer)
        ablated = ablate(direction, principal_space(harmless, k), lam / 10)
        expected = direction - ablated
        torch.testing.assert_close(panel.removed(), expected, rtol=1e-4, atol=1e-5)
        # The view draws from lengths: of the part inside, and of the direction.
        across, length = state["inside"][k][layer], state["lengths"][layer]
        assert across * lam / 10 == pytest.approx(float(expected[layer].norm()), abs=1e-3)
        kept = math.hypot((1 - lam / 10) * across, math.sqrt(length**2 - across**2))
        assert kept == pytest.approx(float(ablated[layer].norm()), abs=1e-3)
        tokens = state["tokens"][f"{k},{lam},{layer}"]
        for part, vector in (("removed", expected), ("kept", ablated)):
            top = logit_lens(tiny, vector[layer]).argmax()
            assert tokens[part][0] == tiny.tokenizer.decode([int(top)])
    panel.pick(k=0)
    assert not panel.removed().any() and not panel.runner.message.value
    assert "<img" in panel.static()


LONG = "Sure, here is how: " + " ".join(f"word{i}" for i in range(40))
SAID = {
    ("none", "harmful"): [LONG, LONG],
    ("none", "harmless"): ["Rain is water.", "Bread is made of flour."],
    ("strict", "harmful"): ["I'm sorry, but I can't help with that."] * 2,
    ("strict", "harmless"): ["I'm sorry, but I can't help with that.", "I like bread."],
}
RESPONSES = [
    Response(defence, name, f"{name}-{i}", name, f"Request {i}?", text, 5)
    for (defence, name), texts in SAID.items()
    for i, text in enumerate(texts)
]


@pytest.fixture(scope="module")
def board() -> OverRefusalBoard:
    return over_refusal_board(RESPONSES, judge_responses(RESPONSES, [PhraseJudge()]))


def test_board_counts_and_holds_openings(board: OverRefusalBoard) -> None:
    cells = board.view.state["cells"]
    assert board.counts("strict", "harmless") == "1 refused, 1 answered of 2"
    assert [row[:2] for row in cells["strict"]["harmless"]] == [
        ["harmless-0", "refused"],
        ["harmless-1", "answered"],
    ]
    [first, _] = cells["none"]["harmful"]
    assert len(first[2].split()) == 21 and first[2].endswith("word15 …")
    assert "word15" in str(cells) and "word16" not in str(board.view.state)
    assert "1 refused, 1 answered of 2" in board.static() and "<img" in board.static()
    board.pick(defences=["none"])
    assert "1 refused" not in board.static()
    board.pick(defences=["none", "strict"])
    assert opening_words("a b") == "a b"


def test_board_plays_a_cells_clips_and_says_what_was_heard(
    board: OverRefusalBoard, requests: list[Request]
) -> None:
    said = dict(zip(("harmless-0", "harmless-1"), requests[:2], strict=True))
    prompts = [replace(prompt, id=name) for name, prompt in said.items()]
    heard = {"harmless-0": "request 0", "harmless-1": "something else"}
    responses = [
        Response(defence, name, f"{name}-{i}", name, f"Request {i}?", "No.", 5)
        for defence, name in (("none", "harmful"), ("none", "harmless"))
        for i in range(2)
    ]
    outcomes = judge_responses(responses, [PhraseJudge()])
    panel = over_refusal_board(responses, outcomes, prompts, heard)
    shown = panel.view.state["requests"]
    assert "clip" not in shown["harmful-0"] and "heard" not in shown["harmful-0"]
    for name, prompt in said.items():
        panel.pick(clip=name)
        sound = base64.b64decode(panel.view.clips[shown[name]["clip"]].partition(",")[2])
        assert sound == wav_bytes(read_clip(prompt.clip))
    assert shown["harmless-0"]["heard"] == "request 0" and not shown["harmless-0"]["differs"]
    assert shown["harmless-1"]["differs"] and not panel.runner.message.value


def test_board_wants_one_judge_and_every_outcome(board: OverRefusalBoard) -> None:
    with pytest.raises(ValueError, match="no outcome"):
        over_refusal_board(RESPONSES, board.outcomes.iloc[1:])
    with pytest.raises(ValueError, match="one judge"):
        over_refusal_board(RESPONSES, board.outcomes.iloc[:0])


def test_board_gives_each_request_what_a_condition_can_go_by() -> None:
    extra = [replace(each, set="everyday", id=f"e-{i}") for i, each in enumerate(RESPONSES[2:4])]
    responses = [*RESPONSES, *extra, *[replace(each, defence="strict") for each in extra]]
    outcomes = judge_responses(responses, [PhraseJudge()])
    ids = ("harmless-0", "harmless-1", "harmful-0", "harmful-1")
    scores = {"own": dict(zip(ids, (0, 2, 0.5, -1), strict=True))}
    scores["cosine"] = dict(zip(ids, np.array([0.25, 1, -1, 0.125]), strict=True))
    panel = over_refusal_board(responses, outcomes, scores=scores)
    shown = panel.view.state["requests"]
    assert shown["harmful-0"]["scores"] == [0.5, -1] and shown["harmless-1"]["scores"] == [2, 1]
    assert "scores" not in shown["e-0"] and panel.view.state["scores"] == ["own", "cosine"]
    assert panel.chosen["sets"] == ["harmful", "harmless"]
    assert panel.chosen["weights"] == [10, 0] and panel.chosen["refusing"] == 2
    with pytest.raises(ValueError, match="different requests"):
        over_refusal_board(responses, outcomes, scores=scores | {"other": {"harmful-0": 0.5}})
    with pytest.raises(ValueError, match="'nobody', which has no response"):
        over_refusal_board(responses, outcomes, scores={"own": {"harmful-0": 0.5, "nobody": 1}})


def test_every_panel_has_a_still_beside_the_live_view(
    tiny: LALM,
    direction: torch.Tensor,
    harmless: torch.Tensor,
    requests: list[Request],
    board: OverRefusalBoard,
) -> None:
    panels = [
        steer_panel(
            tiny, {"paper": SteeringVectors(direction)}, harmless, requests, max_new_tokens=3
        ),
        gap_explorer(harmless[:6], harmless[:6] + 1, requests, layer=2),
        safe_space_explorer(direction, harmless, lalm=tiny, layer=0),
        board,
    ]
    for panel in panels:
        bundle = panel._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert "Run the cell" in bundle["text/html"] and "<script" not in bundle["text/html"]
        assert len(text_of(bundle["text/html"])) > 60 or "<img" in bundle["text/html"]


def test_runner_runs_between_cells_and_keeps_the_latest() -> None:
    async def main() -> tuple[list[str], list[str], int]:
        done: list[str] = []
        threads: list[str] = []
        runner = Runner()

        def note(i: int) -> None:
            done.append(f"answer {i}")
            threads.append(threading.current_thread().name)

        def from_front_end() -> None:
            for i in range(3):
                runner.soon("answer", partial(note, i))
            runner.soon("fails", lambda: 1 / 0)

        thread = threading.Thread(target=from_front_end)
        thread.start()
        thread.join()
        assert not done  # a cell is still running
        await asyncio.sleep(0.05)
        assert "ZeroDivisionError" in runner.message.value

        def long() -> Iterator[None]:
            for i in range(100):
                done.append(f"step {i}")
                yield

        runner.steps(long(), 100)
        await asyncio.sleep(0.2)
        runner.stop.click()
        steps = len(done)
        await asyncio.sleep(0.1)
        assert len(done) == steps
        return done, threads, runner.bar.value

    done, threads, shown = asyncio.run(main())
    assert done[0] == "answer 2" and done.count("answer 2") == 1 and "answer 0" not in done
    assert threads == [threading.main_thread().name]
    assert 2 <= len(done) < 60 and shown == len(done) - 1


def test_new_long_work_pauses_between_its_steps_whatever_was_before() -> None:
    times: list[float] = []

    def long(name: str) -> Iterator[None]:
        for _ in range(10):
            assert name == "last"
            times.append(time.monotonic())
            yield

    async def main() -> str:
        runner = Runner()
        for name in ("first", "second", "last"):
            runner.steps(long(name), 10)
        await asyncio.sleep(0.1)
        while runner.progress.layout.visibility == "visible":
            await asyncio.sleep(0.01)
        return runner.message.value

    assert asyncio.run(main()) == "" and len(times) == 10
    assert np.diff(times).min() > 0.015  # the pause in which the kernel takes messages is 0.02


def test_threshold_holds_each_requests_readiness_and_the_areas() -> None:
    generator = np.random.default_rng(0)
    readings = {
        form: {label: generator.random(12) ** 3 for label in ("harmful", "harmless")}
        for form in ("spoken", "typed")
    }
    panel = threshold_panel(readings, [("none", 0.25, 0.75)])
    state = panel.view.state
    assert panel.chosen["form"] == "spoken" and state["defences"] == [["none", 0.25, 0.75]]
    for form, by_label in readings.items():
        for label, scores in by_label.items():
            kept = state["readings"][form][label]
            assert kept == pytest.approx(scores, abs=1e-8)
        area = panel.areas.set_index("form").loc[form, "ROC area"]
        pairs = np.sign(by_label["harmful"][:, None] - by_label["harmless"]).mean()
        assert area == pytest.approx((1 + pairs) / 2)
    assert f"{panel.areas['ROC area'][1]:.2f}" in panel.static()
    for scores in ({"harmful": np.zeros(0), "harmless": np.zeros(2)}, {"harmless": np.zeros(2)}):
        with pytest.raises(ValueError, match="takes harmful and benign"):
            threshold_panel({"spoken": scores})
    for scores in ({"harmful": np.zeros(2)}, {}):
        with pytest.raises(ValueError, match="'spoken' has no requests but harmful ones"):
            threshold_panel({"spoken": scores})
