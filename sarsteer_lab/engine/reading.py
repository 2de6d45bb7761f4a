"""Prefill: prompts run once, up to their last position, and their keys and values are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sarsteer_lab.batch import Encoded
from sarsteer_lab.engine.key_values import blank, paste
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
    like = batches[0].inputs
    ids = like["input_ids"].new_full((len(prompts), width), lalm.tokenizer.pad_token_id)
    mask = like["attention_mask"].new_zeros(len(prompts), width)
    cache = None
    for batch in batches:
        inputs, numbers = dict(batch.inputs), batch.prompt_numbers
        part_ids, part_mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        # All prompts end at one place, so a batch of shorter ones begins later.
        offset = width - part_ids.shape[1]
        ids[numbers, offset:] = part_ids
        mask[numbers, offset:] = part_mask
        positions = torch.arange(offset, width - 1, device=ids.device)[None]
        inputs |= {"input_ids": part_ids[:, :-1], "attention_mask": part_mask[:, :-1]}
        with lalm.announce(batch):
            output = lalm.trunk(**inputs, position_ids=positions, use_cache=True)
        if cache is None:
            cache = blank(output.past_key_values, len(prompts), width - 1)
        paste(output.past_key_values, cache, numbers, offset)
    return Reading(cache, ids, mask)
