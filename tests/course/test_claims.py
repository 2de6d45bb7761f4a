"""A verdict follows from an interval, and nothing else."""

import pytest

from sarsteer_lab import course


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.3), "seen here"),
        ((-0.2, 0.05), "not seen here"),
        ((0.01, 0.05), "not seen here"),
        ((-0.3, -0.1), "not seen here"),
        ((-0.05, 0.3), "cannot tell"),
        ((0.0, 0.3), "cannot tell"),
        ((float("nan"), float("nan")), "cannot tell"),
    ],
)
def test_a_verdict_follows_from_the_interval(interval: tuple[float, float], verdict: str) -> None:
    assert course.claim_on_value("claim", "0", interval).verdict == verdict
    shifted = (interval[0] + 1, interval[1] + 1)
    assert course.claim_on_value("claim", "0", shifted, above=1.0).verdict == verdict


def test_shares_are_compared_on_the_same_requests() -> None:
    more = [True] * 30 + [False] * 10
    claim = course.claim_on_shares("more", more, [False] * 40, ("spoken", "typed"))
    assert (
        claim.verdict == "seen here"
        and "30/40 (75%)" in claim.measured
        and "+75%" in claim.measured
    )
    assert course.claim_on_shares("more", more, more, ("a", "b")).verdict == "not seen here"
    # Pairs that are all alike prove nothing if there are few of them.
    few = course.claim_on_shares("more", [False] * 14, [False] * 14, ("a", "b"))
    assert few.verdict == "cannot tell" and few.interval.startswith("[-22%, +22%]")
    assert course.claim_on_shares("more", [True], [False], ("a", "b")).measured.endswith("+100%")
    with pytest.raises(ValueError, match="paired"):
        course.claim_on_shares("more", more, [True], ("a", "b"))
    table = course.closing([claim]).data
    assert (
        "| more | spoken 30/40 (75%), typed 0/40 (0%): +75% |" in table and "**seen here**" in table
    )


def test_a_claim_that_cannot_tell_names_the_number_that_could() -> None:
    more, less = [True] * 12 + [False] * 28, [False] * 6 + [True] * 12 + [False] * 22
    claim = course.claim_on_shares("more", more, less, ("a", "b"))
    assert claim.verdict == "cannot tell" and claim.needed is not None
    # Of 40 pairs 6 and 6 differ; the bound nearest to being cleared lies the margin away (Lachin
    # 1992).
    assert claim.needed == pytest.approx(((1.96 + 0.8416) / 0.1) ** 2 * 12 / 40, rel=0.15)
    assert f"**cannot tell** (n = {claim.needed:,} could)" in course.closing([claim]).data


def test_pairs_that_are_all_alike_tell_once_wilsons_interval_is_narrow_enough() -> None:
    few = course.claim_on_shares("more", [False] * 14, [False] * 14, ("a", "b"))
    assert few.needed is not None
    for n, verdict in ((few.needed, "not seen here"), (few.needed - 1, "cannot tell")):
        assert (
            course.claim_on_shares("more", [False] * n, [False] * n, ("a", "b")).verdict == verdict
        )


def test_only_what_cannot_be_told_names_a_number() -> None:
    assert course.claim_on_value("claim", "0", (0.01, 0.3), n=40).needed is None
    assert course.claim_on_value("claim", "0", (-0.05, 0.3)).needed is None
    assert course.claim_on_value("claim", "0", (float("nan"), float("nan")), n=40).needed is None
    assert course.claim_on_value("claim", "0", (-0.1, 0.1), n=40, margin=0.0).needed is None
