"""A random-weight replica of Qwen2-Audio, built offline from its configuration in milliseconds.

Its answers are noise. Everything else about it is real: architecture, processor, audio positions.
It is for tests and for trying code before a real model is loaded. Not Qwen2-Audio's own are the
tokenizer (a character is a token) and the default system turn of the chat template. The tests build
doubles of the other families from the same pieces.
"""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models

from sarsteer_lab.checkpoints import pick_device
from sarsteer_lab.decoding import seeded
from sarsteer_lab.lalm import LALM

WIDTH, LAYERS, MELS, WINDOW_SECONDS = 32, 4, 16, 8
FRAMES = WINDOW_SECONDS * 100
Built = tuple[Any, Any]

SPECIAL_TOKENS = {
    "unk_token": "<unk>",
    "pad_token": "<|endoftext|>",
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_token": "<|AUDIO|>",
    "audio_eos_token": "<|audio_eos|>",
}
PRINTABLE = ("\n", *map(chr, range(32, 127)))

CHAT_TEMPLATE = Path(__file__).with_name("replica.jinja").read_text(encoding="utf-8")


def replica(
    family: str = "qwen2_audio",
    *,
    size: str = "tiny",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LALM:
    """A random-weight Qwen2-Audio with a working processor that reads a character as a token.

    `size` "tiny" has 4 layers of width 32 and a window of 8 s like the pocket model's; "real" is
    the shape of Qwen2-Audio-7B (8.4 billion parameters, 17 GB in bfloat16). The weights are made on
    `device` in `dtype` and depend on `seed` (and the device) alone; torch's global random state is
    left as it was. Raises ValueError for another family or size.
    """
    if family != "qwen2_audio" or size not in ("tiny", "real"):
        choice = "there is qwen2_audio, 'tiny' and 'real'"
        raise ValueError(f"no replica of family {family!r} in size {size!r}: {choice}")
    tokenizer = character_tokenizer([*SPECIAL_TOKENS.values(), *PRINTABLE], SPECIAL_TOKENS)
    build, mels, seconds = qwen2_audio, MELS, WINDOW_SECONDS
    if size == "real":
        build, mels, seconds = qwen2_audio_7b, 128, 30
    model_class, config = build(tokenizer)
    features = hf.WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds)
    processor = hf.Qwen2AudioProcessor(features, tokenizer, chat_template=CHAT_TEMPLATE)
    model = random_model(model_class, config, seed=seed, dtype=dtype, device=device)
    return LALM(model, processor, name=f"replica of {family} ({size})")


def load_replica(
    variant: str,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
) -> LALM:
    """`load_lalm("replica:qwen2_audio")`; `dtype` "auto" is float32."""
    if isinstance(dtype, str):
        dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    made = replica(variant or "qwen2_audio", device=pick_device(device), dtype=dtype)
    # The name is the one by which another process can load it.
    return LALM(made.model, made.processor, name=f"replica:{made.family.name}", family=family)


def random_model(
    model_class: Any, config: Any, *, seed: int, dtype: torch.dtype, device: str
) -> Any:
    """A model with weights drawn from `seed`; torch's global random state and dtype stay."""
    place = torch.device(device)
    with seeded(seed, place), place:
        return model_class._from_config(config, dtype=dtype)


def character_tokenizer(
    tokens: list[str], special: dict[str, str], kind: Any = hf.PreTrainedTokenizerFast
) -> Any:
    """A tokenizer whose vocabulary is `tokens` in their order: a replica emits readable text."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    usual: dict[str, Any] = {}
    others = dict(special)
    others.pop("bos_token", None)
    for name in ("unk_token", "pad_token", "eos_token"):
        usual[name] = others.pop(name)
    return kind(tokenizer_object=backend, padding_side="left", **usual, extra_special_tokens=others)


def text_sizes(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """What all tiny decoders share.

    The wide initialisation keeps attention from being flat, so that every position matters to the
    answer.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.3,
        **end_ids(tokenizer),
        **more,
    }


def end_ids(tokenizer: Any) -> dict[str, Any]:
    """The ids that end and pad an answer."""
    return {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


TOWER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": MELS,
    "max_source_positions": FRAMES // 2,
}
"""Sizes of a tiny Whisper-style encoder."""


def qwen2_audio(tokenizer: Any) -> Built:
    """The class and configuration of the tiny replica, for the tokenizer's ids."""
    return _qwen2_audio(tokenizer, TOWER | {"init_std": 0.3}, text_sizes(tokenizer))


def _qwen2_audio(tokenizer: Any, tower: dict[str, Any], text: dict[str, Any]) -> Built:
    ids = {"audio_token_index": tokenizer.audio_token_id, **end_ids(tokenizer)}
    config = hf.Qwen2AudioConfig(audio_config=tower, text_config=text, **ids)
    return hf.Qwen2AudioForConditionalGeneration, config


def qwen2_audio_7b(tokenizer: Any) -> Built:
    """The shape of Qwen2-Audio-7B, from its published configuration: 8.4 billion parameters.

    What is not said here is what transformers builds by itself.
    """
    text = {
        "vocab_size": 156032,
        "intermediate_size": 11008,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        **end_ids(tokenizer),
    }
    return _qwen2_audio(tokenizer, {}, text)
