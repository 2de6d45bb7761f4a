"""Patches against raw hooks of a few lines, in several families; that all is undone; refusals."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from replicas import replica
from untouched import assert_untouched, traces

from sarsteer_lab.activations import capture, capture_positions
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.patching import Patch, patch
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer
from sarsteer_lab.steering_guard import SteeringError
from sarsteer_lab.windows import audio_positions, seconds_per_position, silenced, window_positions

FAMILIES = (
    "qwen2_audio",
    "qwen2_5_omni",
    "voxtral",
    "granite_speech",
    "gemma3n",
    "phi4_multimodal",
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return replica(request.param)


def some_states(lalm, n=1, seed=0, size=3.0):
    return size * torch.randn(n, lalm.d_model, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_by_hand(lalm, prompt, layer, columns, states, added=False):
    """Logits of one unpadded prompt whose layer's output is overwritten by a raw hook."""

    def hook(_module, _args, output):
        output = output[0] if isinstance(output, tuple) else output
        stream = output[lalm.text_config.altup_active_idx] if output.ndim == 4 else output
        for column, state in zip(columns, states, strict=True):
            stream[0, column] = stream[0, column] + state if added else state

    batch = lalm.batch(lalm.encode([prompt]), [0])
    with lalm.layers[layer].register_forward_hook(hook), lalm.announce(batch):
        return lalm.core(**batch.inputs, use_cache=False).logits[0, -1].float()


@pytest.mark.parametrize("added", [False, True])
def test_patched_logits_are_those_of_a_raw_hook(family, prompts, added):
    """Each prompt of a batch with patches of its own, at positions from either end."""
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    placed = ([0, 5, -1], [-3], [2, 3])
    patches, by_hand = [], []
    for number, (prompt, positions) in enumerate(zip(spoken, placed, strict=False)):
        states = some_states(family, len(positions), seed=number)
        layer = number % family.n_layers
        patches.append(Patch(layer, positions, states, number, added))
        by_hand.append(logits_by_hand(family, prompt, layer, positions, states, added))
    plain = family.next_token_logits(spoken)
    before = traces(family)
    with patch(family, patches):
        patched = family.next_token_logits(spoken)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(plain.abs().max())}
    torch.testing.assert_close(patched[: len(by_hand)], torch.stack(by_hand), **close)
    assert not torch.allclose(patched[: len(by_hand)], plain[: len(by_hand)], **close)
    assert_untouched(family, before)
    assert torch.equal(family.next_token_logits(spoken), plain), "not one bit is different"


def test_its_own_states_change_nothing(family, prompts):
    spoken = [prompts[1]]
    plain = family.next_token_logits(spoken)
    [everywhere] = capture_positions(family, spoken)  # position layer d_model
    layer = family.n_layers // 2
    with patch(family, [Patch(layer, range(len(everywhere)), everywhere[:, layer])]):
        assert torch.equal(family.next_token_logits(spoken), plain)


def test_all_layers_at_the_last_position_give_the_other_requests_logits(tiny, prompts):
    asked, other = [prompts[1]], [prompts[4]]
    [states] = capture(tiny, other)
    patches = [Patch(layer, [-1], states[layer]) for layer in range(tiny.n_layers)]
    wanted = tiny.next_token_logits(other)
    assert not torch.allclose(tiny.next_token_logits(asked), wanted, atol=1e-2)
    with patch(tiny, patches):
        torch.testing.assert_close(tiny.next_token_logits(asked), wanted)
    with patch(tiny, patches[-1:]):  # nothing is read from elsewhere after the last layer
        torch.testing.assert_close(tiny.next_token_logits(asked), wanted)


def test_what_the_library_captures_is_patched(tiny, prompts):
    """In padded batches that the library sorts, and for one prompt of the call alone."""
    plain = capture(tiny, prompts, batch_size=4)
    states = some_states(tiny)
    with patch(tiny, [Patch(1, [-1], states, prompt=2)]):
        patched = capture(tiny, prompts, batch_size=4)
    torch.testing.assert_close(patched[2, 1], states[0])
    assert not torch.allclose(patched[2, 2], plain[2, 2], atol=1e-2)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(patched[others], plain[others])
    torch.testing.assert_close(patched[2, 0], plain[2, 0])


def test_answers_go_on_from_what_was_patched(tiny, prompts):
    """Greedy answers, beams and prepared prompts begin where a raw hook's logits say."""
    states = some_states(tiny, size=8.0)
    one = Patch(tiny.n_layers - 1, [-1], states)
    token = int(logits_by_hand(tiny, prompts[1], one.layer, [-1], states).argmax())
    first = tiny.tokenizer.decode([token]).strip()
    ready = PreparedBatch(tiny, prompts[1:2])
    plain = tiny.generate(prompts[1:2], max_new_tokens=5)
    with patch(tiny, [one]):
        answers = tiny.generate(prompts[1:2], max_new_tokens=5)
        assert answers[0].startswith(first) and answers != plain
        assert ready.generate(5) == answers
        assert int(ready.next_token_logits().argmax()) == token
        beams = tiny.generate(prompts[:3], max_new_tokens=5, num_beams=3)
    assert beams != tiny.generate(prompts[:3], max_new_tokens=5, num_beams=3)
    assert tiny.generate(prompts[1:2], max_new_tokens=5) == plain


def test_blocks_nest_and_act_in_their_order(tiny, prompts):
    states, more = some_states(tiny), some_states(tiny, seed=1)
    together = [Patch(2, [-1], states), Patch(2, [-1], more, added=True)]
    with patch(tiny, together):
        at_once = tiny.next_token_logits(prompts)
    with patch(tiny, together[:1]), patch(tiny, together[1:]):
        nested = tiny.next_token_logits(prompts)
    vectors = torch.zeros(tiny.n_layers, tiny.d_model)
    vectors[2] = more[0]
    with patch(tiny, together[:1]), steer(tiny, vectors, 1.0, layers=[2]):
        steered = tiny.next_token_logits(prompts)
    assert torch.equal(at_once, nested)
    torch.testing.assert_close(steered, nested)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_or_ctrl_c_leaves_no_trace(tiny, prompts, error):
    plain, before = tiny.next_token_logits(prompts), traces(tiny)

    def interrupted(*_):
        raise error

    with pytest.raises(error), patch(tiny, [Patch(1, [-1], some_states(tiny))]):
        tiny.next_token_logits(prompts)
        with tiny.layers[3].register_forward_hook(interrupted):
            tiny.next_token_logits(prompts)
    assert_untouched(tiny, before)
    assert torch.equal(tiny.next_token_logits(prompts), plain)


def test_half_precision_rounds_once(prompts):
    lalm = replica(dtype=torch.bfloat16)
    states = some_states(lalm)
    [plain] = capture(lalm, prompts[1:2])
    with patch(lalm, [Patch(1, [-1], states, added=True)]):
        [patched] = capture(lalm, prompts[1:2])
    assert torch.equal(patched[1], (plain[1] + states[0]).bfloat16().float())


def test_positions_that_are_not_there(tiny, prompts):
    ids = tiny.inputs(prompts[:1])["input_ids"]
    length = ids.shape[1]
    for position in (length, -length - 1):
        message = f"prompt 0 has {length} positions.*no position {position}"
        with patch(tiny, [Patch(0, [position], some_states(tiny), 0)]):
            with pytest.raises(ValueError, match=message):
                tiny.next_token_logits(prompts)  # where padding makes room for it
    for layer, positions, states, message in (
        (4, [0], some_states(tiny), "0 to 3"),
        (0, [0], torch.zeros(1, 5), "width is 32"),
        (0, [0, 1], some_states(tiny, 3), "2 positions"),
        (0, [], some_states(tiny), "0 positions"),
    ):
        with (
            pytest.raises(ValueError, match=message),
            patch(tiny, [Patch(layer, positions, states)]),
        ):
            pass


def test_what_was_read_outside_of_the_block_is_refused(tiny, prompts):
    ready = PreparedBatch(tiny, prompts[1:2])
    with patch(tiny, [Patch(0, [-1, -4], some_states(tiny))]):
        with pytest.raises(SteeringError, match="read outside of this"):
            ready.next_token_logits()
    with torch.no_grad():
        read = tiny.core(**tiny.inputs(prompts[1:2]), use_cache=True)
        step = {"input_ids": torch.tensor([[40]]), "past_key_values": read.past_key_values}
        with patch(tiny, [Patch(0, [-1], some_states(tiny))]):
            with pytest.raises(SteeringError, match="ran outside"):
                tiny.core(**step)


def noise(seconds, seed=0):
    samples = np.random.default_rng(seed).standard_normal(round(16000 * seconds))
    return (0.1 * samples).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("qwen2_audio", 0.04),  # mel frames of 10 ms; the tower's stride and the pooling halve them
        ("qwen2_5_omni", 0.04),
        ("qwen3_omni", 1 / 13),  # three strides of two, in chunks of a second, rounded up
        ("voxtral", 0.08),  # whole windows, padded
        ("audioflamingo3", 0.04),
        ("phi4_multimodal", 0.08),
        ("granite_speech", 0.1),  # windows of 15 frames of 20 ms become 3 positions
        ("gemma3n", 0.16),  # as many positions for every clip
        ("gemma4", 0.04),
    ],
)
def test_the_time_grid_is_the_projectors(name, grid):
    lalm = replica(name)
    assert seconds_per_position(lalm) == pytest.approx(grid, rel=0.02)
    prompt = Prompt("What is this?", noise(2.0))
    heard = audio_positions(lalm, prompt)
    first, second = (window_positions(lalm, prompt, [ends]) for ends in ((0, 1), (1, 2)))
    assert first[0] == heard[0] and second[0] == first[-1] + 1
    assert len(first) == pytest.approx(1 / grid, abs=1.01)
    assert len(second) == pytest.approx(1 / grid, abs=1.01)


def test_windows_by_hand(tiny):
    prompt = Prompt("", noise(1.0))
    [ids] = tiny.inputs([prompt])["input_ids"].tolist()
    start = ids.index(tiny.audio_token_id)
    assert ids.count(tiny.audio_token_id) == 25
    assert audio_positions(tiny, prompt) == list(range(start, start + 25))
    # Position k is heard from 0.04 k to 0.04 (k + 1), and belongs to the window of its middle.
    assert window_positions(tiny, prompt, [(0.2, 0.4)]) == list(range(start + 5, start + 10))
    assert window_positions(tiny, prompt, [(0.21, 0.43)]) == list(range(start + 5, start + 11))
    both = window_positions(tiny, prompt, [(0.2, 0.4), (0.3, 0.43)])
    assert both == list(range(start + 5, start + 11))
    with pytest.raises(ValueError, match="end at 1 s"):
        window_positions(tiny, prompt, [(1.0, 2.0)])
    with pytest.raises(ValueError, match="no clip"):
        window_positions(tiny, Prompt("Hi"), [(0, 1)])
    with pytest.raises(ValueError, match="takes no audio"):
        seconds_per_position(replica("text_only"))


def test_silence_stays_where_it_is_put(tiny):
    clip = noise(1.0)
    quiet = silenced(clip, [(0.25, 0.5)])
    assert not quiet[4000:8000].any() and clip[4000:8000].any()
    assert np.array_equal(quiet[:4000], clip[:4000]) and np.array_equal(quiet[8000:], clip[8000:])
    # Through the ears it moves the positions of its own window most.
    window = slice(6, 12)
    states = []
    for waveform in (clip, quiet):
        [heard] = capture_positions(tiny, [Prompt("", waveform)], "audio", layers=[0])
        states.append(heard[:, 0])
    moved = (states[0] - states[1]).norm(dim=-1)
    assert moved[window].mean() > 2 * moved[18:].mean()


@pytest.mark.pocket
@pytest.mark.late
def test_in_the_pocket_model(pocket, prompts):
    spoken = prompts[1:2]
    plain = pocket.next_token_logits(spoken)
    [states] = capture(pocket, prompts[4:5])
    wanted = pocket.next_token_logits(prompts[4:5])
    with ExitStack() as blocks:
        for layer in range(pocket.n_layers):
            blocks.enter_context(patch(pocket, [Patch(layer, [-1], states[layer])]))
        patched = pocket.next_token_logits(spoken)
    torch.testing.assert_close(patched, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert torch.equal(pocket.next_token_logits(spoken), plain)
