"""Checks of the exercises of chapters 06 and 07; how checks are made stands in `checks`."""

from collections.abc import Sequence
from operator import eq
from typing import get_args

import numpy as np

from sarsteer_lab.course.checks.tools import call, check, need, need_close
from sarsteer_lab.course.claims import MARGIN, Verdict, verdict_of
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.evaluation.judges import Outcome, kappa

VERDICTS = get_args(Verdict)

# 06: one defence


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
