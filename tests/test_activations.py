"""Captured states against transformers' own, padded batches against single prompts, and the
cache."""

import os
import warnings

import pytest
import reference
import torch

from sarsteer_lab.activations import Gathered, activation_store, capture, layer_indices
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import NonFiniteError
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store


def hooks(lalm):
    """Every hook on the model but transformers' own output recorders."""
    found = []
    for name, module in lalm.model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not hook.__module__.startswith("transformers."):
                found.append((name, hook))
    return found


def states_by_hand(lalm, prompt, answer=()):
    """Outputs of layers run by hand on one unpadded prompt and its answer (position layer
    d_model)."""
    inputs = lalm.batch([prompt])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    inputs["input_ids"] = torch.cat([ids, ids.new_tensor([list(answer)])], dim=1)
    inputs["attention_mask"] = torch.cat([mask, mask.new_ones(1, len(answer))], dim=1)
    with torch.no_grad():
        embedded = lalm.core(**inputs, output_hidden_states=True).hidden_states[0]
        return torch.stack([h[0] for h in reference.run_layers(lalm, embedded)], dim=1)


def assert_close(ours, theirs):
    largest = theirs.abs().max().item() if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * largest)


def test_last_states_of_a_padded_batch_are_those_of_single_prompts_by_hand(lalm, prompts):
    states = capture(lalm, prompts)
    assert (
        states.shape == (len(prompts), lalm.n_layers, lalm.d_model)
        and states.dtype == torch.float32
    )
    assert_close(states, torch.stack([states_by_hand(lalm, prompt)[-1] for prompt in prompts]))


def test_layers_but_the_last_are_transformers_hidden_states(tiny, prompts):
    with torch.no_grad():
        theirs = tiny.model(**tiny.batch(prompts[:2]), output_hidden_states=True).hidden_states
    states = capture(tiny, prompts[:2])
    for layer in range(tiny.n_layers - 1):
        assert torch.equal(states[:, layer], theirs[layer + 1][:, -1])
    # transformers' last entry is after the final norm; ours is the layer's output.
    assert not torch.allclose(states[:, -1], theirs[-1][:, -1])
    torch.testing.assert_close(tiny.decoder.norm(states[:, -1]), theirs[-1][:, -1])


def test_other_positions(tiny, prompts):
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    everything = capture(tiny, spoken, positions="all")
    audio = capture(tiny, spoken, positions="audio")
    last = capture(tiny, spoken)
    for i, prompt in enumerate(spoken):
        by_hand = states_by_hand(tiny, prompt)
        assert_close(everything[i], by_hand)
        heard = tiny.batch([prompt])["input_ids"][0] == tiny.audio_token_id
        assert_close(audio[i], by_hand[heard])
        assert torch.equal(last[i], everything[i][-1])


def test_states_of_answers_end_where_the_answers_do(prompts, tmp_path):
    """Of padded prompts, some of whose answers end before others, in any order of layers, and
    kept."""
    lalm, cache = replica(), Store(tmp_path)
    tokens = [next(lalm.decode([prompt], 1, max_new_tokens=6))[1][0].tolist() for prompt in prompts]
    # Ends are taken from the answers themselves: one answer is empty, one ends in the middle.
    ends = [tokens[0][0], tokens[1][3]]
    lalm.core.generation_config.eos_token_id = ends
    lengths = [next((at for at, t in enumerate(answer) if t in ends), 5) for answer in tokens]
    assert len({0, 5} & set(lengths)) == 2 and any(0 < length < 5 for length in lengths)
    found = capture(lalm, prompts, positions="answer", max_new_tokens=5, batch_size=4, cache=cache)
    assert [states.shape for states in found] == [(length, 4, 32) for length in lengths]
    for prompt, answer, states in zip(prompts, tokens, found, strict=True):
        by_hand = states_by_hand(lalm, prompt, answer[: len(states)])
        assert_close(states, by_hand[len(by_hand) - len(states) :])
        [turned] = capture(lalm, [prompt], layers=[3, 1], positions="answer", max_new_tokens=5)
        assert_close(turned, states[:, [3, 1]])
    again = capture(lalm, prompts, positions="answer", max_new_tokens=5, cache=cache)
    assert all(map(torch.equal, again, found))
    shorter = capture(lalm, prompts, positions="answer", max_new_tokens=2, cache=cache)
    assert [len(states) for states in shorter] == [min(length, 2) for length in lengths]


def test_chosen_layers_and_batch_sizes(tiny, prompts):
    states = capture(tiny, prompts)
    assert torch.equal(capture(tiny, prompts, layers=[2, -1]), states[:, [2, 3]])
    assert_close(capture(tiny, prompts, batch_size=1), states)
    assert capture(tiny, []).shape == (0, 4, 32)
    assert capture(tiny, [], positions="all") == []


@pytest.mark.parametrize("layers", [[4], [-5], [1, 1], [3, -1], []])
def test_layers_that_are_not_there(tiny, layers):
    with pytest.raises(ValueError, match="0 to 3"):
        layer_indices(tiny, layers)


def test_positions_that_are_not_there(tiny, prompts):
    with pytest.raises(ValueError, match="prompt 0 has no audio"):
        capture(tiny, prompts, positions="audio")
    with pytest.raises(ValueError, match="choose"):
        capture(tiny, prompts, positions="first")


def test_hooks_go_even_if_the_forward_fails(tiny, prompts, monkeypatch):
    before = hooks(tiny)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny.layers[2].mlp, "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, prompts)
    assert hooks(tiny) == before == []
    assert tiny.now is None


def test_lower_precision_models_give_float32(prompts):
    lalm = replica(dtype=torch.bfloat16)
    states = capture(lalm, prompts)
    assert states.dtype == torch.float32
    assert torch.equal(states, states.bfloat16().float())


@pytest.mark.parametrize("positions", ["last", "audio", "all", "answer"])
def test_states_that_are_not_finite_are_an_error_with_prompt_and_layer(prompts, positions):
    """An overflow in half precision, say; here the second spoken prompt, from layer 2 on."""
    lalm = replica()
    spoken = [prompt for prompt in prompts if prompt.audio is not None]

    def break_one(_module, _args, output):
        if lalm.now is not None and 1 in lalm.now.rows:
            output[list(lalm.now.rows).index(1)] = float("nan")

    handle = lalm.layers[2].register_forward_hook(break_one)
    runs = [lambda: capture(lalm, spoken, positions=positions, max_new_tokens=2)]
    if positions == "last":
        runs += [lambda: lalm.generate(spoken), lambda: lalm.generate(spoken, num_beams=2)]
        runs += [lambda: lalm.next_token_logits(spoken)]
    for run in runs:
        with pytest.raises(
            NonFiniteError, match="prompt 1: its states from layer 2 on are not finite"
        ):
            run()
        assert lalm.now is None
    handle.remove()
    assert hooks(lalm) == []


def test_logits_that_alone_are_not_finite_are_an_error_too(prompts):
    lalm = replica()
    with torch.no_grad():
        lalm.core.get_output_embeddings().weight[5] = float("inf")
    with pytest.raises(NonFiniteError, match="prompt 2: its logits are not finite"):
        # The first batch holds the longest prompt.
        lalm.next_token_logits(prompts, batch_size=1)


def test_a_batch_that_is_kept_ready_names_what_is_not_finite(prompts):
    lalm = replica()
    ready = PreparedBatch(lalm, prompts)
    vectors = torch.zeros(lalm.n_layers, lalm.d_model)
    vectors[2] = torch.finfo(torch.float32).max
    for run in (lambda: ready.generate(2), lambda: ready.states([3, 2]), lambda: ready.after(())):
        alpha = [0.0] * 3 + [3.4] + [0.0] * 2
        with (
            steer(lalm, SteeringVectors(vectors), alpha),
            pytest.raises(NonFiniteError, match="prompt 3.*layer 2"),
        ):
            run()


def test_cache_reads_what_it_wrote(tiny, prompts, tmp_path, monkeypatch):
    cache = Store(tmp_path)
    first = capture(tiny, prompts[:4], cache=cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    grown = capture(tiny, prompts, cache=cache)
    assert torch.equal(grown[:4], first)

    def fail(*args, **kwargs):
        raise AssertionError("computed although cached")

    monkeypatch.setattr(tiny.trunk, "forward", fail)
    assert torch.equal(capture(tiny, prompts[::-1], cache=cache), grown.flip(0))


def test_ragged_states_are_cached_too(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    first = capture(tiny, prompts, positions="all", cache=cache)
    again = capture(tiny, prompts, positions="all", cache=cache)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_kept_states_are_found_for_the_same_layers_positions_and_clips_only(
    tiny, make_clip, tmp_path
):
    cache, clip = Store(tmp_path), make_clip(1.0)
    other = clip.copy()
    other[-1] += 1e-3

    def lacks(lalm, prompt, layers=(0, 1), positions="last"):
        return bool(Gathered(lalm, [prompt], layers, positions, cache).missing)

    capture(tiny, [Prompt("Hi", clip)], layers=[0, 1], cache=cache)
    assert not lacks(replica(), Prompt("Hi", clip.copy()))
    assert lacks(tiny, Prompt("Hi", clip), layers=(1, 0)) and lacks(
        tiny, Prompt("Hi", clip), layers=(0,)
    )
    assert lacks(tiny, Prompt("Hi", clip), positions="all") and lacks(tiny, Prompt("Hi", other))
    assert lacks(replica(seed=1), Prompt("Hi", clip))


def test_layers_in_any_order(tiny, prompts):
    last, ragged = capture(tiny, prompts), capture(tiny, prompts, positions="all")
    assert torch.equal(capture(tiny, prompts, layers=[3, 1]), last[:, [3, 1]])
    for turned, straight in zip(
        capture(tiny, prompts, layers=[3, 1], positions="all"), ragged, strict=True
    ):
        assert torch.equal(turned, straight[:, [3, 1]])


def test_damaged_entries_are_computed_again_with_a_warning(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    first = capture(tiny, prompts, cache=cache)
    damaged = sorted(tmp_path.rglob("*.safetensors"))[:3]
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[:-7])
    damaged[2].write_bytes(os.urandom(200))
    with pytest.warns(UserWarning, match="is damaged"):
        assert_close(capture(tiny, prompts, cache=cache), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(tiny, prompts, cache=cache)
    assert not list(tmp_path.rglob("*.tmp"))


def test_steered_states_are_neither_written_nor_read(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    plain = capture(tiny, prompts, cache=cache)
    vectors = SteeringVectors(torch.ones(tiny.n_layers, tiny.d_model))
    with steer(tiny, vectors, alpha=0.5):
        steered = capture(tiny, prompts, cache=cache)
    assert not torch.allclose(steered, plain)
    assert torch.equal(capture(tiny, prompts, cache=cache), plain)


def test_one_flipped_bit_has_a_state_computed_again(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    plain = capture(tiny, prompts, cache=cache)
    path = min(tmp_path.rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="computed again"):
        again = capture(tiny, prompts, cache=cache)
    assert_close(again, plain)
    assert torch.equal(capture(tiny, prompts, cache=cache), again)


def test_states_of_an_edited_model_are_not_those_that_were_kept(prompts, tmp_path):
    """As by weight orthogonalisation: the weight's version does not move."""
    lalm, cache = replica(), Store(tmp_path)
    plain = capture(lalm, prompts, cache=cache)
    weight = lalm.layers[0].mlp.down_proj.weight
    weight.data = weight.data * 2
    assert not torch.allclose(capture(lalm, prompts, cache=cache), plain)
    weight.data.div_(2)
    assert torch.equal(capture(lalm, prompts, cache=cache), plain)


def test_the_store_of_states_lies_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path))
    assert activation_store().folder == tmp_path / "activations"
