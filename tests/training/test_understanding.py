"""What the training of the understanding delta hears, and how it compares."""

import torch

from training import DATA
from training.corpus import PromptIndex
from training.safety import read_safety_prompts
from training.understanding.losses import ranking
from training.understanding.sentences import in_turn, requests, shipped_texts


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


def test_requests_come_in_turn_until_the_longest_label_is_through():
    known, _ = requests()
    turns = in_turn(known, {"harmful": 4, "harmless": 3}, seed=0)
    assert [request.label for request in turns[:7]] == ["harmful"] * 4 + ["harmless"] * 3
    harmless = {request.text for request in known if request.label == "harmless"}
    assert len(harmless & {request.text for request in turns}) >= len(harmless) - 2


def test_the_ranking_loss_asks_for_order_and_not_for_readiness():
    harmful = torch.tensor([True, False, True, False])
    right = torch.tensor([3.0, -3.0, 2.0, -2.0])
    assert ranking(right, harmful) < 0.01
    torch.testing.assert_close(ranking(right + 7, harmful), ranking(right, harmful))
    assert ranking(-right, harmful) > 4
