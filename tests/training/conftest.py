"""Small models for what can be checked of the training without training."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2AudioForConditionalGeneration

from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import pocket_config
from training.corpus import lexicon_of
from training.ctc import TokenHead


@pytest.fixture(scope="module")
def tiny_lm(tiny: LALM) -> LlamaForCausalLM:
    """A random Llama that reads the replica's characters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def head(tiny: LALM, tiny_lm: LlamaForCausalLM) -> TokenHead:
    """A CTC head over some of its characters."""
    counts = lexicon_of([])
    counts.update(tiny.tokenizer("abcdefghij hello there", add_special_tokens=False).input_ids)
    space = tiny.tokenizer(" ", add_special_tokens=False).input_ids[0]
    return TokenHead(tiny_lm.get_input_embeddings().weight.detach(), counts, space)


@pytest.fixture(scope="module")
def audio_model() -> Qwen2AudioForConditionalGeneration:
    """The pocket architecture with random weights and a small language model."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return Qwen2AudioForConditionalGeneration(pocket_config(text, 128, 100)).eval()
