"""Directions in the residual stream: SARSteer's text-derived one, the usual baselines, and
controls.

All arithmetic is in float32. No direction is normalised: its length is the natural size of the
shift, so one `alpha` serves all layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.safe_space import States, check_pairs


def text_refusal_direction(
    harmful_base: States, harmful_refusal: States
) -> Float[Tensor, "layer d_model"]:
    """How a refusal sentence in the text shifts the last position, the clip unchanged (SARSteer,
    step 2).

    `mean_i [ h(a_i, t0 + r) - h(a_i, t0) ]` over harmful clips `a_i`; row i of both inputs is the
    same clip. Raises ValueError if the shapes differ.
    """
    check_pairs(harmful_refusal, harmful_base)
    return (harmful_refusal.float() - harmful_base.float()).mean(0)


def difference_in_means(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """Mean state of harmful requests minus mean state of harmless ones (Arditi et al. 2024, eq. 3).

    With typed requests it is the baseline that does not transfer to speech in the SARSteer paper.
    Raises ValueError if layers or widths differ or a set is empty.
    """
    if harmful.shape[1:] != harmless.shape[1:] or not len(harmful) or not len(harmless):
        shapes = f"{tuple(harmful.shape)} and {tuple(harmless.shape)}"
        raise ValueError(f"states of shape {shapes} cannot be compared")
    return harmful.float().mean(0) - harmless.float().mean(0)


def random_like(
    direction: Float[Tensor, "layer d_model"], seed: int
) -> Float[Tensor, "layer d_model"]:
    """A random direction, as long in every layer: the control for "any push of that size would
    do"."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(direction.shape, generator=generator).to(direction.device)
    return random * (
        direction.float().norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    )
