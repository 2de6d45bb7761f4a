"""The bridge to TransformerLens against the model itself, with audio."""

import importlib.util
import subprocess
from functools import cache, partial
from importlib.metadata import entry_points

import pytest
import torch
from replicas import replica
from transformer_lens.model_bridge.sources.transformers import helpers

from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.lens import bridge_inputs, to_transformer_lens
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors, steer

NATIVE = ("qwen2_audio", "audioflamingo3", "musicflamingo", "gemma4")
OURS = ("voxtral", "granite_speech", "qwen2_5_omni", "phi4_multimodal")

load = cache(replica)


@cache
def bridge_to(family: str):
    return to_transformer_lens(load(family))


@pytest.fixture(params=[*NATIVE, *OURS])
def family(request) -> str:
    return request.param


def batch(lalm: LALM, prompts: list[Prompt]) -> list[Prompt]:
    """Typed and spoken prompts together where the family may mix them, else one spoken prompt."""
    return prompts if lalm.family.mixes else [prompts[1]]


@torch.no_grad()
def test_logits_and_states_are_the_models_own(family, prompts):
    lalm, bridge = load(family), bridge_to(family)
    some = batch(lalm, prompts)
    ids, rest = bridge_inputs(lalm, some)
    logits, kept = bridge.run_with_cache(ids, **rest)
    torch.testing.assert_close(logits[:, -1], lalm.next_token_logits(some), rtol=0, atol=1e-4)
    states = capture(lalm, some)
    for layer in range(lalm.n_layers):
        theirs = kept[f"blocks.{layer}.hook_resid_post"][:, -1]
        torch.testing.assert_close(
            theirs, states[:, layer], rtol=0, atol=1e-5 * states.abs().max().item()
        )
    # With another clip of the same length the logits are others: the audio is heard through the
    # bridge.
    spoken = some[-1]
    other = Prompt(spoken.text, spoken.audio[::-1].copy())
    ids, rest = bridge_inputs(lalm, [other])
    assert (bridge(ids, **rest)[0, -1] - logits[-1, -1]).abs().max() > 1e-3


@torch.no_grad()
def test_steered_generation_is_the_same_through_both_paths(family, prompts):
    lalm, bridge = load(family), bridge_to(family)
    vectors = SteeringVectors(
        torch.randn(lalm.n_layers, lalm.d_model, generator=torch.Generator().manual_seed(5))
    )
    prompt, alpha, steps = prompts[1], 2.0, 4
    ids, rest = bridge_inputs(lalm, [prompt])
    tokens = []
    end = ids.shape[1] - 1

    def add(stream, hook, vector):
        stream = stream.clone()
        stream[:, end:] += alpha * vector
        return stream

    hooks = [
        (f"blocks.{layer}.hook_out", partial(add, vector=vectors[layer]))
        for layer in vectors.layers
    ]
    for _ in range(steps):
        token = bridge.run_with_hooks(ids, fwd_hooks=hooks, **rest)[:, -1:].argmax(-1)
        tokens.append(int(token))
        ids = torch.cat([ids, token], dim=1)
        for name, filler in {
            "attention_mask": 1,
            "token_type_ids": 0,
            "mm_token_type_ids": 0,
        }.items():
            if name in rest:
                rest[name] = torch.cat([rest[name], torch.full_like(token, filler)], dim=1)
    with steer(lalm, vectors, alpha=alpha):
        answer = lalm.generate([prompt], max_new_tokens=steps, eos_token_id=-1)[0]
    assert answer == lalm.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert answer != lalm.generate([prompt], max_new_tokens=steps, eos_token_id=-1)[0]


def test_the_model_is_left_as_it_was_and_its_weights_are_shared(prompts):
    lalm = replica()
    before, logits = lalm.fingerprint(), lalm.next_token_logits(prompts)
    modules = [type(module) for module in lalm.model.modules()]
    bridge = to_transformer_lens(lalm)
    assert lalm.fingerprint() == before and torch.equal(lalm.next_token_logits(prompts), logits)
    assert [type(module) for module in lalm.model.modules()] == modules
    assert lalm.text_config._attn_implementation == "sdpa"
    ours = {weight.data_ptr() for weight in lalm.model.parameters()}
    theirs = {weight.data_ptr() for weight in bridge.original_model.parameters()}
    assert ours <= theirs


def test_nothing_is_installed(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError(f"ran {args}")

    for name in ("check_call", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, fail)
    ensure = helpers._ensure_torchvision
    to_transformer_lens(load("qwen2_audio"))
    assert helpers._ensure_torchvision is ensure, "put back"


def test_what_cannot_be_bridged_is_said():
    with pytest.raises(
        ValueError, match="no adapter for Qwen3OmniMoeThinkerForConditionalGeneration"
    ):
        to_transformer_lens(load("qwen3_omni"))
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(ImportError, match="timm"):
            to_transformer_lens(load("gemma3n"))


def test_our_adapters_are_declared_to_transformer_lens():
    declared = {entry.name: entry for entry in entry_points(group="transformer_lens.architectures")}
    for family in OURS:
        name = type(load(family).core).__name__
        assert declared[name].load().__module__ == "sarsteer_lab.probe.lens_adapters"


@pytest.mark.pocket
@torch.no_grad()
def test_the_pocket_model_is_bridged(pocket, prompts):
    bridge = to_transformer_lens(pocket)
    ids, rest = bridge_inputs(pocket, prompts[:3])
    torch.testing.assert_close(
        bridge(ids, **rest)[:, -1], pocket.next_token_logits(prompts[:3]), rtol=0, atol=1e-4 * 30
    )
