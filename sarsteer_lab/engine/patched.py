"""Refusal probability after patching: one prompt under many sets of patches, as rows of a batch.

A set may also hold heads, without which the model then reads the prompt's end (`heads`). Where all
patches of a set are at the prompt's last position, what stands before has run once for all of them.
Other sets read the whole prompt again, with the patches in it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

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

LAST_ROWS, WHOLE_ROWS = 64, 8
"""Rows that run together: those of one position, and those of whole prompts. More of them only take
memory."""


@alone
@torch.no_grad()
def patched_refusal_probability(
    lalm: LALM,
    prompt: Encoded,
    variants: Sequence[Sequence[Change]],
    openings: Sequence[str] | None = None,
) -> Float[Tensor, "variant"]:
    """How likely the answer is to open as a refusal (0 to 1) under each set of patches and heads.

    `prompt` in a patch or a head is not read: all are of this one. See
    `openings.refusal_probability`. Raises as `patching.patch` and `heads.without_heads` do, and
    ValueError for a model that cannot go on from a prompt that has run.
    """
    if not keeps_plain_cache(lalm):
        reason = "cannot go on from a prompt that has run, so openings cannot be followed"
        raise ValueError(f"{lalm.name} {reason}")
    remember_clips(lalm)
    probabilities = torch.zeros(len(variants), dtype=torch.float32, device=lalm.device)
    last: list[int] = []
    whole: list[int] = []
    for number, changes in enumerate(variants):
        at_end = all(isinstance(one, Head) or list(one.positions) == [-1] for one in changes)
        (last if at_end else whole).append(number)
    ready = PreparedBatch(lalm, [prompt]) if last else None
    for start in range(0, len(last), LAST_ROWS):
        rows = last[start : start + LAST_ROWS]
        assert ready is not None
        with _under(lalm, variants, rows):
            together = ready.repeated(len(rows))
            found = refusal_probability(together, openings, negligible=NEGLIGIBLE)
        probabilities[rows] = found
    for start in range(0, len(whole), WHOLE_ROWS):
        rows = whole[start : start + WHOLE_ROWS]
        with _under(lalm, variants, rows):
            ready, first = _read_anew(lalm, [prompt] * len(rows))
            found = refusal_probability(ready, openings, negligible=NEGLIGIBLE, first=first)
        probabilities[rows] = found
    return probabilities


@contextmanager
def _under(lalm: LALM, variants: Sequence[Sequence[Change]], rows: Sequence[int]) -> Iterator[None]:
    """Some variants, each in a row of a batch, while the block lasts."""
    patches: list[Patch] = []
    heads: list[Head] = []
    for row, number in enumerate(rows):
        for one in variants[number]:
            if isinstance(one, Head):
                heads.append(one._replace(prompt=row))
            else:
                patches.append(one._replace(prompt=row))
    with ExitStack() as blocks:
        blocks.enter_context(patch(lalm, patches))
        if heads:
            blocks.enter_context(without_heads(lalm, heads))
        yield


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
