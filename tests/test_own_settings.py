"""A checkpoint's own generation settings: greedy ways heed them, or name what they do not."""

from functools import partial

import pytest
import torch
import transformers as hf
from replicas import replica

from sarsteer_lab.activations import capture_answer
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.live import answers as live_answers
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.lalm import LALM
from sarsteer_lab.steering import steer
from sarsteer_lab.vectors import SteeringVectors


def vectors(lalm):
    draw = torch.Generator().manual_seed(0)
    return SteeringVectors(torch.randn(lalm.n_layers, lalm.d_model, generator=draw))


def up_to(answer, end):
    """The answer, with its end, which was no special token when the tokenizer was made."""
    return answer[: answer.find(end) + 1] or answer


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni", "qwen2_audio"])
def test_answers_end_where_the_turn_ends_though_the_settings_name_no_token(family, prompts):
    lalm = replica(family)
    lalm.core.generation_config.eos_token_id = None
    prompts = lalm.encode(prompts)  # whose texts may spell what will be the end
    whole = lalm.generate(prompts, max_new_tokens=12)
    end = whole[1][3]
    lalm.tokenizer.eos_token = end
    assert lalm.ends.tolist() == [lalm.tokenizer.convert_tokens_to_ids(end)]
    expected = [up_to(answer, end).strip() for answer in whole]
    assert lalm.generate(prompts, max_new_tokens=12) == expected != whole
    assert PreparedBatch(lalm, prompts).generate(12) == expected


def test_a_live_prompt_ends_there_too(prompts):
    lalm = replica()
    lalm.core.generation_config.eos_token_id = None
    [prompt] = lalm.encode(prompts[1:2])
    whole = lalm.generate([prompt], max_new_tokens=12)[0]
    lalm.tokenizer.eos_token = whole[3]
    assert LivePrompt(lalm, prompt).answer(12).text == up_to(whole, whole[3])[:-1].strip()


def test_a_model_without_an_end_says_so(prompts):
    lalm = replica()
    lalm.core.generation_config.eos_token_id = None
    lalm.tokenizer.pad_token = "<|endoftext|>"
    lalm.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names no token that ends an answer: set"):
        lalm.generate(prompts)
    lalm.core.generation_config.eos_token_id = [3, 5]
    assert torch.equal(lalm.ends, torch.tensor([3, 5]))


HEEDED = {
    "suppress_tokens": [],  # filled with what is said first
    "begin_suppress_tokens": [],
    "bad_words_ids": [],
    "sequence_bias": [],
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "min_length": 0,
    "min_new_tokens": 9,
    "exponential_decay_length_penalty": (2, 3.0),
    "watermarking_config": hf.WatermarkingConfig(bias=9.0, seeding_scheme="selfhash"),
    "renormalize_logits": True,
    "encoder_repetition_penalty": 4.0,
    "forced_bos_token_id": 40,
}


def setting(name, said, length):
    """A value that answers feel which begin with the tokens `said`, behind so many positions."""
    values = {
        "suppress_tokens": said,
        "begin_suppress_tokens": said,
        "bad_words_ids": [[token] for token in said],
        "sequence_bias": [[[token], -9.0] for token in said],
        "min_length": length + 9,
    }
    return values.get(name, HEEDED[name])


@pytest.mark.parametrize("name", HEEDED)
def test_every_greedy_way_says_what_transformers_own_says(name, prompts):
    lalm = replica()
    lalm.core.generation_config.eos_token_id = [5, 60, 61, 62, 63]  # so that answers end
    ends = lalm.tokenizer.convert_ids_to_tokens([60, 61, 62, 63])
    inputs = lalm.inputs(prompts)
    length = inputs["input_ids"].shape[1]
    said = lalm.next_token_logits(prompts).argmax(-1).unique().tolist()
    plain = lalm.generate(prompts, max_new_tokens=9)
    setattr(lalm.core.generation_config, name, setting(name, said, length))
    tokens = lalm.model.generate(**inputs, max_new_tokens=9, do_sample=False)[:, length:]
    expected = [text.strip() for text in lalm.tokenizer.batch_decode(tokens, True)]
    assert (expected != plain) == (name not in ("renormalize_logits", "forced_bos_token_id"))
    assert lalm.generate(prompts, max_new_tokens=9) == expected
    batch = PreparedBatch(lalm, prompts)
    assert batch.generate(9) == expected
    with under_each(batch, [partial(steer, lalm, vectors(lalm))], [torch.zeros(6)]) as rows:
        assert rows.generate(9) == expected
    # A live answer has no end, which is no special token here.
    without_ends = [text[:-1] if text[-1] in ends else text for text in expected]
    assert [answer.text for answer, _ in live_answers(batch, 9)] == without_ends


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_steered_answers_heed_the_settings_too(alpha, prompts):
    lalm = replica()
    batch = PreparedBatch(lalm, prompts)
    with steer(lalm, vectors(lalm), alpha):
        plain = lalm.generate(prompts, max_new_tokens=9)
        lalm.core.generation_config.no_repeat_ngram_size = 1
        expected = lalm.generate(prompts, max_new_tokens=9)
        assert batch.generate(9) == expected != plain
        assert [answer.text for answer, _ in live_answers(batch, 9)] == expected


def test_a_refusal_that_may_not_be_said_has_no_chance(prompts):
    lalm = replica()
    batch = PreparedBatch(lalm, prompts)
    before = refusal_probability(batch, ["I"], negligible=0)
    lalm.core.generation_config.suppress_tokens = lalm.tokenizer("I")["input_ids"]
    assert (before > 0).all() and not refusal_probability(batch, ["I"], negligible=0).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_strings", ["e"]),
        ("max_time", 9.0),
        ("forced_eos_token_id", 40),
        ("guidance_scale", 1.5),
        ("token_healing", True),
        ("force_words_ids", [[40]]),
    ],
)
def test_what_is_not_heeded_is_refused_by_name(name, value, prompts):
    lalm = replica()
    batch = PreparedBatch(lalm, prompts[:2])
    setattr(lalm.core.generation_config, name, value)
    for ask in (batch.generate, lambda length: live_answers(batch, length)):
        with pytest.raises(ValueError, match=f"{name}=.*lalm.core.generation_config.{name} = None"):
            ask(4)


def test_strings_of_the_settings_end_plain_answers(prompts):
    lalm = replica()
    whole = lalm.generate(prompts[1:2], max_new_tokens=9)[0]
    lalm.core.generation_config.stop_strings = [whole[2]]
    assert lalm.generate(prompts[1:2], max_new_tokens=9) == [up_to(whole, whole[2])]


def test_the_penalty_that_is_off_is_said(prompts, tiny):
    made = replica()
    made.core.generation_config.repetition_penalty = 1.5
    with pytest.warns(UserWarning, match="theirs brings repetition_penalty=1.5, which is off here"):
        lalm = LALM(made.model, made.processor, name="theirs")
    plain = tiny.generate(prompts, max_new_tokens=6)
    assert lalm.generate(prompts, max_new_tokens=6) == plain
    assert PreparedBatch(lalm, prompts).generate(6) == plain


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 2, "do_sample": True},
        {"num_return_sequences": 2, "num_beams": 3},
        {"return_dict_in_generate": True},
        {"return_dict_in_generate": True, "output_scores": True},
        {"is_assistant": True},
        {"dola_layers": "high"},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 2},
        {"prefill_chunk_size": 4},
    ],
)
def test_settings_that_shift_rows_or_change_what_comes_back_are_off_and_said(
    settings, prompts, tiny
):
    made = replica()
    for name, value in settings.items():
        setattr(made.core.generation_config, name, value)
    first, value = next(iter(settings.items()))
    with pytest.warns(UserWarning, match=f"theirs brings {first}={value!r}, which is off here"):
        lalm = LALM(made.model, made.processor, name="theirs")
    assert lalm.generate(prompts, max_new_tokens=6) == tiny.generate(prompts, max_new_tokens=6)
    states = capture_answer(lalm, prompts, max_new_tokens=6)
    plain = capture_answer(tiny, prompts, max_new_tokens=6)
    for ours, theirs in zip(states, plain, strict=True):
        # The shared model may remember a clip that it heard in another batch, rounded otherwise.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    with steer(lalm, vectors(lalm), 0.5), steer(tiny, vectors(tiny), 0.5):
        assert lalm.generate(prompts, max_new_tokens=6) == tiny.generate(prompts, max_new_tokens=6)
