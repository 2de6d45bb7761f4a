"""Encoded clips are kept: the tower runs once per clip and weights, and nothing else changes."""

import numpy as np
import pytest
import torch
from replicas import replica

from sarsteer_lab.activations import capture
from sarsteer_lab.engine import audio_cache
from sarsteer_lab.engine.audio_cache import forget_clips, remember_clips
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt

KEPT = ("qwen2_audio", "qwen2_5_omni", "qwen3_omni", "voxtral", "audioflamingo3", "granite_speech")


@pytest.fixture(params=KEPT)
def lalm(request) -> LALM:
    model = replica(request.param)
    assert remember_clips(model) is remember_clips(model)
    return model


def without_memory(lalm: LALM, prompts: list[Prompt]) -> torch.Tensor:
    fresh = replica(lalm.family.name)
    return torch.cat([fresh.next_token_logits([prompt]) for prompt in prompts])


def test_no_clip_is_encoded_twice(lalm, prompts):
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    first = lalm.next_token_logits(prompts)
    assert remember_clips(lalm).encoded == len(spoken)
    lalm.generate(prompts[::-1], max_new_tokens=3)
    again = lalm.next_token_logits([*prompts[::-1], Prompt("Another text.", spoken[0].audio)])
    assert remember_clips(lalm).encoded == len(spoken)
    torch.testing.assert_close(again[:-1].flip(0), first, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(
        again,
        without_memory(lalm, [*prompts[::-1], Prompt("Another text.", spoken[0].audio)]),
        rtol=1e-5,
        atol=5e-5,
    )


@pytest.mark.parametrize("family", ["voxtral", "audioflamingo3"])
def test_clips_longer_than_a_window(family, make_clip):
    """Their features come one row per window, alone and batched, up to what the family hears."""
    lalm = replica(family)
    lengths = (8.5, 1.0, lalm.max_audio_seconds or 20.0, 16.1)
    prompts = [Prompt("x", make_clip(seconds, seed)) for seed, seconds in enumerate(lengths)]
    alone = [capture(lalm, [prompt]) for prompt in prompts]
    memory = remember_clips(lalm)
    for _ in range(2):
        torch.testing.assert_close(capture(lalm, prompts), torch.cat(alone), rtol=1e-5, atol=2e-4)
    windows = sum(-(-len(prompt.audio) // (8 * 16000)) for prompt in prompts)
    assert memory.encoded == windows
    for prompt, states in zip(prompts, alone, strict=True):
        torch.testing.assert_close(capture(lalm, [prompt]), states, rtol=1e-5, atol=2e-4)
    assert memory.encoded == windows


def test_forgotten_clips_run_again(prompts):
    lalm = replica()
    forget_clips(lalm)  # nothing is remembered yet
    memory = remember_clips(lalm)
    lalm.next_token_logits(prompts)
    before = memory.encoded
    forget_clips(lalm)
    lalm.next_token_logits(prompts)
    assert memory.encoded == 2 * before
    assert remember_clips(replica("gemma4")) is None


def test_only_new_clips_run(lalm, prompts, make_clip):
    lalm.next_token_logits(prompts)
    before = remember_clips(lalm).encoded
    mixed = [prompts[1], Prompt("And this?", make_clip(1.1, 77)), prompts[2], prompts[0]]
    found = lalm.next_token_logits(mixed)
    assert remember_clips(lalm).encoded == before + 1
    torch.testing.assert_close(found, without_memory(lalm, mixed), rtol=1e-5, atol=5e-5)


def test_other_weights_and_hooks_get_what_they_would_without_memory(prompts):
    lalm = replica()
    remember_clips(lalm)
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
    weight.data = weight.data / 1.5  # which no counter of versions sees
    torch.testing.assert_close(lalm.next_token_logits(spoken), plain, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_tower(prompts):
    lalm = replica()
    remember_clips(lalm)
    lalm.next_token_logits(prompts)
    inputs = lalm.inputs([prompts[1]])
    lalm.core(**inputs).logits[0, -1, 0].backward()
    assert lalm.trunk.audio_tower.conv1.weight.grad.abs().max() > 0


def test_what_was_not_used_for_longest_goes_first(monkeypatch, make_clip):
    lalm = replica()
    remember_clips(lalm)
    clips = [make_clip(1.0, seed) for seed in range(4)]
    lalm.next_token_logits([Prompt("a", clips[0])])
    one = remember_clips(lalm).nbytes
    monkeypatch.setattr(audio_cache, "BUDGET", 2 * one)
    for clip in (clips[1], clips[0], clips[2]):  # 1 is the oldest when 2 comes
        lalm.next_token_logits([Prompt("a", clip)])
    encoded = remember_clips(lalm).encoded
    lalm.next_token_logits([Prompt("b", clips[0])])
    lalm.next_token_logits([Prompt("b", clips[2])])
    assert remember_clips(lalm).encoded == encoded
    lalm.next_token_logits([Prompt("b", clips[1])])
    assert remember_clips(lalm).encoded == encoded + 1


def test_a_batch_larger_than_the_budget_still_runs(monkeypatch, make_clip):
    lalm = replica()
    remember_clips(lalm)
    prompts = [Prompt("a", make_clip(1.0, seed)) for seed in range(3)]
    plain = lalm.next_token_logits(prompts)
    monkeypatch.setattr(audio_cache, "BUDGET", 1)
    lalm = replica()
    remember_clips(lalm)
    assert torch.equal(lalm.next_token_logits(prompts), plain)
    assert np.isfinite(plain).all()
