"""Every check of chapter 04 takes a right answer, and tells wrong ones apart by what is
wrong."""

import numpy as np
import pytest
import torch
from checking import Check, all_tested, told_apart

from sarsteer_lab.course.checks import steering as checks


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def raw_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.softmax(-1) * (p - q)).sum(-1)


CHANCES = {
    "none": torch.tensor([0.1, 0.2]),
    "a": torch.tensor([0.5, 0.4]),
    "b": torch.tensor([0.1, 0.3]),
}
RISES = {"a": 0.3, "b": 0.05}


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
    ],
)
def test_right_passes_and_wrong_is_told_apart(
    check: Check, right: tuple, wrong: dict[str, tuple]
) -> None:
    told_apart(check, right, wrong)


def test_every_check_is_tested() -> None:
    all_tested(checks, test_every_check_is_tested, 4)
