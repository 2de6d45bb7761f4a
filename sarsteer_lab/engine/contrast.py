"""States of the same clips under several texts, at little more than the price of one.

SARSteer compares a prompt with the same prompt and a refusal sentence behind it (arXiv 2510.17633,
step 2). System turn, clip and instruction are common to both and stand first: they run once, their
keys and values stay, and each text costs only its own last tokens. The vocabulary head does not run
at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from os.path import commonprefix

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import BatchFeature

from sarsteer_lab.activations import Gathered, capture, layer_indices, record_states
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.key_values import keeps_plain_cache
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.store import Store


@torch.no_grad()
def capture_variants(
    lalm: LALM,
    variants: Sequence[Sequence[Prompt]],
    *,
    batch_size: int = 16,
    cache: Store | None = None,
) -> list[Float[Tensor, "prompt layer d_model"]]:
    """What `capture` gives for each of `variants`, up to rounding: last-token states, float32, on
    the device.

    A variant is a list of prompts; those at one place share their clip. If all end in the same
    tokens for every clip (SARSteer's do), what stands before runs once; if not, or without a plain
    cache of all positions, each is captured by itself. `batch_size` and `cache` as there. Raises
    ValueError if the lists differ in length, or clips at one place.
    """
    if len({len(variant) for variant in variants}) > 1:
        raise ValueError(
            f"variants of {[len(variant) for variant in variants]} prompts cannot be paired"
        )
    for row, prompts in enumerate(zip(*variants, strict=True)):
        if not all(_same_clip(prompt, prompts[0]) for prompt in prompts):
            raise ValueError(f"the variants of prompt {row} have different clips")
    remember_clips(lalm)
    chosen = layer_indices(lalm, None)
    tails = common_tails(lalm, variants)
    if tails is None:
        return [capture(lalm, variant, batch_size=batch_size, cache=cache) for variant in variants]
    gathered = [Gathered(lalm, variant, chosen, "last", cache) for variant in variants]
    lacking = [at for at, each in enumerate(gathered) if each.missing]
    missing = sorted({row for at in lacking for row in gathered[at].missing})
    first, own = [variants[0][row] for row in missing], [tails[at] for at in lacking]
    with closing(lalm.batches(first, batch_size, "states")) as batches:
        for batch, inputs in batches:
            rows = [missing[row] for row in batch]
            for at, found in zip(
                lacking, _run_batch(lalm, inputs, len(tails[0]), own, chosen), strict=True
            ):
                # What is kept stays: another batch gives other last digits, of which further keys
                # are made.
                new = [i for i, row in enumerate(rows) if row in gathered[at].missing]
                gathered[at].add([rows[i] for i in new], [layer[new] for layer in found])
    return [each.states for each in gathered]


def _same_clip(one: Prompt, other: Prompt) -> bool:
    if isinstance(one.audio, np.ndarray) or isinstance(other.audio, np.ndarray):
        return one.audio is other.audio
    return one.audio == other.audio


def _run_batch(
    lalm: LALM, inputs: BatchFeature, first: int, tails: list[list[int]], layers: Sequence[int]
) -> Iterator[list[Float[Tensor, "row d_model"]]]:
    """The last states of each tail, layer by layer; `inputs` end in a tail of `first` tokens."""
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    shared = ids.shape[1] - first
    ready = lalm.trunk(
        input_ids=ids[:, :shared], attention_mask=mask[:, :shared], use_cache=True, **inputs
    )
    past = ready.past_key_values
    for tail in tails:
        step = ids.new_tensor(tail).expand(len(ids), -1)
        seen = torch.cat([mask[:, :shared], mask.new_ones(step.shape)], 1)
        recorded: list[Tensor] = [torch.empty(0)] * len(layers)

        def keep(at: int, stream: Tensor, recorded: list[Tensor] = recorded) -> None:
            recorded[at] = stream[:, -1].to(torch.float32, copy=True)

        with record_states(lalm, layers, keep):
            lalm.trunk(input_ids=step, attention_mask=seen, past_key_values=past, use_cache=True)
        past.crop(-len(tail))
        yield recorded


def common_tails(lalm: LALM, variants: Sequence[Sequence[Prompt]]) -> list[list[int]] | None:
    """For each variant the tokens that only it ends in, if they are the same for every clip; else
    None.

    None also if the variants part before the clip has been heard, or the decoder keeps no plain
    cache.
    """
    if not variants or not variants[0] or not keeps_plain_cache(lalm):
        return None
    tails = None
    seen = set()
    for prompts in zip(*variants, strict=True):
        # The ids are real ones, clips and all: text that is rendered and tokenised again may give
        # others. The end of a prompt depends on its texts alone, so they are made once for prompts
        # with the same ones.
        texts = tuple((p.system, p.text, p.audio is None) for p in prompts)
        if texts in seen:
            continue
        seen.add(texts)
        rows = [lalm.batch([prompt])["input_ids"][0].tolist() for prompt in prompts]
        # Every tail keeps a token, whose state is the one wanted.
        shared = min(len(commonprefix(rows)), *(len(row) - 1 for row in rows))
        own = [row[shared:] for row in rows]
        if (tails is not None and own != tails) or any(lalm.audio_token_id in tail for tail in own):
            return None
        tails = own
    return tails
