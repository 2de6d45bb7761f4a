"""Assembly of the pocket model: a Qwen2-Audio checkpoint from pinned base weights and data/pocket.

The result is a genuine `Qwen2AudioForConditionalGeneration` folder (safetensors + processor files)
with Whisper tiny.en's encoder shape as its audio tower, one linear projector and
SmolLM2-135M-Instruct as its language model. The safety delta is NOT merged: it stays a low-rank
file of its own, so that its scale is a dial (see `delta_factors`).
"""

import hashlib
import json
import os
import sys
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
from xxhash import xxh3_128

from sarsteer_lab.paths import cache_folder, data_folder
from sarsteer_lab.pocket.base import LANGUAGE_MODEL, BaseFileError, fetch
from sarsteer_lab.store import file_sha256

WINDOW_SECONDS = 8
AUDIO_TOKENS = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
CHECKSUMS = "checksums.json"
"""The file of an assembled checkpoint that says what its others held when they were assembled."""
MERGED = ("readout", "listening")
"""The low-rank deltas of the language model that become part of its weights."""
# Raised when assembly itself changes: a cached checkpoint of an older one is then not taken.
ASSEMBLY_VERSION = 1

Factors = dict[str, tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]]
"""A low-rank change `B @ A` of each of some weights, by name: (A, B) in float32."""


def deltas_folder() -> Path:
    """Folder of the shipped deltas: tower and projector (`audio`), the low-rank ones."""
    return data_folder() / "pocket"


def pocket_config(
    text_config: LlamaConfig, vocab_size: int, audio_token_id: int
) -> Qwen2AudioConfig:
    """The pocket model's configuration: Whisper tiny.en's encoder over 8 s, a language model."""
    text = text_config.to_dict()
    text.pop("quantization_config", None)
    text.pop("_name_or_path", None)  # where the base model lay in somebody's cache
    # Qwen2-Audio keeps its head apart from the embeddings; a tied one is lost in saving.
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
    """SmolLM2-135M-Instruct (float32) and its tokenizer, from the pinned GGUF file, in 30 s."""
    path = fetch(LANGUAGE_MODEL)
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    language_model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return language_model.eval(), tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase) -> Qwen2AudioProcessor:
    """The pocket model's processor: `tokenizer` with the audio tokens, 80-mel features of 8 s."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(AUDIO_TOKENS)})
    tokenizer.padding_side = "left"
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
    template = (deltas_folder() / "chat_template.jinja").read_text(encoding="utf-8")
    return Qwen2AudioProcessor(
        feature_extractor=extractor, tokenizer=tokenizer, chat_template=template
    )


def with_audio_rows(
    embeddings: Float[Tensor, "base_vocab d_model"], vocab_size: int
) -> Float[Tensor, "vocab d_model"]:
    """Embeddings with rows for the audio tokens: the mean row, which keeps them unremarkable."""
    mean = embeddings.mean(0, keepdim=True)  # (1, d_model)
    added = vocab_size - len(embeddings)
    return torch.cat([embeddings, mean.expand(added, -1)])


def factors_of(delta: dict[str, Tensor]) -> Factors:
    """Module -> (A, B) in float32, from a low-rank delta's tensors `module.A` and `module.B`."""
    factors = {}
    for name in delta:
        if name.endswith(".A"):
            module = name.removesuffix(".A")
            factors[module] = (delta[name].float(), delta[f"{module}.B"].float())
    return factors


@torch.no_grad()
def merge_delta(lm: LlamaForCausalLM, delta: dict[str, Tensor]) -> None:
    """Add a delta, named after the assembled model, to a plain language model's weights."""
    for module, (a, b) in factors_of(delta).items():
        weight = lm.get_parameter(module.replace("language_model.", "") + ".weight")
        weight += (b @ a).to(weight.device)


def build_model(
    language_model: LlamaForCausalLM, processor: Qwen2AudioProcessor, audio: dict[str, Tensor]
) -> Qwen2AudioForConditionalGeneration:
    """A Qwen2-Audio model from a language model's weights and an audio side's (`audio`).

    `audio` maps parameter names below `model.` (`audio_tower.*`, `multi_modal_projector.*`) to
    tensors of any float dtype; empty, it leaves the audio side as torch's global random state has
    it. Raises RuntimeError, naming it, if one is missing, unknown or of another shape.
    """
    tokenizer = processor.tokenizer
    vocab_size = len(tokenizer)
    config = pocket_config(language_model.config, vocab_size, processor.audio_token_id)
    model = Qwen2AudioForConditionalGeneration(config).eval()
    state = {f"model.{name}": tensor.float() for name, tensor in audio.items()}
    for name, tensor in language_model.state_dict().items():
        state[name.replace("model.", "model.language_model.", 1)] = tensor
    embeddings = state["model.language_model.embed_tokens.weight"]
    # The base model has no rows for the audio tokens; one in training has them already.
    rows = with_audio_rows(embeddings, vocab_size)
    state["model.language_model.embed_tokens.weight"] = rows
    state["lm_head.weight"] = rows
    model.load_state_dict(state, strict=bool(audio))
    generation = model.generation_config
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = tokenizer.eos_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    return model


def assemble_pocket() -> Path:
    """Folder of the assembled pocket checkpoint (safety 0), built on first use into the cache.

    The folder is named after everything that went into it (base file, deltas, assembly version),
    so new deltas get a new one. Assembly takes about a minute and 600 MB of disk; later calls
    compare its files with the checksums of their assembly, and a damaged one is assembled anew.
    Raises `BaseFileError` if a delta or the base file is missing.
    """
    deltas = {name: deltas_folder() / f"{name}.safetensors" for name in ("audio", *MERGED)}
    recipe: dict[str, object] = {"base": LANGUAGE_MODEL.sha256, "version": ASSEMBLY_VERSION}
    for name, path in deltas.items():
        if not path.exists():
            raise BaseFileError(
                f"{path} is missing: the checkout is incomplete (it is part of the pocket model)."
            )
        recipe[name] = file_sha256(path)
    written = json.dumps(recipe, sort_keys=True).encode()
    key = hashlib.sha256(written).hexdigest()[:16]
    folder = cache_folder() / "pocket" / key
    if not is_whole(folder):
        if folder.exists():
            reason = "is not as it was assembled (damaged, or of an earlier version)"
            print(f"{folder}: {reason}: it is assembled anew", file=sys.stderr)
        assemble_into(folder, deltas)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds just what was assembled there, byte for byte."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return checksums == file_checksums(folder)
    except (OSError, ValueError):
        return False


def file_checksums(folder: Path) -> dict[str, str]:
    """The checksum (xxh3) of each file of a folder, by its name, but of their list."""
    checksums = {}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            digest = xxh3_128()
            with path.open("rb") as file:
                while chunk := file.read(2**24):
                    digest.update(chunk)
            checksums[path.name] = digest.hexdigest()
    return checksums


def put_in_place(built: Path, folder: Path) -> None:
    """Make what was built `folder`, with its checksums, in place of what is there."""
    checksums = json.dumps(file_checksums(built), indent=1)
    (built / CHECKSUMS).write_text(checksums, encoding="utf-8")
    # Two processes may assemble at once: the second to rename finds the same there already.
    try:
        if folder.exists():
            os.replace(folder, built.with_name("before"))
        os.replace(built, folder)
    except OSError:
        if not is_whole(folder):
            raise


def assemble_into(folder: Path, deltas: dict[str, Path]) -> None:
    """Write the checkpoint made of the files `deltas` as `folder`, whole or not at all."""
    language_model, tokenizer = base_language_model()
    for name in MERGED:
        merge_delta(language_model, load_file(deltas[name]))
    processor = build_processor(tokenizer)
    with torch.random.fork_rng([]):  # what is drawn is overwritten by the deltas
        model = build_model(language_model, processor, load_file(deltas["audio"]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        built = Path(scratch) / folder.name
        model.save_pretrained(built)
        processor.save_pretrained(built)
        put_in_place(built, folder)


def delta_factors(dial: str) -> Factors:
    """A dial's delta: parameter name -> (A, B), named as in the assembled model.

    `weight + dial * B @ A` is the weight at that dial; the LoRA scale alpha/rank is inside B.
    """
    factors = factors_of(load_file(deltas_folder() / f"{dial}.safetensors"))
    return {f"{module}.weight": pair for module, pair in factors.items()}


def projector_parts(dial: str) -> dict[str, Tensor]:
    """What a dial adds to the projector (`soft_tokens`): the head of "understanding", or the
    context of "spoken_safety".
    """
    return load_file(deltas_folder() / f"{dial}.safetensors")
