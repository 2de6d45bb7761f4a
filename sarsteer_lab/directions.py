"""Directions in the residual stream: SARSteer's, from the text, the usual baselines, and controls.

All arithmetic is in float32. No direction is normalised: its length is the natural size of the
shift, so one `alpha` serves all layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.vectors import States, check_pairs, shapes


def text_refusal_direction(
    harmful_base: States, harmful_refusal: States
) -> Float[Tensor, "layer d_model"]:
    """How a refusal sentence in the text shifts the last position (SARSteer, step 2).

    `mean_i [ h(a_i, t0 + r) - h(a_i, t0) ]` over harmful clips `a_i`; row i of both inputs is the
    same clip. Raises ValueError if the shapes differ, or if nothing is shifted at all.
    """
    check_pairs(harmful_refusal, harmful_base)
    shifts = harmful_refusal.float() - harmful_base.float()  # prompt layer d_model
    if not shifts.any():
        reason = "states with the refusal text are those without it: were they captured with one?"
        raise ValueError(f"there is no direction to steer in: {reason}")
    return shifts.mean(0)


def difference_in_means(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """Mean state of harmful requests minus mean state of harmless ones (Arditi et al. 2024, eq. 3).

    With typed requests it is the baseline that does not transfer to speech in the SARSteer paper.
    Raises ValueError if layers or widths differ or a set is empty.
    """
    if harmful.shape[1:] != harmless.shape[1:] or not len(harmful) or not len(harmless):
        raise ValueError(f"states of shape {shapes(harmful, harmless)} cannot be compared")
    return harmful.float().mean(0) - harmless.float().mean(0)


def random_like(
    direction: Float[Tensor, "layer d_model"], seed: int, *, shared: bool = True
) -> Float[Tensor, "layer d_model"]:
    """A random direction, as long in every layer: the control for "any push of that size does".

    It is the same in all layers, as a refusal direction nearly is, so that the layers' pushes add
    up. Without `shared` each layer gets another one; these cancel out, and move a state less far.
    """
    generator = torch.Generator().manual_seed(seed)
    layers, width = direction.shape
    random = torch.randn(1 if shared else layers, width, generator=generator)
    random = random.to(direction.device).expand(layers, width)
    lengths = direction.float().norm(dim=-1, keepdim=True)  # layer 1
    return random * (lengths / random.norm(dim=-1, keepdim=True))
