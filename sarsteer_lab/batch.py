"""`Encoded`, a prompt as the model takes it, and `Batch`, prompts that run together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float
from transformers import BatchFeature

from sarsteer_lab.chat import Messages
from sarsteer_lab.keys import content_key
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE

TOKENS_A_SECOND, CHARACTERS_A_TOKEN = 25, 4
"""Rough sizes of clips and of text, for planning alone."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as the model takes it: made once, by `LALM.encode`, of a `Prompt`.

    `messages` is the conversation; `text` the same in the chat format, generation prompt included,
    with placeholder tokens where the clip goes; `waveform` the clip at 16 kHz, None if typed.
    """

    messages: Messages
    text: str
    waveform: Float[np.ndarray, "samples"] | None

    @cached_property
    def key(self) -> str:
        """A content key of all that the model is given."""
        return content_key(self.text, self.waveform)

    @property
    def length(self) -> float:
        """Positions that it will take, roughly."""
        samples = 0 if self.waveform is None else len(self.waveform)
        heard = TOKENS_A_SECOND * samples / SAMPLE_RATE
        return heard + len(self.text) / CHARACTERS_A_TOKEN


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that run through the model together, and what those who watch it have to know.

    `inputs` are the model's, padded on the left. `prompt_numbers` say which of the call's `total`
    prompts its rows hold: the call sorts and splits them. `spoken`: whether there are clips among
    them. `decoding`: options of the `generate` call, if it is one. `at_end`: all positions but the
    prompts' last have run before.
    """

    inputs: BatchFeature
    prompt_numbers: Sequence[int]
    total: int
    spoken: bool
    decoding: Mapping[str, object] | None = None
    at_end: bool = False


Prompts = Sequence[Prompt | str | Encoded]
"""What functions take: prompts, strings for typed ones, and prompts that are encoded already."""


class Watcher(Protocol):
    """Who is told by `LALM.announce` which batch runs: `steering.Steering`."""

    batch: Batch | None


def split_into_batches(
    numbers: Sequence[int], lengths: Sequence[float], groups: Sequence[int], batch_size: int
) -> list[list[int]]:
    """Numbers of prompts, batch by batch: of one `LALM.batch_group`, the longest first.

    `lengths` and `groups` are those of all prompts. Raises ValueError for a size below 1.
    """
    if numbers and batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: give a whole number from 1 on")
    by_group: dict[int, list[int]] = {}
    for number in sorted(numbers, key=lambda number: -lengths[number]):
        by_group.setdefault(groups[number], []).append(number)
    batches = []
    for of_group in by_group.values():
        for start in range(0, len(of_group), batch_size):
            batches.append(of_group[start : start + batch_size])
    return batches
