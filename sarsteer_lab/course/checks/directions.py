"""Checks of chapters 2 and 3: refusal directions, and the safe space; `gap` says how to add one."""

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
    """`direction(base, refusing)`: the text-derived direction.

    Both arguments have the shape (prompt, layer, d_model).
    """
    base, noise = gaussian((9, 4, 6), (9, 4, 6))
    shift = 2 + noise
    answer = need_tensor(call(direction, base, base + shift), (4, 6), "the direction")
    right = shift.mean(0)
    mistakes = {
        "the sign is the wrong way round: adding it would undo a refusal": -right,
        "this is the sum over prompts, not the mean": 9 * right,
        "every layer's direction has length 1: SARSteer keeps their natural lengths": _unit(answer),
    }
    otherwise = "the values differ: mean over prompts of refusing minus base"
    need_close(answer, right, otherwise, mistakes)
    return "one shift per layer, in the residual stream's own units"


@check
def check_project_out(project_out: object) -> str:
    """`project_out(states, direction)`: what is left of the states without the direction.

    The states have the shape (prompt, d_model).
    """
    states, direction = gaussian((7, 6), (6,))
    direction *= 3
    answer = need_tensor(call(project_out, states, direction), (7, 6), "the result")
    unit = _unit(direction)
    right = states - torch.outer(states @ unit, unit)
    at_full_length = states - torch.outer(states @ direction, direction)
    mistakes = {
        "nothing has been taken away": states,
        "too much is taken away: the projection uses the direction at unit length": at_full_length,
    }
    left = (answer @ unit).abs().max()
    otherwise = (
        "the direction is gone, but so is something else: only the component along it may go"
    )
    if left > 1e-4:
        otherwise = f"the result still has a component of up to {left:.2g} along the direction"
    need_close(answer, right, otherwise, mistakes)
    return "a state without this direction cannot say anything in it any more, at any strength"


@check
def check_mean_angles(mean_angles: object) -> str:
    """`mean_angles(shifts)`: each sample's mean angle to all others, in radians.

    The shifts have the shape (prompt, d_model).
    """
    [shifts] = gaussian((8, 5))
    shifts += 1
    answer = need_tensor(call(mean_angles, shifts), (8,), "the angles")
    units = _unit(shifts)
    cosines = (units @ units.T).clamp(-1, 1)
    right = cosines.acos().fill_diagonal_(0).sum(1) / 7
    mean_cosines = cosines.fill_diagonal_(0).sum(1) / 7
    mistakes = {
        "the angle to itself, 0, is counted in the mean": right * 7 / 8,
        "these are degrees": right.rad2deg(),
        "these are cosines, not angles": mean_cosines,
    }
    otherwise = "the values differ: angle of each pair, then mean over the others"
    need_close(answer, right, otherwise, mistakes, within=2e-3)
    return (
        "a sample that points elsewhere has a large mean angle; the authors' code can drop such "
        "samples"
    )


# 03: the safe space


@check
def check_ablate(ablate: object) -> str:
    """`ablate(vector, directions, lam)`: the vector without a share of what lies in a space.

    The vector has the shape (d_model), the directions are (k, d_model) orthonormal rows, and `lam`
    is the share.
    """
    columns, vector = gaussian((7, 3), (7,))
    directions = torch.linalg.qr(columns).Q.T.contiguous()
    inside = directions.T @ (directions @ vector)
    ablated = {}
    for lam in (1.0, 0.0, 0.5):
        answer = call(ablate, vector, directions, lam)
        ablated[lam] = need_tensor(answer, (7,), "the ablated vector")
    left = (directions @ ablated[1.0]).abs().max()
    otherwise = "what lies outside the space has changed as well: take away the part inside alone"
    if left > 1e-4:
        otherwise = (
            f"at lambda = 1 a component of up to {left:.2g} is left inside the space: take it all"
        )
    mistakes = {"this is the part inside the space; the rest is wanted": inside}
    need_close(ablated[1.0], vector - inside, otherwise, mistakes)
    otherwise = "at lambda = 0 the vector should be the one that came in"
    need_close(ablated[0.0], vector, otherwise)
    otherwise = "at lambda = 0.5 half of the part inside should go"
    need_close(ablated[0.5], vector - inside / 2, otherwise)
    return "lambda = 1 leaves nothing inside the space, whatever alpha does later"


@check
def check_top_directions(top_directions: object) -> str:
    """`top_directions(states, k)`: the top k principal directions, (k, d_model).

    The states have the shape (prompt, d_model).
    """
    spread, mean = gaussian((20, 8), (8,))
    lengths = torch.tensor([5.0, 3, 2, 1, 1, 1, 1, 1])
    states = spread * lengths + 10 * mean
    answer = need_tensor(call(top_directions, states, 3), (3, 8), "the directions")
    otherwise = "the directions are not orthonormal rows"
    need_close(answer @ answer.T, torch.eye(3), otherwise, within=1e-3)
    centred = torch.linalg.svd(states - states.mean(0)).Vh[:3]
    uncentred = torch.linalg.svd(states).Vh[:3]
    overlap = (answer @ centred.T).square().sum() / 3
    mistakes = {
        "the first direction is the mean itself: take the mean off before the SVD": (
            uncentred.T @ uncentred
        )
    }
    otherwise = (
        f"the space is another one ({overlap:.0%} of it is right): which singular vectors are "
        "these?"
    )
    # Spaces are compared, by their projections: the same one has many bases.
    need_close(answer.T @ answer, centred.T @ centred, otherwise, mistakes, within=1e-2)
    return "these are the directions in which harmless requests differ most from one another"


@check
def check_equal_norm(rescale: object) -> str:
    """`rescale(ablated, full)`: the ablated directions at the full lengths.

    Both arguments have the shape (layer, d_model).
    """
    full, factors = gaussian((4, 6), (4, 6))
    full *= torch.tensor([1.0, 2, 4, 8])[:, None]
    ablated = full * factors.sigmoid()
    answer = need_tensor(call(rescale, ablated, full), (4, 6), "the control")
    units = _unit(ablated)
    need_close(_unit(answer), units, "a direction has changed: only lengths may")
    mistakes = {
        "one factor was used for all layers: match each layer's length": (
            ablated * full.norm() / ablated.norm()
        )
    }
    otherwise = "the lengths are not the full vector's, layer by layer"
    need_close(answer, units * full.norm(dim=-1, keepdim=True), otherwise, mistakes)
    return (
        "now ablated and full vector differ in direction alone, and can be compared at the same "
        "alpha"
    )


@check
def check_not_only_harmless(
    shares: dict[str, float], direction: Tensor, spaces: dict[str, SafeSpace], layer: int
) -> str:
    """Shares of the direction inside spaces of the same size: the attempt at a refutation.

    `shares` has the student's number, at that layer, for each name in `spaces`.
    """
    answers = need_each(shares, spaces, "share", "space")
    listed = []
    for name, space in spaces.items():
        right = float(share_in_space(direction, space)[layer])
        mistakes = {f"{name}: this is a share of the length, not of the squared length": right**0.5}
        otherwise = f"{name}: this is not the share that lies in that space at layer {layer}"
        need_close(answers[name], right, otherwise, mistakes, within=2e-3)
        listed.append(f"{name} {right:.0%}")
    return (
        f"{', '.join(listed)}: a share that is as large in another space is not special to "
        "harmless requests"
    )


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
