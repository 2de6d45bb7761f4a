"""Prompts that run once: all positions but the last, whose keys and values are put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sarsteer_lab.batch import Encoded
from sarsteer_lab.engine.key_values import blank
from sarsteer_lab.lalm import LALM

READ_ROWS = 16
"""Prompts that are read together, those of similar length: little is padded then, and the audio
tower, whose states are long, keeps in the processor's cache (on two CPU cores 36 ms a clip; 75 with
64 clips)."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What is kept of prompts of which all positions but the last have run.

    `cache` holds keys and values of `length` positions, `ids` their tokens and the one that has not
    run (`last`), and `mask` says which of these are no padding.
    """

    cache: Any
    ids: Int[Tensor, "prompt position"]
    mask: Int[Tensor, "prompt position"]

    @property
    def last(self) -> Int[Tensor, "prompt 1"]:
        """The tokens that have not run."""
        return self.ids[:, -1:]

    @property
    def length(self) -> int:
        """Positions that have run."""
        return self.mask.shape[1] - 1


def read_prompts(lalm: LALM, prompts: Sequence[Encoded]) -> Reading:
    """Run all positions of some prompts but the last, and put their keys and values together."""
    batches = list(lalm.batches(prompts, READ_ROWS, "prompts"))
    width = max(batch.inputs["input_ids"].shape[1] for batch in batches)
    first = batches[0].inputs
    pad = lalm.tokenizer.pad_token_id
    all_ids = first["input_ids"].new_full((len(prompts), width), pad)
    mask = first["attention_mask"].new_zeros(len(prompts), width)
    cache = None
    for batch in batches:
        inputs, rows = dict(batch.inputs), batch.rows
        ids, seen = inputs.pop("input_ids"), inputs.pop("attention_mask")
        start = width - ids.shape[1]
        all_ids[rows, start:] = ids
        mask[rows, start:] = seen
        # Where they will stand in the whole batch, whose rows all end at one place.
        places = torch.arange(start, width - 1, device=ids.device)[None]
        inputs |= {"input_ids": ids[:, :-1], "attention_mask": seen[:, :-1]}
        with lalm.announce(batch):
            past = lalm.trunk(**inputs, position_ids=places, use_cache=True).past_key_values
        if cache is None:
            cache = blank(past, len(prompts), width - 1)
        for whole, part in zip(cache.layers, past.layers, strict=True):
            whole.keys[rows, :, start:] = part.keys
            whole.values[rows, :, start:] = part.values
    return Reading(cache, all_ids, mask)
