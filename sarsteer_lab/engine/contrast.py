"""Prefix sharing: states of one clip under several texts at little more than the price of one.

SARSteer compares a prompt with the same prompt and a refusal sentence behind it (arXiv 2510.17633,
step 2). System turn, clip and instruction are common to both and stand first: they run once, their
keys and values stay, and each text costs only its own last tokens. The vocabulary head does not run
at all.
"""

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import capture, check_finite, first_pass, record_states
from sarsteer_lab.batch import Batch, Encoded, Prompts
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.key_values import keeps_plain_cache
from sarsteer_lab.lalm import LALM


@torch.no_grad()
def capture_variants(
    lalm: LALM, variants: Sequence[Prompts], *, batch_size: int = 16
) -> list[Float[Tensor, "prompt layer d_model"]]:
    """What `capture` gives for each of `variants`, up to rounding.

    A variant is a list of prompts; those at one place share their clip. If all end in the same
    tokens for every clip (SARSteer's do), what stands before runs once; if not, without a plain
    cache of all positions, or while the model is steered, each is captured by itself. Raises
    ValueError if the lists differ in length, or clips at one place.
    """
    encoded = [lalm.encode(prompts) for prompts in variants]
    check_same_clips(encoded)
    remember_clips(lalm)
    # What steers acts where a pass ends, and the beginning would be a pass.
    tails = None if lalm.watchers else common_tails(lalm, encoded)
    if tails is None:
        return [capture(lalm, prompts, batch_size=batch_size) for prompts in encoded]
    first = encoded[0]
    layers = lalm.layer_indices()
    shape = (len(first), lalm.n_layers, lalm.d_model)
    options: dict[str, Any] = {"dtype": torch.float32, "device": lalm.device}
    states = [torch.zeros(shape, **options) for _ in encoded]
    for batch in lalm.batches(first, batch_size, "states"):
        for of_variant, of_batch in zip(states, _run_batch(lalm, batch, tails), strict=True):
            of_variant[batch.prompt_numbers] = of_batch
    for of_variant in states:
        check_finite(of_variant, layers)
    return states


def check_same_clips(variants: Sequence[Sequence[Encoded]]) -> None:
    """Raise ValueError if variants differ in length, or in the clip of a prompt."""
    lengths = [len(prompts) for prompts in variants]
    if len(set(lengths)) > 1:
        raise ValueError(f"variants of {lengths} prompts cannot be paired")
    for number, prompts in enumerate(zip(*variants, strict=True)):
        for prompt in prompts[1:]:
            if not _same_clip(prompt, prompts[0]):
                raise ValueError(f"the variants of prompt {number} have different clips")


def _same_clip(one: Encoded, other: Encoded) -> bool:
    if one.waveform is None or other.waveform is None:
        return one.waveform is other.waveform
    return np.array_equal(one.waveform, other.waveform)


def _run_batch(
    lalm: LALM, batch: Batch, tails: Sequence[list[int]]
) -> list[Float[Tensor, "row layer d_model"]]:
    """The last states of each tail; the batch's prompts end in the first of them."""
    inputs = dict(batch.inputs)
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    n_shared = ids.shape[1] - len(tails[0])
    shared_mask = mask[:, :n_shared]
    beginning = {"input_ids": ids[:, :n_shared], "attention_mask": shared_mask}
    states = []
    with lalm.announce(batch):
        cache = lalm.trunk(**beginning, use_cache=True, **inputs).past_key_values
        for tail in tails:
            tokens = ids.new_tensor(tail).expand(len(ids), -1)  # row position
            mask = torch.cat([shared_mask, shared_mask.new_ones(tokens.shape)], dim=1)
            end = {"input_ids": tokens, "attention_mask": mask}
            with record_states(lalm, lalm.layer_indices()) as recorded:
                lalm.trunk(**end, past_key_values=cache, use_cache=True)
            cache.crop(-len(tail))
            states.append(first_pass(lalm, recorded))
    return states


def common_tails(lalm: LALM, variants: Sequence[Sequence[Encoded]]) -> list[list[int]] | None:
    """For each variant the tokens that only it ends in, if the same for every clip; else None.

    None also if the variants part before the clip has been heard, or the decoder keeps no plain
    cache.
    """
    if not variants or not variants[0] or not keeps_plain_cache(lalm):
        return None
    tails: list[list[int]] | None = None
    known_texts = set()
    for prompts in zip(*variants, strict=True):
        # The end of a prompt depends on its texts alone, so they are made once for equal ones.
        texts = tuple(prompt.text for prompt in prompts)
        if texts in known_texts:
            continue
        known_texts.add(texts)
        tails_of_clip = _tails(lalm, prompts)
        if tails is not None and tails_of_clip != tails:
            return None
        if any(lalm.audio_token_id in tail for tail in tails_of_clip):
            return None
        tails = tails_of_clip
    return tails


def _tails(lalm: LALM, prompts: Sequence[Encoded]) -> list[list[int]]:
    """What each of some prompts has behind their common beginning; every one keeps a token."""
    # Real ids, clips and all: text that is rendered and tokenised again may give others.
    ids = [lalm.inputs([prompt])["input_ids"][0].tolist() for prompt in prompts]
    n_shared = len(commonprefix(ids))
    n_shared = min(n_shared, *(len(of_prompt) - 1 for of_prompt in ids))
    return [of_prompt[n_shared:] for of_prompt in ids]
