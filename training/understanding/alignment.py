"""Where in a clip each token of its sentence is heard, and the clip as the words themselves would
lie there.

The CTC head of training stage (d) reads tokens out of the projector's outputs. On the shipped clips
what it reads is nearly right, and typed into the clip's place it lets the model know harm almost as
well as the true words do. The outputs themselves do not: they lie too far from the embeddings that
they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.pocket.assemble import deltas_folder
from training.ctc import target_of, trained_head
from training.understanding.student import Student

IMPOSSIBLE = -1e9


def best_path(
    log_probs: Float[np.ndarray, "frame symbol"], labels: Sequence[int]
) -> list[int] | None:
    """The likeliest CTC path that says `labels`: a symbol for each frame, 0 for a blank.

    None where there are fewer frames than labels (two equal ones need a blank between them).
    Viterbi's algorithm over the labels with a blank before, between and behind them.
    """
    symbols = [0]
    for label in labels:
        symbols += [label, 0]
    repeats = sum(a == b for a, b in zip(labels, labels[1:], strict=False))
    if not labels or len(log_probs) < len(labels) + repeats:
        return None
    emitted = log_probs[:, symbols]
    # A label may follow another one at once, without the blank between, unless they are equal.
    may_skip = np.array(
        [
            place > 1 and symbols[place] not in (0, symbols[place - 2])
            for place in range(len(symbols))
        ]
    )
    score = np.full(len(symbols), IMPOSSIBLE)
    score[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, int)
    for frame in range(1, len(emitted)):
        from_last = np.append(IMPOSSIBLE, score[:-1])
        from_before = np.append([IMPOSSIBLE, IMPOSSIBLE], score[:-2])
        choices = np.stack([score, from_last, np.where(may_skip, from_before, IMPOSSIBLE)])
        steps[frame] = choices.argmax(0)
        score = choices.max(0) + emitted[frame]
    place = len(symbols) - 1 if score[-1] > score[-2] else len(symbols) - 2
    path = []
    for frame in reversed(range(len(emitted))):
        path.append(symbols[place])
        place -= steps[frame, place]
    return path[::-1]


class Aligner:
    """Puts a sentence's own embeddings where a clip says its tokens."""

    def __init__(self, student: Student) -> None:
        """Read the shipped CTC head, for the vocabulary of `student`, which is not changed."""
        self._tokenizer = student.tokenizer
        table: Any = student.lm.get_input_embeddings()
        self.embeddings: Tensor = table.weight.detach().float()
        [blank] = student.tokens(" ")
        self.head = trained_head(self.embeddings, deltas_folder(), blank_token=blank)
        self.head.requires_grad_(False)
        self.silence = self.head.silence + self.head.mean

    @torch.no_grad()
    def path(self, text: str, outputs: Float[Tensor, "frame d_model"]) -> list[int] | None:
        """The token at each frame of a clip that says `text`, -1 where there is none.

        None where the head lacks one of its tokens, or where the clip is too short for them.
        """
        target = target_of(text, self._tokenizer, self.head)
        if target is None:
            return None
        log_probs = self.head(outputs[None].float())[0].numpy()
        symbols = best_path(log_probs, target.labels)
        return None if symbols is None else self.tokens_at(symbols)

    def tokens_at(self, symbols: Sequence[int]) -> list[int]:
        """The token that each symbol of the CTC head stands for, -1 for a blank."""
        return [self.head.token_ids[symbol - 1] if symbol else -1 for symbol in symbols]

    def embedded(self, path: Sequence[int]) -> Float[Tensor, "frame d_model"]:
        """The embeddings of the tokens of a `path`; silence where there is none."""
        rows = [self.embeddings[token] if token >= 0 else self.silence for token in path]
        return torch.stack(rows)
