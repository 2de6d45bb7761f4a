"""The probability that a sampled answer opens as a refusal: finer than counting refused answers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import shipped_table

NEGLIGIBLE = 0.002
"""A beginning that is less likely than this is not followed further."""

Tokens = tuple[int, ...]


def refusing_openings() -> tuple[str, ...]:
    """How refusals open: `refusal_probability` adds up the probabilities of these beginnings."""
    return tuple(shipped_table("judges/openings.toml")["openings"])


def token_sequences(lalm: LALM, openings: Sequence[str]) -> set[Tokens]:
    """The openings as the model's tokens."""
    ids = lalm.tokenizer(list(openings), add_special_tokens=False)["input_ids"]
    return set(map(tuple, ids))


def going_on(sequences: set[Tokens], begun: Tokens) -> set[int]:
    """The tokens with which those of some sequences go on that begin so."""
    n = len(begun)
    return {sequence[n] for sequence in sequences if len(sequence) > n and sequence[:n] == begun}


@torch.no_grad()
def refusal_probability(
    ready: PreparedBatch,
    openings: Sequence[str] | None = None,
    *,
    negligible: float = NEGLIGIBLE,
    first: Float[Tensor, "prompt vocab"] | None = None,
) -> Float[Tensor, "prompt"]:
    """How likely each answer is to begin with one of `openings` (0 to 1; None: of refusals).

    The sum over openings of the product of their tokens' probabilities, followed as a tree, so that
    shared beginnings run once. Beginnings below `negligible` count as impossible. `first` may hold
    what `ready.after(())` has just given, as probabilities. Raises as that does.
    """
    sequences = token_sequences(ready.lalm, refusing_openings() if openings is None else openings)
    sure = torch.ones(len(ready.prompts), device=ready.lalm.device)
    return _follow(ready, (), sure, sequences, negligible, first)


def _follow(
    ready: PreparedBatch,
    begun: Tokens,
    probability: Float[Tensor, "prompt"],
    sequences: set[Tokens],
    negligible: float,
    first: Float[Tensor, "prompt vocab"] | None = None,
) -> Float[Tensor, "prompt"]:
    """Probability of the sequences that begin with `begun`, which itself has `probability`."""
    if begun in sequences:
        return probability  # whatever follows, the opening is complete
    next_tokens = going_on(sequences, begun)
    total = torch.zeros_like(probability)
    if not next_tokens or (probability < negligible).all():
        return total
    probability = probability.where(probability >= negligible, 0.0)
    after = ready.after(begun).softmax(-1) if first is None else first  # prompt vocab
    for token in sorted(next_tokens):
        longer = probability * after[:, token]
        total = total + _follow(ready, (*begun, token), longer, sequences, negligible)
    return total
