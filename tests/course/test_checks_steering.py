"""Every check of chapter 04 takes a right answer, and tells wrong ones apart by what is
wrong."""

import pytest
import torch
from checking import Check, all_tested, told_apart
from scipy.stats import entropy

from sarsteer_lab.course.checks import steering as checks


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of each row by scipy, which knows that a probability of 0 adds nothing."""
    return torch.tensor(entropy(p.softmax(-1), q.softmax(-1), axis=-1))


def share(by_token: torch.Tensor) -> float:
    return float(by_token[0] / by_token.sum())


def naive(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return share((p.exp() * (p - q)).sum(-1))


def clamped(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.softmax(-1).clamp_min(1e-12), q.softmax(-1).clamp_min(1e-12)
    return share((p * (p.log() - q.log())).sum(-1))


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
            checks.check_first_share,
            (lambda p, q: share(kl(p, q)),),
            {
                "KL\\(q": (lambda p, q: share(kl(q, p)),),
                "0 times minus infinity": (naive,),
                "not its share": (lambda p, q: kl(p, q)[0],),
                "share of the later": (lambda p, q: 1 - share(kl(p, q)),),
                "sum of all": (lambda p, q: kl(p, q)[0] / kl(p, q)[1:].sum(),),
                "not the divergence": (lambda p, q: 0.5,),
                "stops with": (lambda p, q: kl(p, q).reshape(2, 3),),
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


def test_a_share_of_clamped_probabilities_is_right_too() -> None:
    """As the chapter does it."""
    assert checks.check_first_share(clamped)


def test_every_check_is_tested() -> None:
    all_tested(checks, test_every_check_is_tested, 4)
