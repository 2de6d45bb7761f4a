"""Steering against a hand-written decoding loop; every way of decoding; refusals; that all is
undone."""

import copy
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer_lab.activations import capture, capture_positions
from sarsteer_lab.decoding import OVERRULED
from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import REFUSAL, Prompt, load_prompts
from sarsteer_lab.safe_space import ablate, principal_space
from sarsteer_lab.steering import project_out, pushing, steer
from sarsteer_lab.steering_guard import SteeringError
from sarsteer_lab.vectors import SteeringVectors


def some_vectors(lalm, seed=0, size=1.0):
    values = torch.randn(lalm.n_layers, lalm.d_model, generator=torch.Generator().manual_seed(seed))
    return SteeringVectors(size * values)


def traces(lalm):
    """All that steering could leave behind: weights, hooks (but transformers' own recorders),
    batch."""
    hooks = [
        (name, key)
        for name, module in lalm.model.named_modules()
        for key, hook in (*module._forward_hooks.items(), *module._forward_pre_hooks.items())
        if not getattr(hook, "__module__", "").startswith("transformers.")
    ]
    weights = {name: tensor.clone() for name, tensor in lalm.model.state_dict().items()}
    return weights, hooks, list(lalm.watchers)


def assert_unchanged(lalm, before):
    weights, *rest = traces(lalm)
    assert rest == list(before[1:])
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(weights[name], before[0][name]) for name in weights)


def new_tokens(lalm, prompts, **options):
    inputs = lalm.inputs(prompts)
    settings = {"max_new_tokens": 8, "do_sample": False, **options}
    with torch.no_grad():
        return lalm.core.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


def prompt_states(lalm, prompt, added=None, first=0):
    """Every layer's output by hand (position layer d_model); `added` goes onto positions from
    `first` on."""
    with torch.no_grad():
        embedded = lalm.core(**lalm.inputs([prompt]), output_hidden_states=True).hidden_states[0]
        outputs = reference.run_layers(lalm, embedded, added, first % embedded.shape[1])
    return torch.stack([h[0] for h in outputs], dim=1)


@pytest.mark.parametrize("alpha", [0.1, 1.0, -0.6])
def test_greedy_steering_equals_the_decoding_loop_token_for_token(tiny, make_clip, alpha):
    vectors = some_vectors(tiny, size=2.0)
    prompts = [
        Prompt("Answer the request in the audio.", make_clip(0.3 + 0.09 * i, i)) for i in range(20)
    ]
    with steer(tiny, vectors, alpha=alpha):
        steered = tiny.generate(prompts, max_new_tokens=10, batch_size=7)
    by_hand = [
        reference.steered_greedy(tiny, prompt, alpha * vectors.values, 10) for prompt in prompts
    ]
    decoded = [
        tiny.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in by_hand
    ]
    assert steered == decoded
    assert steered != tiny.generate(prompts, max_new_tokens=10), (
        "the vectors are large enough to matter"
    )


@pytest.mark.slow
@pytest.mark.pocket
def test_greedy_steering_of_the_pocket_model_equals_the_decoding_loop(pocket):
    """SARSteer vectors from shipped clips, on 20 shipped spoken prompts."""
    pocket.set_safety(1.0)
    spoken = load_prompts("derive", "harmful")[:20]
    base = capture(pocket, [prompt.spoken() for prompt in spoken])
    refusal = capture(pocket, [prompt.spoken(refusal=REFUSAL) for prompt in spoken])
    harmless = capture(
        pocket, [prompt.spoken() for prompt in load_prompts("derive", "harmless")[:20]]
    )
    vectors = SteeringVectors(
        ablate(text_refusal_direction(base, refusal), principal_space(harmless, k=10))
    )
    prompts = [prompt.spoken() for prompt in load_prompts("validation")[:20]]
    with steer(pocket, vectors, alpha=0.1):
        steered = pocket.generate(prompts, max_new_tokens=8)
    for prompt, answer in zip(prompts, steered, strict=True):
        tokens = reference.steered_greedy(pocket, prompt, 0.1 * vectors.values, 8)
        assert answer == pocket.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3}])
def test_alpha_zero_and_zero_vectors_change_nothing(lalm, prompts, options):
    plain = lalm.generate(prompts, max_new_tokens=8, **options)
    logits = lalm.next_token_logits(prompts)
    for vectors, alpha in ((some_vectors(lalm), 0.0), (some_vectors(lalm, size=0.0), 1.0)):
        with steer(lalm, vectors, alpha=alpha):
            assert lalm.generate(prompts, max_new_tokens=8, **options) == plain
            assert torch.equal(lalm.next_token_logits(prompts), logits)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.floats(-3, 3), layer=st.integers(0, 3))
def test_a_forward_pass_is_steered_at_the_last_position_only(tiny, prompts, seed, alpha, layer):
    vectors = some_vectors(tiny, seed)
    added = torch.zeros(tiny.n_layers, tiny.d_model)
    added[layer] = alpha * vectors[layer]
    expected = prompt_states(tiny, prompts[1], added, first=-1)
    with steer(tiny, vectors, alpha=alpha, layers=[layer]):
        states = capture_positions(tiny, prompts[:3], "all")[1]
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    plain = capture_positions(tiny, prompts[:3], "all")[1]
    torch.testing.assert_close(states[:-1], plain[:-1], rtol=0, atol=0)


def test_generated_tokens_are_steered(tiny, prompts):
    """A decoding step by hand: the cache is filled outside of `steer`, so only the step is
    steered."""
    outcomes = []
    for alpha in (0.0, 1.0):
        with torch.no_grad():
            prefill = tiny.core(**tiny.inputs(prompts[1:2]), use_cache=True)
            with steer(tiny, some_vectors(tiny), alpha):
                step = {
                    "input_ids": torch.tensor([[40]]),
                    "past_key_values": prefill.past_key_values,
                }
                outcomes.append(tiny.core(**step).logits)
    assert not torch.equal(*outcomes)


@pytest.mark.parametrize(
    "options", [{"do_sample": True, "num_return_sequences": 2}, {"num_beams": 3}]
)
def test_sampling_and_beams_equal_generation_without_a_cache_of_a_steered_copy(
    tiny, prompts, options
):
    """A second way: a copy whose layers add the vector themselves, at the right positions,
    uncached."""
    vectors, alpha = some_vectors(tiny), 0.7
    for prompt in prompts[:3]:
        inputs = tiny.inputs([prompt])
        last = inputs["input_ids"].shape[1] - 1
        twin = copy.deepcopy(tiny.model)
        for layer, vector in zip(twin.model.language_model.layers, vectors.values, strict=True):
            plain = layer.forward

            def forward(h, *args, plain=plain, vector=vector, last=last, **kwargs):
                h = plain(h, *args, **kwargs)
                return torch.cat([h[:, :last], h[:, last:] + alpha * vector], dim=1)

            layer.forward = forward
        # Without a cache the clip is read anew at every step; a generated audio token would confuse
        # it.
        choices = {
            "max_new_tokens": 8,
            "do_sample": False,
            "suppress_tokens": [tiny.audio_token_id],
            **options,
        }
        torch.manual_seed(4)
        with torch.no_grad():
            by_hand = twin.generate(**inputs, use_cache=False, **choices)
        torch.manual_seed(4)
        with steer(tiny, vectors, alpha=alpha):
            tokens = new_tokens(tiny, [prompt], **choices)
        assert tokens.tolist() == by_hand[:, last + 1 :].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("batch_size", [16, 4])
def test_a_sweep_over_alpha_in_one_call_equals_single_runs(tiny, prompts, options, batch_size):
    vectors, alphas = some_vectors(tiny), [0.0, 0.3, -1.0]
    sweep = [prompt for prompt in prompts for _ in alphas]
    with steer(tiny, vectors, alpha=torch.tensor(alphas * len(prompts))):
        together = tiny.generate(sweep, max_new_tokens=6, batch_size=batch_size, **options)
        logits = tiny.next_token_logits(sweep, batch_size=batch_size)
    for i, alpha in enumerate(alphas):
        with steer(tiny, vectors, alpha=alpha):
            assert together[i :: len(alphas)] == tiny.generate(prompts, max_new_tokens=6, **options)
            single = tiny.next_token_logits(prompts)
        torch.testing.assert_close(logits[i :: len(alphas)], single, rtol=1e-4, atol=1e-4)


def test_per_row_alphas_of_direct_calls(tiny, prompts):
    vectors = some_vectors(tiny)
    plain = new_tokens(tiny, prompts[:2])
    with steer(tiny, vectors, alpha=0.5):
        expected = new_tokens(tiny, prompts[:2])
    with steer(tiny, vectors, alpha=torch.tensor([0.0, 0.5])):
        sequences = new_tokens(tiny, prompts[:2])
        # Which rows are whose is known in calls of the library alone.
        with pytest.raises(SteeringError, match="2 values for 4"):
            new_tokens(tiny, prompts[:2], num_beams=2)
    assert torch.equal(sequences[1], expected[1]) and torch.equal(sequences[0], plain[0])


@pytest.mark.parametrize("wrong", [1, 5, 7, 12])
def test_alphas_that_do_not_match_the_prompts_are_refused(tiny, prompts, wrong):
    with steer(tiny, some_vectors(tiny), alpha=torch.ones(wrong)):
        for call in (
            tiny.generate,
            tiny.next_token_logits,
            lambda p: capture(tiny, p),
            lambda p: new_tokens(tiny, p),
        ):
            with pytest.raises(SteeringError, match="one value per prompt"):
                call(prompts)
    with steer(tiny, some_vectors(tiny), alpha=torch.ones(6)):
        with pytest.raises(SteeringError, match="one value per prompt"):
            tiny.model(**tiny.inputs(prompts[:3]))


def test_the_sum_is_taken_in_float32_and_cast_back(prompts):
    lalm = replica(dtype=torch.bfloat16)
    vectors = some_vectors(lalm, size=0.37)
    plain = capture(lalm, prompts, layers=[0])
    with steer(lalm, vectors, alpha=0.1, layers=[0]):
        steered = capture(lalm, prompts, layers=[0])
    assert torch.equal(
        steered[:, 0], (plain[:, 0] + torch.tensor(0.1) * vectors[0]).bfloat16().float()
    )
    assert not torch.equal(steered, plain)


def test_nested_steering_adds_up(tiny, prompts):
    first, second = some_vectors(tiny, 1), some_vectors(tiny, 2)
    with steer(tiny, first, alpha=0.3), steer(tiny, second, alpha=-0.2):
        nested = tiny.next_token_logits(prompts)
        answers = tiny.generate(prompts, max_new_tokens=6)
    with steer(tiny, first * 0.3 - second * 0.2, alpha=1.0):
        torch.testing.assert_close(nested, tiny.next_token_logits(prompts), rtol=1e-4, atol=1e-4)
        assert answers == tiny.generate(prompts, max_new_tokens=6)
    with steer(tiny, second, alpha=-0.2), steer(tiny, first, alpha=0.3):
        torch.testing.assert_close(nested, tiny.next_token_logits(prompts), rtol=1e-4, atol=1e-4)


def test_ablation_inside_steering_removes_what_was_added_and_around_it_does_not(tiny, prompts):
    vectors = some_vectors(tiny)
    unit = torch.nn.functional.normalize(vectors.values, dim=-1)

    def along(states):
        return (states * unit).sum(-1)

    with steer(tiny, vectors, alpha=1.0), project_out(tiny, vectors):
        inside = capture(tiny, prompts)
    torch.testing.assert_close(
        along(inside), torch.zeros(len(prompts), tiny.n_layers), rtol=0, atol=1e-4
    )
    with project_out(tiny, vectors), steer(tiny, vectors, alpha=1.0):
        around = capture(tiny, prompts)
    torch.testing.assert_close(
        along(around), vectors.norm().expand(len(prompts), -1), rtol=1e-4, atol=1e-4
    )


def test_ablation_leaves_nothing_of_the_direction_at_any_position(lalm, prompts):
    direction = torch.randn(lalm.d_model, generator=torch.Generator().manual_seed(0))
    with project_out(lalm, direction):
        states = capture_positions(lalm, prompts, "all")
        answers = lalm.generate(prompts, max_new_tokens=6)
    for state in states:
        share = (state @ direction).abs() / (state.norm(dim=-1) * direction.norm())
        assert share.max() < 1e-5
    with project_out(lalm, 7 * direction):
        assert lalm.generate(prompts, max_new_tokens=6) == answers, "its length does not matter"


def test_ablation_of_one_layer_is_the_projection(tiny, prompts):
    vectors = some_vectors(tiny)
    plain = capture(tiny, prompts, layers=[1])[:, 0].double()
    unit = vectors[1].double() / vectors[1].double().norm()
    with project_out(tiny, vectors, layers=[1]):
        ablated = capture(tiny, prompts, layers=[1])[:, 0].double()
    torch.testing.assert_close(
        ablated, plain - (plain @ unit)[:, None] * unit, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_everything_is_undone_after_any_block(tiny, prompts, error):
    before = traces(tiny)
    logits = tiny.next_token_logits(prompts)
    vectors = some_vectors(tiny)
    with pytest.raises(error):
        with (
            steer(tiny, vectors),
            project_out(tiny, vectors[0]),
            steer(tiny, vectors, torch.ones(len(prompts))),
        ):
            tiny.generate(prompts, max_new_tokens=3)
            raise error
    assert_unchanged(tiny, before)
    assert torch.equal(tiny.next_token_logits(prompts), logits)


def test_everything_is_undone_when_the_model_is_interrupted_midway(tiny, prompts, monkeypatch):
    before = traces(tiny)
    calls = iter(range(100))
    plain = tiny.layers[2].mlp.forward

    def interrupted(*args, **kwargs):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    monkeypatch.setattr(tiny.layers[2].mlp, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt), steer(tiny, some_vectors(tiny), alpha=1.0):
        tiny.generate(prompts, max_new_tokens=8)
    monkeypatch.undo()
    assert_unchanged(tiny, before)


def test_a_block_that_cannot_be_entered_leaves_nothing(tiny, monkeypatch):
    before = traces(tiny)
    monkeypatch.setattr(tiny.layers[3], "register_forward_hook", None)
    for block in (steer(tiny, some_vectors(tiny)), project_out(tiny, some_vectors(tiny))):
        with pytest.raises(TypeError), block:
            pass
    monkeypatch.undo()
    assert_unchanged(tiny, before)


@pytest.mark.parametrize(
    ("options", "directly"),
    [
        ({"use_cache": False}, "leave the cache on"),
        ({"use_cache": False, "num_beams": 3}, "leave the cache on"),
        ({"prompt_lookup_num_tokens": 2}, "filled cache|taken back"),
        ({"prefill_chunk_size": 16}, "filled cache"),
        ({"cache_implementation": "static"}, "static"),
    ],
)
def test_ways_of_decoding_that_cannot_be_steered_are_refused(
    tiny, prompts, options, directly, monkeypatch
):
    """`generate` refuses the option; of a direct call the hooks see what the forward passes are
    given."""
    message = next(iter(options))
    before = traces(tiny)
    with steer(tiny, some_vectors(tiny)):
        with pytest.raises(SteeringError, match=directly):
            new_tokens(tiny, prompts[:1], **options)
        with pytest.raises((SteeringError, ValueError), match=message):
            tiny.generate(prompts[:1], max_new_tokens=4, **options)
        config = copy.deepcopy(tiny.core.generation_config)
        config.update(**options)
        with pytest.raises(SteeringError, match=directly):
            tiny.core.generate(
                **tiny.inputs(prompts[:1]), generation_config=config, max_new_tokens=8
            )
        # What a checkpoint's own settings ask for.
        plain = tiny.generate(prompts[:1], max_new_tokens=4)
        monkeypatch.setattr(tiny.core, "generation_config", config)
        if message in OVERRULED:
            assert tiny.generate(prompts[:1], max_new_tokens=4) == plain
        else:
            with pytest.raises(SteeringError, match="static" if directly == "static" else message):
                tiny.generate(prompts[:1], max_new_tokens=4)
    monkeypatch.undo()
    assert_unchanged(tiny, before)


def test_assisted_decoding_is_refused(tiny, prompts):
    assistant = replica(seed=1).model
    with steer(tiny, some_vectors(tiny)):
        with pytest.raises(ValueError, match="assistant_model"):
            tiny.generate(prompts[:1], assistant_model=assistant)
        with pytest.raises(SteeringError, match="filled cache|taken back"):
            new_tokens(tiny, prompts[:1], assistant_model=assistant)


def test_gradient_checkpointing_does_not_change_steered_answers(prompts):
    lalm = replica()
    vectors = some_vectors(lalm)
    with steer(lalm, vectors, 1.0):
        expected = lalm.generate(prompts, max_new_tokens=6)
        lalm.model.gradient_checkpointing_enable()
        lalm.model.train()
        with pytest.warns(UserWarning, match="training mode"):
            assert lalm.generate(prompts, max_new_tokens=6) == expected


@pytest.mark.parametrize(
    "alpha", [float("nan"), float("inf"), "0.1", ["0.1"], [[1.0]], [0.1, float("nan")], None]
)
def test_strengths_that_are_none_are_refused_at_once(tiny, alpha):
    with (
        pytest.raises(ValueError, match="finite number"),
        steer(tiny, some_vectors(tiny), alpha=alpha),
    ):
        pytest.fail("the block was entered")


def test_strengths_may_be_lists_and_arrays(tiny, prompts):
    found = []
    for alpha in ([0.1, 0.5], np.array([0.1, 0.5]), torch.tensor([0.1, 0.5], dtype=torch.float64)):
        with steer(tiny, some_vectors(tiny), alpha=alpha):
            found.append(tiny.next_token_logits(prompts[:2]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_push_of_ones_own(tiny, prompts):
    """The public protocol: what is added at the prompt's end stays the same for what follows."""
    asked = []

    def push(layer, states, alpha):
        asked.append((layer, None if states is None else states.shape))
        return alpha * states.flip(-1)

    plain = capture(tiny, prompts, layers=[2])
    with pushing(tiny, push, [2], 0.5):
        pushed = capture(tiny, prompts, layers=[2])
        asked.clear()
        tiny.generate(prompts[:2], max_new_tokens=4)
    torch.testing.assert_close(pushed, plain + 0.5 * plain.flip(-1))
    assert asked == [(2, (2, 1, tiny.d_model))]


def test_right_padding_and_continued_chats_are_refused(tiny, prompts):
    inputs = tiny.inputs(prompts[:2])
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    with torch.no_grad(), steer(tiny, some_vectors(tiny)):
        with pytest.raises(SteeringError, match="pad on the left"):
            tiny.model(**inputs)
        cache = tiny.model(**tiny.inputs(prompts[:1])).past_key_values
        with pytest.raises(SteeringError, match="filled cache"):
            tiny.model(input_ids=torch.tensor([[40, 41]]), past_key_values=cache)


def test_layers_run_from_outside_are_refused(tiny):
    h = torch.zeros(1, 2, tiny.d_model)
    with (
        torch.no_grad(),
        steer(tiny, some_vectors(tiny)),
        pytest.raises(SteeringError, match="outside"),
    ):
        reference.run_layers(tiny, h)


def test_compiled_models_are_refused():
    whole, layer, forward = replica(), replica(), replica()
    whole.model.compile(backend="eager")
    layer.layers[1].compile(backend="eager")
    forward.model.forward = torch.compile(forward.model.forward, backend="eager")
    for lalm in (whole, layer, forward):
        for block in (steer(lalm, some_vectors(lalm)), project_out(lalm, some_vectors(lalm))):
            with pytest.raises(SteeringError, match="compiled"), block:
                pass


def test_vectors_that_do_not_fit_are_refused(tiny):
    wide, deep = torch.ones(4, 33), torch.ones(5, 32)
    for values in (wide, deep):
        for block in (steer(tiny, values), project_out(tiny, values)):
            with pytest.raises(ValueError, match="do not fit"), block:
                pass
    some = SteeringVectors(torch.ones(2, 32), layers=(1, 3))
    with (
        pytest.raises(ValueError, match=r"no vector for layers \[2\]"),
        steer(tiny, some, layers=[1, 2]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="finite numbers"),
        steer(tiny, some, alpha=torch.tensor([[1.0]])),
    ):
        pass
    with pytest.raises(ValueError, match="no direction"), project_out(tiny, torch.zeros(32)):
        pass


@pytest.mark.parametrize(
    "vectors",
    [{0: torch.ones(32)}, [torch.ones(32)] * 4, Path("vectors.safetensors"), np.ones((4, 32))],
)
@pytest.mark.parametrize("block", [steer, project_out])
def test_what_is_no_vectors_is_said_to_be_none(tiny, vectors, block):
    with pytest.raises(TypeError, match="vectors are SteeringVectors or a tensor"):
        with block(tiny, vectors):
            pass
