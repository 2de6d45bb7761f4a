"""What a spoken sentence is held to: the states of its own words, where the clip says them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BLANK = 0.3
"""Weight of a frame in which no token is said, beside 1 of one that says one."""
LAST = 0.7
"""Weight of the last position, among those behind the clip; the others share the rest."""
SMALLEST = 1e-2
"""Added to a spread: at its first layers the last position hardly differs between requests."""


@dataclass(frozen=True)
class Words:
    """A spoken sentence, and where the clip says its tokens."""

    text: str
    outputs: Float[Tensor, "frame d_model"]
    path: list[int]
    """The token at each frame; -1 where there is none."""

    @property
    def weights(self) -> Float[Tensor, "frame"]:
        """How much each frame counts; their sum is 1."""
        weights = torch.tensor([BLANK if token < 0 else 1.0 for token in self.path])
        return weights / weights.sum()


@dataclass(frozen=True)
class Aim:
    """The unchanged model's states of one sentence, the turn's end behind it."""

    at_frames: Float[Tensor, "layer position d_model"]
    """Of its tokens' embeddings, each at the frames that say it."""
    in_order: Float[Tensor, "layer position d_model"]
    """Of its tokens alone, in the clip's place: what lies behind them knows most."""


@dataclass(frozen=True)
class Spread:
    """The standard deviation of the unchanged model's states in each dimension.

    Raw distances are ruled by a few giant dimensions, and teach nothing.
    """

    frames: Float[Tensor, "layer d_model"]
    behind: Float[Tensor, "layer position d_model"]
    """For each position behind the clip: they differ from each other more than requests do."""

    @classmethod
    def of(cls, aims: Sequence[Aim], behind: int) -> Spread:
        """From the states of some sentences; the last `behind` positions lie behind the clip."""
        frames = torch.cat([aim.at_frames[:, :-behind] for aim in aims], 1)
        ends = torch.stack([aim.in_order[:, -behind:] for aim in aims])
        return cls(frames.std(1) + SMALLEST, ends.std(0) + SMALLEST)


def distances(
    heard: Float[Tensor, "layer position d_model"], words: Words, aim: Aim, spread: Spread
) -> tuple[Float[Tensor, "layer"], Float[Tensor, "layer"]]:
    """How far a spoken sentence's states are from their aim, in the clip and behind it, by layer.

    Mean squares in units of the spread: 2 for two sentences that have nothing in common.
    """
    length = len(words.path)
    inside = (heard[:, :length] - aim.at_frames[:, :length]) / spread.frames[:, None]
    in_clip = inside.pow(2).mean(-1) @ words.weights
    behind = heard.shape[1] - length
    after = (heard[:, length:] - aim.in_order[:, -behind:]) / spread.behind
    apart = after.pow(2).mean(-1)
    return in_clip, LAST * apart[:, -1] + (1 - LAST) * apart[:, :-1].mean(-1)


def moved(
    now: Float[Tensor, "layer position d_model"],
    before: Float[Tensor, "layer position d_model"],
    spread: Spread,
) -> Float[Tensor, ""]:
    """How far a typed request's states have moved from where they were."""
    return ((now - before) / spread.frames[:, None]).pow(2).mean()
