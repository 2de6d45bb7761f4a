"""Refusal probabilities after patching: those of prompts read one by one under raw hooks."""

import pytest
import torch
from replicas import replica

from sarsteer_lab.activations import capture_positions
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.patched import (
    patched_refusal_probabilities,
    patched_refusal_probability,
)
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.heads import Head
from sarsteer_lab.patching import Patch
from sarsteer_lab.steering import steer


def some_states(lalm, n=1, seed=0, size=2.0):
    return size * torch.randn(n, lalm.d_model, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_hand(lalm, prompt, patches, openings):
    """All openings' tokens behind the prompt, each sequence in a pass of its own, without a
    cache."""

    def hook(one):
        def overwrite(_module, _args, output):
            for place, position in enumerate(one.positions):
                at = position if position >= 0 else n_prompt + position
                state = one.states[place if len(one.states) > 1 else 0]
                output[0, at] = output[0, at] + state if one.added else state

        return overwrite

    def taken_off(one):
        """What the weights' columns of a head give, from the prompt's last position on."""

        def subtract(projection, args, output):
            size = projection.in_features // 4
            columns = slice(one.head * size, (one.head + 1) * size)
            read = args[0][0, n_prompt - 1 :, columns]
            output[0, n_prompt - 1 :] -= read @ projection.weight[:, columns].T

        return subtract

    batch = lalm.batch([prompt], [0])
    n_prompt = batch.inputs["input_ids"].shape[1]
    handles = []
    for one in patches:
        if isinstance(one, Head):
            projection = lalm.layers[one.layer].self_attn.o_proj
            handles.append(projection.register_forward_hook(taken_off(one)))
        else:
            handles.append(lalm.layers[one.layer].register_forward_hook(hook(one)))
    total = 0.0
    for opening in openings:
        tokens = lalm.tokenizer(opening, add_special_tokens=False)["input_ids"]
        inputs = dict(batch.inputs)
        ids = torch.tensor([tokens])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = torch.cat([mask, mask.new_ones(ids.shape)], dim=1)
        logits = lalm.core(**inputs, use_cache=False).logits[0, n_prompt - 1 : -1].float()
        chosen = logits.log_softmax(-1)[range(len(tokens)), tokens]
        total += float(chosen.sum().exp())
    for handle in handles:
        handle.remove()
    return total


def test_variants_are_those_of_raw_hooks_and_no_cache(tiny, prompts):
    [prompt] = tiny.encode([prompts[1]])
    likely = tiny.next_token_logits([prompt])[0].topk(2).indices.tolist()
    first, second = (tiny.tokenizer.decode([token]) for token in likely)
    openings = [first, second + first, second + "no"]
    last = tiny.n_layers - 1
    variants = [
        [],
        [Patch(last, [-1], some_states(tiny))],
        [Patch(1, [-1], some_states(tiny, seed=1), added=True)],
        [Patch(0, [12, 13, 14], some_states(tiny, 3))],
        [Patch(1, range(8, 20), some_states(tiny, seed=2)), Patch(2, [-1], some_states(tiny))],
        [Head(0, 1)],
        [Head(1, 2), Head(3, 0), Patch(1, [-1], some_states(tiny), added=True)],
        [Head(2, 2), Patch(0, [12, 13, 14], some_states(tiny, 3, seed=3))],
    ]
    found = patched_refusal_probability(tiny, prompt, variants, openings)
    expected = torch.tensor([by_hand(tiny, prompt, patches, openings) for patches in variants])
    assert expected.max() > 0.2 and len(set(expected.round(decimals=3).tolist())) == len(variants)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    plain = refusal_probability(PreparedBatch(tiny, [prompt]), openings)
    torch.testing.assert_close(found[:1], plain, rtol=1e-3, atol=0.004)


@pytest.mark.parametrize("name", ["qwen2_audio", "granite_speech"])
def test_prompts_together_are_as_one_by_one(name, prompts, monkeypatch):
    """Of unequal length and number of variants; in families that keep some prompts apart, too."""
    lalm = replica(name)
    asked = lalm.encode([prompts[0], prompts[1], prompts[5], prompts[4]])
    likely = lalm.next_token_logits(asked).topk(2).indices.flatten().tolist()
    openings = [lalm.tokenizer.decode([token]) for token in likely]
    variants = []
    for number in range(len(asked)):
        own = some_states(lalm, seed=number)
        sets = [[], [Patch(1, [-1], own)], [Head(0, number)], [Patch(0, [3, 4], own, added=True)]]
        variants.append(sets[: number + 1])
    monkeypatch.setattr("sarsteer_lab.engine.patched.LAST_ROWS", 6)
    found = patched_refusal_probabilities(lalm, asked, variants, openings)
    assert [len(values) for values in found] == [1, 2, 3, 4]
    for prompt, sets, values in zip(asked, variants, found, strict=True):
        for changes, value in zip(sets, values, strict=True):
            [alone] = patched_refusal_probability(lalm, prompt, [changes], openings)
            assert float(value) == pytest.approx(float(alone), rel=1e-3, abs=1e-4)
    assert len({round(float(value), 3) for value in found[3]}) == 4


def test_its_own_states_and_those_of_a_push(pocket_or_tiny, prompts):
    """Its own states change nothing; a patch that adds is what `steer` adds at the prompt's end."""
    lalm = pocket_or_tiny
    [prompt] = lalm.encode([prompts[1]])
    [states] = capture_positions(lalm, [prompt])
    layer, every = lalm.n_layers // 2, range(len(states))
    vectors = torch.zeros(lalm.n_layers, lalm.d_model)
    vectors[layer] = some_states(lalm)[0]
    ready = PreparedBatch(lalm, [prompt])
    plain, first = refusal_probability(ready, negligible=0.0), ready.next_token_logits()
    with steer(lalm, vectors, 1.0):
        assert not torch.equal(ready.next_token_logits(), first)
    own = [Patch(layer, every, states[:, layer])]
    [at_last] = patched_refusal_probability(lalm, prompt, [[Patch(layer, [-1], states[-1, layer])]])
    [everywhere] = patched_refusal_probability(lalm, prompt, [own])
    found = torch.stack([at_last, everywhere])
    torch.testing.assert_close(found, plain.repeat(2), rtol=1e-3, atol=1e-4)


@pytest.fixture(
    params=["tiny", pytest.param("pocket", marks=[pytest.mark.pocket, pytest.mark.late])]
)
def pocket_or_tiny(request):
    return request.getfixturevalue(request.param)


def test_a_family_that_cannot_go_on_is_refused(prompts):
    lalm = replica("gemma3n")
    [prompt] = lalm.encode([prompts[1]])
    with pytest.raises(ValueError, match="cannot go on"):
        patched_refusal_probability(lalm, prompt, [[]])
