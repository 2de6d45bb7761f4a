"""What the training of the understanding delta hears, where it hears words, and how it compares."""

import itertools
from collections import Counter

import numpy as np
import torch

from training import DATA
from training.corpus import PromptIndex
from training.ctc import TokenHead, greedy_tokens
from training.safety import read_safety_prompts
from training.understanding.alignment import best_path
from training.understanding.losses import Aim, Spread, Words, distances, moved
from training.understanding.sentences import benign_stream, requests, shipped_texts


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


def test_alignment_hears_no_harmful_request_and_none_kept_apart():
    known, apart = requests()
    stream = benign_stream()
    heard = {sentence.text for sentence in stream}
    assert not heard & {request.text for request in apart}
    assert not heard & {request.text for request in known if request.label == "harmful"}
    assert {sentence.label for sentence in stream} == {
        "harmless",
        "pseudo-harmful",
        "everyday",
        "open",
    }
    assert stream == benign_stream()


def collapsed(path):
    """What CTC reads in a path: runs once, then no blanks."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_the_best_path_is_the_best_of_all_that_say_the_labels():
    """Every path of five frames over blank and two symbols is tried."""
    draw = np.random.default_rng(0)
    for labels in ([1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 2]):
        for _ in range(10):
            log_probs = np.log(draw.dirichlet(np.ones(3), size=5))
            best = best_path(log_probs, labels)
            saying = [
                path for path in itertools.product(range(3), repeat=5) if collapsed(path) == labels
            ]
            scores = [log_probs[range(5), path].sum() for path in saying]
            assert collapsed(best) == labels
            assert np.isclose(log_probs[range(5), best].sum(), max(scores))


def test_a_clip_too_short_for_its_words_has_no_path():
    assert best_path(np.zeros((1, 3)), [1, 2]) is None
    assert best_path(np.zeros((2, 3)), [1, 1]) is None
    assert best_path(np.zeros((3, 3)), [1, 1]) == [1, 0, 1]
    assert best_path(np.zeros((3, 3)), []) is None


def test_runs_are_read_once_and_silence_is_not():
    head = TokenHead(torch.eye(8), Counter([5, 7]), blank_token=0)

    def read(tokens):
        symbols = [head.index.get(token, 0) for token in tokens]
        return greedy_tokens(torch.eye(3)[symbols].log(), head)

    assert read([-1, 5, 5, -1, 5, 7, 7]) == [5, 5, 7]
    assert read([-1, -1]) == []


def aim_of(sentence, behind, draw):
    length = len(sentence.path)
    tokens = sum(token >= 0 for token in sentence.path)
    return Aim(
        torch.randn(2, length + behind, 6, generator=draw),
        torch.randn(2, tokens + behind, 6, generator=draw),
    )


def test_distances_are_nothing_at_the_aim_and_two_between_strangers():
    draw = torch.Generator().manual_seed(0)
    behind = 4
    path = [5, -1, 7, -1] * 50
    sentence = Words("a", torch.zeros(len(path), 6), path)
    aims = [aim_of(sentence, behind, draw) for _ in range(400)]
    spread = Spread.of(aims, behind)
    aim, stranger = aims[0], aims[1]
    at_aim = torch.cat([aim.at_frames[:, : len(path)], aim.in_order[:, -behind:]], 1)
    in_clip, after = distances(at_aim, sentence, aim, spread)
    assert in_clip.abs().max() == 0 and after.abs().max() == 0
    other = torch.cat([stranger.at_frames[:, : len(path)], stranger.in_order[:, -behind:]], 1)
    in_clip, after = distances(other, sentence, aim, spread)
    assert (in_clip - 2).abs().max() < 0.4 and 0.3 < after.min() and after.max() < 5
    assert moved(aim.at_frames, aim.at_frames, spread) == 0


def test_frames_that_say_something_count_most():
    sentence = Words("a", torch.zeros(3, 6), [5, -1, -1])
    weights = sentence.weights
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert weights[0] > weights[1] + weights[2]
