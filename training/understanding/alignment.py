"""A clip as the words that are heard in it would lie there.

The CTC head of training stage (d) reads tokens out of the projector's outputs. On the shipped clips
what it reads is nearly right, and typed into the clip's place it lets the model know harm almost as
well as the true words do. The outputs themselves do not: they lie too far from the embeddings that
they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.pocket.assemble import deltas_folder
from training.ctc import trained_head
from training.understanding.student import Student


class Aligner:
    """Puts a sentence's own embeddings where a clip says its tokens."""

    def __init__(self, student: Student) -> None:
        """Read the shipped CTC head, for the vocabulary of `student`, which is not changed."""
        table: Any = student.lm.get_input_embeddings()
        self.embeddings: Tensor = table.weight.detach().float()
        [blank] = student.tokens(" ")
        self.head = trained_head(self.embeddings, deltas_folder(), blank_token=blank)
        self.head.requires_grad_(False)
        self.silence = self.head.silence + self.head.mean

    def tokens_at(self, symbols: Sequence[int]) -> list[int]:
        """The token that each symbol of the CTC head stands for, -1 for a blank."""
        return [self.head.token_ids[symbol - 1] if symbol else -1 for symbol in symbols]

    def embedded(self, path: Sequence[int]) -> Float[Tensor, "frame d_model"]:
        """The embeddings of the tokens of a `path`; silence where there is none."""
        rows = [self.embeddings[token] if token >= 0 else self.silence for token in path]
        return torch.stack(rows)
