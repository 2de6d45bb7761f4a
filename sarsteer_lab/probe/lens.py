"""The bridge to TransformerLens, and what it takes to use it with audio.

TransformerLens names every place in every model alike (`blocks.3.hook_resid_post`,
`blocks.3.attn.hook_pattern`), so tools written for text models can be pointed at an audio-language
model. Two things of it need care, and are dealt with here: booting a multimodal bridge may run `pip
install torchvision` in the running interpreter, and its `patching` helpers pass on token ids alone,
so that the clip is silently lost."""

import copy
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.factories import architecture_adapter_factory as factory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import helpers

from sarsteer_lab.families import adapter_layers
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt


def to_transformer_lens(lalm: LALM) -> TransformerBridge:
    """A TransformerLens bridge to the model's text-writing core; `lalm` itself is untouched.

    TransformerLens puts its components into the model that it is given, so it gets a copy of the
    modules (not of the weights, which are shared). The bridge runs attention in its
    "eager" form. Nothing is installed, whatever TransformerLens would like to. Bridged are the
    families that TransformerLens knows (Qwen2-Audio, Audio Flamingo 3, Music Flamingo, Gemma 4, and
    Gemma 3n where timm is installed) and those of `sarsteer_lab.probe.lens_adapters` (Voxtral,
    Qwen2.5-Omni, Granite Speech, Phi-4-multimodal); of these last two the bridge is of the model
    that hears, its adapter for speech merged into its own weights.

    Raises ValueError for a model without an adapter and for one spread over several devices,
    ImportError if the adapter needs a package.
    """
    core = lalm.core
    if len({weight.device for weight in core.parameters()}) > 1:
        advice = "load it on one for TransformerLens"
        raise ValueError(f"{lalm.name} is spread over several devices; {advice}")
    factory.ArchitectureAdapterFactory.discover_entry_points()
    known = factory.ArchitectureAdapterFactory._adapters
    architecture = type(core).__name__
    if architecture not in known:
        missing = f"TransformerLens has no adapter for {architecture}"
        raise ValueError(f"{missing}, and this package brings none")
    twin = _twin(core)
    twin.config.architectures = [architecture]
    # Not the name of anything on a hub, so that nothing is looked for there.
    name = f"./{lalm.name.replace(' ', '-')}"
    tokenizer = copy.deepcopy(lalm.tokenizer)
    options = {"device": str(lalm.device), "dtype": lalm.dtype}
    with (
        patch.object(helpers, "_ensure_torchvision", lambda: False),
        # boot looks for the architecture among TransformerLens's own alone.
        patch.dict(factory.SUPPORTED_ARCHITECTURES, known),
        torch.no_grad(),
    ):
        return TransformerBridge.boot_transformers(
            name, hf_model=twin, tokenizer=tokenizer, **options
        )


def _twin(core: nn.Module) -> Any:
    """A copy of the modules that shares the weights, but those that adapters are merged into."""
    shared: dict[int, Any] = {}
    for tensor in (*core.parameters(), *core.buffers()):
        shared[id(tensor)] = tensor
    for layer in adapter_layers(core):
        del shared[id(layer.weight)]
    twin = copy.deepcopy(core, shared)
    for layer in adapter_layers(twin):
        layer.merge()
    return twin


def bridge_inputs(
    lalm: LALM, prompts: Sequence[Prompt]
) -> tuple[Int[Tensor, "prompt position"], dict[str, Tensor]]:
    """What a bridge is called with: token ids, and by name all else (mask, audio features).

    `bridge(ids, **rest)`, `bridge.run_with_cache(ids, **rest)`, `bridge.run_with_hooks(ids,
    fwd_hooks=..., **rest)`. Rows are padded on the left: position -1 is every prompt's last. Raises
    what `LALM.inputs` does.
    """
    inputs = dict(lalm.inputs(prompts))
    return inputs.pop("input_ids"), inputs
