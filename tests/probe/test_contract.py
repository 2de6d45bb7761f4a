"""One contract for all families of the table: what holds for Qwen2-Audio holds for each, on
replicas; and for a text model, and a model in peft's wrapper or with its LoRA merged."""

from functools import cache

import pytest
import torch
from peft import LoraConfig
from replicas import OTHERS, TINY, replica

from sarsteer_lab.activations import capture, capture_answer, capture_positions
from sarsteer_lab.engine.audio_cache import forget_clips
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.families import FAMILIES, adapter_layers, residual_stream
from sarsteer_lab.keeping import kept, kept_variants
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.findings import AUDIO_TOWER, find_part
from sarsteer_lab.probe.replica import LAYERS, WIDTH
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import ClipError
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store

load = cache(replica)


@pytest.fixture(scope="module", params=[*sorted(TINY), *OTHERS])
def lalm(request) -> LALM:
    return load(request.param)


@pytest.fixture
def prompts(prompts, request) -> list[Prompt]:
    """A text model gets the same number of prompts, typed."""
    if (
        "lalm" not in request.fixturenames
        or request.getfixturevalue("lalm").audio_token_id is not None
    ):
        return prompts
    return [Prompt(f"{p.text} {i}") if p.audio is not None else p for i, p in enumerate(prompts)]


def only_where_audio_is_heard(lalm: LALM) -> None:
    if lalm.audio_token_id is None:
        with pytest.raises(ValueError, match="takes no audio"):
            lalm.generate([Prompt("Hi", torch.zeros(16000))])
        pytest.skip("a text model")


@pytest.fixture
def alone(lalm, prompts) -> torch.Tensor:
    """The states of each prompt run by itself."""
    return torch.cat([capture(lalm, [prompt]) for prompt in prompts])


@pytest.fixture
def answers(lalm, prompts) -> list[str]:
    """What is answered to each prompt by itself."""
    return [lalm.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]


@pytest.fixture(scope="module")
def vectors() -> SteeringVectors:
    return SteeringVectors(torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(5)))


def hooks(lalm: LALM) -> int:
    """Hooks on the model, without transformers' own."""
    return sum(
        not hook.__module__.startswith("transformers.")
        for module in lalm.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def test_the_table_has_a_replica_for_every_row():
    assert set(TINY) == {family.name for family in FAMILIES} - {"auto"}


def test_layers_width_tower_and_audio_positions_are_found(lalm, prompts):
    assert (lalm.n_layers, lalm.d_model) == (LAYERS, WIDTH)
    if lalm.audio_token_id is not None:
        assert lalm.name.startswith(f"replica of {lalm.family.name} (tiny)")
        assert find_part(lalm.model, AUDIO_TOWER) is not None
    for prompt in prompts:
        inputs = lalm.inputs([prompt])
        heard = lalm.audio_token_id in inputs["input_ids"].flatten().tolist()
        assert heard == (prompt.audio is not None)
        assert inputs["attention_mask"][:, -1].all()


def test_states_of_a_mixed_batch_are_those_of_single_prompts(lalm, prompts, alone):
    forget_clips(lalm)  # the tower has to hear them together
    together = capture(lalm, prompts)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item())
    # A test on states that hardly depend on the prompt would prove nothing.
    assert torch.cdist(alone[:, -1], alone[:, -1]).fill_diagonal_(torch.inf).min() > 1e-3


def test_long_clips_up_to_the_limit(lalm, make_clip):
    """As long as the family hears, or over several windows where it has no limit; beyond, a
    refusal."""
    only_where_audio_is_heard(lalm)
    limit = lalm.max_audio_seconds
    whole, start = make_clip(limit or 19.0, 5), make_clip(limit or 19.0, 5)[: round(2.5 * 16000)]
    clips = [Prompt("Hi", whole), Prompt("Hi", start)]
    forget_clips(lalm)
    together = capture(lalm, clips)
    forget_clips(lalm)
    singly = torch.cat([capture(lalm, [clip]) for clip in clips])
    assert together.isfinite().all()
    torch.testing.assert_close(together, singly, rtol=1e-4, atol=1e-4 * singly.abs().max().item())
    heard = [int((lalm.inputs([clip])["input_ids"] == lalm.audio_token_id).sum()) for clip in clips]
    assert heard[0] >= heard[1] > 0 and (singly[0, -1] - singly[1, -1]).abs().max() > 1e-3
    if limit is not None:
        with pytest.raises(ClipError, match="longer|at most"):
            capture(lalm, [Prompt("Hi", make_clip(limit + 0.2, 5))])


def test_variants_of_a_clip_share_what_stands_before_and_give_the_same_states(
    lalm, prompts, tmp_path
):
    only_where_audio_is_heard(lalm)
    clips = [p.audio for p in prompts if p.audio is not None]
    texts = (
        "Answer the audio.",
        "Answer the audio. I cannot assist with that.",
        "Answer the audio. Sure.",
    )
    variants = [[Prompt(text, clip) for clip in clips] for text in texts]
    apart = [capture(lalm, variant) for variant in variants]
    positions = []
    handle = lalm.layers[0].register_forward_hook(
        lambda _m, _a, out: positions.append(
            residual_stream(out, lalm.text_config).shape[:2].numel()
        )
    )
    try:
        together = capture_variants(lalm, variants)
    finally:
        handle.remove()
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5 * one.abs().max().item())
    assert (apart[0] - apart[1]).abs().max() > 1e-3
    if lalm.family.name == "qwen2_audio":
        for _ in ("computed", "read back"):
            read = kept_variants(capture_variants, Store(tmp_path), "capture")
            assert all(map(torch.equal, read(lalm, variants), together))
        longest = capture_positions(lalm, [variants[1][1]], "all")[0].shape[0]
        assert sum(positions) < 2 * longest * len(clips)


def test_what_is_captured_is_what_generation_sees(lalm, prompts, alone):
    """`capture` runs the trunk without a cache; generation runs the whole model with one."""
    for prompt, captured in zip(prompts[:2], alone, strict=False):
        seen = {}

        def keep(_module, _args, output, layer, seen=seen):
            seen.setdefault(layer, residual_stream(output, lalm.text_config)[:, -1].clone())

        handles = [
            layer.register_forward_hook(lambda *args, i=i: keep(*args, layer=i))
            for i, layer in enumerate(lalm.layers)
        ]
        lalm.generate([prompt], max_new_tokens=2)
        for handle in handles:
            handle.remove()
        expected = torch.stack([seen[layer] for layer in range(LAYERS)], dim=1)
        tolerance = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(captured[None], expected, rtol=1e-5, atol=tolerance)


def test_a_zero_vector_changes_no_bit(lalm, prompts):
    zero = SteeringVectors(torch.zeros(LAYERS, WIDTH))
    plain = lalm.next_token_logits(prompts)
    with steer(lalm, zero, alpha=1.0):
        assert torch.equal(lalm.next_token_logits(prompts), plain)
    assert torch.equal(lalm.next_token_logits(prompts), plain)


def test_steering_one_layer_adds_there_at_the_last_position_and_nowhere_else(
    lalm, prompts, vectors
):
    spoken = [prompts[1]]
    plain = capture_positions(lalm, spoken, "all")[0]
    with steer(lalm, vectors, alpha=0.5, layers=[2]):
        steered = capture_positions(lalm, spoken, "all")[0]
    assert torch.equal(steered[:, :2], plain[:, :2]), "earlier layers"
    assert torch.equal(steered[:-1, 2], plain[:-1, 2]), "earlier positions"
    # The recording hook comes after the steering one, so it sees exactly the sum.
    assert torch.equal(steered[-1, 2], plain[-1, 2] + 0.5 * vectors[2])
    assert not torch.allclose(steered[-1, 3], plain[-1, 3])


def test_only_the_active_stream_of_gemma3n_is_touched(prompts, vectors):
    lalm = load("gemma3n")
    active = lalm.text_config.altup_active_idx
    assert active == 1, "0 would also pass a stream that is taken by mistake"
    outputs = []
    for alpha in (0.0, 0.5):
        with steer(lalm, vectors, alpha=alpha, layers=[2]), torch.no_grad():
            handle = lalm.layers[2].register_forward_hook(
                lambda *args: outputs.append(args[2].clone())
            )
            lalm.trunk(**lalm.inputs([prompts[1]]), use_cache=False)
            handle.remove()
    plain, steered = outputs
    assert plain.ndim == 4
    assert torch.equal(steered[1 - active], plain[1 - active])
    assert torch.equal(steered[active][:, -1], plain[active][:, -1] + 0.5 * vectors[2])


def plain_loop(lalm, prompt, vectors, alpha, steps):
    """Greedy tokens and their states (token layer d_model) without cache, batch or `capture`:
    everything runs again for each token, and the vectors are added from the prompt's end on."""
    inputs = dict(lalm.inputs([prompt]))
    length = inputs["input_ids"].shape[1]
    seen = [torch.empty(0)] * LAYERS

    def add(_module, _args, output, layer):
        stream = residual_stream(output, lalm.text_config)
        stream[:, length - 1 :] += alpha * vectors[layer]
        seen[layer] = stream[0, -steps:].clone()

    tokens = []
    handles = [
        layer.register_forward_hook(lambda *args, i=i: add(*args, layer=i))
        for i, layer in enumerate(lalm.layers)
    ]
    try:
        for step in range(steps + 1):
            with torch.no_grad():
                token = lalm.core(**inputs, use_cache=False).logits[:, -1:].argmax(-1)
            if step == steps:  # only the last token's states were wanting
                break
            tokens.append(int(token))
            for name, filler in {
                "attention_mask": 1,
                "token_type_ids": 0,
                "mm_token_type_ids": 0,
            }.items():
                if name in inputs:
                    inputs[name] = torch.cat([inputs[name], torch.full_like(token, filler)], dim=1)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
    finally:
        for handle in handles:
            handle.remove()
    return tokens, torch.stack(seen, dim=1)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_steered_answers_and_their_states_are_those_of_a_loop_without_cache(
    lalm, prompts, vectors, alpha
):
    tokens, states = plain_loop(lalm, prompts[1], vectors, alpha, 3)
    expected = lalm.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    with steer(lalm, vectors, alpha=alpha):
        assert lalm.generate([prompts[1]], max_new_tokens=3, eos_token_id=-1) == [expected]
        [found] = capture_answer(lalm, [prompts[1]], max_new_tokens=3)
    ends = lalm.ends.tolist()
    said = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    assert said, "an empty answer shows nothing"
    torch.testing.assert_close(
        found, states[:said], rtol=1e-4, atol=1e-5 * states.abs().max().item()
    )


def test_answers_do_not_depend_on_the_batch_and_steering_changes_them(
    lalm, prompts, vectors, answers
):
    assert lalm.generate(prompts, max_new_tokens=4) == answers
    with steer(lalm, vectors, alpha=2.0):
        assert lalm.generate(prompts, max_new_tokens=4) != answers
    assert lalm.generate(prompts[:2], max_new_tokens=4) == answers[:2]


def test_hooks_are_gone_after_an_exception(lalm, prompts, vectors, monkeypatch):
    monkeypatch.setattr(
        lalm.layers[2].mlp if hasattr(lalm.layers[2], "mlp") else lalm.layers[2], "forward", fail
    )
    with pytest.raises(KeyboardInterrupt), steer(lalm, vectors, alpha=0.5):
        lalm.generate(prompts[:2])
    with pytest.raises(KeyboardInterrupt):
        capture(lalm, prompts[:2])
    assert hooks(lalm) == 0 and lalm.watchers == []


def fail(*args, **kwargs):
    raise KeyboardInterrupt


def test_saved_vectors_steer_as_before(tiny, prompts, vectors, tmp_path):
    vectors.save(tmp_path / "v.safetensors")
    again = SteeringVectors.load(tmp_path / "v.safetensors")
    results = []
    for each in (vectors, again):
        with steer(tiny, each, alpha=0.4):
            results.append(tiny.next_token_logits(prompts[:3]))
    assert torch.equal(*results)
    assert not torch.allclose(results[0], tiny.next_token_logits(prompts[:3]))


def test_clips_that_must_not_share_a_batch_are_kept_apart(lalm, prompts):
    if lalm.family.mixes:
        assert len(list(lalm.batches(lalm.encode(prompts), 16, "all"))) == 1
    else:
        for some in (prompts, prompts[:2]):  # two clips, or a typed prompt beside one
            with pytest.raises(ValueError, match="padding"):
                lalm.inputs(some)
        for batch in lalm.batches(lalm.encode(prompts), 16, "apart"):
            clips = [prompts[row].audio for row in batch.prompt_numbers]
            assert len({len(clip) for clip in clips if clip is not None}) <= 1
            assert len(batch.inputs["input_ids"]) == len(batch.prompt_numbers)


ADAPTED = ("granite_speech", "phi4_multimodal")


@pytest.mark.parametrize("ready", [False, True])
def test_a_spoken_prompt_leaves_no_trace_on_a_typed_one(lalm, prompts, ready):
    """Granite Speech's own `generate` leaves its adapter on; nor may another's state leak."""
    assert (lalm.family.adapter is not None) == (lalm.family.name in ADAPTED)
    typed, spoken = [prompts[0]], [prompts[1]]
    before, fingerprint = capture(lalm, typed), lalm.fingerprint()
    for _ in range(2):
        if ready:
            for one, plain in ((spoken, capture(lalm, spoken)), (typed, before)):
                batch = PreparedBatch(lalm, one)
                states = batch.states(range(LAYERS))
                torch.testing.assert_close(
                    states, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item()
                )
                assert batch.generate(4) == lalm.generate(one, max_new_tokens=4)
                other = batch.retexted([Prompt(f"{one[0].text} Go on.", one[0].audio)])
                anew = capture(lalm, other.prompts)
                atol = 1e-5 * anew.abs().max().item()
                torch.testing.assert_close(other.states(range(LAYERS)), anew, rtol=1e-5, atol=atol)
        else:
            lalm.generate(spoken, max_new_tokens=2)
        assert torch.equal(capture(lalm, typed), before) and lalm.fingerprint() == fingerprint


@pytest.mark.parametrize("family", ADAPTED)
def test_the_adapter_for_speech_is_on_for_spoken_prompts_alone(family, prompts):
    lalm = replica(family)
    mixed = [prompts[0], prompts[1], prompts[4]]
    states, logits = capture(lalm, mixed), lalm.next_token_logits(mixed)
    on: dict[bool, torch.Tensor] = {}
    for enabled in (True, False):
        (lalm.model.enable_adapters if enabled else lalm.model.disable_adapters)()
        on[enabled] = torch.cat(
            [lalm.core(**lalm.inputs([p]), use_cache=False).logits[:, -1] for p in mixed]
        )
    assert (on[True] - on[False]).abs().max() > 1e-2, "the adapter has to do something"
    expected = torch.stack([on[False][0], on[True][1], on[False][2]])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    # However it was left, and for variants that share what stands before.
    assert torch.equal(capture(lalm, mixed), states)
    assert all(part.disable_adapters for part in adapter_layers(lalm.model))
    for one in (mixed[0], mixed[1]):
        longer = Prompt(f"{one.text} No.", one.audio)
        apart = [capture(lalm, [each]) for each in (one, longer)]
        for ours, plain in zip(capture_variants(lalm, [[one], [longer]]), apart, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("family", ADAPTED)
def test_what_adapters_are_set_to_counts_in_the_fingerprint(family):
    lalm = replica(family)
    seen = [lalm.fingerprint()]
    lalm.model.disable_adapters()
    seen.append(lalm.fingerprint())
    lalm.model.enable_adapters()
    assert lalm.fingerprint() == seen[0]
    [scaled, *_] = adapter_layers(lalm.model)
    scaled.scaling["default"] *= 2
    seen.append(lalm.fingerprint())
    scaled.scaling["default"] /= 2
    lalm.model.add_adapter(LoraConfig(r=2, target_modules=["o_proj"]), "other")
    seen.append(lalm.fingerprint())
    lalm.model.set_adapter("default")
    seen.append(lalm.fingerprint())
    assert len(set(seen)) == 5


@pytest.mark.parametrize("family", ADAPTED)
def test_states_of_another_row_of_the_table_are_not_those_that_were_kept(family, tmp_path):
    """The generic recipe leaves the adapter on for typed prompts, which the family's turns off."""
    lalm, store = replica(family), Store(tmp_path)
    generic = LALM(lalm.model, lalm.processor, name="generic", family="auto")
    lalm.model.enable_adapters()  # as it is loaded
    expected = capture(generic, ["Hi"])
    own = kept(capture, store)(lalm, ["Hi"])
    assert (own - expected).abs().max() > 1e-2, "the adapter has to do something"
    lalm.model.enable_adapters()
    assert torch.equal(kept(capture, store)(generic, ["Hi"]), expected)
    assert torch.equal(kept(capture, store)(lalm, ["Hi"]), own)


def test_a_padding_side_set_after_loading_changes_nothing(lalm, prompts):
    states, answers = capture(lalm, prompts), lalm.generate(prompts, max_new_tokens=2)
    lalm.tokenizer.padding_side = "right"
    assert torch.equal(capture(lalm, prompts), states)
    lalm.tokenizer.padding_side = "right"
    assert lalm.generate(prompts, max_new_tokens=2) == answers


def test_how_the_processor_hears_counts_in_the_fingerprint(lalm):
    only_where_audio_is_heard(lalm)
    before = lalm.fingerprint()
    part = next(
        part
        for name in ("feature_extractor", "audio_processor")
        if (part := getattr(lalm.processor, name, None)) is not None
    )
    part.hears_otherwise = 1
    try:
        assert lalm.fingerprint() != before
    finally:
        del part.hears_otherwise
    assert lalm.fingerprint() == before
