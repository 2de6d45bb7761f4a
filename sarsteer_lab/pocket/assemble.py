"""Assembly of the pocket model: a Qwen2-Audio checkpoint from pinned base weights and data/pocket.

The result is a genuine `Qwen2AudioForConditionalGeneration` folder (safetensors + processor files)
with Whisper tiny.en's encoder shape as its audio tower, one linear projector and
SmolLM2-135M-Instruct as its language model. The safety delta is NOT merged: it stays a low-rank
file of its own, so that its scale is a dial (see `safety_delta`).
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from sarsteer_lab.paths import cache_folder, data_folder
from sarsteer_lab.pocket.base import LANGUAGE_MODEL, BaseFileError, fetch, file_sha256

WINDOW_SECONDS = 8
AUDIO_TOKENS = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
# Raised when assembly itself changes, so that an older cached checkpoint is not taken for a current
# one.
ASSEMBLY_VERSION = 1


def deltas_folder() -> Path:
    """Folder of the shipped deltas: tower and projector (`audio`), low-rank ones of the language
    model."""
    return data_folder() / "pocket"


def pocket_config(
    text_config: LlamaConfig, vocab_size: int, audio_token_id: int
) -> Qwen2AudioConfig:
    """The pocket model's configuration: Whisper tiny.en's encoder over an 8 s window, a language
    model."""
    text = text_config.to_dict()
    text.pop("quantization_config", None)
    # Qwen2-Audio keeps its head apart from the embeddings; a tied one would not survive saving and
    # loading.
    text.update(vocab_size=vocab_size, tie_word_embeddings=False)
    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 384,
            "encoder_layers": 4,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536,
            "num_mel_bins": 80,
            "max_source_positions": WINDOW_SECONDS * 50,
        },
        text_config=text,
        audio_token_index=audio_token_id,
        tie_word_embeddings=False,
    )


def base_language_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer, from the pinned GGUF file; takes half a
    minute."""
    path = fetch(LANGUAGE_MODEL)
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval(), tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Qwen2AudioProcessor:
    """The pocket model's processor: `tokenizer` with three audio tokens, 80-mel features of an 8 s
    window."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(AUDIO_TOKENS)})
    tokenizer.padding_side = "left"
    return Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS),
        tokenizer=tokenizer,
        chat_template=(deltas_folder() / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def with_audio_rows(
    embeddings: Float[Tensor, "base_vocab d_model"], vocab_size: int
) -> Float[Tensor, "vocab d_model"]:
    """Embeddings with rows for the audio tokens: the mean row, which keeps them unremarkable."""
    rows = embeddings.mean(0, keepdim=True).expand(vocab_size - len(embeddings), -1)
    return torch.cat([embeddings, rows])


@torch.no_grad()
def merge_delta(lm: LlamaForCausalLM, delta: dict[str, Tensor]) -> None:
    """Add a delta to the weights of a plain language model (float32)."""
    for name in sorted({name.rsplit(".", 1)[0] for name in delta}):
        weight = lm.get_parameter(name.replace("language_model.", "") + ".weight")
        weight += (delta[f"{name}.B"].float() @ delta[f"{name}.A"].float()).to(weight.device)


def build_model(
    language_model: LlamaForCausalLM, processor: Qwen2AudioProcessor, audio: dict[str, Tensor]
) -> Qwen2AudioForConditionalGeneration:
    """A Qwen2-Audio model from the language model's weights and the audio tower's and projector's
    (`audio`).

    `audio` maps parameter names below `model.` (`audio_tower.*`, `multi_modal_projector.*`) to
    tensors of any float dtype. Raises `BaseFileError` if one is missing or has another shape.
    """
    tokenizer = processor.tokenizer
    config = pocket_config(language_model.config, len(tokenizer), processor.audio_token_id)
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    state = {f"model.{name}": tensor.float() for name, tensor in audio.items()}
    text = language_model.state_dict()
    embeddings = text["model.embed_tokens.weight"]  # with or without the audio tokens' rows
    state |= {
        name.replace("model.", "model.language_model.", 1): tensor for name, tensor in text.items()
    }
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        state[name] = with_audio_rows(embeddings, len(tokenizer))
    problems = model.load_state_dict(state, strict=False)
    missing = [
        name for name in problems.missing_keys if "audio_tower" in name or "projector" in name
    ]
    if problems.unexpected_keys or (audio and missing):
        raise BaseFileError(
            f"The audio weights do not fit: missing {missing}, unexpected {problems.unexpected_keys}"
        )
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    return model


def assemble_pocket() -> Path:
    """Folder of the assembled pocket checkpoint (safety 0), built on first use into the user's
    cache.

    The cache entry is named after everything that went into it (base file, audio delta, assembly
    version), so a new delta gets a new entry. Assembly takes about a minute and 600 MB of disk;
    later calls cost nothing.
    """
    names = ("audio", "readout", "listening")
    paths = {name: deltas_folder() / f"{name}.safetensors" for name in names}
    for path in paths.values():
        if not path.exists():
            raise BaseFileError(
                f"{path} is missing: the checkout is incomplete (it is part of the pocket model)."
            )
    recipe = {"base": LANGUAGE_MODEL.sha256, "version": ASSEMBLY_VERSION}
    recipe |= {name: file_sha256(path) for name, path in paths.items()}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    target = cache_folder() / "pocket" / key
    if (target / "model.safetensors").exists():
        return target
    language_model, tokenizer = base_language_model()
    for name in ("readout", "listening"):
        merge_delta(language_model, load_file(paths[name]))
    processor = build_processor(tokenizer)
    model = build_model(language_model, processor, load_file(paths["audio"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        built = Path(scratch) / target.name
        model.save_pretrained(built)
        processor.save_pretrained(built)
        # Two processes may assemble at once: whoever renames second finds the target there, equal
        # to its own.
        try:
            os.replace(built, target)
        except OSError:
            if not (target / "model.safetensors").exists():
                raise
    return target


def safety_delta() -> dict[str, tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]]:
    """The text-safety delta: parameter name -> (A, B); `weight + dial * B @ A` is the weight at
    that dial.

    Names are those of the assembled Qwen2-Audio model; the LoRA scale alpha/rank is already inside
    B.
    """
    flat = load_file(deltas_folder() / "safety.safetensors")
    names = sorted({name.rsplit(".", 1)[0] for name in flat})
    return {
        f"{name}.weight": (flat[f"{name}.A"].float(), flat[f"{name}.B"].float()) for name in names
    }
