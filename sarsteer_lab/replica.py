"""Random-weight replicas of LALM families, built offline from configuration in milliseconds.

Their answers are noise. Everything else about them is real: architecture, processor, audio positions, chat
template. They are for tests and for trying code before a real model is loaded.
"""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from sarsteer_lab.lalm import LALM

SPECIAL_TOKENS = (
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_bos|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
)
WINDOW_SECONDS = 8

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a replica.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def replica(
    family: str = "qwen2_audio", *, size: str = "tiny", seed: int = 0, dtype: torch.dtype = torch.float32
) -> LALM:
    """A random-weight LALM of `family`, with a working processor and an 8 s window like the pocket model's.

    `size` "tiny" has 4 layers of width 32 and reads a character as a token. The weights depend on `seed`
    alone; torch's global random state is left as it was. Raises ValueError for a family or size without a
    replica.
    """
    if family != "qwen2_audio" or size != "tiny":
        raise ValueError(
            f"no replica of family {family!r} in size {size!r}; there is 'qwen2_audio' in 'tiny'"
        )
    processor = Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=8, chunk_length=WINDOW_SECONDS),
        tokenizer=_character_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer = processor.tokenizer
    ids = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": WINDOW_SECONDS * 50,
            "init_std": 0.3,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            # Far from the usual 0.02, so that attention is not flat and every position matters to the answer.
            "initializer_range": 0.3,
            **ids,
        },
        audio_token_index=processor.audio_token_id,
        **ids,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Qwen2AudioForConditionalGeneration(config)
    return LALM(model.to(dtype), processor, name=f"replica of {family} ({size})")


def _character_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of printable ASCII characters: whatever a replica emits is readable text."""
    tokens = [*SPECIAL_TOKENS, "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=[token for token in SPECIAL_TOKENS if "audio" in token.lower()],
    )
