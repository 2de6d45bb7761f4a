"""The recipes find the same parts in every model, and say so when they cannot."""

import pytest
import torch
from torch import nn
from transformers import GraniteSpeechPlusConfig, Qwen2Config, Qwen2ForCausalLM

from sarsteer_lab.chat import conversation
from sarsteer_lab.families import (
    audio_token_id,
    find_core,
    find_decoder,
    find_family,
    find_trunk,
    residual_stream,
)
from sarsteer_lab.prompts import Prompt


def small_text_model() -> Qwen2ForCausalLM:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=32, num_key_value_heads=2, **sizes))


def test_finds_the_parts_of_qwen2_audio(tiny):
    model = tiny.model
    assert find_core(model) is model
    assert find_decoder(model) is model.model.language_model
    assert find_trunk(model) is model.model
    assert audio_token_id(model) == tiny.processor.audio_token_id
    assert find_family(model.config).name == "qwen2_audio"


def test_a_family_covers_its_later_types():
    assert find_family(GraniteSpeechPlusConfig()).name == "granite_speech"


def test_unknown_families_get_the_generic_row_and_the_model_as_trunk():
    model = small_text_model()
    assert find_family(model.config).name == "auto"
    assert find_decoder(model) is model.model
    assert find_trunk(model) is model
    assert audio_token_id(model) is None


def test_a_thinker_is_searched_instead_of_the_whole_model():
    talking = nn.Module()
    talking.thinker = small_text_model()
    assert find_decoder(talking) is talking.thinker.model
    assert find_core(talking) is talking.thinker


def test_a_model_without_decoder_layers_is_named():
    with pytest.raises(ValueError, match="found no decoder layers in Linear"):
        find_decoder(nn.Linear(2, 2))


def test_messages_put_the_clip_first_and_leave_the_system_turn_to_the_template():
    assert conversation(Prompt("Listen.", "clip.wav")) == [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Listen."}]}
    ]
    turns = conversation(Prompt("", "clip.wav", system="Be kind."))
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert turns[1]["content"] == [{"type": "audio"}]


def test_residual_stream_is_a_view_into_tuples_and_four_dimensional_outputs():
    class Config:
        altup_active_idx = 1

    four = torch.zeros(3, 2, 4, 5)
    residual_stream(four, Config).add_(1)
    assert four[1].eq(1).all() and four[[0, 2]].eq(0).all()
    three = torch.zeros(2, 4, 5)
    assert residual_stream((three, None), Config) is three
