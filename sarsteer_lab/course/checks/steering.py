"""Checks of the exercises of chapters 04 and 05; how checks are made stands in `checks`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import (
    call,
    check,
    gaussian,
    need,
    need_close,
    need_each,
    need_tensor,
)
from sarsteer_lab.course.claims import MARGIN, claim_on_value
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.evaluation.judges import kappa

VERDICTS = ("seen here", "not seen here", "cannot tell")

# 04: steering


@check
def check_hook(make_hook: object) -> str:
    """`make_hook(vector, alpha)`: a forward hook that steers the last position of a layer's
    output."""
    vector = torch.linspace(-1, 1, 6)
    for shape in ((2, 5, 6), (3, 1, 6)):  # a prompt, and a decoding step
        (stream,) = gaussian(shape)
        before = stream.clone()
        hook = call(make_hook, vector, 0.5)
        need(callable(hook), "`make_hook` has to return a function: the hook")
        after = need_tensor(_behind(hook, stream), shape, "what goes on to the next layer")
        need(
            not torch.equal(after, before), "nothing is added: does your sum reach the next layer?"
        )
        otherwise = "positions before the last one have changed: only the last one is steered"
        need_close(after[:, :-1], before[:, :-1], otherwise, within=0)
        moved, whole = after[:, -1] - before[:, -1], vector.expand(len(after), -1)
        mistakes = {"the vector is added, but not `alpha` times it": whole}
        otherwise = "the last position moves by something else than alpha times the vector"
        need_close(moved, 0.5 * whole, otherwise, mistakes, within=1e-5)
    half = torch.zeros(1, 2, 6, dtype=torch.bfloat16)
    after = _behind(call(make_hook, vector, 0.5), half)
    need(
        after.dtype == torch.bfloat16,
        "a bfloat16 stream has become another type: the next layer will fail",
    )
    return "one position at one layer: all of SARSteer's last step"


def _behind(hook: Callable[..., Tensor | None], stream: Tensor) -> Tensor:
    """What the next layer gets: a hook may return a new stream or change the one it is given."""
    returned = hook(None, (), stream)
    return stream if returned is None else returned


@check
def check_divergence(divergence: object) -> str:
    """`divergence(p_logits, q_logits)`: KL(p || q) in nats per row, from logits of shape (prompt,
    vocab)."""
    p, q = (3 * logits for logits in gaussian((4, 9), (4, 9)))
    q[0] = p[0] + 2.0  # the same distribution
    found = need_tensor(call(divergence, p, q), (4,), "the divergence")
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    right = (log_p.exp() * (log_p - log_q)).sum(-1)
    reverse = (log_q.exp() * (log_q - log_p)).sum(-1)
    mistakes = {
        "this is KL(q || p): which of the two is the unsteered model?": reverse,
        "this is in bits: nats use the natural logarithm": right / np.log(2),
    }
    otherwise = "the numbers are not KL(p || q): sum p times (log p - log q) over the vocabulary"
    if abs(float(found[0])) > 1e-4:
        otherwise = "two sets of logits that differ by a constant are one distribution: their divergence is 0"
    need_close(found, right, otherwise, mistakes)
    return "never negative, 0 only for equal distributions, and not the same in both directions"


@check
def check_equal_push(equal_alpha: object) -> str:
    """`equal_alpha(alpha, full, shorter)`: the strength at which the shorter vectors push as hard
    in total.

    Both are (layer, d_model); the push is the root of the sum over layers of squared lengths.
    """
    full, shorter = gaussian((5, 7), (5, 7))
    shorter *= 0.3
    right = 0.1 * float(full.norm() / shorter.norm())
    layers = full.norm(dim=-1) / shorter.norm(dim=-1)
    mistakes = {
        "with your alpha the shorter vectors push even less: turn the ratio round": 0.1**2 / right,
        "this averages the layers' ratios: sum first": 0.1 * layers.mean(),
    }
    otherwise = (
        "alpha times the total length is not the same for both: which ratio of lengths makes it so?"
    )
    need_close(
        float(call(equal_alpha, 0.1, full, shorter)), right, otherwise, mistakes, within=1e-5
    )
    return "equal push, not equal alpha, is the fair comparison of directions"


@check
def check_transfer(rises: dict[str, float], chances: dict[str, Tensor]) -> str:
    """Mean rise of the refusal probability under each push, from `chances` ("none" is without
    steering)."""
    names = [name for name in chances if name != "none"]
    given = need_each(rises, names, "rise", "push")
    for name, value in given.items():
        plain = chances[name].mean()
        mistakes = {f"{name}: this is the mean probability; how much did it rise?": plain}
        otherwise = f"{name}: this is not the mean rise over the requests: subtract the mean without steering"
        need_close(value, plain - chances["none"].mean(), otherwise, mistakes)
    best = max(given, key=lambda name: given[name])
    return f"at equal push, {best!r} raises refusal most here: {given[best]:+.3f}"


# 05: over-refusal


@check
def check_wilson(interval: object) -> str:
    """`interval(hits, n)`: Wilson's 95% interval of a share, (low, high)."""
    for hits, n in ((0, 7), (3, 14), (14, 14), (40, 80)):
        found = call(interval, hits, n)
        need(len(found) == 2, "two numbers are wanted: the lower and the upper end")
        low, high = float(found[0]), float(found[1])
        half = 1.959964 * (hits / n * (1 - hits / n) / n) ** 0.5
        wald = [hits / n - half, hits / n + half]
        mistakes = {
            f"{hits} of {n}: this is the plain (Wald) interval, which has no width at 0 of 7": wald
        }
        otherwise = f"{hits} of {n}: these are not its ends; compare middle and half width with the formulas"
        if low < -1e-9 or high > 1 + 1e-9:
            otherwise = f"{hits} of {n}: an end lies outside 0 to 1: check your two formulas"
        need_close([low, high], wilson(hits, n), otherwise, mistakes, within=1e-3)
    return "it never leaves 0 to 1, and never claims certainty from a small sample"


@check
def check_pareto(front: object) -> str:
    """`front(points)`: for each (benign answered, harmful refused) pair, whether no other point
    beats it."""
    generator = np.random.default_rng(0)
    cases = [generator.random((9, 2)).round(1) for _ in range(20)]
    cases.append(np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.5]]))
    for points in cases:
        found = np.asarray(call(front, [tuple(point) for point in points.tolist()]), dtype=bool)
        need(
            found.shape == (len(points),),
            "one True or False is wanted for each point, in their order",
        )
        right = pareto_front(points)
        over, under = (points[which][:1].tolist() for which in (found & ~right, ~found & right))
        need(
            not over,
            f"{over} is on your front, but some point is as good in both and better in one",
        )
        need(
            not under,
            f"{under} is not on your front, but nothing beats it (an equal point does not)",
        )
    return "on the front is what nobody beats; noise is not taken into account"


@check
def check_kappa(agreement: object) -> str:
    """`agreement(first, second)`: Cohen's kappa of two lists of outcomes."""
    first = [
        "refused",
        "refused",
        "answered",
        "answered",
        "broken",
        "answered",
        "refused",
        "answered",
    ]
    second = [
        "refused",
        "answered",
        "answered",
        "answered",
        "broken",
        "refused",
        "refused",
        "answered",
    ]
    share = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    mistakes = {"this is the share of agreement: what would chance alone give?": share}
    otherwise = "this is not Cohen's kappa, which is (agreement - chance) / (1 - chance)"
    need_close(float(call(agreement, first, second)), kappa(first, second), otherwise, mistakes)  # type: ignore[arg-type]
    need_close(float(call(agreement, first, first)), 1, "a judge agrees with itself: 1 is wanted")
    return "agreement counts only as far as it exceeds what two blindfolded judges would reach"


@check
def check_refutation(
    difference: float,
    interval: Sequence[float],
    verdict: str,
    without: Sequence[bool],
    under: Sequence[bool],
) -> str:
    """The price of a prompt defence and the verdict on "it makes the model refuse benign requests".

    `without` and `under` say of the same benign requests whether they were answered.
    """
    need(verdict in VERDICTS, f"the verdict is one of {', '.join(VERDICTS)}")
    right, low, high = paired_difference(np.array(without, dtype=bool), np.array(under, dtype=bool))
    mistakes = {"the sign is turned: how many answers are *lost* under the defence?": -right}
    otherwise = "this is not the share answered without the defence minus that under it"
    need_close(difference, right, otherwise, mistakes, within=1e-6)
    otherwise = "this is not a paired bootstrap interval of that difference: "
    otherwise += "draw both outcomes of a request together"
    need(len(interval) == 2, otherwise)
    need_close([float(end) for end in interval], [low, high], otherwise, within=0.05)
    wanted = claim_on_value("", "", (low, high)).verdict
    need(
        verdict == wanted,
        f"the verdict does not follow from your interval and a margin of {MARGIN:.0%}: which end decides?",
    )
    return f"{wanted}: a claim is refuted by an interval, not by a feeling"
