"""The safe space: the principal directions of harmless states.

SARSteer removes from a steering vector what lies in it, so that steering does not push harmless
requests along the directions in which they themselves vary.
"""

from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.vectors import States, Vectors

RANK_TOLERANCE = 1e-6
"""A direction is rounding if its singular value is below this share of the layer's largest."""

WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that do not compute in float64."""


def exact(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU if its device has none; callers send results back."""
    if tensor.device.type in WITHOUT_FLOAT64:
        tensor = tensor.cpu()
    return tensor.double()


@dataclass(frozen=True, eq=False)
class SafeSpace:
    """Per layer: `k` orthonormal directions, and the share of variance that each explains.

    Where the states span fewer than `k` dimensions, the remaining directions are zero rows.
    """

    directions: Float[Tensor, "layer k d_model"]
    explained_variance_ratio: Float[Tensor, "layer k"]

    @property
    def k(self) -> int:
        """Number of directions per layer."""
        return self.directions.shape[1]

    def first(self, k: int) -> "SafeSpace":
        """The space of the first `k` directions. Raises ValueError if there are fewer."""
        if not 0 <= k <= self.k:
            raise ValueError(f"this space has {self.k} directions per layer, not {k}")
        return SafeSpace(self.directions[:, :k], self.explained_variance_ratio[:, :k])


def principal_space(states: States, k: int = 10) -> SafeSpace:
    """Top-`k` principal directions of the centred states, per layer (SARSteer, step 3).

    Of harmless base states it is the safe space, of harmful ones the control of the same size. SVD
    in float64, result in float32, signs fixed (the largest component is positive). Raises
    ValueError for a k that is no whole number from 1 on, or fewer than 2 states.
    """
    whole = isinstance(k, Integral) and k >= 1
    if not whole or states.ndim != 3 or len(states) < 2:
        given = f"k={k}, {tuple(states.shape)}"
        raise ValueError(f"needs k >= 1 and at least 2 states (prompt layer d_model); got {given}")
    by_layer = exact(states).transpose(0, 1)  # layer prompt d_model
    centred = by_layer - by_layer.mean(1, keepdim=True)  # layer prompt d_model
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = singular.square()  # layer rank
    ratio = (variance / variance.sum(-1, keepdim=True)).nan_to_num()  # 0 where nothing varies
    largest = directions.abs().argmax(2, keepdim=True)  # layer rank 1
    sign = directions.gather(2, largest).sign()  # layer rank 1
    present = singular > RANK_TOLERANCE * singular[:, :1]  # layer rank
    directions = directions * sign * present[..., None]  # layer rank d_model
    missing = max(0, k - directions.shape[1])
    directions = nn.functional.pad(directions, (0, 0, 0, missing))[:, :k]
    ratio = nn.functional.pad(ratio, (0, missing))[:, :k]
    return SafeSpace(directions.float().to(states.device), ratio.float().to(states.device))


def random_space(like: SafeSpace, seed: int) -> SafeSpace:
    """A random space of the same size: the control for "removing any k directions would do"."""
    layers, k, d_model = like.directions.shape
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(layers, d_model, k, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(random).Q.transpose(1, 2)  # layer k d_model
    present = like.directions.norm(dim=-1, keepdim=True) > 0  # layer k 1
    directions = basis.float().to(present.device) * present
    return SafeSpace(directions, torch.zeros_like(like.explained_variance_ratio))


def projection(vectors: Vectors, space: SafeSpace) -> Vectors:
    """The part of each vector that lies in the space, `U U^T v`, in float32."""
    directions = space.directions.to(vectors.device)
    coordinates = torch.einsum("...ld,lkd->...lk", vectors.float(), directions)
    return torch.einsum("...lk,lkd->...ld", coordinates, directions)


def ablate(vectors: Vectors, space: SafeSpace, lam: float = 1.0) -> Vectors:
    """Safe-space ablation `v = d - lam * U U^T d`, in float32 (SARSteer, step 4).

    `lam` 1 leaves nothing of the vector in the space, 0 returns the vector itself.
    """
    return vectors.float() - lam * projection(vectors, space)


def share_in_space(vectors: Vectors, space: SafeSpace) -> Float[Tensor, "*batch layer"]:
    """The share (0 to 1) of each vector's squared length in the space; 0 for a zero vector."""
    inside = projection(vectors, space).square().sum(-1)  # *batch layer
    whole = vectors.float().square().sum(-1)  # *batch layer
    return inside / whole.clamp_min(torch.finfo(torch.float32).tiny)


def principal_angles(space_a: SafeSpace, space_b: SafeSpace) -> Float[Tensor, "layer k"]:
    """Angles between two spaces in radians, per layer, the smallest first; the smaller `k` of both.

    0 means a shared direction, pi/2 an orthogonal one (also given for the zero rows of a space of
    lower rank). Arccos of the singular values of `U_a^T U_b` in float64 (Bjoerck and Golub 1973).
    """
    overlap = exact(space_a.directions) @ exact(space_b.directions).mT  # layer k k
    cosines = torch.linalg.svdvals(overlap).clamp(0, 1)  # layer k
    return cosines.acos().float().to(space_a.directions.device)
