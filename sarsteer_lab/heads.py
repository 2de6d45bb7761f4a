"""Attention heads: how much each of them reads of a clip, and a model without some of them.

A head reads: its output is a mean of what stands at earlier positions, by its attention. The output
projection of attention (`o_proj`) writes what all heads of a layer have read into the residual
stream. `without_heads` puts zeros in place of what some heads have read:

    shares = audio_attention(lalm, [request.spoken() for request in requests]).mean(0)
    with without_heads(lalm, [Head(15, 3), Head(16, 0)]):
        print(lalm.generate([request.spoken()]))

Zeros, and not what a head reads on average over prompts: nothing has to be estimated, and all heads
of a layer together are then its attention (Michel et al. 2019, arXiv 1905.10650). A state without a
head's mean is one that the model never sees, so compare with as many random heads (`heads_like`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sarsteer_lab.access import in_this_thread
from sarsteer_lab.batch import Batch, Prompts
from sarsteer_lab.families import Output, find_attention
from sarsteer_lab.lalm import LALM
from sarsteer_lab.steering import watched
from sarsteer_lab.steering_guard import (
    Options,
    holds_prompts,
    prompts_of_rows,
    refuse_compiled,
    refuse_layers_alone,
    tokens_and_cached,
)


class Head(NamedTuple):
    """An attention head: of the `head`-th part, from 0 on, of what `layer` attends with.

    `prompt` is the number of a prompt in the call (for direct calls of the model: of the row), None
    for all of them.
    """

    layer: int
    head: int
    prompt: int | None = None


def n_heads(lalm: LALM) -> int:
    """How many attention heads a decoder layer has."""
    return int(lalm.text_config.num_attention_heads)


@contextmanager
def without_heads(lalm: LALM, heads: Sequence[Head]) -> Iterator[None]:
    """Have some attention heads write nothing while the block lasts.

    They read nothing at the prompts' last position and at generated tokens; earlier positions are
    read as ever. Blocks nest with each other and with those of `steer` and `patch`. Afterwards the
    model is what it was, bit for bit.

    Raises ValueError for heads that the model does not have, and for a model whose attention has no
    output projection that is known; SteeringError for what steering refuses.
    """
    by_layer: dict[int, list[Head]] = {}
    for one in heads:
        [layer] = lalm.layer_indices([one.layer])
        if not 0 <= one.head < n_heads(lalm):
            raise ValueError(f"head {one.head}: {lalm.name} has heads 0 to {n_heads(lalm) - 1}")
        by_layer.setdefault(layer, []).append(one)
    attentions = {layer: _attention(lalm, layer) for layer in by_layer}
    refuse_compiled(lalm)
    off = HeadsOff(lalm, by_layer)
    with ExitStack() as hooks:
        hooks.enter_context(watched(lalm, off))
        for layer, attention in attentions.items():
            silence = partial(off.silence, layer)
            hooks.enter_context(attention.o_proj.register_forward_pre_hook(silence))
        yield


def _attention(lalm: LALM, layer: int) -> Any:
    """The attention of a layer. Raises ValueError, which names the family, if it is not found."""
    attention = find_attention(lalm.layers[layer])
    if attention is None:
        kind = type(lalm.layers[layer]).__name__
        reason = f"layer {layer}, a {kind}, has no attention with an output projection `o_proj`"
        raise ValueError(
            f"{lalm.name} (family {lalm.family.name}): {reason}, so no heads are known"
        )
    return attention


class HeadsOff:
    """The hooks of `without_heads`, and what they know of the forward pass that runs.

    `batch` is what the library announces (`LALM.announce`); None in direct calls of the model.
    `at_prompt` and `row_alphas` are for the guard: whether prompts run, and whether any has.
    """

    def __init__(self, lalm: LALM, by_layer: dict[int, list[Head]]) -> None:
        self.access, self.n_heads = lalm.access, n_heads(lalm)
        self.by_layer = by_layer
        self.batch: Batch | None = None
        self.at_prompt: bool | None = None  # None: no pass of the model runs
        self.row_alphas: float | None = None
        self.off: dict[int, Bool[Tensor, "row head"]] = {}  # by layer, for the pass that runs
        self.prompt_of_row: list[int] = []

    def before_forward(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: Options) -> None:
        """Hook of the trunk: find out which prompts this pass holds."""
        tokens, n_cached = tokens_and_cached(args, kwargs)
        self.at_prompt = holds_prompts(n_cached, self.batch)
        if self.at_prompt:
            self.row_alphas = 1.0
        prompt_of_row = prompts_of_rows(len(tokens), self.batch)
        if prompt_of_row != self.prompt_of_row:  # steps of one answer hold the same rows
            self.prompt_of_row = prompt_of_row
            self.off = {layer: self._off(layer) for layer in self.by_layer}

    def silence(
        self, layer: int, _module: nn.Module, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Hook of an output projection: zeros for what its heads have read at the last position."""
        self.access.refuse_others()
        refuse_layers_alone(self.at_prompt)
        read, *others = args
        left = read.clone()  # row position width
        by_head = left[:, -1].unflatten(-1, (self.n_heads, -1))  # a view
        by_head[self.off[layer].to(left.device)] = 0
        return (left, *others)

    def _off(self, layer: int) -> Bool[Tensor, "row head"]:
        """Which of a layer's heads each row is without."""
        off = torch.zeros(len(self.prompt_of_row), self.n_heads, dtype=torch.bool)
        for row, prompt in enumerate(self.prompt_of_row):
            for one in self.by_layer[layer]:
                if one.prompt in (None, prompt):
                    off[row, one.head] = True
        return off


@torch.no_grad()
def audio_attention(
    lalm: LALM, prompts: Prompts, *, batch_size: int = 8
) -> Float[Tensor, "prompt layer head"]:
    """The share of each head's attention, at the prompt's last position, that falls on the clip.

    From 0 to 1. Attention is computed in the one way that gives its weights out (eager), and set
    back afterwards. Raises ValueError for a typed prompt, and for a model whose attention is not
    known or gives no weights out.
    """
    encoded = lalm.encode(prompts)
    for number, prompt in enumerate(encoded):
        if prompt.waveform is None:
            raise ValueError(f"prompt {number} has no clip, and so no audio positions")
    shares = [torch.empty(0)] * len(encoded)
    for batch in lalm.batches(encoded, batch_size, "attention"):
        heard = batch.inputs["input_ids"] == lalm.audio_token_id  # row position
        with _last_weights(lalm) as noted:
            lalm.read(batch)
        for row, number in enumerate(batch.prompt_numbers):
            by_layer = []
            for weights in noted:
                of_clip = weights[row][:, heard[row].to(weights.device)]
                by_layer.append(of_clip.sum(-1).to(lalm.device))
            shares[number] = torch.stack(by_layer)
    return torch.stack(shares)


@contextmanager
def _last_weights(lalm: LALM) -> Iterator[list[Float[Tensor, "row head position"]]]:
    """A list that gets, layer by layer, each head's attention weights at the last position."""
    noted: list[Tensor] = []

    def note(_module: nn.Module, _args: object, output: Output) -> None:
        weights = output[1] if isinstance(output, tuple) else None
        if weights is None:
            kind = f"{lalm.name} (family {lalm.family.name})"
            raise ValueError(f"{kind} gives no attention weights out")
        noted.append(weights[:, :, -1].float())

    attentions = [_attention(lalm, layer) for layer in range(lalm.n_layers)]
    settings = lalm.decoder.config
    with ExitStack() as hooks:
        hooks.enter_context(lalm.access.alone())
        # A name alone would be set on the settings of a tower, too.
        before = {"": settings._attn_implementation}
        hooks.callback(setattr, settings, "_attn_implementation", before)
        settings._attn_implementation = {"": "eager"}
        for attention in attentions:
            hooks.enter_context(attention.register_forward_hook(in_this_thread(note)))
        yield noted


def strongest(shares: Float[Tensor, "layer head"], n: int) -> list[Head]:
    """The `n` heads with the largest values, the largest first."""
    found = []
    for place in shares.flatten().argsort(descending=True, stable=True)[:n].tolist():
        layer, head = divmod(place, shares.shape[1])
        found.append(Head(layer, head))
    return found


def heads_like(heads: Sequence[Head], n_heads: int, seed: int) -> list[Head]:
    """As many random heads in the same layers: the control for "any heads of these layers do that".

    They are drawn from a layer's other heads, and from `heads` only where these are too few.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    in_layer = Counter(one.layer for one in heads)
    for layer, wanted in sorted(in_layer.items()):
        chosen = {one.head for one in heads if one.layer == layer}
        order = torch.randperm(n_heads, generator=generator).tolist()
        order.sort(key=chosen.__contains__)  # the others first; a sort keeps the drawn order
        drawn += [Head(layer, head) for head in order[:wanted]]
    return drawn
