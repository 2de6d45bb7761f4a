"""Encoded clips are kept: the tower runs once per clip and weights, and nothing else changes."""

import numpy as np
import pytest
import torch
from replicas import replica

from sarsteer_lab.engine import audio_cache
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt

KEPT = ("qwen2_audio", "qwen2_5_omni", "qwen3_omni", "voxtral", "audioflamingo3", "granite_speech")


@pytest.fixture(params=KEPT)
def lalm(request) -> LALM:
    return replica(request.param)


def without_memory(lalm: LALM, prompts: list[Prompt]) -> torch.Tensor:
    fresh = replica(lalm.family.name)
    return torch.cat([fresh.next_token_logits([prompt]) for prompt in prompts])


def test_no_clip_is_encoded_twice(lalm, prompts):
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    first = lalm.next_token_logits(prompts)
    assert lalm.audio_cache.encoded == len(spoken)
    lalm.generate(prompts[::-1], max_new_tokens=3)
    again = lalm.next_token_logits([*prompts[::-1], Prompt("Another text.", spoken[0].audio)])
    assert lalm.audio_cache.encoded == len(spoken)
    torch.testing.assert_close(again[:-1].flip(0), first, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(
        again,
        without_memory(lalm, [*prompts[::-1], Prompt("Another text.", spoken[0].audio)]),
        rtol=1e-5,
        atol=5e-5,
    )


def test_only_new_clips_run(lalm, prompts, make_clip):
    lalm.next_token_logits(prompts)
    before = lalm.audio_cache.encoded
    mixed = [prompts[1], Prompt("And this?", make_clip(1.1, 77)), prompts[2], prompts[0]]
    found = lalm.next_token_logits(mixed)
    assert lalm.audio_cache.encoded == before + 1
    torch.testing.assert_close(found, without_memory(lalm, mixed), rtol=1e-5, atol=5e-5)


def test_other_weights_and_hooks_get_what_they_would_without_memory(prompts):
    lalm = replica()
    spoken = [prompts[1], prompts[2]]
    plain = lalm.next_token_logits(spoken)
    tower = lalm.trunk.audio_tower
    handle = tower.layers[0].register_forward_hook(lambda _m, _a, out: 2 * out)
    hooked = lalm.next_token_logits(spoken)
    handle.remove()
    assert (hooked - plain).abs().max() > 1e-4
    assert torch.equal(lalm.next_token_logits(spoken), plain)
    weight = tower.conv1.weight
    with torch.no_grad():
        weight.mul_(1.5)
    changed = lalm.next_token_logits(spoken)
    assert (changed - plain).abs().max() > 1e-4
    with torch.no_grad():
        weight.div_(1.5)
    torch.testing.assert_close(lalm.next_token_logits(spoken), plain, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_tower(prompts):
    lalm = replica()
    lalm.next_token_logits(prompts)
    inputs = lalm.batch([prompts[1]])
    lalm.core(**inputs).logits[0, -1, 0].backward()
    assert lalm.trunk.audio_tower.conv1.weight.grad.abs().max() > 0


def test_what_was_not_used_for_longest_goes_first(monkeypatch, make_clip):
    lalm = replica()
    clips = [make_clip(1.0, seed) for seed in range(4)]
    lalm.next_token_logits([Prompt("a", clips[0])])
    one = next(iter(lalm.audio_cache._kept.values()))[0].nbytes
    monkeypatch.setattr(audio_cache, "BUDGET", 2 * one)
    for clip in (clips[1], clips[0], clips[2]):  # 1 is the oldest when 2 comes
        lalm.next_token_logits([Prompt("a", clip)])
    encoded = lalm.audio_cache.encoded
    lalm.next_token_logits([Prompt("b", clips[0])])
    lalm.next_token_logits([Prompt("b", clips[2])])
    assert lalm.audio_cache.encoded == encoded
    lalm.next_token_logits([Prompt("b", clips[1])])
    assert lalm.audio_cache.encoded == encoded + 1


def test_a_batch_larger_than_the_budget_still_runs(monkeypatch, make_clip):
    lalm = replica()
    prompts = [Prompt("a", make_clip(1.0, seed)) for seed in range(3)]
    plain = lalm.next_token_logits(prompts)
    monkeypatch.setattr(audio_cache, "BUDGET", 1)
    lalm = replica()
    assert torch.equal(lalm.next_token_logits(prompts), plain)
    assert np.isfinite(plain).all()
