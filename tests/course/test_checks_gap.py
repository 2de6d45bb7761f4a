"""Every check takes a right answer, and tells wrong ones apart by what is wrong with them."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sarsteer_lab import geometry
from sarsteer_lab.course.checks import directions
from sarsteer_lab.course.checks import gap as checks
from sarsteer_lab.course.checks.tools import CheckResult
from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.evaluation.intervals import paired_difference
from sarsteer_lab.lalm import LALM
from sarsteer_lab.safe_space import principal_space, random_space, share_in_space

Check = Callable[..., CheckResult]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vector, dim=-1)


def splice(
    embeddings: torch.Tensor, ids: torch.Tensor, audio: int, features: torch.Tensor
) -> torch.Tensor:
    out = embeddings.clone()
    out[ids == audio] = features
    return out


def splice_in_place(
    embeddings: torch.Tensor, ids: torch.Tensor, audio: int, features: torch.Tensor
) -> torch.Tensor:
    embeddings[ids == audio] = features
    return embeddings


def turn_in_place(w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    return w.add_(scale * b @ a)


def centred_cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(x - x.mean(0), y - y.mean(0), dim=-1)


def common_mean(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    mean = torch.cat([x, y]).mean(0)
    return torch.cosine_similarity(x - mean, y - mean, dim=-1)


def grouped(requests: list[str], n: int) -> list[int]:
    order = {name: i for i, name in enumerate(dict.fromkeys(requests))}
    return [order[name] % n for name in requests]


def mean_angles(shifts: torch.Tensor, over: int = 7) -> torch.Tensor:
    cosines = (unit(shifts) @ unit(shifts).T).clamp(-1, 1)
    return torch.acos(cosines).fill_diagonal_(0).sum(1) / over


def project_out(states: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return states - (states @ unit(direction))[:, None] * unit(direction)


def ablated(v: torch.Tensor, u: torch.Tensor, lam: float) -> torch.Tensor:
    return v - lam * u.T @ (u @ v)


def top(states: torch.Tensor, k: int) -> torch.Tensor:
    return torch.linalg.svd(states - states.mean(0)).Vh[:k]


def rescaled(v: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return unit(v) * d.norm(dim=-1, keepdim=True)


RIGHT: dict[Check, Any] = {
    checks.check_splice: splice,
    checks.check_dial: lambda w, a, b, s: w + s * b @ a,
    checks.check_centred_cosine: centred_cosine,
    checks.check_folds: grouped,
    directions.check_refusal_direction: text_refusal_direction,
    directions.check_project_out: project_out,
    directions.check_mean_angles: mean_angles,
    directions.check_ablate: ablated,
    directions.check_top_directions: top,
    directions.check_equal_norm: rescaled,
}

WRONG: list[tuple[Check, Any, str]] = [
    (checks.check_splice, lambda e, i, a, f: e, "still have their own"),
    (checks.check_splice, lambda e, i, a, f: splice(e, i, a, f.flip(0)), "in their order"),
    (checks.check_splice, lambda e, i, a, f: torch.cat([f, e[3:]]), "text token"),
    (checks.check_splice, splice_in_place, "work on a copy"),
    (checks.check_dial, turn_in_place, "in place"),
    (checks.check_dial, lambda w, a, b, s: w + b @ a, "scale 0"),
    (checks.check_dial, lambda w, a, b, s: w + s * s * b @ a, "halfway"),
    (checks.check_dial, lambda w, a, b, s: w - s * b @ a, "product of B and A"),
    (checks.check_dial, lambda w, a, b, s: w + s * a @ b, "stops with RuntimeError"),
    (
        checks.check_centred_cosine,
        lambda x, y: torch.cosine_similarity(x, y, dim=-1),
        "as they are",
    ),
    (checks.check_centred_cosine, common_mean, "one mean is taken off both"),
    (
        checks.check_centred_cosine,
        lambda x, y: ((x - x.mean(0)) * (y - y.mean(0))).sum(-1),
        "divide by both lengths",
    ),
    (checks.check_centred_cosine, lambda x, y: centred_cosine(x, y).mean(), "shape"),
    (checks.check_folds, lambda r, n: [i % n for i in range(len(r))], "its typed state trains"),
    (checks.check_folds, lambda r, n: grouped(r, n)[:-1], "25 folds for 26"),
    (checks.check_folds, lambda r, n: [0] * len(r), "should be 0 to 4"),
    (checks.check_folds, lambda r, n: [min(f, 4) for f in grouped(r, 13)], "evenly"),
    (directions.check_refusal_direction, lambda b, r: (b - r).mean(0), "sign"),
    (directions.check_refusal_direction, lambda b, r: unit((r - b).mean(0)), "length 1"),
    (directions.check_refusal_direction, lambda b, r: (r - b).sum(0), "sum over prompts"),
    (directions.check_refusal_direction, lambda b, r: (r - b).mean(1), "shape"),
    (directions.check_refusal_direction, lambda b, r: r.mean(0), "mean over prompts of"),
    (directions.check_project_out, lambda s, d: s, "nothing has been"),
    (directions.check_project_out, lambda s, d: s - (s @ d)[:, None] * d, "too much"),
    (directions.check_project_out, lambda s, d: s - d, "still has a component"),
    (directions.check_project_out, lambda s, d: torch.zeros_like(s), "so is something else"),
    (directions.check_mean_angles, lambda s: mean_angles(s, 8), "to itself"),
    (directions.check_mean_angles, lambda s: torch.rad2deg(mean_angles(s)), "degrees"),
    (directions.check_mean_angles, lambda s: mean_angles(s).cos(), "values differ"),
    (directions.check_mean_angles, lambda s: ((unit(s) @ unit(s).T).sum(1) - 1) / 7, "cosines"),
    (directions.check_ablate, lambda v, u, lam: u.T @ (u @ v), "inside the space; the rest"),
    (directions.check_ablate, lambda v, u, lam: v, "left inside"),
    (directions.check_ablate, lambda v, u, lam: ablated(v, u, 1.0), "lambda = 0 "),
    (directions.check_ablate, lambda v, u, lam: ablated(v, u, lam**2), "lambda = 0.5"),
    (directions.check_ablate, lambda v, u, lam: 2 * ablated(v, u, lam), "outside the space"),
    (directions.check_top_directions, lambda s, k: torch.linalg.svd(s).Vh[:k], "take the mean off"),
    (
        directions.check_top_directions,
        lambda s, k: torch.linalg.svd(s - s.mean(0)).Vh[-k:],
        "another one",
    ),
    (directions.check_top_directions, lambda s, k: top(s, k) * 2, "orthonormal"),
    (directions.check_top_directions, lambda s, k: top(s, k).T, "shape"),
    (directions.check_equal_norm, lambda v, d: d, "a direction has changed"),
    (directions.check_equal_norm, lambda v, d: v * d.norm() / v.norm(), "one factor"),
    (directions.check_equal_norm, lambda v, d: unit(v), "lengths are not"),
]


@pytest.mark.parametrize("check", RIGHT, ids=lambda c: c.__name__)
def test_right_answers_pass(check: Check) -> None:
    result = check(RIGHT[check])
    assert result, result.message


@pytest.mark.parametrize(
    ("check", "answer", "message"), WRONG, ids=[f"{c.__name__} {m}" for c, _, m in WRONG]
)
def test_wrong_answers_are_told_what_is_wrong(check: Check, answer: Any, message: str) -> None:
    result = check(answer)
    assert not result and message in result.message, result.message


def test_audio_tokens(tiny: LALM) -> None:
    def tokens(seconds: float) -> int:
        return int(seconds * 25)

    assert checks.check_audio_tokens(tokens, tiny)
    for wrong, message in (
        (lambda s: int(s * 50), "halving"),
        (lambda s: s * 25, "whole number"),
        (..., "blank"),
    ):
        result = checks.check_audio_tokens(wrong, tiny)
        assert not result and message in result.message


def test_gap() -> None:
    typed, spoken = gaussian(20, 6), gaussian(20, 6, seed=1) + 3
    gap = geometry.centroid_distance(typed[:, None], spoken[:, None]).item()
    scale = geometry.centroid_distance(typed[:8, None], typed[8:, None]).item()
    assert checks.check_gap(gap, scale, typed, spoken, 8)
    assert "reproduced" in checks.check_gap(gap, scale, typed, spoken, 8).message
    raw = (typed.mean(0) - spoken.mean(0)).norm().item()
    for answer, message in (
        ((raw, scale), "own units"),
        ((gap * 1.2, scale), "not the distance"),
        ((gap, gap), "the scale is not"),
        ((..., scale), "blank"),
    ):
        result = checks.check_gap(*answer, typed, spoken, 8)
        assert not result and message in result.message


def test_paired_difference() -> None:
    more, less = [1.0] * 30 + [0.0] * 10, [1.0] * 15 + [0.0] * 25
    difference, low, high = paired_difference([x > 0 for x in more], [x > 0 for x in less])
    assert checks.check_paired_difference((difference, low, high), more, less)
    assert (
        "lies above 0"
        in checks.check_paired_difference((difference, low, high), more, less).message
    )
    for answer, message in (
        ((-difference, -high, -low), "sign"),
        ((0.9, low, high), "two means"),
        ((difference, high, low), "hold the difference"),
        ((difference, difference - 0.4, difference + 0.4), "both values of a request together"),
        ((difference, ..., ...), "three numbers"),
        (difference, "three numbers"),
        (..., "blank"),
    ):
        result = checks.check_paired_difference(answer, more, less)
        assert not result and message in result.message, result.message


def test_not_only_harmless() -> None:
    direction = gaussian(3, 8)
    spaces = {"harmless": principal_space(gaussian(9, 3, 8, seed=1), 2)}
    spaces["random"] = random_space(spaces["harmless"], seed=0)
    right = {name: float(share_in_space(direction, space)[1]) for name, space in spaces.items()}
    assert directions.check_not_only_harmless(right, direction, spaces, 1)
    for answer, message in (
        ({"harmless": right["harmless"]}, "no share for random"),
        ({name: ... for name in right}, "no share for harmless, random"),
        ({name: value**0.5 for name, value in right.items()}, "not of the squared length"),
        ({name: value + 0.1 for name, value in right.items()}, "at layer 1"),
        ([0.1], "dictionary"),
    ):
        result = directions.check_not_only_harmless(answer, direction, spaces, 1)
        assert not result and message in result.message, result.message


def test_every_check_of_these_chapters_is_tested() -> None:
    source = inspect.getsource(inspect.getmodule(test_gap))  # type: ignore[arg-type]
    for module, called in ((checks, "checks"), (directions, "directions")):
        own = [name for name in vars(module) if name.startswith("check_")]
        assert own and not [name for name in own if f"{called}.{name}" not in source]
