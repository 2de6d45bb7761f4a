"""Every option of transformers' `generate` works, steered and unsteered, or is refused before all
else."""

import copy
import inspect

import numpy as np
import pytest
import torch
import transformers as hf

from sarsteer_lab.decoding import DECODING
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer
from sarsteer_lab.steering_guard import SteeringError
from sarsteer_lab.vectors import SteeringVectors

TO_TRY = {
    "max_new_tokens": 3,
    "min_new_tokens": 7,
    "min_length": 83,
    "max_time": 100.0,
    "do_sample": True,
    "num_beams": 3,
    "early_stopping": True,
    "length_penalty": 3.0,
    "temperature": 0.4,
    "top_k": 3,
    "top_p": 0.4,
    "min_p": 0.2,
    "top_h": 0.3,
    "typical_p": 0.3,
    "epsilon_cutoff": 0.2,
    "eta_cutoff": 0.3,
    "renormalize_logits": True,
    "repetition_penalty": 3.0,
    "encoder_repetition_penalty": 4.0,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[58]],
    "suppress_tokens": [58],
    "begin_suppress_tokens": [58],
    "sequence_bias": [[[40], 9.0]],
    "forced_eos_token_id": 40,
    "stop_strings": ["e"],
    "exponential_decay_length_penalty": (2, 3.0),
    "watermarking_config": {"bias": 9.0, "seeding_scheme": "selfhash"},
    "remove_invalid_values": True,
    "pad_token_id": 3,
    "eos_token_id": 58,
    "logits_processor": hf.LogitsProcessorList([hf.SuppressTokensLogitsProcessor([58])]),
    "stopping_criteria": hf.StoppingCriteriaList([hf.MaxLengthCriteria(80)]),
    "prefix_allowed_tokens_fn": lambda _row, _ids: [40, 41, 42],
    "streamer": None,
    "tokenizer": None,
    "use_cache": False,
}
SAMPLED = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
BEAMS = ("early_stopping", "length_penalty")

EVERY = {*vars(hf.GenerationConfig()), *inspect.signature(hf.GenerationMixin.generate).parameters}
EVERY -= {"self", "kwargs", "_from_model_config", "transformers_version"}


def test_what_is_tried_is_what_there_is():
    assert set(TO_TRY) == DECODING
    assert EVERY - DECODING > {
        "num_return_sequences",
        "return_dict_in_generate",
        "cache_implementation",
    }
    # Not of the settings or the signature, but read from the other keywords.
    assert DECODING - EVERY == {"tokenizer"}


@pytest.fixture(scope="module")
def twins(tiny):
    """The plain model, and a copy whose layers add the vectors at each pass's last position."""
    values = torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(tiny.model)
    for layer, vector in zip(twin.model.language_model.layers, values, strict=True):

        def forward(h, *args, plain=layer.forward, vector=vector, **kwargs):
            h = plain(h, *args, **kwargs)
            return torch.cat([h[:, :-1], h[:, -1:] + 0.7 * vector], dim=1)

        layer.forward = forward
    return {0.0: tiny.model, 0.7: twin}, SteeringVectors(values)


@pytest.mark.parametrize("name", sorted(DECODING - {"tokenizer", "streamer"}))
def test_an_option_is_transformers_own_steered_and_unsteered(tiny, twins, make_clip, name):
    models, vectors = twins
    prompt = Prompt("Hi", make_clip(1.0, 1))
    inputs = tiny.inputs([prompt])
    plain = {"max_new_tokens": 8, "repetition_penalty": 1.0, "do_sample": name in SAMPLED}
    plain |= {"num_beams": 2} if name in BEAMS else {}
    plain |= {} if name == "suppress_tokens" else {"suppress_tokens": [tiny.audio_token_id]}
    options = {**plain, name: TO_TRY[name]}
    more = {"tokenizer": tiny.tokenizer} if name == "stop_strings" else {}
    for alpha, model in models.items():
        if name == "use_cache" and alpha:
            with steer(tiny, vectors, alpha), pytest.raises(SteeringError, match="use_cache"):
                tiny.generate([prompt], **options)
            continue
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            tokens = model.generate(**inputs, **{**options, **more})[
                0, inputs["input_ids"].shape[1] :
            ]
        expected = tiny.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        with steer(tiny, vectors, alpha):
            assert tiny.generate([prompt], **options) == [expected]


def test_a_streamer_hears_one_prompt_after_the_other(tiny, twins, prompts, capsys):
    with steer(tiny, twins[1], 0.7):
        said = tiny.generate(prompts[:2], batch_size=1, max_new_tokens=6)
        capsys.readouterr()
        streamer = hf.TextStreamer(tiny.tokenizer, skip_prompt=True, skip_special_tokens=True)
        assert tiny.generate(prompts[:2], batch_size=1, max_new_tokens=6, streamer=streamer) == said
    heard = capsys.readouterr().out
    assert [text for text in said if text not in heard] == [] and said[0] != said[1]


@pytest.mark.parametrize("name", sorted(EVERY - DECODING) + ["input_ids", "top_kk"])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_any_other_option_is_refused_by_name_before_anything_runs(
    tiny, twins, monkeypatch, name, alpha
):
    ran = []
    monkeypatch.setattr(tiny, "inputs", lambda prompts: ran.append(prompts))
    with (
        steer(tiny, twins[1], alpha),
        pytest.raises(ValueError, match=rf"takes no {name}: .*max_new_tokens"),
    ):
        tiny.generate([Prompt("Hi", np.zeros(16000, np.float32))], **{name: 2})
    assert not ran
