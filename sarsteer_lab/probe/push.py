"""How hard steering pushes: the push beside the state that it is added to, and what it moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors, steer


@dataclass(frozen=True)
class PushReport:
    """`shares`: |alpha v| / |h| by steered layer (median over prompts). `moved`: the largest change
    of any logit of a first token. `divergence`: KL of the first token's distribution from the
    unsteered one, in nats (mean over prompts). `str(report)` is one line.
    """

    shares: dict[int, float]
    moved: float
    divergence: float

    def __str__(self) -> str:
        size = f"the push is {100 * median(self.shares.values()):.2g}% of the state (median over layers)"
        if not self.moved:
            return f"{size}; NOTHING moved: every logit of the first token is as without it"
        return f"{size}; logits move by up to {self.moved:.2g} (KL {self.divergence:.2g} nats)"


def push_report(
    lalm: LALM,
    prompts: Sequence[Prompt],
    vectors: SteeringVectors,
    alpha: float = 0.1,
    layers: Sequence[int] | None = None,
) -> PushReport:
    """What `steer(lalm, vectors, alpha, layers)` does to the last positions of these prompts, from
    three forward passes. Raises ValueError as `steer` does.
    """
    chosen = lalm.steered_layers(vectors, layers)
    states = capture(lalm, prompts, layers=chosen)
    plain = lalm.next_token_logits(prompts)
    with steer(lalm, vectors, alpha, layers):
        steered = lalm.next_token_logits(prompts)
    pushes = torch.stack([vectors[layer] for layer in chosen]).norm(dim=-1).to(states.device) * abs(
        alpha
    )
    shares = (pushes / states.norm(dim=-1)).quantile(0.5, dim=0).tolist()
    before, after = plain.log_softmax(-1), steered.log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    moved = float((steered - plain).abs().max())
    return PushReport(dict(zip(chosen, shares, strict=True)), moved, float(divergence))
