"""The bridge to TransformerLens, and what it takes to use it, and activation patching, with audio.

TransformerLens names every place in every model alike (`blocks.3.hook_resid_post`,
`blocks.3.attn.hook_pattern`), so tools written for text models can be pointed at an audio-language model.
Two things of it need care, and are dealt with here: booting a multimodal bridge may run `pip install
torchvision` in the running interpreter, and its `patching` helpers pass on token ids alone, so that the
clip is silently lost."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.factories import architecture_adapter_factory as factory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import helpers

from sarsteer_lab.activations import capture, layer_indices, record_states
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors

Hook = tuple[str, Callable[..., Tensor]]


def to_transformer_lens(lalm: LALM) -> TransformerBridge:
    """A TransformerLens bridge to the model's text-writing core, sharing its weights; `lalm` itself is
    untouched.

    TransformerLens puts its components into the model that it is given, so it gets a copy of the modules
    (not of the weights, which stay in memory once). The bridge runs attention in its "eager" form. Nothing
    is installed, whatever TransformerLens would like to. Bridged are the families that TransformerLens
    knows (Qwen2-Audio, Audio Flamingo 3, Music Flamingo, Gemma 4, and Gemma 3n where timm is installed)
    and those of `sarsteer_lab.probe.adapters` (Voxtral, Qwen2.5-Omni, Granite Speech, Phi-4-multimodal).

    Raises ValueError for a model without an adapter and for one spread over several devices, ImportError
    if the adapter needs a package."""
    core = lalm.core
    if len({weight.device for weight in core.parameters()}) > 1:
        raise ValueError(f"{lalm.name} is spread over several devices; load it on one for TransformerLens")
    factory.ArchitectureAdapterFactory.discover_entry_points()
    known = factory.ArchitectureAdapterFactory._adapters
    architecture = type(core).__name__
    if architecture not in known:
        raise ValueError(f"TransformerLens has no adapter for {architecture}, and this package brings none")
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*core.parameters(), *core.buffers())}
    twin = copy.deepcopy(core, shared)
    twin.config.architectures = [architecture]
    with (
        patch.object(helpers, "_ensure_torchvision", lambda: False),
        # boot looks for the architecture among TransformerLens's own alone, external adapters or not.
        patch.dict(factory.SUPPORTED_ARCHITECTURES, known),
        torch.no_grad(),
    ):
        return TransformerBridge.boot_transformers(
            # Not the name of anything on a hub, so that nothing is looked for there.
            f"./{lalm.name.replace(' ', '-')}",
            hf_model=twin,
            tokenizer=copy.deepcopy(lalm.tokenizer),
            device=str(lalm.device),
            dtype=lalm.dtype,
        )


def bridge_inputs(
    lalm: LALM, prompts: Sequence[Prompt]
) -> tuple[Int[Tensor, "prompt position"], dict[str, Tensor]]:
    """What a bridge is called with: token ids, and by name all else (mask, audio features).

    `bridge(ids, **rest)`, `bridge.run_with_cache(ids, **rest)`, `bridge.run_with_hooks(ids, fwd_hooks=...,
    **rest)`. Rows are padded on the left: position -1 is every prompt's last. Raises what `LALM.batch`
    does."""
    inputs = dict(lalm.batch(prompts))
    return inputs.pop("input_ids"), inputs


def steering_hooks(vectors: SteeringVectors, alpha: float, prompt_length: int) -> list[Hook]:
    """Steering as TransformerLens hooks: `alpha * v` onto each block's output from the prompt's last
    position on.

    For runs of the whole sequence, prompt and what has been generated, without a cache. `prompt_length`
    counts positions with padding."""

    def add(stream: Tensor, hook: Any, vector: Tensor) -> Tensor:
        stream = stream.clone()
        stream[:, prompt_length - 1 :] += alpha * vector.to(stream.device)
        return stream

    return [(f"blocks.{layer}.hook_out", partial(add, vector=vectors[layer])) for layer in vectors.layers]


def token_curve(
    lalm: LALM, states: Float[Tensor, "prompt layer d_model"], tokens: Sequence[int]
) -> Float[Tensor, "prompt layer"]:
    """How likely one of `tokens` is to come next, read out at each layer by the logit lens (0 to 1).

    With the ids of a refusal's first tokens: at which depth the refusal shows. Raises ValueError without
    tokens."""
    if not tokens:
        raise ValueError("give the ids of at least one token")
    return logit_lens(lalm, states).softmax(-1)[..., list(tokens)].sum(-1)


@contextmanager
def patched(lalm: LALM, states: Float[Tensor, "layer d_model"], layers: Sequence[int]) -> Iterator[None]:
    """Put `states[i]` in place of the last position's output of `layers[i]` while the block lasts.

    For single forward passes (`next_token_logits`, `capture`), not for generation. The rest of the prompt,
    its audio included, runs as it is. Raises ValueError for states that do not fit the layers."""
    chosen = layer_indices(lalm, layers)
    if states.shape != (len(chosen), lalm.d_model):
        raise ValueError(
            f"states of shape {tuple(states.shape)} for {len(chosen)} layers of width {lalm.d_model}"
        )

    def replace(at: int, stream: Tensor) -> None:
        stream[:, -1] = states[at].to(stream.device, stream.dtype)

    with record_states(lalm, chosen, replace):
        yield


def patching_curve(
    lalm: LALM,
    source: Prompt,
    target: Prompt,
    measure: Callable[[Float[Tensor, "vocab"]], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer"]:
    """`measure` of `target`'s next-token logits with the last state of one layer at a time taken from
    `source`.

    Each layer of `layers` (default: all) gives one value. Where the curve jumps from the target's value to
    the source's, the last position has taken up what makes the two differ. Both prompts keep their clips.
    """
    chosen = layer_indices(lalm, layers)
    states = capture(lalm, [source], layers=chosen)[0]
    values = []
    for at, layer in enumerate(tqdm(chosen, desc="patching", unit="layer", delay=2, leave=False)):
        with patched(lalm, states[at : at + 1], [layer]):
            values.append(measure(lalm.next_token_logits([target])[0]))
    return torch.stack(values)
