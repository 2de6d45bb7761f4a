"""Heads that are off against weights' columns taken off by hand; attention by queries and keys."""

import pytest
import torch
import transformers as hf
from replicas import PLAIN, _tokenizer, replica
from untouched import assert_untouched, traces

from sarsteer_lab.activations import capture
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.families import FAMILIES
from sarsteer_lab.heads import (
    Head,
    audio_attention,
    heads_like,
    n_heads,
    strongest,
    without_heads,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.replica import random_model, text_sizes
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering_guard import SteeringError
from sarsteer_lab.windows import audio_positions

CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module", params=[row.name for row in FAMILIES if row.name != "auto"])
def family(request):
    return replica(request.param)


def columns_of(lalm, projection, heads):
    size = projection.in_features // n_heads(lalm)
    columns = []
    for head in heads:
        columns += range(head * size, (head + 1) * size)
    return columns


def weight_of(projection):
    return getattr(projection, "base_layer", projection).weight


@torch.no_grad()
def logits_by_hand(lalm, prompt, heads_of_layer, tokens=()):
    """Logits behind one unpadded prompt and some tokens, all read in one pass without a cache.

    From the prompt's last position on, what the weights' columns of the heads give is taken off
    what the projection gives.
    """
    batch = lalm.batch(lalm.encode([prompt]), [0])
    inputs = dict(batch.inputs)
    n_prompt = inputs["input_ids"].shape[1]
    if tokens:
        more = torch.tensor([tokens])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    handles = []
    for layer, heads in heads_of_layer.items():
        projection = lalm.layers[layer].self_attn.o_proj
        columns = columns_of(lalm, projection, heads)
        weight = weight_of(projection)[:, columns]

        def hook(_module, args, output, columns=columns, weight=weight):
            read = args[0][0, n_prompt - 1 :, columns]
            output[0, n_prompt - 1 :] -= read @ weight.T

        handles.append(projection.register_forward_hook(hook))
    with lalm.announce(batch):
        logits = lalm.core(**inputs, use_cache=False).logits[0, n_prompt - 1 :].float()
    for handle in handles:
        handle.remove()
    return logits


def test_logits_are_those_without_the_weights_columns(family, prompts):
    """Each prompt of a padded batch without heads of its own, and one that is off in all."""
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    off = [Head(1, 0), Head(0, 2, prompt=0), Head(-1, 3, prompt=0), Head(2, 1, prompt=1)]
    last = family.n_layers - 1
    by_prompt = [{1: [0], 0: [2], last: [3]}, {1: [0], 2: [1]}, {1: [0]}, {1: [0]}]
    expected = []
    for prompt, heads in zip(spoken, by_prompt, strict=True):
        expected.append(logits_by_hand(family, prompt, heads)[0])
    plain, before = family.next_token_logits(spoken), traces(family)
    with without_heads(family, off):
        found = family.next_token_logits(spoken)
    close = {"rtol": 1e-3, "atol": 1e-4 * float(plain.abs().max())}
    torch.testing.assert_close(found, torch.stack(expected), **close)
    for row in range(len(spoken)):
        assert not torch.allclose(found[row], plain[row], **close)
    assert_untouched(family, before)
    assert torch.equal(family.next_token_logits(spoken), plain), "not one bit is different"


def test_all_heads_of_a_layer_are_its_attention(family, prompts):
    """What the projection gives at the last position is taken for nothing, whatever it is."""
    layer = 2

    def nothing(_module, _args, output):
        output[:, -1] = 0

    asked = prompts[1:2]
    with family.layers[layer].self_attn.o_proj.register_forward_hook(nothing):
        expected = family.next_token_logits(asked)
    with without_heads(family, [Head(layer, head) for head in range(n_heads(family))]):
        found = family.next_token_logits(asked)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(found, family.next_token_logits(asked), **CLOSE)


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni", "phi4_multimodal"])
def test_answers_are_written_without_them_to_the_end(name, prompts):
    """Token by token, prepared or not, in beams: as passes over all of it that have no cache."""
    lalm = replica(name)
    asked = [prompts[1]]
    off = [Head(0, 1), Head(2, 0), Head(2, 3)]
    tokens, logits = [], None
    for _ in range(5):
        logits = logits_by_hand(lalm, prompts[1], {0: [1], 2: [0, 3]}, tokens)[-1]
        tokens.append(int(logits.argmax()))
    ready = PreparedBatch(lalm, asked)
    plain = lalm.generate(asked, max_new_tokens=5)
    with without_heads(lalm, off):
        answers = lalm.generate(asked, max_new_tokens=5)
        assert ready.generate(5) == answers
        beams = lalm.generate(prompts[:3], max_new_tokens=5, num_beams=3)
    end = {int(token) for token in lalm.ends}
    until = next((i for i, token in enumerate(tokens) if token in end), len(tokens))
    written = lalm.tokenizer.decode(tokens[:until], skip_special_tokens=True)
    assert answers == [written.strip()]
    assert answers != plain
    assert beams != lalm.generate(prompts[:3], max_new_tokens=5, num_beams=3)
    assert ready.generate(5) == plain == lalm.generate(asked, max_new_tokens=5)


def test_earlier_positions_stay(tiny, prompts):
    """A state after the first layer changes at the last position alone."""
    with without_heads(tiny, [Head(0, 0)]):
        without = capture(tiny, prompts)
    plain = capture(tiny, prompts)
    assert not torch.allclose(without[:, 0], plain[:, 0], **CLOSE)
    seen = []
    with tiny.layers[0].register_forward_hook(lambda _m, _a, output: seen.append(output.clone())):
        with without_heads(tiny, [Head(0, 0)]):
            tiny.next_token_logits(prompts[1:2])
        tiny.next_token_logits(prompts[1:2])
    assert torch.equal(seen[0][:, :-1], seen[1][:, :-1])
    assert not torch.equal(seen[0][:, -1], seen[1][:, -1])


def test_blocks_nest(tiny, prompts):
    with without_heads(tiny, [Head(0, 0), Head(1, 2)]):
        together = tiny.next_token_logits(prompts)
    with without_heads(tiny, [Head(0, 0)]), without_heads(tiny, [Head(1, 2)]):
        nested = tiny.next_token_logits(prompts)
    assert torch.equal(together, nested)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_or_ctrl_c_leaves_no_trace(tiny, prompts, error):
    plain, before = tiny.next_token_logits(prompts), traces(tiny)

    def interrupted(*_):
        raise error

    with pytest.raises(error), without_heads(tiny, [Head(1, 1)]):
        tiny.next_token_logits(prompts)
        with tiny.layers[3].register_forward_hook(interrupted):
            tiny.next_token_logits(prompts)
    assert_untouched(tiny, before)
    with pytest.raises(error):
        with tiny.layers[3].register_forward_hook(interrupted):
            audio_attention(tiny, prompts[1:3])
    assert_untouched(tiny, before)
    assert torch.equal(tiny.next_token_logits(prompts), plain)


def test_heads_that_are_not_there_and_prompts_that_have_run(tiny, prompts):
    for head, message in (
        (Head(4, 0), "0 to 3"),
        (Head(0, 4), "heads 0 to 3"),
        (Head(0, -1), "head -1"),
    ):
        with pytest.raises(ValueError, match=message), without_heads(tiny, [head]):
            pass
    with torch.no_grad():
        read = tiny.core(**tiny.inputs(prompts[1:2]), use_cache=True)
        step = {"input_ids": torch.tensor([[40]]), "past_key_values": read.past_key_values}
        with without_heads(tiny, [Head(0, 0)]), pytest.raises(SteeringError, match="ran outside"):
            tiny.core(**step)


def test_a_model_without_a_known_projection_is_named():
    tokenizer = _tokenizer("text_only")
    tokenizer.chat_template = PLAIN
    sizes = text_sizes(tokenizer)
    sizes.pop("num_key_value_heads")
    config = hf.GPTNeoXConfig(**sizes)
    model = random_model(hf.GPTNeoXForCausalLM, config, seed=0, dtype=torch.float32, device="cpu")
    lalm = LALM(model, tokenizer, name="neox")
    message = r"neox \(family auto\).*GPTNeoXLayer.*o_proj"
    with pytest.raises(ValueError, match=message), without_heads(lalm, [Head(1, 0)]):
        pass
    assert traces(lalm)[1][:3] == ([], [], [])


@torch.no_grad()
def attention_by_hand(lalm, prompt, layer):
    """softmax(q k / sqrt d) of the last position of Qwen2's attention, head by head."""
    seen = {}

    def note(name):
        return lambda _module, _args, output: seen.update({name: output[0]})

    attention = lalm.layers[layer].self_attn
    size = attention.head_dim
    with (
        attention.q_proj.register_forward_hook(note("query")),
        attention.k_proj.register_forward_hook(note("keys")),
    ):
        lalm.next_token_logits([prompt])
    n = len(seen["keys"])
    half = torch.arange(0, size, 2) / size
    base = lalm.text_config.rope_parameters["rope_theta"]
    angles = torch.arange(n)[:, None] * (1.0 / base**half)  # position frequency
    angles = torch.cat([angles, angles], dim=-1)

    def turned(vectors, at):
        first, second = vectors.chunk(2, dim=-1)
        return vectors * angles[at].cos() + torch.cat([-second, first], dim=-1) * angles[at].sin()

    shares = []
    n_keys = seen["keys"].shape[1] // size
    for head in range(n_heads(lalm)):
        query = seen["query"][-1, head * size : (head + 1) * size]
        of_keys = head * n_keys // n_heads(lalm)
        keys = seen["keys"][:, of_keys * size : (of_keys + 1) * size]
        scores = turned(keys, slice(None)) @ turned(query, n - 1) / size**0.5
        shares.append(scores.softmax(0)[audio_positions(lalm, prompt)].sum())
    return torch.stack(shares)


def test_attention_is_that_of_queries_and_keys(tiny, prompts):
    """In padded batches, too."""
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    before = traces(tiny)
    found = audio_attention(tiny, spoken)  # prompt layer head
    assert found.shape == (len(spoken), tiny.n_layers, 4)
    assert_untouched(tiny, before)
    for number, prompt in enumerate(spoken):
        for layer in (0, 2):
            expected = attention_by_hand(tiny, prompt, layer)
            torch.testing.assert_close(found[number, layer], expected, **CLOSE)
    assert found.std() > 0.05, "heads differ"


def test_every_family_gives_its_attention(family, prompts):
    """As transformers' own way to ask for it does; batches change nothing, settings stay."""
    spoken = [prompts[1], prompts[5]]
    before, plain = traces(family), family.next_token_logits(spoken)
    found = audio_attention(family, spoken)
    assert found.shape == (2, family.n_layers, n_heads(family))
    assert (found >= 0).all() and (found <= 1 + 1e-4).all() and found.std() > 0.01
    alone = torch.cat([audio_attention(family, [prompt]) for prompt in spoken])
    torch.testing.assert_close(found, alone, **CLOSE)
    assert_untouched(family, before)
    assert torch.equal(family.next_token_logits(spoken), plain)
    batch = family.batch(family.encode(spoken[:1]), [0])
    settings = family.decoder.config
    how = settings._attn_implementation
    settings._attn_implementation = "eager"
    with torch.no_grad(), family.announce(batch):
        given = family.core(**batch.inputs, use_cache=False, output_attentions=True).attentions
    settings._attn_implementation = how
    heard = audio_positions(family, spoken[0])
    by_layer = [weights[0, :, -1, heard].sum(-1) for weights in given]
    torch.testing.assert_close(found[0], torch.stack(by_layer).float(), **CLOSE)


@pytest.mark.parametrize("of_tower", ["eager", "sdpa"])
def test_the_towers_attention_is_left_as_it_is(prompts, of_tower):
    """Also where its settings stand in the decoder's, as Phi-4-multimodal's do."""
    lalm = replica("phi4_multimodal")
    settings = lalm.model.config
    assert lalm.decoder.config is settings
    settings.audio_config._attn_implementation = of_tower
    how = (settings._attn_implementation, of_tower, settings.vision_config._attn_implementation)
    during = []

    def note(*_args):
        during.append((settings._attn_implementation, settings.audio_config._attn_implementation))

    handle = lalm.layers[2].register_forward_pre_hook(note)
    audio_attention(lalm, prompts[1:3])
    handle.remove()
    assert set(during) == {("eager", of_tower)}
    towers = (settings.audio_config, settings.vision_config)
    assert (settings._attn_implementation, *(t._attn_implementation for t in towers)) == how


def test_a_typed_prompt_has_no_clip_to_read(tiny, prompts):
    with pytest.raises(ValueError, match="prompt 1 has no clip"):
        audio_attention(tiny, [prompts[1], Prompt("Hi")])


def test_the_strongest_and_as_many_others():
    shares = torch.tensor([[0.1, 0.9, 0.8, 0.0], [0.7, 0.2, 0.6, 0.5], [0.0, 0.0, 0.0, 0.0]])
    readers = strongest(shares, 5)
    assert readers == [Head(0, 1), Head(0, 2), Head(1, 0), Head(1, 2), Head(1, 3)]
    seen = set()
    for seed in range(30):
        drawn = heads_like(readers, 4, seed)
        assert drawn == heads_like(readers, 4, seed), "a seed is one draw"
        assert len(set(drawn)) == 5
        first = {one.head for one in drawn if one.layer == 0}
        second = {one.head for one in drawn if one.layer == 1}
        assert first == {0, 3}, "the layer's other heads"
        assert 1 in second and len(second) == 3, "and readers where there are too few"
        seen.add(frozenset(second))
    assert seen == {frozenset({1, 0, 2}), frozenset({1, 0, 3}), frozenset({1, 2, 3})}
