"""Refusal probability after patching: one prompt under many sets of patches, as rows of a batch.

Where all patches of a set are at the prompt's last position, what stands before has run once for
all of them. Other sets read the whole prompt again, with the patches in it.
"""

from collections.abc import Sequence

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
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch, patch

NEGLIGIBLE = 1e-5
"""Less likely beginnings of an answer are not followed: log-odds are read from what is found."""

LAST_ROWS, WHOLE_ROWS = 64, 8
"""Rows that run together: those of one position, and those of whole prompts. More of them only take
memory."""


@alone
@torch.no_grad()
def patched_refusal_probability(
    lalm: LALM,
    prompt: Encoded,
    variants: Sequence[Sequence[Patch]],
    openings: Sequence[str] | None = None,
) -> Float[Tensor, "variant"]:
    """How likely the answer is to open as a refusal (0 to 1) under each set of patches.

    `prompt` in a patch is not read: all are of this one. See `openings.refusal_probability`. Raises
    as `patching.patch` does, and ValueError for a model that cannot go on from a prompt that has
    run.
    """
    if not keeps_plain_cache(lalm):
        reason = "cannot go on from a prompt that has run, so openings cannot be followed"
        raise ValueError(f"{lalm.name} {reason}")
    remember_clips(lalm)
    probabilities = torch.zeros(len(variants), dtype=torch.float32, device=lalm.device)
    last: list[int] = []
    whole: list[int] = []
    for number, patches in enumerate(variants):
        at_end = all(list(one.positions) == [-1] for one in patches)
        (last if at_end else whole).append(number)
    ready = PreparedBatch(lalm, [prompt]) if last else None
    for start in range(0, len(last), LAST_ROWS):
        rows = last[start : start + LAST_ROWS]
        assert ready is not None
        with patch(lalm, _in_rows(variants, rows)):
            together = ready.repeated(len(rows))
            found = refusal_probability(together, openings, negligible=NEGLIGIBLE)
        probabilities[rows] = found
    for start in range(0, len(whole), WHOLE_ROWS):
        rows = whole[start : start + WHOLE_ROWS]
        ready, first = _read_anew(lalm, [prompt] * len(rows), _in_rows(variants, rows))
        found = refusal_probability(ready, openings, negligible=NEGLIGIBLE, first=first)
        probabilities[rows] = found
    return probabilities


def _in_rows(variants: Sequence[Sequence[Patch]], rows: Sequence[int]) -> list[Patch]:
    """The patches of some variants, each variant a row of a batch."""
    placed = []
    for row, number in enumerate(rows):
        placed += [one._replace(prompt=row) for one in variants[number]]
    return placed


def _read_anew(
    lalm: LALM, prompts: Sequence[Encoded], patches: Sequence[Patch]
) -> tuple[PreparedBatch, Float[Tensor, "prompt vocab"]]:
    """Whole prompts read with patches, and the probabilities of their answers' first tokens."""
    batch = lalm.batch(prompts, range(len(prompts)))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    with patch(lalm, patches), lalm.announce(batch):
        with head_on_last_position(lalm.core, batch.prompt_numbers):
            output = lalm.core(**batch.inputs, use_cache=True)
    reading = Reading(with_room(output.past_key_values, OPENING), ids, mask)
    first = lalm.rules(ids, mask)(ids, output.logits[:, -1].float()).softmax(-1)
    # Its openings are followed at once, before any weight could change.
    return PreparedBatch.that_has_read(lalm, prompts, reading, weights="not looked at"), first
