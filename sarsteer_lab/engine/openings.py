"""Refusal probability: how likely a sampled answer opens as a refusal; finer than counting them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.access import alone
from sarsteer_lab.engine.key_values import keeps_plain_cache
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import shipped_table
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.thoughts import opened_by, special_tokens

NEGLIGIBLE = 0.002
"""A beginning that is less likely than this is not followed further."""

BEFORE = 8
"""Tokens of the prompt's end with which an opening is tokenised."""

Tokens = tuple[int, ...]


def refusing_openings() -> tuple[str, ...]:
    """How refusals open: `refusal_probability` adds up the probabilities of these beginnings."""
    return tuple(shipped_table("judges/openings.toml")["openings"])


def token_sequences(lalm: LALM, openings: Sequence[str], behind: Sequence[int] = ()) -> set[Tokens]:
    """The openings as the model's tokens, as they stand `behind` others: a prompt's last ones."""
    return {tuple(_tokens_behind(lalm.tokenizer, behind, opening)) for opening in openings}


def going_on(sequences: set[Tokens], begun: Tokens) -> set[int]:
    """The tokens with which those of some sequences go on that begin so."""
    n = len(begun)
    return {sequence[n] for sequence in sequences if len(sequence) > n and sequence[:n] == begun}


@alone
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
    what `ready.chances(())` has just given. Raises as that does, and ValueError if the chat
    template opens a block of thoughts.
    """
    if mark := opened_by(ready.prompts[0].text):
        reason = f"the chat template opens a block of thoughts ({mark})"
        raise ValueError(f"{reason}, so it is not the answer's opening that comes next")
    wanted = refusing_openings() if openings is None else openings
    sequences = token_sequences(ready.lalm, wanted, ready.last_tokens(BEFORE))
    device = ready.lalm.device
    sure = torch.ones(len(ready.prompts), dtype=torch.float32, device=device)
    return _follow(ready, (), sure, sequences, negligible, first)


def can_be_followed(lalm: LALM) -> bool:
    """Whether a model has a `refusal_probability`: it goes on from a prompt, at the answer."""
    return keeps_plain_cache(lalm) and not opened_by(lalm.chat(Prompt("?")))


def _tokens_behind(tokenizer: Any, last_tokens: Sequence[int], opening: str) -> list[int]:
    """An opening's tokens as they stand behind others: some tokenizers begin a text otherwise.

    (SentencePiece puts a space before it.)
    """
    known = set(special_tokens(tokenizer).values())
    end: list[int] = []
    for token in reversed(last_tokens):
        if token in known:
            break
        end.insert(0, token)
    before = tokenizer.decode(end)
    alone = tokenizer(before, add_special_tokens=False)["input_ids"]
    together = tokenizer(before + opening, add_special_tokens=False)["input_ids"]
    if together[: len(alone)] == alone:
        return together[len(alone) :]
    return tokenizer(opening, add_special_tokens=False)["input_ids"]


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
    after = ready.chances(begun) if first is None else first  # prompt vocab
    for token in sorted(next_tokens):
        longer = probability * after[:, token]
        total = total + _follow(ready, (*begun, token), longer, sequences, negligible)
    return total
