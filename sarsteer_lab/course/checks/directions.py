"""Checks of chapters 2 and 3: refusal directions, and the safe space (see `gap` for how checks are
made)."""

import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import (
    call,
    check,
    gaussian,
    need_close,
    need_each,
    need_tensor,
)
from sarsteer_lab.safe_space import SafeSpace, share_in_space

# 02: refusal directions


@check
def check_refusal_direction(direction: object) -> str:
    """`direction(base, refusing)`, of shape (prompt, layer, d_model) each: the text-derived
    direction."""
    base, shift = gaussian((9, 4, 6), (9, 4, 6))
    found = need_tensor(call(direction, base, base + 2 + shift), (4, 6), "the direction")
    right = (2 + shift).mean(0)
    mistakes = {
        "the sign is the wrong way round: adding it would undo a refusal": -right,
        "this is the sum over prompts, not the mean": 9 * right,
        "every layer's direction has length 1: SARSteer keeps their natural lengths": _unit(found),
    }
    need_close(
        found, right, "the values differ: mean over prompts of refusing minus base", mistakes
    )
    return "one shift per layer, in the residual stream's own units"


@check
def check_project_out(project_out: object) -> str:
    """`project_out(states, direction)`: what is left of (prompt, d_model) states without a
    direction."""
    states, direction = gaussian((7, 6), (6,))
    direction *= 3
    found = need_tensor(call(project_out, states, direction), (7, 6), "the result")
    unit = _unit(direction)
    mistakes = {
        "nothing has been taken away": states,
        "too much is taken away: the projection uses the direction at unit length": (
            states - (states @ direction)[:, None] * direction
        ),
    }
    left = float((found @ unit).abs().max())
    otherwise = (
        "the direction is gone, but so is something else: only the component along it may go"
    )
    if left > 1e-4:
        otherwise = f"the result still has a component of up to {left:.2g} along the direction"
    need_close(found, states - (states @ unit)[:, None] * unit, otherwise, mistakes)
    return "a state without this direction cannot say anything in it any more, at any strength"


@check
def check_mean_angles(mean_angles: object) -> str:
    """`mean_angles(shifts)`, shifts (prompt, d_model): each sample's mean angle to all others, in
    radians."""
    shifts = gaussian((8, 5))[0] + 1
    found = need_tensor(call(mean_angles, shifts), (8,), "the angles")
    cosines = (_unit(shifts) @ _unit(shifts).T).clamp(-1, 1)
    right = cosines.acos().fill_diagonal_(0).sum(1) / 7
    mistakes = {
        "the angle to itself, 0, is counted in the mean": right * 7 / 8,
        "these are degrees": right.rad2deg(),
        "these are cosines, not angles": cosines.fill_diagonal_(0).sum(1) / 7,
    }
    otherwise = "the values differ: angle of each pair, then mean over the others"
    need_close(found, right, otherwise, mistakes, within=2e-3)
    return "a sample that points elsewhere has a large mean angle; the authors' code can drop such samples"


# 03: the safe space


@check
def check_ablate(ablate: object) -> str:
    """`ablate(vector, directions, lam)`: (d_model) vector, (k, d_model) orthonormal rows, share to
    remove."""
    columns, vector = gaussian((7, 3), (7,))
    directions = torch.linalg.qr(columns).Q.T.contiguous()
    inside = directions.T @ (directions @ vector)
    whole, none, half = (
        need_tensor(call(ablate, vector, directions, lam), (7,), "the ablated vector")
        for lam in (1.0, 0.0, 0.5)
    )
    left = float((directions @ whole).abs().max())
    otherwise = "what lies outside the space has changed as well: take away the part inside alone"
    if left > 1e-4:
        otherwise = (
            f"at lambda = 1 a component of up to {left:.2g} is left inside the space: take it all"
        )
    mistakes = {"this is the part inside the space; the rest is wanted": inside}
    need_close(whole, vector - inside, otherwise, mistakes)
    need_close(none, vector, "at lambda = 0 the vector should be the one that came in")
    need_close(half, vector - inside / 2, "at lambda = 0.5 half of the part inside should go")
    return "lambda = 1 leaves nothing inside the space, whatever alpha does later"


@check
def check_top_directions(top_directions: object) -> str:
    """`top_directions(states, k)`, states (prompt, d_model): the top k principal directions, (k,
    d_model)."""
    spread, mean = gaussian((20, 8), (8,))
    states = spread * torch.tensor([5.0, 3, 2, 1, 1, 1, 1, 1]) + 10 * mean
    found = need_tensor(call(top_directions, states, 3), (3, 8), "the directions")
    need_close(
        found @ found.T, torch.eye(3), "the directions are not orthonormal rows", within=1e-3
    )
    centred, uncentred = (
        torch.linalg.svd(each)[2][:3] for each in (states - states.mean(0), states)
    )
    overlap = float((found @ centred.T).square().sum()) / 3
    # Spaces are compared: the same one has many bases.
    mistakes = {
        "the first direction is the mean itself: take the mean off before the SVD": uncentred.T
        @ uncentred
    }
    otherwise = f"the space is another one ({overlap:.0%} of it is right): which singular vectors are these?"
    need_close(found.T @ found, centred.T @ centred, otherwise, mistakes, within=1e-2)
    return "these are the directions in which harmless requests differ most from one another"


@check
def check_equal_norm(rescale: object) -> str:
    """`rescale(ablated, full)`, (layer, d_model) each: the ablated directions at the full
    lengths."""
    full, factors = gaussian((4, 6), (4, 6))
    full *= torch.tensor([1.0, 2, 4, 8])[:, None]
    ablated = full * factors.sigmoid()
    found = need_tensor(call(rescale, ablated, full), (4, 6), "the control")
    need_close(_unit(found), _unit(ablated), "a direction has changed: only lengths may")
    mistakes = {
        "one factor was used for all layers: match each layer's length": ablated
        * full.norm()
        / ablated.norm()
    }
    right = _unit(ablated) * full.norm(dim=-1, keepdim=True)
    need_close(found, right, "the lengths are not the full vector's, layer by layer", mistakes)
    return "now ablated and full vector differ in direction alone, and can be compared at the same alpha"


@check
def check_not_only_harmless(
    shares: dict[str, float], direction: Tensor, spaces: dict[str, SafeSpace], layer: int
) -> str:
    """Shares of the direction inside spaces of the same size, at one layer: the attempt at a
    refutation.

    `shares` has the student's number for each name in `spaces`.
    """
    given = need_each(shares, spaces, "share", "space")
    right = {name: float(share_in_space(direction, space)[layer]) for name, space in spaces.items()}
    for name, value in right.items():
        mistakes = {f"{name}: this is a share of the length, not of the squared length": value**0.5}
        otherwise = f"{name}: this is not the share that lies in that space at layer {layer}"
        need_close(given[name], value, otherwise, mistakes, within=2e-3)
    listed = ", ".join(f"{name} {value:.0%}" for name, value in right.items())
    return (
        f"{listed}: a share that is as large in another space is not special to harmless requests"
    )


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
