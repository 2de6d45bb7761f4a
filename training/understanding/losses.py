"""What a spoken request is held to: the typed one's answer and states, and harmful above benign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.understanding.spoken import Example
from training.understanding.student import Heard

STATES, PROJECTION, RANKING, HOLDING = 0.2, 0.3, 0.5, 15.0
"""Weights beside the answers' divergence, which has 1."""


def divergence(
    said: Float[Tensor, "row read vocab"],
    top: Int[Tensor, "row read top"],
    log_probs: Float[Tensor, "row read top"],
) -> Float[Tensor, "row"]:
    """KL(typed || said) in nats over the likeliest tokens, mean over an answer's first tokens."""
    own = said.gather(-1, top)
    return (log_probs.exp() * (log_probs - own)).sum(-1).mean(-1)


@dataclass(frozen=True)
class Whitening:
    """Mean and spread of typed states in each dimension, and the typed harm direction in these
    units.

    Raw distances are ruled by a few giant dimensions, and teach nothing.
    """

    centre: Float[Tensor, "layer read d_model"]
    spread: Float[Tensor, "layer read d_model"]
    harm: Float[Tensor, "layer d_model"]
    scale: Float[Tensor, ""]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Whitening:
        """From the typed states of examples of all labels."""
        states = torch.stack([e.states.float() for e in examples])
        harmful = torch.tensor([e.label == "harmful" for e in examples])
        centre, spread = states.mean(0), states.std(0) + 1e-3
        white = ((states - centre) / spread)[:, :, 0]
        harm = F.normalize(white[harmful].mean(0) - white[~harmful].mean(0), dim=-1)
        scale = (white * harm).sum(-1).pow(2).mean()
        return cls(centre, spread, harm, scale)

    def distances(self, heard: Heard, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Mean squared distance of spoken from typed states, and of their projections on harm."""
        typed = torch.stack([e.states.float() for e in examples])
        difference = (heard.states - typed) / self.spread
        projected = (difference[:, :, 0] * self.harm).sum(-1)
        return difference.pow(2).mean(), projected.pow(2).mean() / self.scale


def ranking(scores: Float[Tensor, "row"], harmful: Bool[Tensor, "row"]) -> Float[Tensor, ""]:
    """How far harmful requests are from being readier to be refused than each benign one of the
    batch.

    A smooth count of the pairs in the wrong order: it does not care how ready all are together.
    """
    margins = scores[harmful][:, None] - scores[~harmful][None, :]
    return F.softplus(-margins).mean()


def agrees(example: Example, refusing: Sequence[int]) -> bool:
    """Whether the typed answer is what the label asks for; others are not imitated."""
    return (example.answer[0] in refusing) == (example.label == "harmful")
