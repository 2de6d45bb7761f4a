"""Checks of chapters 2 and 3: refusal directions, and the safe space (see `checks`)."""

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
def check_agreement(agreement: object) -> str:
    """`agreement(shifts)`: how alike the shifts of single clips are, layer by layer.

    The shifts have the shape (prompt, layer, d_model).
    """
    [shifts] = gaussian((6, 4, 5))
    shifts += torch.arange(4)[:, None]
    answer = need_tensor(call(agreement, shifts), (4,), "the agreement")
    lengths = shifts.norm(dim=-1)
    typical = lengths.square().mean(0).sqrt()
    of_mean = shifts.mean(0).norm(dim=-1)
    right = of_mean / typical
    squared = right**2
    over_mean_length = of_mean / lengths.mean(0)
    mistakes = {
        "this is the length of the mean shift: divide by how long a shift is": of_mean,
        "the squares have no root: lengths are compared, not squared lengths": squared,
        "you divide by the mean length: take the root of the mean squared length": over_mean_length,
        "the ratio is upside down": 1 / right,
    }
    otherwise = "the values differ: length of the mean shift over the shifts' root mean square"
    need_close(answer, right, otherwise, mistakes)
    return "1: all clips shift alike. Shifts that point anywhere give about one over the root of n"


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
def check_explained(explained: object) -> str:
    """`explained(states, k)`: the share of variance along the first k principal directions.

    The states have the shape (prompt, d_model).
    """
    spread, mean = gaussian((20, 8), (8,))
    states = spread * torch.tensor([5.0, 3, 2, 1, 1, 1, 1, 1]) + 10 * mean
    values = torch.linalg.svdvals(states - states.mean(0))
    squares = values.square()
    with_mean = torch.linalg.svdvals(states).square()
    for k in (1, 3, 8):
        answer = float(call(explained, states, k))
        right = _first(squares, k)
        alone = squares[k - 1] / squares.sum()
        uncentred = _first(with_mean, k)
        not_squared = _first(values, k)
        mistakes = {
            "the mean is not taken off, and counts as variance": uncentred,
            "singular values are added up: variance goes with their squares": not_squared,
            "this is direction k alone: the first k together are wanted": alone,
        }
        otherwise = f"k = {k}: this is not the share of the variance"
        need_close(answer, right, otherwise, mistakes, within=1e-3)
    return "how much of what tells harmless requests apart the space holds"


def _first(values: Tensor, k: int) -> Tensor:
    """The share of the first k in the sum of all."""
    part = values[:k].sum()
    return part / values.sum()


@check
def check_principal_cosines(principal_cosines: object) -> str:
    """`principal_cosines(first, second)`: of the principal angles between two spaces.

    Both have the shape (k, d_model), orthonormal rows.
    """
    one, other = gaussian((9, 3), (9, 3))
    first = torch.linalg.qr(one).Q.T.contiguous()
    near = one + 0.7 * other
    second = torch.linalg.qr(near).Q.T.contiguous()
    second[0] *= -1
    answer = need_tensor(call(principal_cosines, first, second), (3,), "the cosines")
    products = first @ second.T
    right = torch.linalg.svdvals(products)
    angles = right.clamp(max=1).acos()
    one_by_one = products.diagonal()
    rising = right.flip(0)
    mistakes = {
        "these are angles: their cosines are wanted": angles,
        "direction by direction: a space has many bases, so look at all pairs": one_by_one,
        "the same without signs: a space has many bases, so look at all pairs": one_by_one.abs(),
        "they rise: the largest comes first": rising,
        "these are squares": right.square(),
    }
    otherwise = "the values differ: singular values of the products of all directions"
    need_close(answer, right, otherwise, mistakes)
    turned = first.flip(0)
    answer = need_tensor(call(principal_cosines, first, turned), (3,), "the cosines")
    otherwise = "two bases of one space have to give cosines of 1"
    need_close(answer, torch.ones(3), otherwise, within=1e-3)
    return "1: a direction that both share; 0: one that the other space does not know"


@check
def check_left_out(left_out: object) -> str:
    """`left_out(states, k)`: how much of each state lies in the space of all *other* states.

    The states have the shape (prompt, d_model).
    """
    spread, mean = gaussian((12, 20), (20,))
    states = spread * torch.linspace(3, 0.5, 20) + 5 * mean
    answer = need_tensor(call(left_out, states, 4), (12,), "the shares")
    right = torch.stack([_share_of(states, number, 4) for number in range(12)])
    centred = states - states.mean(0)
    directions = torch.linalg.svd(centred).Vh[:4]
    with_itself = _inside(centred, directions)
    mistakes = {
        "the space is fitted on the state itself as well: leave it out": with_itself,
        "these are shares of the length, not of the squared length": right.sqrt(),
    }
    otherwise = (
        "the values differ: mean and directions of the others, then the state minus that mean, "
        "and the share of its squared length inside"
    )
    need_close(answer, right, otherwise, mistakes, within=1e-3)
    kept, fitted = float(right.mean()), float(with_itself.mean())
    return (
        f"on these made-up states {kept:.0%} of a new one lies inside, and {fitted:.0%} of one "
        "that was fitted on"
    )


def _inside(centred: Tensor, directions: Tensor) -> Tensor:
    """The share of squared length inside the space of some orthonormal rows."""
    coordinates = centred @ directions.T
    inside = coordinates.square().sum(-1)
    return inside / centred.square().sum(-1)


def _share_of(states: Tensor, number: int, k: int) -> Tensor:
    before, after = states[:number], states[number + 1 :]
    others = torch.cat([before, after])
    mean = others.mean(0)
    directions = torch.linalg.svd(others - mean).Vh[:k]
    return _inside(states[number] - mean, directions)


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
