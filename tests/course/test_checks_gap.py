"""Every check takes a right answer, and tells wrong ones apart by what is wrong with them."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sarsteer_lab import geometry
from sarsteer_lab.course.checks import directions
from sarsteer_lab.course.checks import gap as checks
from sarsteer_lab.course.checks.tools import CheckResult
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


def agreement(shifts: torch.Tensor) -> torch.Tensor:
    return shifts.mean(0).norm(dim=-1) / shifts.norm(dim=-1).square().mean(0).sqrt()


def explained(states: torch.Tensor, k: int) -> float:
    values = torch.linalg.eigvalsh(torch.cov(states.T)).flip(0)
    return float(values[:k].sum() / values.sum())


def explained_by_values(states: torch.Tensor, k: int) -> float:
    values = torch.linalg.svdvals(states - states.mean(0))
    return float(values[:k].sum() / values.sum())


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(first @ second.T)


def left_out(states: torch.Tensor, k: int, *, of: Any = None) -> torch.Tensor:
    shares = []
    for number, state in enumerate(states):
        others = states if of == "all" else states[torch.arange(len(states)) != number]
        directions = principal_space(others[:, None], k).directions[0]
        centred = state - others.mean(0)
        shares.append((directions @ centred).square().sum() / centred.square().sum())
    return torch.stack(shares)


RIGHT: dict[Check, Any] = {
    checks.check_splice: splice,
    checks.check_dial: lambda w, a, b, s: w + s * b @ a,
    checks.check_centred_cosine: centred_cosine,
    checks.check_folds: grouped,
    directions.check_agreement: agreement,
    directions.check_project_out: project_out,
    directions.check_mean_angles: mean_angles,
    directions.check_explained: explained,
    directions.check_principal_cosines: cosines,
    directions.check_left_out: left_out,
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
    (directions.check_agreement, lambda s: s.mean(0).norm(dim=-1), "how long a shift is"),
    (directions.check_agreement, lambda s: agreement(s) ** 2, "squares have no root"),
    (
        directions.check_agreement,
        lambda s: s.mean(0).norm(dim=-1) / s.norm(dim=-1).mean(0),
        "divide by the mean length",
    ),
    (directions.check_agreement, lambda s: 1 / agreement(s), "upside down"),
    (directions.check_agreement, lambda s: agreement(s.transpose(0, 1)), "shape"),
    (directions.check_project_out, lambda s, d: s, "nothing has been"),
    (directions.check_project_out, lambda s, d: s - (s @ d)[:, None] * d, "too much"),
    (directions.check_project_out, lambda s, d: s - d, "still has a component"),
    (directions.check_project_out, lambda s, d: torch.zeros_like(s), "so is something else"),
    (directions.check_mean_angles, lambda s: mean_angles(s, 8), "to itself"),
    (directions.check_mean_angles, lambda s: torch.rad2deg(mean_angles(s)), "degrees"),
    (directions.check_mean_angles, lambda s: mean_angles(s).cos(), "values differ"),
    (directions.check_mean_angles, lambda s: ((unit(s) @ unit(s).T).sum(1) - 1) / 7, "cosines"),
    (
        directions.check_explained,
        lambda s, k: torch.linalg.svdvals(s)[:k].square().sum() / s.square().sum(),
        "mean is not taken off",
    ),
    (
        directions.check_explained,
        lambda s, k: explained_by_values(s, k),
        "variance goes with their squares",
    ),
    (
        directions.check_explained,
        lambda s, k: explained(s, k) - (explained(s, k - 1) if k > 1 else 0),
        "direction k alone",
    ),
    (directions.check_explained, lambda s, k: 1.0, "not the share of the variance"),
    (directions.check_principal_cosines, lambda a, b: cosines(a, b).acos(), "these are angles"),
    (directions.check_principal_cosines, lambda a, b: (a * b).sum(-1), "many bases"),
    (directions.check_principal_cosines, lambda a, b: (a * b).sum(-1).abs(), "without signs"),
    (directions.check_principal_cosines, lambda a, b: cosines(a, b).flip(0), "largest comes first"),
    (directions.check_principal_cosines, lambda a, b: cosines(a, b) ** 2, "squares"),
    (directions.check_principal_cosines, lambda a, b: a @ b.T, "shape"),
    (
        directions.check_left_out,
        lambda s, k: left_out(s, k, of="all"),
        "fitted on the state itself",
    ),
    (directions.check_left_out, lambda s, k: left_out(s, k).sqrt(), "not of the squared"),
    (directions.check_left_out, lambda s, k: left_out(s, k - 1), "values differ"),
    (directions.check_left_out, lambda s, k: left_out(s, k).mean(), "shape"),
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


def test_gap_over_layers() -> None:
    typed, spoken = gaussian(20, 4, 6), gaussian(20, 4, 6, seed=1)
    spoken[:, 1:] += 3
    form = geometry.centroid_distance(typed, spoken)
    harm = geometry.centroid_distance(typed[:8], typed[8:])
    right = form / harm
    overall = float(stats.gmean(right.numpy()))
    n = int((form > harm).sum())
    given = (typed, spoken, 8)
    assert 0 < n < 4, "the made-up states have both kinds of layers"
    result = checks.check_gap_over_layers(right, overall, *given)
    assert result and f"{overall:.1f} times" in result.message and f"{n} of 4" in result.message
    for answer, message in (
        ((1 / right, overall), "upside down"),
        ((form, overall), "divide by that of harmful"),
        (((typed.mean(0) - spoken.mean(0)).norm(dim=-1) / harm, overall), "own units"),
        (
            (form / geometry.centroid_distance(spoken[:8], spoken[8:]), overall),
            "that of the spoken",
        ),
        ((right * 1.2, overall), "not the distances"),
        ((right[:2], overall), "shape"),
        ((right, float(right.mean())), "arithmetic mean"),
        ((right, right.max()), "all layers count alike"),
        ((right, float(right.log().mean())), "mean of the logarithms"),
        ((right, n), "number of layers"),
        ((right, 17), "not the geometric mean"),
        ((..., overall), "blank"),
    ):
        result = checks.check_gap_over_layers(*answer, *given)
        assert not result and message in result.message, result.message


def test_sign_flips() -> None:
    more, less = [0.9, 0.7, 0.8, 0.6, 0.5, 0.9, 0.4], [0.2, 0.3, 0.9, 0.1, 0.4, 0.2, 0.1]
    pairs = np.array(more) - np.array(less)
    test = stats.permutation_test((pairs,), np.mean, permutation_type="samples", n_resamples=np.inf)
    difference, p = pairs.mean(), float(test.pvalue)
    assert 0 < p < 0.2 and checks.check_sign_flips((difference, p), more, less)
    for answer, message in (
        ((-difference, p), "sign"),
        ((0.9, p), "two means"),
        ((difference, p / 2), "one-sided"),
        ((difference, 1 - p), "1 - p"),
        ((difference, 0.5), "share of sign patterns"),
        ((difference, ...), "two numbers"),
        (..., "blank"),
    ):
        result = checks.check_sign_flips(answer, more, less)
        assert not result and message in result.message, result.message


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
    source = inspect.getsource(inspect.getmodule(test_gap_over_layers))  # type: ignore[arg-type]
    for module, called in ((checks, "checks"), (directions, "directions")):
        own = [name for name in vars(module) if name.startswith("check_")]
        assert own and not [name for name in own if f"{called}.{name}" not in source]
