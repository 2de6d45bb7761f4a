"""Every check of chapters 04 and 06 takes a right answer, and tells wrong ones apart by what is
wrong."""

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sarsteer_lab.course.checks import steering as checks
from sarsteer_lab.course.checks.tools import CheckResult
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.evaluation.judges import kappa

Check = Callable[..., CheckResult]


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def raw_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.softmax(-1) * (p - q)).sum(-1)


def wald(hits: int, n: int) -> tuple[float, float]:
    share = hits / n
    half = 1.959964 * (share * (1 - share) / n) ** 0.5
    return share - half, share + half


def strict_front(points: list[tuple[float, float]]) -> list[bool]:
    return [not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]


def too_large_front(points: list[tuple[float, float]]) -> list[bool]:
    return [not any(b[0] > a[0] and b[1] > a[1] for b in points) for a in points]


def no_equals_front(points: list[tuple[float, float]]) -> list[bool]:
    return [
        not any(j != i and b[0] >= a[0] and b[1] >= a[1] for j, b in enumerate(points))
        for i, a in enumerate(points)
    ]


CHANCES = {
    "none": torch.tensor([0.1, 0.2]),
    "a": torch.tensor([0.5, 0.4]),
    "b": torch.tensor([0.1, 0.3]),
}
RISES = {"a": 0.3, "b": 0.05}
WITHOUT = [True] * 12 + [False] * 2
UNDER = [True] * 4 + [False] * 10
LOST = paired_difference(np.array(WITHOUT), np.array(UNDER))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (
            checks.check_added_up,
            (lambda vectors, alpha: alpha * vectors.cumsum(0).norm(dim=-1),),
            {
                "alpha is missing": (lambda v, alpha: v.cumsum(0).norm(dim=-1),),
                "single pushes": (lambda v, alpha: alpha * v.norm(dim=-1),),
                "add the vectors": (lambda v, alpha: alpha * v.norm(dim=-1).cumsum(0),),
                "over the width": (lambda v, alpha: alpha * v.cumsum(1).norm(dim=-1),),
                "from the last layer": (
                    lambda v, alpha: alpha * v.flip(0).cumsum(0).norm(dim=-1).flip(0),
                ),
                "not the lengths": (lambda v, alpha: alpha * v.cumsum(0).abs().sum(-1),),
                "a function is wanted": (3,),
            },
        ),
        (
            checks.check_divergence,
            (kl,),
            {
                "KL\\(q": (lambda p, q: kl(q, p),),
                "bits": (lambda p, q: kl(p, q) / np.log(2),),
                "constant": (raw_kl,),
                "shape": (lambda p, q: kl(p, q).mean(),),
            },
        ),
        (
            checks.check_equal_push,
            (lambda alpha, full, shorter: alpha * full.norm() / shorter.norm(),),
            {
                "turn the ratio": (
                    lambda alpha, full, shorter: alpha * shorter.norm() / full.norm(),
                ),
                "sum first": (
                    lambda alpha, a, b: alpha * (a.norm(dim=-1) / b.norm(dim=-1)).mean(),
                ),
                "not the same": (lambda alpha, full, shorter: alpha,),
            },
        ),
        (
            checks.check_transfer,
            (RISES, CHANCES),
            {
                "mean probability": ({"a": 0.45, "b": 0.2}, CHANCES),
                "no rise for b": ({"a": 0.3, "b": ...}, CHANCES),
                "not the mean rise": ({"a": 0.1, "b": 0.05}, CHANCES),
            },
        ),
        (
            checks.check_wilson,
            (wilson,),
            {
                "Wald": (wald,),
                "not its ends": (lambda hits, n: (0.0, 1.0),),
                "two numbers": (lambda h, n: (h,),),
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
    ],
)
def test_right_passes_and_wrong_is_told_apart(
    check: Check, right: tuple, wrong: dict[str, tuple]
) -> None:
    result = check(*right)
    assert result.passed, result.message
    for message, answer in wrong.items():
        result = check(*answer)
        assert not result.passed
        assert re.search(message, result.message), (message, result.message)
    blank = check(..., *right[1:])
    assert not blank.passed and "blank" in blank.message


def test_every_check_is_tested() -> None:
    names = {
        name for name, value in inspect.getmembers(checks, callable) if name.startswith("check_")
    }
    source = inspect.getsource(inspect.getmodule(test_every_check_is_tested))  # type: ignore[arg-type]
    assert len(names) == 8 and all(f"checks.{name}," in source for name in names)


def test_front_of_the_library_is_a_right_answer() -> None:
    assert checks.check_pareto(lambda points: pareto_front(np.array(points)))
