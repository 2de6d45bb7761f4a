"""Checks of the exercises of chapters 04 and 05; how checks are made stands in `checks`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import call, check, need, need_tensor
from sarsteer_lab.course.claims import MARGIN
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.evaluation.judges import kappa

VERDICTS = ("seen here", "not seen here", "cannot tell")

# 04: steering


@check
def check_hook(make_hook: object) -> str:
    """`make_hook(vector, alpha)`: a forward hook that steers the last position of a layer's output."""
    vector = torch.linspace(-1, 1, 6)
    for shape in ((2, 5, 6), (3, 1, 6)):  # a prompt, and a decoding step
        stream = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        before = stream.clone()
        hook = call(make_hook, vector, 0.5)
        need(callable(hook), "`make_hook` has to return a function: the hook")
        returned = hook(None, (), stream)
        after = stream if returned is None else returned
        after = need_tensor(after, shape, "what goes on to the next layer")
        need(not torch.equal(after, before), "nothing is added: does your sum reach the next layer?")
        need(
            torch.equal(after[:, :-1], before[:, :-1]),
            "positions before the last one have changed: only the last one is steered",
        )
        moved = after[:, -1] - before[:, -1]
        need(
            not torch.allclose(moved, vector.expand_as(moved), atol=1e-5),
            "the vector is added, but not `alpha` times it",
        )
        need(
            torch.allclose(moved, 0.5 * vector.expand_as(moved), atol=1e-5),
            "the last position moves by something else than alpha times the vector",
        )
    half = torch.zeros(1, 2, 6, dtype=torch.bfloat16)
    returned = call(make_hook, vector, 0.5)(None, (), half)
    after = half if returned is None else returned
    need(after.dtype == torch.bfloat16, "a bfloat16 stream has become another type: the next layer will fail")
    return "one position at one layer: all of SARSteer's last step"


@check
def check_divergence(divergence: object) -> str:
    """`divergence(p_logits, q_logits)`: KL(p || q) in nats per row, from logits of shape (prompt, vocab)."""
    generator = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(4, 9, generator=generator) for _ in range(2))
    q[0] = p[0] + 2.0  # the same distribution
    found = need_tensor(call(divergence, p, q), (4,), "the divergence")
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    right = (log_p.exp() * (log_p - log_q)).sum(-1)
    reverse = (log_q.exp() * (log_q - log_p)).sum(-1)
    need(
        not torch.allclose(found, reverse, atol=1e-4),
        "this is KL(q || p): which of the two is the unsteered model?",
    )
    need(
        not torch.allclose(found, right / np.log(2), atol=1e-4),
        "this is in bits: nats use the natural logarithm",
    )
    need(
        abs(float(found[0])) < 1e-4,
        "two sets of logits that differ by a constant are one distribution: their divergence is 0",
    )
    need(torch.allclose(found, right, atol=1e-4), "the numbers are not KL(p || q)")
    return "never negative, 0 only for equal distributions, and not the same in both directions"


@check
def check_equal_push(equal_alpha: object) -> str:
    """`equal_alpha(alpha, full, shorter)`: the strength at which the shorter vectors push as hard in total.

    Both are (layer, d_model); the push is the root of the sum over layers of squared lengths.
    """
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(5, 7, generator=generator)
    shorter = 0.3 * torch.randn(5, 7, generator=generator)
    value = call(equal_alpha, 0.1, full, shorter)
    value = float(value)
    right = 0.1 * float(full.norm() / shorter.norm())
    mean = 0.1 * float((full.norm(dim=-1) / shorter.norm(dim=-1)).mean())
    need(
        abs(value - 0.1**2 / right) > 1e-6,
        "the shorter vectors would be pushed even less: turn the ratio round",
    )
    need(abs(value - mean) > 1e-6 or abs(mean - right) < 1e-6, "that averages the layers' ratios: sum first")
    need(abs(value - right) < 1e-5, "alpha times the total length is not the same for both")
    return "equal push, not equal alpha, is the fair comparison of directions"


@check
def check_transfer(rises: dict[str, float], chances: dict[str, Tensor]) -> str:
    """Mean rise of the refusal probability under each push, from `chances` ("none" is without steering)."""
    names = [name for name in chances if name != "none"]
    need(isinstance(rises, dict), "give a dictionary: one rise for each push")
    missing = [name for name in names if name not in rises or rises[name] is ...]
    need(not missing, f"no rise for {', '.join(missing)}")
    for name in names:
        plain = float(chances[name].mean())
        right = plain - float(chances["none"].mean())
        need(
            abs(float(rises[name]) - plain) > 1e-4 or abs(plain - right) < 1e-4,
            f"{name}: this is the mean probability; how much did it rise?",
        )
        need(abs(float(rises[name]) - right) < 1e-4, f"{name}: not the mean rise over the same requests")
    best = max(names, key=lambda name: float(rises[name]))
    return f"at equal push, {best!r} raises refusal most here: {float(rises[best]):+.3f}"


# 05: over-refusal


@check
def check_wilson(interval: object) -> str:
    """`interval(hits, n)`: Wilson's 95% interval of a share, (low, high)."""
    for hits, n in ((0, 7), (3, 14), (14, 14), (40, 80)):
        found = call(interval, hits, n)
        need(len(found) == 2, "two numbers are wanted: the lower and the upper end")
        low, high = float(found[0]), float(found[1])
        share = hits / n
        half = 1.959964 * (share * (1 - share) / n) ** 0.5
        need(
            abs(low - (share - half)) > 1e-3 or abs(high - (share + half)) > 1e-3,
            f"{hits} of {n}: this is the plain (Wald) interval, which has no width at 0 of 7",
        )
        need(low > -1e-9 and high < 1 + 1e-9, f"{hits} of {n}: an end lies outside of 0 to 1")
        right = wilson(hits, n)
        need(max(abs(low - right[0]), abs(high - right[1])) < 2e-3, f"{hits} of {n}: these are not its ends")
    return "it never leaves 0 to 1, and never claims certainty from a small sample"


@check
def check_pareto(front: object) -> str:
    """`front(points)`: for each (benign answered, harmful refused) pair, whether no other point beats it."""
    generator = np.random.default_rng(0)
    cases = [generator.random((9, 2)).round(1) for _ in range(20)]
    cases.append(np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.5]]))
    for points in cases:
        found = np.asarray(call(front, [tuple(point) for point in points.tolist()]), dtype=bool)
        need(found.shape == (len(points),), "one True or False is wanted for each point, in their order")
        right = pareto_front(points)
        if not right[np.flatnonzero(found)].all():
            raise_at = points[np.flatnonzero(found & ~right)[0]]
            need(
                False,
                f"{tuple(raise_at)} is on your front, but some point is as good in both and better in one",
            )
        equal = points[np.flatnonzero(~found & right)]
        need(
            not len(equal),
            f"{tuple(equal[0]) if len(equal) else ''} is not on your front, but nothing beats it "
            "(an equal point does not)",
        )
    return "on the front is what nobody beats; noise is not taken into account"


@check
def check_kappa(agreement: object) -> str:
    """`agreement(first, second)`: Cohen's kappa of two lists of outcomes."""
    first = ["refused", "refused", "answered", "answered", "broken", "answered", "refused", "answered"]
    second = ["refused", "answered", "answered", "answered", "broken", "refused", "refused", "answered"]
    share = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    value = float(call(agreement, first, second))
    need(abs(value - share) > 1e-6, "this is the share of agreement: what would chance alone give?")
    need(abs(value - kappa(first, second)) < 1e-4, "not Cohen's kappa: (agreement - chance) / (1 - chance)")  # type: ignore[arg-type]
    need(abs(float(call(agreement, first, first)) - 1) < 1e-6, "a judge agrees with itself perfectly: 1")
    return "agreement counts only as far as it exceeds what two blindfolded judges would reach"


@check
def check_refutation(
    difference: float, interval: Sequence[float], verdict: str, without: Sequence[bool], under: Sequence[bool]
) -> str:
    """The price of a prompt defence and the verdict on "it makes the model refuse benign requests".

    `without` and `under` say of the same benign requests whether they were answered.
    """
    need(verdict in VERDICTS, f"the verdict is one of {', '.join(VERDICTS)}")
    right, low, high = paired_difference(np.array(without, dtype=bool), np.array(under, dtype=bool))
    value = float(difference)
    need(
        abs(value + right) > 1e-6 or abs(right) < 1e-6,
        "the sign is turned: how many answers are *lost* under the defence?",
    )
    need(abs(value - right) < 1e-6, "not the share answered without the defence minus that under it")
    ends = [float(end) for end in interval]
    need(
        len(ends) == 2 and abs(ends[0] - low) < 0.05 and abs(ends[1] - high) < 0.05,
        "not a paired bootstrap interval of that difference: were both outcomes of a request drawn together?",
    )
    wanted = "seen here" if low > 0 else "not seen here" if high < MARGIN else "cannot tell"
    need(
        verdict == wanted,
        f"the verdict does not follow from your interval and a margin of {MARGIN:.0%}: which end decides?",
    )
    return f"{wanted}: a claim is refuted by an interval, not by a feeling"
