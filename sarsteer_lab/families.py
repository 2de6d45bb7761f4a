"""Model families: the table of what differs between them, and how the same parts are found in all.

Nothing else in the package names a family. A model whose type has no row gets the last one, `auto`,
which trusts the recipes below and the processor's own chat template.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BatchFeature

from sarsteer_lab.chat import (
    Messages,
    Processor,
    encode_apart,
    encode_mistral,
    encode_together,
    render_chat,
    render_mistral,
)

Settings: TypeAlias = Any
"""A configuration of transformers; these have no common type."""

Output: TypeAlias = Any
"""What a module returns: a tensor, a tuple or a dataclass, by family and version."""


def window_seconds(processor: Processor) -> float | None:
    """The window of a Whisper feature extractor in seconds; None for those that take any length."""
    return getattr(getattr(processor, "feature_extractor", None), "chunk_length", None)


def gemma_seconds(processor: Processor) -> float:
    """Gemma's extractors cut at 480,000 samples, and its audio tokens are limited too."""
    milliseconds = getattr(processor, "audio_ms_per_token", 160)
    return min(30.0, processor.audio_seq_length * milliseconds / 1000)


@dataclass(frozen=True)
class Family:
    """One row of the table: what has to be known about a family beyond the recipes.

    It covers the `config.model_type` that is its `name`, and `more_types`. `render` turns a
    conversation into text (of a day), `encode` conversations, texts and clips into inputs.
    `max_seconds` says how long a clip the processor hears (None: any). `needs`: packages that the
    real processor or model takes beyond the project's own, as (import name, what to install).
    `mixes`: whether typed prompts and clips of different lengths may share a batch; where they may
    not, the audio tower lets padding into what it hears, or the decoder has an adapter (peft's)
    that is on for speech alone. `adapter`: the folder in a checkpoint that holds this, "" for the
    checkpoint's own. `encoder`: the trunk's method that encodes clips and the field of its output
    with which the trunk goes on, where that depends on the clip alone. `note`: what a user should
    know.
    """

    name: str
    more_types: tuple[str, ...] = ()
    render: Callable[[Processor, Messages, date], str] = render_chat
    encode: Callable[..., BatchFeature] = encode_together
    max_seconds: Callable[[Processor], float | None] | None = window_seconds
    needs: tuple[tuple[str, str], ...] = ()
    mixes: bool = True
    adapter: str | None = None
    encoder: tuple[str, str] | None = None
    note: str = ""


THINKER = "only its thinker (audio and text in, text out) is used; it never speaks here"
HEARS_PADDING = (
    "its audio tower hears the padding of shorter clips: only clips of one length share a batch"
)
PEFT = ("peft", "peft>=0.20")
TORCHVISION = ("torchvision", "torchvision (the version that belongs to your torch)")
HIDDEN = ("get_audio_features", "last_hidden_state")
POOLED = ("get_audio_features", "pooler_output")

flamingo = attrgetter("max_audio_len")
"""Its processor cuts a clip into windows, and what lies beyond this length away."""

QWEN2_AUDIO = Family("qwen2_audio", encoder=("audio_tower.forward", "last_hidden_state"))

QWEN2_5_OMNI = Family(
    "qwen2_5_omni", ("qwen2_5_omni_thinker",), needs=(TORCHVISION,), encoder=HIDDEN, note=THINKER
)

QWEN3_OMNI = Family(
    "qwen3_omni",
    ("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    max_seconds=None,
    needs=(TORCHVISION,),
    mixes=False,
    encoder=HIDDEN,
    note=f"{THINKER}; a shorter clip's last frame differs in a padded batch, so only clips of "
    "one length share one",
)

VOXTRAL = Family(
    "voxtral",
    render=render_mistral,
    encode=encode_mistral,
    max_seconds=None,
    needs=(("mistral_common", "mistral-common[audio]"),),
    encoder=POOLED,
    note="has no system turn; a clip is padded to whole windows of 30 s",
)

AUDIO_FLAMINGO = Family("audioflamingo3", encode=encode_apart, max_seconds=flamingo, encoder=POOLED)

MUSIC_FLAMINGO = Family("musicflamingo", encode=encode_apart, max_seconds=flamingo)

PHI4_MULTIMODAL = Family(
    "phi4_multimodal",
    needs=(TORCHVISION, PEFT),
    mixes=False,
    adapter="speech-lora",
    note=HEARS_PADDING,
)

GRANITE_SPEECH = Family(
    "granite_speech",
    ("granite_speech_plus",),
    needs=(("torchaudio", "torchaudio"), PEFT),
    mixes=False,
    adapter="",
    encoder=POOLED,
    note=HEARS_PADDING,
)

GEMMA3N = Family(
    "gemma3n",
    max_seconds=gemma_seconds,
    needs=(("timm", "timm"), TORCHVISION),
    mixes=False,
    note="its residual stream is one of several (altup): the active one is captured and "
    f"steered; {HEARS_PADDING}",
)

GEMMA4 = Family("gemma4", max_seconds=gemma_seconds, needs=(TORCHVISION,))

AUTO = Family("auto")
"""The row of every model that has none."""

FAMILIES = (
    QWEN2_AUDIO,
    QWEN2_5_OMNI,
    QWEN3_OMNI,
    VOXTRAL,
    AUDIO_FLAMINGO,
    MUSIC_FLAMINGO,
    PHI4_MULTIMODAL,
    GRANITE_SPEECH,
    GEMMA3N,
    GEMMA4,
    AUTO,
)


def find_family(config: Settings, name: str | None = None) -> Family:
    """The row called `name`, or the one for `config.model_type`, or the generic row `auto`.

    Raises ValueError for a name that is not in the table.
    """
    for family in FAMILIES:
        covered = (family.name, *family.more_types)
        if name == family.name or name is None and config.model_type in covered:
            return family
    if name is None:
        return AUTO
    choices = ", ".join(family.name for family in FAMILIES)
    raise ValueError(f"no family {name!r}; choose {choices}")


def unusual(model: nn.Module, family: Family) -> list[str]:
    """What is otherwise than usual in how a model is run, and stands in no configuration.

    Another row of the table than its own, another attention than sdpa, and products of float32
    that are less exact than "highest".
    """
    told = []
    if family is not find_family(model.config):
        told.append(f"family {family.name}")
    attentions = set()
    for part in model.modules():
        settings = getattr(part, "config", None)
        attention = getattr(settings, "_attn_implementation", None)
        if attention not in (None, "sdpa"):
            attentions.add(f"attention {attention}")
    told += sorted(attentions)
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        told.append(f"precision {precision}")
    return told


def missing_packages(family: Family) -> list[str]:
    """What to install before a real model of the family can be loaded."""
    return [install for module, install in family.needs if find_spec(module) is None]


def without_wrapper(model: Any, name: str) -> Any:
    """The model that peft's wrapper is around, if it is: it holds the layers of its LoRA.

    Raises ValueError for adapters of virtual tokens, for a model that messages call `name`, and
    TypeError for what is no model of transformers'.
    """
    is_model = isinstance(model, nn.Module) and hasattr(model, "config")
    if not is_model:
        kind = type(model).__name__
        advice = "a processor comes second, and of torch's wrappers (DataParallel) give .module"
        raise TypeError(f"{name}: a {kind} is no model of transformers: {advice}")
    if not hasattr(model, "get_base_model"):
        return model
    if any(adapter.is_prompt_learning for adapter in model.peft_config.values()):
        reason = "its adapter's virtual tokens move positions; use LoRA or its like"
        raise ValueError(f"{name}: {reason}")
    return model.get_base_model()


def find_core(model: nn.Module) -> Any:
    """The part that reads audio and text and writes text: the thinker of a model that has one."""
    return getattr(model, "thinker", model)


def find_decoder(model: nn.Module) -> Any:
    """The text decoder: the module whose `layers` (a ModuleList) carry the residual stream.

    Follows `get_decoder()` from the core on. Raises ValueError if there is none.
    """
    module = find_core(model)
    path = [type(module).__name__]
    while not isinstance(getattr(module, "layers", None), nn.ModuleList):
        inner = module.get_decoder() if hasattr(module, "get_decoder") else module
        if inner is None or inner is module:
            followed = " -> ".join(path)
            raise ValueError(
                f"found no decoder layers in {type(model).__name__}: followed {followed}"
            )
        module = inner
        path.append(type(module).__name__)
    return module


def find_attention(layer: nn.Module) -> Any:
    """The attention of a decoder layer, by its output projection `o_proj`; None without one.

    What the projection is given holds what each head has read, one head beside the other.
    """
    attention = getattr(layer, "self_attn", None)
    projection = getattr(attention, "o_proj", None)
    return attention if isinstance(projection, nn.Module) else None


def find_trunk(model: nn.Module) -> Any:
    """The innermost module that takes token ids *and* audio: without its vocabulary head, if any.

    For a 7B model and 300 positions the head costs more memory than all else.
    """
    core = find_core(model)
    names = inspect.signature(core.base_model.forward).parameters
    hears = any(name.startswith(("input_features", "audio_", "input_values")) for name in names)
    return core.base_model if hears and "input_ids" in names else core


def foreign_hooks(part: nn.Module) -> list[Any]:
    """What is hooked to a part of a model, but transformers' own (inert) output recorders."""
    hooks: list[Any] = []
    for module in part.modules():
        hooks += module._forward_hooks.values()
        hooks += module._forward_pre_hooks.values()
    return [
        hook for hook in hooks if not getattr(hook, "__module__", "").startswith("transformers.")
    ]


def adapter_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that carry adapters (peft's)."""
    layers = []
    for part in model.modules():
        # There it is a bool, on whole models a method.
        if isinstance(getattr(part, "disable_adapters", None), bool):
            layers.append(part)
    return layers


@contextmanager
def speech_adapters(model: nn.Module, family: Family, spoken: bool) -> Iterator[None]:
    """A family's adapters for speech on if there are clips, else off, while the block lasts."""
    layers = [] if family.adapter is None else adapter_layers(model)
    before = [not layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer.enable_adapters(spoken)
        yield
    finally:
        for layer, on in zip(layers, before, strict=True):
            layer.enable_adapters(on)


def audio_token_id(model: nn.Module) -> int | None:
    """Id of the token that stands where audio embeddings go; None if the model has none."""
    config = find_core(model).config
    # Phi-4-multimodal keeps it with the audio tower's settings.
    for settings in (config, getattr(config, "audio_config", None)):
        for name in ("audio_token_id", "audio_token_index"):
            token_id = getattr(settings, name, None)
            if token_id is not None:
                return int(token_id)
    return None


def residual_stream(
    output: Output, text_config: Settings
) -> Float[Tensor, "batch position d_model"]:
    """The residual stream in a decoder layer's output: a view, so in-place edits reach the model.

    Layers return plain tensors in transformers 5; older remote code returns tuples. Gemma 3n's are
    4-D (altup batch position d_model): the stream is the active altup entry.
    """
    if isinstance(output, tuple):
        output = output[0]
    if output.ndim == 4:
        output = output[text_config.altup_active_idx]
    return output
