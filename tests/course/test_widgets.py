"""The panels without a browser: their controls are set as a student would, and what they show is
read."""

import asyncio
import base64
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from html import unescape

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
from sarsteer_lab.course.widgets.panels import Runner, opening_words, wav_bytes
from sarsteer_lab.evaluation.judges import PhraseJudge
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


def test_steer_panel_answers_as_steer_does(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    panel = steer_panel(
        tiny,
        {"paper": SteeringVectors(direction)},
        harmless,
        requests,
        alpha=0.3,
        k=3,
        max_new_tokens=6,
    )
    spoken = [requests[0].spoken()]
    plain = tiny.generate(spoken, max_new_tokens=6)[0]
    assert panel.at(0.0)[0]["steered"][0].text == plain
    for alpha, lam, k, layers in (
        (0.3, 1.0, 3, (0, 3)),
        (0.5, 0.5, 2, (1, 2)),
        (0.0, 1.0, 3, (0, 3)),
    ):
        panel.alpha.value, panel.lam.value, panel.k.value, panel.layers.value = (
            alpha,
            lam,
            k,
            layers,
        )
        vectors = ablate(direction, principal_space(harmless, 8).first(k), lam)
        with steer(tiny, vectors, alpha, range(layers[0], layers[1] + 1)):
            expected = tiny.generate(spoken, max_new_tokens=6)[0]
        assert panel.at(alpha)[0]["steered"][0].text == expected
        assert f"alpha = {alpha:.2f}, lambda = {lam:.1f}, k = {k}" in panel.right.value
    assert not panel.runner.message.value.startswith("<b>")
    panel.sweep.click()
    assert "<img" in panel.curve.value and panel.runner.bar.value == panel.runner.bar.max
    assert panel.runner.progress.layout.visibility == "hidden"
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert tiny.generate(spoken, max_new_tokens=6)[0] == plain


def test_steer_panel_takes_the_direction_of_the_text_in_its_menu(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    texts = {"examples": SteeringVectors(direction), "paper": SteeringVectors(direction.flip(0))}
    panel = steer_panel(tiny, texts, harmless, requests, alpha=0.5, k=3, max_new_tokens=6)
    for name in ("examples", "paper", "examples"):
        panel.text.value = name
        vectors = ablate(texts[name].values, principal_space(harmless, 8).first(3), 1.0)
        with steer(tiny, vectors, 0.5):
            expected = tiny.generate([requests[0].spoken()], max_new_tokens=6)[0]
        assert panel.at(0.5)[0]["steered"][0].text == expected
    assert panel.text in panel.children[1].children


def test_steer_panel_takes_typed_sentences_and_uploads(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor, requests: list[Request]
) -> None:
    panel = steer_panel(
        tiny, {"paper": SteeringVectors(direction)}, harmless, requests, max_new_tokens=4
    )
    panel.request.sentence.value = "What is rain?"
    waveform = synthesise("What is rain?")
    assert np.array_equal(panel.request.spoken.audio, waveform)
    expected = tiny.generate([Prompt(INSTRUCTION, waveform)], max_new_tokens=4)[0]
    assert panel.at(0.0)[0]["steered"][0].text == expected
    content = wav_bytes(waveform[:16000])
    file = {
        "name": "mine.wav",
        "type": "audio/wav",
        "size": len(content),
        "content": memoryview(content),
    }
    file["last_modified"] = datetime.now(UTC)
    panel.request.upload.value = (file,)
    assert panel.request.typed is None and panel.request.title == "mine.wav"
    assert len(panel.request.spoken.audio) == 16000
    pcm = (waveform[:8000] * 32767).astype("<i2")
    panel.request.recording.value = base64.b64encode(pcm.tobytes()).decode()
    assert panel.request.title == "your recording" and len(panel.request.spoken.audio) == 8000
    panel.request.upload.value = (file | {"name": "mine.wav", "size": 1},)
    # Beside the answer stands what was heard; where the words are known, a mark says that they
    # differ.
    panel.request.sentence.value = "What is rain, then?"
    repeat = Prompt(REPEAT, panel.request.spoken.audio)
    said = transcript(tiny.generate([repeat], max_new_tokens=32)[0])
    assert (
        opening_words(said) in unescape(text_of(panel.heard.value))
        and "differently" in panel.heard.value
    )
    assert panel.heard.value in panel.static()
    panel.request.upload.value = (file | {"name": "again.wav"},)
    assert "heard:" in panel.heard.value and "differently" not in panel.heard.value
    # A clip beyond the window is refused, and the panel stays as it is.
    panel.request.sentence.value = "What is rain made of? " * 20
    assert "the model hears at most 8 s" in panel.runner.message.value
    assert panel.request.title == "again.wav"
    panel.request.upload.value = (file | {"name": "mine.wav", "size": 2},)
    # What cannot be heard is said, and the panel stays as it is.
    silent = wav_bytes(np.zeros(16000, dtype=np.float32))
    panel.request.upload.value = (file | {"name": "silent.wav", "content": memoryview(silent)},)
    assert "silent" in panel.runner.message.value and panel.request.title == "mine.wav"
    panel.request.upload.value = (file | {"name": "no.wav", "content": memoryview(b"nothing")},)
    assert "it is text" in panel.runner.message.value


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
    panel = dial_panel(pocket, load_prompts("test", "everyday")[:1], max_new_tokens=3)
    for setting in (0.0, 1.0):
        panel.dial.value = setting
        assert f"typed, dial at {setting}" in panel.left.value
        assert pocket.safety == 0.6
        assert torch.equal(pocket.model.get_parameter(weight), before)
    fresh = pocket.generate([panel.request.spoken], max_new_tokens=3)
    assert panel.at(0.6)[0]["spoken"][0].text == fresh[0]
    pocket.set_safety(1.0)


def test_gap_explorer_moves_points_and_shows_their_requests(
    tiny: LALM, requests: list[Request], harmless: torch.Tensor
) -> None:
    typed, spoken = harmless[:6], harmless[:6] + 2.0
    panel = gap_explorer(typed, spoken, requests, layer=2, limit=4)
    assert len(panel.points) == 8 and len(panel.prompts) == 4
    assert panel.prompts[0] is requests[0] and panel.prompts[-1] is requests[-1]
    places = [(p.layout.left, p.layout.top) for p in panel.points]
    panel.layer.value = 0
    assert [(p.layout.left, p.layout.top) for p in panel.points] != places
    for point in panel.points:
        for value, size in ((point.layout.left, 640), (point.layout.top, 420)):
            assert 0 <= float(value.removesuffix("px")) <= size - 14
    panel.points[5].click()
    assert "Request number" in panel.words.value and "spoken" in panel.words.value
    assert panel.prompts[1].request in panel.words.value
    assert bytes(panel.player.value)[:4] == b"RIFF"
    panel.points[0].click()
    assert [i for i, p in enumerate(panel.points) if "chosen" in p._dom_classes] == [0]
    with pytest.raises(ValueError, match="need as many"):
        gap_explorer(typed, spoken, requests[:3], layer=2)


def test_safe_space_explorer_removes_what_ablate_removes(
    tiny: LALM, direction: torch.Tensor, harmless: torch.Tensor
) -> None:
    panel = safe_space_explorer(direction, harmless, lalm=tiny, layer=2, k=3)
    panel.lam.value, panel.k.value, panel.layer.value = 0.5, 2, 1
    expected = direction - ablate(direction, principal_space(harmless, 2), 0.5)
    torch.testing.assert_close(panel.removed(), expected, rtol=1e-4, atol=1e-5)
    assert "removed" in panel.view.value and "kept" in panel.view.value
    top = tiny.tokenizer.decode([int(logit_lens(tiny, expected[1]).argmax())])
    assert repr(top).strip("'\"") in text_of(panel.view.value.split("removed")[1])
    panel.k.value = 0
    assert not panel.removed().any() and not panel.runner.message.value.startswith("<b>")


@pytest.fixture(scope="module")
def board() -> OverRefusalBoard:
    long = "Sure, here is how: " + " ".join(f"word{i}" for i in range(40))
    said = {
        ("none", "harmful"): [long, long],
        ("none", "harmless"): ["Rain is water.", "Bread is made of flour."],
        ("strict", "harmful"): ["I'm sorry, but I can't help with that."] * 2,
        ("strict", "harmless"): ["I'm sorry, but I can't help with that.", "I like bread."],
    }
    responses = [
        Response(defence, name, f"{name}-{i}", name, f"Request {i}?", text, 5)
        for (defence, name), texts in said.items()
        for i, text in enumerate(texts)
    ]
    return over_refusal_board(responses, judge_responses(responses, [PhraseJudge()]))


def test_board_counts_and_reads_a_cell(board: OverRefusalBoard) -> None:
    assert board.cells["strict", "harmless"].description == "1 refused, 1 answered of 2"
    board.cells["strict", "harmless"].click()
    assert text_of(board.reading.value).startswith("strict on harmless: 1 refused, 1 answered of 2")
    assert "I like bread." in board.reading.value
    assert board.reading.value.index("refused</b>") < board.reading.value.index("answered</b>")
    assert "<img" in board.plane.value
    board.defences.value = ("none",)
    assert set(board.cells) == {("none", "harmful"), ("none", "harmless")}
    board.sets.value = ("harmless",)
    assert "needs a set of harmful requests" in board.plane.value
    board.defences.value, board.sets.value = ("none", "strict"), ("harmful", "harmless")


def test_board_shows_no_more_than_twenty_words(board: OverRefusalBoard) -> None:
    board.cells["none", "harmful"].click()
    assert "word15" in board.reading.value and "word16" not in board.reading.value
    assert opening_words("a b") == "a b"


def test_board_plays_a_cells_clips_and_says_what_was_heard(
    board: OverRefusalBoard, requests: list[Request]
) -> None:
    said = dict(zip(("harmless-0", "harmless-1"), requests[:2], strict=True))
    prompts = [replace(prompt, id=name) for name, prompt in said.items()]
    heard = {"harmless-0": "request 0", "harmless-1": "something else"}
    panel = over_refusal_board(board.responses, board.outcomes, prompts, heard)
    panel.cells["none", "harmful"].click()
    assert panel._heard.layout.display == "none" and "heard" not in panel.reading.value
    panel.cells["strict", "harmless"].click()
    assert panel._heard.layout.display == "" and len(panel.request.options) == 2
    for name, prompt in said.items():
        panel.request.value = name
        assert bytes(panel.player.value) == wav_bytes(read_clip(prompt.clip))
    [first, second] = panel.reading.value.split("<li")[1:]
    assert "heard: <i>request 0</i>" in first and "heard differently" not in first
    assert "something else" in second and "heard differently" in second
    assert not panel.runner.message.value


def test_board_wants_one_judge_and_every_outcome(board: OverRefusalBoard) -> None:
    with pytest.raises(ValueError, match="no outcome"):
        over_refusal_board(board.responses, board.outcomes.iloc[1:])
    with pytest.raises(ValueError, match="one judge"):
        over_refusal_board(board.responses, board.outcomes.iloc[:0])


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
    with pytest.raises(ValueError, match="takes harmful and benign"):
        threshold_panel({"spoken": {"harmful": np.zeros(0), "harmless": np.zeros(2)}})
