"""A verdict follows from an interval, and nothing else; a chapter's claims are judged together."""

import numpy as np
import pytest

from sarsteer_lab import course
from sarsteer_lab.course.claims import RULE, Claim, verdict_of
from sarsteer_lab.evaluation.intervals import paired_interval, wilson


def fixed(low: float, high: float) -> course.Claim:
    """A claim whose interval is the same at every confidence."""
    return course.claim_on_value("claim", "0", lambda confidence: (low, high), n=40)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.3), "seen"),
        ((0.11, 0.3), "seen"),
        ((-0.3, -0.01), "opposite"),
        ((-0.3, -0.11), "opposite"),
        ((-0.05, 0.05), "no difference"),
        ((0.01, 0.05), "no difference"),  # above 0 for sure, and too little to matter
        ((-0.05, -0.01), "no difference"),
        ((-0.2, 0.05), "cannot tell"),  # none, or the opposite
        ((-0.05, 0.3), "cannot tell"),
        ((-0.1, 0.05), "cannot tell"),
        ((0.0, 0.3), "cannot tell"),
        ((float("nan"), float("nan")), "cannot tell"),
    ],
)
def test_a_verdict_follows_from_the_interval(interval: tuple[float, float], verdict: str) -> None:
    low, high = interval
    assert verdict_of(low, high) == verdict
    assert verdict_of(low + 1, high + 1, above=1.0) == verdict
    assert fixed(low, high).judged().verdict == verdict
    assert f"**{verdict.capitalize()}**" in RULE, "a verdict that the rule does not explain"


def test_without_a_margin_there_is_no_verdict_of_no_difference() -> None:
    assert verdict_of(0.84, 0.86, above=0.85, margin=0.0) == "cannot tell"
    assert verdict_of(0.86, 0.9, above=0.85, margin=0.0) == "seen"


def test_shares_are_compared_on_the_same_requests() -> None:
    more = [True] * 30 + [False] * 10
    claim = course.claim_on_shares("more", more, [False] * 40, ("spoken", "typed"))
    assert claim.judged().verdict == "seen"
    assert "30/40 (75%)" in claim.measured and "+75%" in claim.measured
    turned = course.claim_on_shares("more", [False] * 40, more, ("typed", "spoken"))
    assert turned.judged().verdict == "opposite"
    same = course.claim_on_shares("more", more, more, ("a", "b"))
    assert same.judged().verdict == "no difference"
    # Pairs that are all alike prove nothing if there are few of them.
    few = course.claim_on_shares("more", [False] * 14, [False] * 14, ("a", "b"))
    judged = few.judged()
    assert judged.verdict == "cannot tell" and judged.high == pytest.approx(wilson(0, 14)[1])
    assert course.claim_on_shares("more", [True], [False], ("a", "b")).measured.endswith("+100%")
    with pytest.raises(ValueError, match="paired"):
        course.claim_on_shares("more", more, [True], ("a", "b"))
    table = course.closing([claim]).data
    assert "| more | spoken 30/40 (75%), typed 0/40 (0%): +75% |" in table and "**seen**" in table
    assert "**no difference** of 10 points" in course.closing([same]).data


def test_the_claims_of_a_chapter_hold_together() -> None:
    more = [True] * 12 + [False] * 28
    claim = course.claim_on_shares("more", more, [True] * 6 + [False] * 34, ("a", "b"))
    for m in (1, 5, 12):
        low, high = paired_ends(claim, 1 - 0.05 / m)
        assert f"[{low:+.0%}, {high:+.0%}]" in course.closing([claim] * m).data
    alone, among_twelve = claim.judged().low, claim.judged(1 - 0.05 / 12).low
    assert among_twelve < alone
    # What is just seen by itself is not among twelve.
    assert claim.judged().verdict == "seen" and claim.judged(1 - 0.05 / 12).verdict != "seen"


def paired_ends(claim: Claim, confidence: float) -> tuple[float, float]:
    more = np.array([True] * 12 + [False] * 28)
    less = np.array([True] * 6 + [False] * 34)
    low, high = paired_interval(more, less, confidence=confidence)
    assert claim.judged(confidence).low == low
    return low, high


def test_simultaneous_intervals_all_hold_at_least_19_times_in_20() -> None:
    """Ten shares whose truth is a half: of ten 95% intervals one misses it far too often."""
    counts = np.random.default_rng(0).binomial(200, 0.5, size=(150, 10))
    held = {0.95: 0, 0.995: 0}
    for chapter in counts:
        for confidence in held:
            ends = [wilson(int(hits), 200, confidence=confidence) for hits in chapter]
            held[confidence] += all(low <= 0.5 <= high for low, high in ends)
    assert held[0.95] < 0.75 * len(counts) and held[0.995] >= 0.93 * len(counts)


def test_a_claim_that_cannot_tell_names_the_number_that_could() -> None:
    more, less = [True] * 12 + [False] * 28, [False] * 6 + [True] * 12 + [False] * 22
    claim = course.claim_on_shares("more", more, less, ("a", "b"))
    judged = claim.judged()
    assert judged.verdict == "cannot tell" and judged.needed is not None
    # Of 40 pairs 6 and 6 differ; to lie within the margin both ends have to, each nine times out
    # of ten (Lachin 1992).
    assert judged.needed == pytest.approx(((1.96 + 1.2816) / 0.1) ** 2 * 12 / 40, rel=0.15)
    assert f"**cannot tell** (n = {judged.needed:,} could)" in course.closing([claim]).data


def test_pairs_that_are_all_alike_tell_once_wilsons_interval_is_narrow_enough() -> None:
    few = course.claim_on_shares("more", [False] * 14, [False] * 14, ("a", "b")).judged()
    assert few.needed is not None
    for n, verdict in ((few.needed, "no difference"), (few.needed - 1, "cannot tell")):
        alike = course.claim_on_shares("more", [False] * n, [False] * n, ("a", "b"))
        assert alike.judged().verdict == verdict


def test_a_margin_that_is_not_that_of_shares_stands_in_the_table() -> None:
    narrow = lambda confidence: (-0.5, 0.9)  # noqa: E731
    angle = course.claim_on_value("wider", "0.2°", narrow, margin=2.0, style="+.1f", unit="°")
    told = course.closing([angle]).data
    assert "claimed: above 0.0° (margin 2°)" in told and "**no difference** of 2°" in told
    share = course.claim_on_shares("more", [True] * 9, [False] * 9, ("a", "b"))
    assert "(margin" not in course.closing([share]).data


def test_only_what_cannot_be_told_names_a_number() -> None:
    assert fixed(0.01, 0.3).judged().needed is None
    assert fixed(float("nan"), float("nan")).judged().needed is None
    without_n = course.claim_on_value("claim", "0", lambda confidence: (-0.05, 0.3))
    assert without_n.judged().needed is None
    on_the_bound = course.claim_on_value(
        "claim", "0", lambda confidence: (-0.1, 0.1), n=40, margin=0.0
    )
    assert on_the_bound.judged().needed is None
