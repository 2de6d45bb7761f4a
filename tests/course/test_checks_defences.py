"""Every check of chapters 06 and 07 takes a right answer, and tells wrong ones apart by what is
wrong."""

import numpy as np
import pytest
import torch
from checking import Check, all_tested, told_apart

from sarsteer_lab.course.checks import defences as checks
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.gates import _best_threshold
from sarsteer_lab.evaluation.intervals import paired_difference
from sarsteer_lab.evaluation.judges import kappa
from sarsteer_lab.evaluation.separation import roc_area

Outcomes = list[bool]


def spread(middle: float, variance: float) -> tuple[float, float]:
    half = 1.959964 * variance**0.5
    return middle - half, middle + half


def agresti_min(first: Outcomes, second: Outcomes) -> tuple[float, float]:
    """As Wald's interval of the mean of paired differences, of four half requests more."""
    n, difference = len(first) + 2, sum(first) - sum(second)
    squares = sum(a != b for a, b in zip(first, second, strict=True)) + 1
    return spread(difference / n, (squares / n - (difference / n) ** 2) / n)


def without_halves(first: Outcomes, second: Outcomes) -> tuple[float, float]:
    differences = np.subtract(first, second, dtype=float)
    return spread(differences.mean(), differences.var() / len(differences))


def of_two_samples(first: Outcomes, second: Outcomes) -> tuple[float, float]:
    difference = np.mean(first) - np.mean(second)
    return spread(difference, (np.var(first) + np.var(second)) / len(first))


def turned(first: Outcomes, second: Outcomes) -> tuple[float, float]:
    return agresti_min(second, first)


def strict_front(points: list[tuple[float, float]]) -> list[bool]:
    return [not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]


def too_large_front(points: list[tuple[float, float]]) -> list[bool]:
    return [not any(b[0] > a[0] and b[1] > a[1] for b in points) for a in points]


def no_equals_front(points: list[tuple[float, float]]) -> list[bool]:
    return [
        not any(j != i and b[0] >= a[0] and b[1] >= a[1] for j, b in enumerate(points))
        for i, a in enumerate(points)
    ]


def pairs_put_right(
    bad: np.ndarray, good: np.ndarray, bad_after: np.ndarray, good_after: np.ndarray
) -> float:
    """Pair by pair, in plain loops."""
    moved = 0
    for i in range(len(bad)):
        for j in range(len(good)):
            moved += int(bad_after[i] > good_after[j]) - int(bad[i] > good[j])
    return moved / (len(bad) * len(good))


def midway(harmful: list[float], harmless: list[float]) -> float:
    return (np.mean(harmful) + np.mean(harmless)) / 2


def of_cast(harmful: list[float], harmless: list[float]) -> float:
    """The threshold that the library finds."""
    scores = torch.tensor([*harmful, *harmless])
    return _best_threshold(scores, torch.arange(len(scores)) < len(harmful))[1]


WITHOUT = [True] * 12 + [False] * 2
UNDER = [True] * 4 + [False] * 10
LOST = paired_difference(np.array(WITHOUT), np.array(UNDER))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (
            checks.check_paired,
            (agresti_min,),
            {
                "no halves": (without_halves,),
                "sign is turned": (turned,),
                "two separate samples": (of_two_samples,),
                "not its ends": (lambda first, second: (-1.0, 1.0),),
                "two numbers": (lambda first, second: (0.0,),),
            },
        ),
        (
            checks.check_pareto,
            (strict_front,),
            {
                "is on your front": (too_large_front,),
                "nothing beats it": (no_equals_front,),
                "one True or False": (lambda points: [True],),
            },
        ),
        (
            checks.check_kappa,
            (kappa,),
            {
                "share of agreement": (
                    lambda a, b: np.mean([x == y for x, y in zip(a, b, strict=True)]),
                ),
                "not Cohen's": (lambda a, b: 0.0,),
            },
        ),
        (
            checks.check_refutation,
            (LOST[0], LOST[1:], "seen", WITHOUT, UNDER),
            {
                "sign is turned": (-LOST[0], LOST[1:], "seen", WITHOUT, UNDER),
                "paired bootstrap": (LOST[0], (-1, 1), "seen", WITHOUT, UNDER),
                "does not follow": (LOST[0], LOST[1:], "cannot tell", WITHOUT, UNDER),
                "one of": (LOST[0], LOST[1:], "yes", WITHOUT, UNDER),
            },
        ),
        (
            checks.check_swapped,
            (pairs_put_right,),
            {
                "sign is turned": (lambda *given: -pairs_put_right(*given),),
                "divide by their number": (lambda *given: 63 * pairs_put_right(*given),),
                "put right alone": (
                    lambda b, g, c, h: ((b[:, None] <= g[None]) & (c[:, None] > h[None])).mean(),
                ),
                "adds them up": (
                    lambda b, g, c, h: ((b[:, None] > g[None]) != (c[:, None] > h[None])).mean(),
                ),
                "every harmless one": (lambda *given: 0.0,),
            },
        ),
        (
            checks.check_threshold,
            (of_cast,),
            {
                "midway between": (midway,),
                "counts requests": (lambda bad, good: 0.825,),
                "no middle": (lambda bad, good: 0.48,),
                "another threshold": (lambda bad, good: 0.0,),
            },
        ),
    ],
)
def test_right_passes_and_wrong_is_told_apart(
    check: Check, right: tuple, wrong: dict[str, tuple]
) -> None:
    told_apart(check, right, wrong)


def test_every_check_is_tested() -> None:
    all_tested(checks, test_every_check_is_tested, 6)


def test_pairs_put_right_are_the_change_of_the_area() -> None:
    before, after = np.random.default_rng(1).random((2, 2, 12))  # no ties
    change = roc_area(after[0], after[1]) - roc_area(before[0], before[1])
    assert pairs_put_right(before[0], before[1], after[0], after[1]) == pytest.approx(change)


def test_front_of_the_library_is_a_right_answer() -> None:
    assert checks.check_pareto(lambda points: pareto_front(np.array(points)))
