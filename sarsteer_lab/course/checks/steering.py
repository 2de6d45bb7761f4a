"""Checks of the exercises of chapters 04 and 06; how checks are made stands in `checks`."""

from collections.abc import Sequence
from operator import eq
from typing import get_args

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
from sarsteer_lab.course.claims import MARGIN, Verdict, verdict_of
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.evaluation.judges import Outcome, kappa

VERDICTS = get_args(Verdict)

# 04: steering


@check
def check_added_up(added_up: object) -> str:
    """`added_up(vectors, alpha)`: how far all pushes up to each layer would move a state.

    The vectors have the shape (layer, d_model); nothing between the layers is to react.
    """
    [vectors] = gaussian((5, 5))
    vectors += torch.linspace(0, 1, 5)
    answer = need_tensor(call(added_up, vectors, 0.5), (5,), "the moves")
    lengths = vectors.norm(dim=-1)
    right = 0.5 * vectors.cumsum(0).norm(dim=-1)
    mistakes = {
        "alpha is missing": right / 0.5,
        "these are the single pushes: add up those of all layers so far": 0.5 * lengths,
        "lengths are added up: pushes in different directions partly cancel, so add the vectors": (
            0.5 * lengths.cumsum(0)
        ),
        "the sum went over the wrong axis: over the width": 0.5 * vectors.cumsum(1).norm(dim=-1),
        "the pushes are added up from the last layer down": (
            0.5 * vectors.flip(0).cumsum(0).norm(dim=-1).flip(0)
        ),
    }
    otherwise = "these are not the lengths of the sums of all pushes up to each layer"
    need_close(answer, right, otherwise, mistakes)
    return "small pushes that point the same way become a large one"


@check
def check_divergence(divergence: object) -> str:
    """`divergence(p_logits, q_logits)`: KL(p || q) in nats per row.

    The logits have the shape (prompt, vocab).
    """
    p, q = gaussian((4, 9), (4, 9))
    p *= 3
    q *= 3
    q[0] = p[0] + 2.0  # the same distribution
    answer = need_tensor(call(divergence, p, q), (4,), "the divergence")
    log_p = p.log_softmax(-1)
    log_q = q.log_softmax(-1)
    right = (log_p.exp() * (log_p - log_q)).sum(-1)
    reverse = (log_q.exp() * (log_q - log_p)).sum(-1)
    mistakes = {
        "this is KL(q || p): which of the two is the unsteered model?": reverse,
        "this is in bits: nats use the natural logarithm": right / np.log(2),
    }
    otherwise = "the numbers are not KL(p || q): sum p times (log p - log q) over the vocabulary"
    if abs(answer[0]) > 1e-4:
        otherwise = (
            "two sets of logits that differ by a constant are one distribution: their divergence "
            "is 0"
        )
    need_close(answer, right, otherwise, mistakes)
    return "never negative, 0 only for equal distributions, and not the same in both directions"


@check
def check_equal_push(equal_alpha: object) -> str:
    """`equal_alpha(alpha, full, shorter)`: the strength at which the shorter push as hard.

    Vectors are (layer, d_model); their push is the root of the sum over layers of squared lengths.
    """
    full, shorter = gaussian((5, 7), (5, 7))
    shorter *= 0.3
    right = 0.1 * full.norm() / shorter.norm()
    by_layer = full.norm(dim=-1) / shorter.norm(dim=-1)
    mistakes = {
        "with your alpha the shorter vectors push even less: turn the ratio round": 0.1**2 / right,
        "this averages the layers' ratios: sum first": 0.1 * by_layer.mean(),
    }
    otherwise = (
        "alpha times the total length is not the same for both: which ratio of lengths makes it so?"
    )
    answer = float(call(equal_alpha, 0.1, full, shorter))
    need_close(answer, right, otherwise, mistakes, within=1e-5)
    return "equal push, not equal alpha, is the fair comparison of directions"


@check
def check_transfer(rises: dict[str, float], refusal_probability: dict[str, Tensor]) -> str:
    """Mean rise of the refusal probability under each push; "none" is without steering."""
    means = {name: float(values.mean()) for name, values in refusal_probability.items()}
    without = means.pop("none")
    answers = need_each(rises, means, "rise", "push")
    for name, answer in answers.items():
        mistakes = {f"{name}: this is the mean probability; how much did it rise?": means[name]}
        otherwise = (
            f"{name}: this is not the mean rise over the requests: subtract the mean without "
            "steering"
        )
        need_close(answer, means[name] - without, otherwise, mistakes)
    best = max(answers, key=lambda name: answers[name])
    return f"at equal push, {best!r} raises refusal most here: {answers[best]:+.3f}"


# 05: over-refusal


@check
def check_wilson(interval: object) -> str:
    """`interval(hits, n)`: Wilson's 95% interval of a share, (low, high)."""
    for hits, n in ((0, 7), (3, 14), (14, 14), (40, 80)):
        answer = call(interval, hits, n)
        need(len(answer) == 2, "two numbers are wanted: the lower and the upper end")
        low, high = map(float, answer)
        share = hits / n
        half = 1.959964 * (share * (1 - share) / n) ** 0.5
        wald = [share - half, share + half]
        of = f"{hits} of {n}"
        mistakes = {f"{of}: this is the plain (Wald) interval, which has no width at 0 of 7": wald}
        otherwise = f"{of}: these are not its ends; compare middle and half width with the formulas"
        if low < -1e-9 or high > 1 + 1e-9:
            otherwise = f"{of}: an end lies outside 0 to 1: check your two formulas"
        need_close([low, high], wilson(hits, n), otherwise, mistakes, within=1e-3)
    return "it never leaves 0 to 1, and never claims certainty from a small sample"


@check
def check_pareto(front: object) -> str:
    """`front(points)`: for each (benign answered, harmful refused) pair, whether none beats it."""
    generator = np.random.default_rng(0)
    cases = [generator.random((9, 2)).round(1) for _ in range(20)]
    cases.append(np.array([[0.5, 0.5], [0.5, 0.5], [0.4, 0.5]]))
    for points in cases:
        answer = call(front, [tuple(point) for point in points.tolist()])
        on_front = np.asarray(answer, dtype=bool)
        otherwise = "one True or False is wanted for each point, in their order"
        need(on_front.shape == (len(points),), otherwise)
        right = pareto_front(points)
        beaten = points[on_front & ~right][:1].tolist()
        otherwise = "is on your front, but some point is as good in both and better in one"
        need(not beaten, f"{beaten} {otherwise}")
        missed = points[right & ~on_front][:1].tolist()
        otherwise = "is not on your front, but nothing beats it (an equal point does not)"
        need(not missed, f"{missed} {otherwise}")
    return "on the front is what nobody beats; noise is not taken into account"


@check
def check_kappa(agreement: object) -> str:
    """`agreement(first, second)`: Cohen's kappa of two lists of outcomes."""
    names: dict[str, Outcome] = {"r": "refused", "a": "answered", "b": "broken"}
    first = [names[letter] for letter in "rraabara"]
    second = [names[letter] for letter in "raaabrra"]
    share = sum(map(eq, first, second)) / len(first)
    mistakes = {"this is the share of agreement: what would chance alone give?": share}
    otherwise = "this is not Cohen's kappa, which is (agreement - chance) / (1 - chance)"
    answer = float(call(agreement, first, second))
    need_close(answer, kappa(first, second), otherwise, mistakes)
    with_itself = float(call(agreement, first, first))
    need_close(with_itself, 1, "a judge agrees with itself: 1 is wanted")
    return "agreement counts only as far as it exceeds what two blindfolded judges would reach"


@check
def check_refutation(
    difference: float,
    interval: Sequence[float],
    verdict: str,
    without: Sequence[bool],
    under: Sequence[bool],
) -> str:
    """The price of a prompt defence, and the verdict on "it makes benign requests refused".

    `without` and `under` say of the same benign requests whether they were answered.
    """
    need(verdict in VERDICTS, f"the verdict is one of {', '.join(VERDICTS)}")
    right, low, high = paired_difference(np.array(without, bool), np.array(under, bool))
    mistakes = {"the sign is turned: how many answers are *lost* under the defence?": -right}
    otherwise = "this is not the share answered without the defence minus that under it"
    need_close(difference, right, otherwise, mistakes, within=1e-6)
    otherwise = (
        "this is not a paired bootstrap interval of that difference: draw both outcomes of a "
        "request together"
    )
    need(len(interval) == 2, otherwise)
    need_close([float(end) for end in interval], [low, high], otherwise, within=0.05)
    wanted = verdict_of(low, high)
    otherwise = (
        f"the verdict does not follow from your interval and a margin of {MARGIN:.0%}: which end "
        "decides?"
    )
    need(verdict == wanted, otherwise)
    return f"{wanted}: a claim is refuted by an interval, not by a feeling"
