"""Checks of chapters 2 and 3: refusal directions, and the safe space (see `gap` for how checks are made)."""

import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import call, check, need, need_tensor
from sarsteer_lab.safe_space import SafeSpace, share_in_space

# 02: refusal directions


@check
def check_refusal_direction(direction: object) -> str:
    """`direction(base, refusing)`, of shape (prompt, layer, d_model) each: the text-derived direction."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(9, 4, 6, generator=generator)
    refusing = base + 2 + torch.randn(9, 4, 6, generator=generator)
    found = need_tensor(call(direction, base, refusing), (4, 6), "the direction")
    right = (refusing - base).mean(0)
    need(
        not torch.allclose(found, -right, atol=1e-5),
        "the sign is the wrong way round: adding it would undo a refusal",
    )
    lengths = found.norm(dim=-1)
    need(
        not torch.allclose(lengths, torch.ones(4), atol=1e-4),
        "every layer's direction has length 1: SARSteer keeps their natural lengths",
    )
    need(not torch.allclose(found, right * 9, atol=1e-4), "this is the sum over prompts, not the mean")
    need(
        torch.allclose(found, right, atol=1e-4), "the values differ: mean over prompts of refusing minus base"
    )
    return "one shift per layer, in the residual stream's own units"


@check
def check_project_out(project_out: object) -> str:
    """`project_out(states, direction)`: what is left of (prompt, d_model) states without a direction."""
    generator = torch.Generator().manual_seed(0)
    states, direction = torch.randn(7, 6, generator=generator), 3 * torch.randn(6, generator=generator)
    found = need_tensor(call(project_out, states, direction), (7, 6), "the result")
    unit = direction / direction.norm()
    unscaled = states - (states @ direction)[:, None] * direction
    need(not torch.allclose(found, states), "nothing has been taken away")
    need(
        not torch.allclose(found, unscaled, atol=1e-3),
        "too much is taken away: the projection uses the direction at unit length",
    )
    left = float((found @ unit).abs().max())
    need(left < 1e-4, f"the result still has a component of up to {left:.2g} along the direction")
    need(
        torch.allclose(found, states - (states @ unit)[:, None] * unit, atol=1e-4),
        "the direction is gone, but so is something else: only the component along it may go",
    )
    return "a state without this direction cannot say anything in it any more, at any strength"


@check
def check_mean_angles(mean_angles: object) -> str:
    """`mean_angles(shifts)`, shifts (prompt, d_model): each sample's mean angle to all others, in radians."""
    shifts = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) + 1
    found = need_tensor(call(mean_angles, shifts), (8,), "the angles")
    unit = torch.nn.functional.normalize(shifts, dim=-1)
    angles = torch.acos((unit @ unit.T).clamp(-1, 1)).fill_diagonal_(0)
    right = angles.sum(1) / 7
    need(
        not torch.allclose(found, right * 7 / 8, atol=1e-3), "the angle to itself, 0, is counted in the mean"
    )
    need(not torch.allclose(found, torch.rad2deg(right), atol=0.1), "these are degrees")
    need(not torch.allclose(found.cos(), right, atol=1e-3), "these are cosines, not angles")
    need(
        torch.allclose(found, right, atol=2e-3),
        "the values differ: angle of each pair, then mean over the others",
    )
    return "a sample that points elsewhere has a large mean angle; the authors' code can drop such samples"


# 03: the safe space


@check
def check_ablate(ablate: object) -> str:
    """`ablate(vector, directions, lam)`: (d_model) vector, (k, d_model) orthonormal rows, share to remove."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(7, 3, generator=generator)).Q.T.contiguous()
    vector = torch.randn(7, generator=generator)
    inside = directions.T @ (directions @ vector)
    found = need_tensor(call(ablate, vector, directions, 1.0), (7,), "the ablated vector")
    need(
        not torch.allclose(found, inside, atol=1e-5), "this is the part inside the space; the rest is wanted"
    )
    left = float((directions @ found).abs().max())
    need(left < 1e-4, f"at lambda = 1 a component of {left:.2g} is left inside the space")
    need(torch.allclose(found, vector - inside, atol=1e-4), "what lies outside the space has changed as well")
    none = need_tensor(call(ablate, vector, directions, 0.0), (7,), "the ablated vector")
    need(torch.allclose(none, vector), "at lambda = 0 the vector should be the one that came in")
    half = need_tensor(call(ablate, vector, directions, 0.5), (7,), "the ablated vector")
    need(
        torch.allclose(half, vector - inside / 2, atol=1e-4),
        "at lambda = 0.5 half of the part inside should go",
    )
    return "lambda = 1 leaves nothing inside the space, whatever alpha does later"


@check
def check_top_directions(top_directions: object) -> str:
    """`top_directions(states, k)`, states (prompt, d_model): the top k principal directions, (k, d_model)."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(20, 8, generator=generator) * torch.tensor([5.0, 3, 2, 1, 1, 1, 1, 1])
    states = states + 10 * torch.randn(8, generator=generator)
    found = need_tensor(call(top_directions, states, 3), (3, 8), "the directions")
    gram = found @ found.T
    need(torch.allclose(gram, torch.eye(3), atol=1e-3), "the directions are not orthonormal rows")
    right = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:3]
    uncentred = torch.linalg.svd(states, full_matrices=False).Vh[:3]
    overlap = float((found @ right.T).square().sum()) / 3
    need(
        float((found @ uncentred.T).square().sum()) / 3 < 0.999,
        "the first direction is the mean itself: take the mean off before the SVD",
    )
    need(
        overlap > 0.999,
        f"the space is another one ({overlap:.0%} of it is right): which singular vectors are these?",
    )
    return "these are the directions in which harmless requests differ most from one another"


@check
def check_equal_norm(rescale: object) -> str:
    """`rescale(ablated, full)`, (layer, d_model) each: the ablated directions at the full lengths."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(4, 6, generator=generator) * torch.tensor([1.0, 2, 4, 8])[:, None]
    ablated = full * torch.rand(4, 6, generator=generator)
    found = need_tensor(call(rescale, ablated, full), (4, 6), "the control")
    need(
        torch.allclose(torch.cosine_similarity(found, ablated, dim=-1), torch.ones(4), atol=1e-4),
        "a direction has changed: only lengths may",
    )
    whole = ablated * (full.norm() / ablated.norm())
    need(
        not torch.allclose(found, whole, atol=1e-4),
        "one factor was used for all layers: match each layer's length",
    )
    need(
        torch.allclose(found.norm(dim=-1), full.norm(dim=-1), atol=1e-4),
        "the lengths are not the full vector's",
    )
    return "now ablated and full vector differ in direction alone, and can be compared at the same alpha"


@check
def check_not_only_harmless(
    shares: dict[str, float], direction: Tensor, spaces: dict[str, SafeSpace], layer: int
) -> str:
    """Shares of the direction inside spaces of the same size, at one layer: the attempt at a refutation.

    `shares` has the student's number for each name in `spaces`.
    """
    need(isinstance(shares, dict), "give a dictionary: one share for each space")
    missing = [name for name in spaces if name not in shares or shares[name] is ...]
    need(not missing, f"no share for {', '.join(missing)}")
    right = {name: float(share_in_space(direction, space)[layer]) for name, space in spaces.items()}
    for name, value in right.items():
        need(
            abs(float(shares[name]) - value**0.5) > 2e-3 or abs(value**0.5 - value) < 2e-3,
            f"{name}: a share of the length, not of the squared length",
        )
        need(
            abs(float(shares[name]) - value) < 2e-3,
            f"{name}: not the share that lies in that space at layer {layer}",
        )
    listed = ", ".join(f"{name} {value:.0%}" for name, value in right.items())
    return f"{listed}: whatever is as large in the other spaces is not special to harmless requests"
