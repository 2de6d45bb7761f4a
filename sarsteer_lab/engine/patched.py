"""Refusal probability after patching: prompts under many sets of patches, as rows of a batch.

A set may also hold heads, without which the model then reads the prompt's end (`heads`). Where all
patches of a set are at the prompt's last position, what stands before has run once for all of them.
Other sets read the whole prompt again, with the patches in it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.access import alone
from sarsteer_lab.batch import Encoded
from sarsteer_lab.decoding import head_on_last_position
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.key_values import keeps_plain_cache, with_room
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import OPENING, PreparedBatch
from sarsteer_lab.engine.reading import Reading
from sarsteer_lab.heads import Head, without_heads
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch, patch

NEGLIGIBLE = 1e-5
"""Less likely beginnings of an answer are not followed: log-odds are read from what is found."""

Change = Patch | Head
"""What a model does otherwise: a state is put in, or a head is off."""

Variants = Sequence[Sequence[Sequence[Change]]]
"""The sets of changes of each prompt."""

Placed = dict[int, list[int]]
"""The numbers of some variants by their prompt's."""

Row = tuple[int, int | None]
"""A prompt's number, and that of one of its variants, if the row has one."""

Found = Iterator[tuple[list[Row], Float[Tensor, "row"]]]
"""Rows of a batch, and the probability that each of their answers opens so."""

LAST_ROWS, WHOLE_ROWS = 64, 8
"""Rows that run together: those of one position, and those of whole prompts. More of them only take
memory."""


def patched_refusal_probability(
    lalm: LALM,
    prompt: Encoded,
    variants: Sequence[Sequence[Change]],
    openings: Sequence[str] | None = None,
) -> Float[Tensor, "variant"]:
    """`patched_refusal_probabilities` of a single prompt."""
    [found] = patched_refusal_probabilities(lalm, [prompt], [variants], openings)
    return found


@alone
@torch.no_grad()
def patched_refusal_probabilities(
    lalm: LALM,
    prompts: Sequence[Encoded],
    variants: Variants,
    openings: Sequence[str] | None = None,
) -> list[Float[Tensor, "variant"]]:
    """How likely each answer is to open as a refusal (0 to 1) under each set of patches and heads.

    `variants` are the sets of each prompt. `prompt` in a patch or a head is not read: all are of
    the prompt whose set it is. See `openings.refusal_probability`. Raises as `patching.patch` and
    `heads.without_heads` do, and ValueError for a model that cannot go on from a prompt that has
    run.
    """
    if not keeps_plain_cache(lalm):
        reason = "cannot go on from a prompt that has run, so openings cannot be followed"
        raise ValueError(f"{lalm.name} {reason}")
    remember_clips(lalm)
    found = []
    last: Placed = {}
    whole: Placed = {}
    for number, sets in enumerate(variants):
        found.append(torch.zeros(len(sets), dtype=torch.float32, device=lalm.device))
        for variant, changes in enumerate(sets):
            kind = last if _at_end(changes) else whole
            kind.setdefault(number, []).append(variant)
    asked = _Asked(lalm, prompts, variants, openings)
    for rows, values in chain(asked.behind_readings(last), asked.read_with_changes(whole)):
        for (number, place), value in zip(rows, values, strict=True):
            if place is not None:
                found[number][place] = value
    return found


@dataclass(frozen=True, eq=False)
class _Asked:
    """Prompts under sets of changes, and the openings that are looked for."""

    lalm: LALM
    prompts: Sequence[Encoded]
    variants: Variants
    openings: Sequence[str] | None

    def behind_readings(self, placed: Placed) -> Found:
        """Rows of changes at prompts' ends: what stands before has run once for a prompt's."""
        for numbers in self._that_fit(placed, LAST_ROWS):
            ready = PreparedBatch(self.lalm, [self.prompts[number] for number in numbers])
            most = max(len(placed[number]) for number in numbers)
            for start in range(0, most, LAST_ROWS):
                blocks = range(start, min(start + LAST_ROWS, most))
                rows = _in_blocks(placed, numbers, blocks)
                with self._under(rows):
                    together = ready.repeated(len(blocks))
                    found = refusal_probability(together, self.openings, negligible=NEGLIGIBLE)
                yield rows, found

    def read_with_changes(self, placed: Placed) -> Found:
        """Rows of changes anywhere: each reads its whole prompt again."""
        for numbers in self._that_fit(placed, WHOLE_ROWS):
            every: list[Row] = []
            for number in numbers:
                every += [(number, variant) for variant in placed[number]]
            for start in range(0, len(every), WHOLE_ROWS):
                rows = every[start : start + WHOLE_ROWS]
                asked = [self.prompts[number] for number, _ in rows]
                with self._under(rows):
                    ready, first = _read_anew(self.lalm, asked)
                    options: dict[str, Any] = {"negligible": NEGLIGIBLE, "first": first}
                    found = refusal_probability(ready, self.openings, **options)
                yield rows, found

    def _that_fit(self, placed: Placed, most: int) -> Iterator[list[int]]:
        """Numbers of prompts that may share a batch, so many that their rows are about `most`."""
        by_group: dict[int, list[int]] = {}
        for number in placed:
            group = self.lalm.batch_group(self.prompts[number])
            by_group.setdefault(group, []).append(number)
        for numbers in by_group.values():
            n_variants = max(len(placed[number]) for number in numbers)
            together = max(1, most // n_variants)
            for start in range(0, len(numbers), together):
                yield numbers[start : start + together]

    @contextmanager
    def _under(self, rows: Sequence[Row]) -> Iterator[None]:
        """Some variants, each in a row of a batch, while the block lasts."""
        patches: list[Patch] = []
        heads: list[Head] = []
        for row, (number, variant) in enumerate(rows):
            changes = () if variant is None else self.variants[number][variant]
            for one in changes:
                if isinstance(one, Head):
                    heads.append(one._replace(prompt=row))
                else:
                    patches.append(one._replace(prompt=row))
        with ExitStack() as blocks:
            blocks.enter_context(patch(self.lalm, patches))
            if heads:
                blocks.enter_context(without_heads(self.lalm, heads))
            yield


def _at_end(changes: Sequence[Change]) -> bool:
    """Whether nothing changes before the prompt's last position."""
    return all(isinstance(one, Head) or list(one.positions) == [-1] for one in changes)


def _in_blocks(placed: Placed, numbers: Sequence[int], blocks: Iterable[int]) -> list[Row]:
    """The rows of a batch that holds all of these prompts once for each block of variants.

    A prompt with fewer variants than others has rows without one.
    """
    rows: list[Row] = []
    for block in blocks:
        for number in numbers:
            own = placed[number]
            rows.append((number, own[block] if block < len(own) else None))
    return rows


def _read_anew(
    lalm: LALM, prompts: Sequence[Encoded]
) -> tuple[PreparedBatch, Float[Tensor, "prompt vocab"]]:
    """Whole prompts read again, and the probabilities of their answers' first tokens."""
    batch = lalm.batch(prompts, range(len(prompts)))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    with lalm.announce(batch):
        with head_on_last_position(lalm.core, batch.prompt_numbers):
            output = lalm.core(**batch.inputs, use_cache=True)
    reading = Reading(with_room(output.past_key_values, OPENING), ids, mask)
    first = lalm.rules(ids, mask)(ids, output.logits[:, -1].float()).softmax(-1)
    # Its openings are followed at once, before any weight could change.
    return PreparedBatch.that_has_read(lalm, prompts, reading, weights="not looked at"), first
