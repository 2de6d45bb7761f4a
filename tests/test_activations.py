"""Captured states against transformers' own, and padded batches against single prompts."""

import pytest
import reference
import torch

from sarsteer_lab.activations import capture, capture_answer, capture_positions
from sarsteer_lab.decoding import NonFiniteError
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.steering import steer
from sarsteer_lab.vectors import SteeringVectors


def hooks(lalm):
    """Every hook on the model but transformers' own output recorders."""
    found = []
    for name, module in lalm.model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not hook.__module__.startswith("transformers."):
                found.append((name, hook))
    return found


class BatchWatcher:
    """Is told which batch runs, as steering is."""

    batch = None


def states_by_hand(lalm, prompt, answer=()):
    """Outputs of layers run by hand on one unpadded prompt and its answer (position layer
    d_model)."""
    inputs = lalm.inputs([prompt])
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
        theirs = tiny.model(**tiny.inputs(prompts[:2]), output_hidden_states=True).hidden_states
    states = capture(tiny, prompts[:2])
    for layer in range(tiny.n_layers - 1):
        assert torch.equal(states[:, layer], theirs[layer + 1][:, -1])
    # transformers' last entry is after the final norm; ours is the layer's output.
    assert not torch.allclose(states[:, -1], theirs[-1][:, -1])
    torch.testing.assert_close(tiny.decoder.norm(states[:, -1]), theirs[-1][:, -1])


def test_other_positions(tiny, prompts):
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    everything = capture_positions(tiny, spoken, "all")
    audio = capture_positions(tiny, spoken, "audio")
    last = capture(tiny, spoken)
    for i, prompt in enumerate(spoken):
        by_hand = states_by_hand(tiny, prompt)
        assert_close(everything[i], by_hand)
        heard = tiny.inputs([prompt])["input_ids"][0] == tiny.audio_token_id
        assert_close(audio[i], by_hand[heard])
        assert torch.equal(last[i], everything[i][-1])


def test_states_of_answers_end_where_the_answers_do(prompts):
    """Of padded prompts, some of whose answers end before others, in any order of layers."""
    lalm = replica()
    encoded = lalm.encode(prompts)
    batches = [lalm.batch([prompt], [0]) for prompt in encoded]
    tokens = [lalm.decode(batch, max_new_tokens=6)[0].tolist() for batch in batches]
    # Ends are taken from the answers themselves: one answer is empty, one ends in the middle.
    ends = [tokens[0][0], tokens[1][3]]
    lalm.core.generation_config.eos_token_id = ends
    lengths = [next((at for at, t in enumerate(answer) if t in ends), 5) for answer in tokens]
    assert len({0, 5} & set(lengths)) == 2 and any(0 < length < 5 for length in lengths)
    found = capture_answer(lalm, prompts, max_new_tokens=5, batch_size=4)
    assert [states.shape for states in found] == [(length, 4, 32) for length in lengths]
    for prompt, answer, states in zip(prompts, tokens, found, strict=True):
        by_hand = states_by_hand(lalm, prompt, answer[: len(states)])
        assert_close(states, by_hand[len(by_hand) - len(states) :])
        [turned] = capture_answer(lalm, [prompt], layers=[3, 1], max_new_tokens=5)
        assert_close(turned, states[:, [3, 1]])
    shorter = capture_answer(lalm, prompts, max_new_tokens=2)
    assert [len(states) for states in shorter] == [min(length, 2) for length in lengths]


def test_chosen_layers_and_batch_sizes(tiny, prompts):
    states = capture(tiny, prompts)
    assert torch.equal(capture(tiny, prompts, layers=[2, -1]), states[:, [2, 3]])
    assert_close(capture(tiny, prompts, batch_size=1), states)
    assert capture(tiny, []).shape == (0, 4, 32)
    assert capture_positions(tiny, [], "all") == []


@pytest.mark.parametrize("layers", [[4], [-5], [1, 1], [3, -1], []])
def test_layers_that_are_not_there(tiny, layers):
    with pytest.raises(ValueError, match="0 to 3"):
        tiny.layer_indices(layers)


def test_positions_that_are_not_there(tiny, prompts):
    with pytest.raises(ValueError, match="prompt 0 has no audio"):
        capture_positions(tiny, prompts, "audio")
    with pytest.raises(ValueError, match="choose"):
        capture_positions(tiny, prompts, "first")


def test_hooks_go_even_if_the_forward_fails(tiny, prompts, monkeypatch):
    before = hooks(tiny)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny.layers[2].mlp, "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, prompts)
    assert hooks(tiny) == before == []


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
    running = BatchWatcher()
    lalm.watchers.append(running)

    def break_one(_module, _args, output):
        if running.batch is not None and 1 in running.batch.prompt_numbers:
            output[list(running.batch.prompt_numbers).index(1)] = float("nan")

    handle = lalm.layers[2].register_forward_hook(break_one)
    ways = {
        "last": lambda: capture(lalm, spoken),
        "audio": lambda: capture_positions(lalm, spoken, "audio"),
        "all": lambda: capture_positions(lalm, spoken),
        "answer": lambda: lalm.next_token_logits(spoken),
    }
    what = "logits" if positions == "answer" else "states from layer 2 on"
    runs = [ways[positions]]
    if positions == "answer":
        runs += [lambda: lalm.generate(spoken), lambda: lalm.generate(spoken, num_beams=2)]
        runs += [lambda: capture_answer(lalm, spoken, max_new_tokens=2)]
    for run in runs:
        with pytest.raises(NonFiniteError, match=f"prompt 1: its {what} are not finite"):
            run()
        assert running.batch is None
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
            pytest.raises(NonFiniteError, match="prompt 3: its (logits|states from layer 2 on)"),
        ):
            run()


def test_layers_in_any_order(tiny, prompts):
    last, ragged = capture(tiny, prompts), capture_positions(tiny, prompts, "all")
    assert torch.equal(capture(tiny, prompts, layers=[3, 1]), last[:, [3, 1]])
    for turned, straight in zip(
        capture_positions(tiny, prompts, layers=[3, 1]), ragged, strict=True
    ):
        assert torch.equal(turned, straight[:, [3, 1]])
