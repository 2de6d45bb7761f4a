"""What the training of spoken safety hears, what it holds clips to, and that it goes on."""

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from sarsteer_lab.pocket.soft_tokens import Context
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import load_prompts
from training import DATA
from training.corpus import PromptIndex
from training.ctc import TokenHead, greedy_tokens
from training.safety import read_safety_prompts
from training.understanding.held_out import held_out_requests
from training.understanding.learn import BATCH, Learning, heard_requests
from training.understanding.sentences import SHARES, request_stream, requests, shipped_texts
from training.understanding.student import Student
from training.understanding.tables import BEGIN, CARD, END, MEASURED, card_section
from training.understanding.yardstick import SETTINGS


def test_nothing_close_to_a_shipped_prompt_is_heard_though_some_typed_prompts_are():
    shipped = PromptIndex(shipped_texts())
    records = read_safety_prompts(DATA / "safety_prompts.jsonl")
    assert any(shipped.match(record["text"]) is not None for record in records)
    known, apart = requests()
    assert all(shipped.match(request.text) is None for request in known + apart)


def test_requests_kept_apart_are_not_trained_on():
    known, apart = requests()
    assert {request.label for request in apart} >= {"harmful", "harmless"}
    assert not {request.text for request in known} & {request.text for request in apart}


def test_nobody_hears_a_request_kept_apart_and_benign_streams_no_harmful_one():
    known, apart = requests()
    stream = request_stream(tuple(SHARES))
    heard = {request.text for request in stream}
    assert heard <= {request.text for request in known}
    assert not heard & {request.text for request in apart}
    counts = Counter(request.label for request in stream[:200])
    assert counts == {label: 10 * share for label, share in SHARES.items()}
    benign = request_stream([label for label in SHARES if label != "harmful"])
    assert not {request.text for request in known if request.label == "harmful"} & {
        request.text for request in benign
    }
    assert stream == request_stream(tuple(SHARES))


def test_runs_are_read_once_and_silence_is_not():
    head = TokenHead(torch.eye(8), Counter([5, 7]), blank_token=0)

    def read(tokens):
        symbols = [head.index.get(token, 0) for token in tokens]
        return greedy_tokens(torch.eye(3)[symbols].log(), head)

    assert read([-1, 5, 5, -1, 5, 7, 7]) == [5, 5, 7]
    assert read([-1, -1]) == []


@pytest.fixture
def student():
    return Student(replica("qwen2_audio"))


def test_first_tokens_are_those_of_the_whole_model(student):
    """Behind the cached beginning as in one forward over the whole chat."""
    lm, frame = student.lm, student.frame
    texts = ["Bake a loaf of bread.", "Sing."]
    log_probs = student.typed(texts)
    for text, ready in zip(texts, log_probs, strict=True):
        tokens = [*frame.typed_before, *student.tokens(text), *frame.typed_after]
        hidden = lm.model(torch.tensor([tokens])).last_hidden_state[0, -1]
        torch.testing.assert_close(ready, lm.lm_head(hidden).log_softmax(-1), rtol=1e-4, atol=1e-4)


def spoken(student, texts, generator):
    """Requests as if a clip said noise."""
    width = student.lm.get_input_embeddings().weight.shape[1]
    readings = []
    for _ in texts:
        mixture = torch.randn(9, width, generator=generator) * 0.1
        readings.append((mixture, torch.rand(9, 1, generator=generator)))
    return heard_requests(student, texts, readings)


def test_losses_are_nothing_where_the_clip_says_the_tokens_themselves(student, tmp_path, compared):
    texts = ["Bake a loaf of bread.", "Sing a song.", "Name a fruit."]
    readings = []
    for text in texts:
        embedded = student.embed(student.tokens(text)).detach()
        readings.append((embedded, torch.zeros(len(embedded), 1)))
    requests = heard_requests(student, texts, readings)
    losses = Learning(student, requests, tmp_path, seed=0).losses(requests)
    assert all(value.item() < 1e-3 for value in losses.values()), losses


def test_a_run_that_was_stopped_goes_on_and_learns(student, tmp_path, compared):
    generator = torch.Generator().manual_seed(0)
    requests = spoken(student, [f"Count to {number}." for number in range(BATCH)], generator)
    learning = Learning(student, requests, tmp_path, seed=0)
    steps = [learning.step(0.0) for _ in range(30)]
    assert steps[-1]["states"] < 0.9 * steps[0]["states"]
    learning.save()
    later = Learning(student, requests, tmp_path, seed=0)
    assert later.progress == learning.progress
    for mine, theirs in zip(later.context.parameters(), learning.context.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    shipped = load_file(tmp_path / "spoken_safety.safetensors")
    assert set(shipped) == set(Context(4).state_dict())


@pytest.fixture
def compared(monkeypatch):
    """The replica has fewer layers than the pocket model."""
    monkeypatch.setattr("training.understanding.learn.COMPARED", (1, 3))


def test_the_last_checks_requests_are_near_none_that_is_shipped_or_spoken_in_training():
    known, apart = requests()
    others = PromptIndex([*shipped_texts(), *(request.text for request in known + apart)])
    held_out = held_out_requests()
    assert Counter(request.label for request in held_out) == {"harmful": 60, "harmless": 60}
    assert len({request.text for request in held_out}) == 120
    assert [request.text for request in held_out if others.match(request.text)] == []


def test_the_cards_tables_are_those_of_what_was_measured():
    prompts = load_prompts("validation") + load_prompts("test")
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    card = CARD.read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{card_section(found, prompts)}\n\n{END}" in card
    for form in ("spoken", "typed"):
        assert all(len(found[f"dials {s}"][form]) == len(prompts) for s in SETTINGS)
