"""Checks of the exercises of chapters 06 and 07; how checks are made stands in `checks`."""

from collections.abc import Sequence
from operator import eq
from typing import get_args

import numpy as np

from sarsteer_lab.course.checks.tools import call, check, need, need_close
from sarsteer_lab.course.claims import MARGIN, Verdict, verdict_of
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, paired_interval
from sarsteer_lab.evaluation.judges import Outcome, kappa

VERDICTS = get_args(Verdict)

# 06: one defence


@check
def check_paired(interval: object) -> str:
    """`interval(first, second)`: 95% interval of a difference of shares of the same requests."""
    cases = (
        ([True] * 9 + [False] * 5, [True] * 3 + [False] * 11),
        ([True, False] * 4, [True, False] * 4),
        ([True] * 2 + [False] * 18, [False] * 14 + [True] * 6),
    )
    for first, second in cases:
        answer = call(interval, first, second)
        need(len(answer) == 2, "two numbers are wanted: the lower and the upper end")
        given = [float(end) for end in answer]
        low, high = paired_interval(np.array(first), np.array(second))
        one_way = sum(a and not b for a, b in zip(first, second, strict=True))
        other_way = sum(b and not a for a, b in zip(first, second, strict=True))
        n = len(first)
        unpaired = 0.0
        for outcomes in (first, second):
            share = sum(outcomes) / n
            unpaired += share * (1 - share) / n
        difference = (one_way - other_way) / n
        without_halves = _around(difference, (one_way + other_way) / n**2 - difference**2 / n)
        separate = _around(difference, unpaired)
        mistakes = {
            "this has no halves: where no request differs it has no width": without_halves,
            "the sign is turned: the first's share minus the second's is wanted": [-high, -low],
            "this is for two separate samples: it does not look at which requests differ": separate,
        }
        differing = f"where {one_way} requests go one way and {other_way} the other of {n}"
        otherwise = f"{differing} these are not its ends: compare middle and half width"
        need_close(given, [low, high], otherwise, mistakes, within=1e-3)
    return "only requests on which the two differ move it, and the others make it narrower"


def _around(middle: float, variance: float) -> list[float]:
    """The ends of a 95% interval with this middle."""
    half = 1.959964 * variance**0.5
    return [middle - half, middle + half]


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
def check_swapped(swapped: object) -> str:
    """`swapped(harmful_before, harmless_before, harmful_after, harmless_after)`: pairs put right.

    Minus those put wrong, as a share of all pairs of a harmful and a harmless request.
    """
    generator = np.random.default_rng(0)
    harmful = [generator.random(9).round(1), generator.random(9).round(1)]
    harmless = [generator.random(7).round(1), generator.random(7).round(1)]
    right = [bad[:, None] > good for bad, good in zip(harmful, harmless, strict=True)]
    won = (~right[0] & right[1]).mean()
    lost = (right[0] & ~right[1]).mean()
    mistakes = {
        "these are the pairs put right alone: take those off that were put wrong": won,
        "the sign is turned: pairs put right count above 0": lost - won,
        "this is a count of pairs: divide by their number": (won - lost) * right[0].size,
        "pairs change in both directions: this adds them up": won + lost,
    }
    otherwise = (
        "this is not the share of pairs put right minus that put wrong: compare every harmful "
        "request with every harmless one, and count two that stand alike as wrong"
    )
    answer = call(swapped, harmful[0], harmless[0], harmful[1], harmless[1])
    need_close(float(answer), won - lost, otherwise, mistakes)
    return (
        "without ties it is the change of the ROC area: a push that keeps the order keeps the area"
    )


# 07: defences compared


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
def check_threshold(threshold: object) -> str:
    """`threshold(harmful, harmless)`: the one with the best balanced accuracy."""
    harmful = [0.9, 0.5, 0.48]
    harmless = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.55, 0.6, 0.65, 0.7, 0.75]
    answer = float(call(threshold, harmful, harmless))
    between_means = (np.mean(harmful) + np.mean(harmless)) / 2
    mistakes = {
        "this lies midway between the two means: where are most requests told right?": (
            between_means
        ),
        "this counts requests and not shares: there are more harmless ones": 0.825,
        "this is a score and no middle: the request that has it would not be above it": 0.48,
    }
    if not 0.4 <= answer < 0.48:
        need_close(answer, 0.44, "another threshold tells more of both kinds right", mistakes)
    return "balanced, so that the larger kind does not decide where the push is added"


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
