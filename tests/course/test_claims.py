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
    assert claim.verdict == "seen here" and "30/40 (75%)" in claim.measured and "+75%" in claim.measured
    assert course.claim_on_shares("more", more, more, ("a", "b")).verdict == "not seen here"
    # Pairs that are all alike prove nothing if there are few of them.
    few = course.claim_on_shares("more", [False] * 14, [False] * 14, ("a", "b"))
    assert few.verdict == "cannot tell" and few.interval.startswith("[-22%, +22%]")
    assert course.claim_on_shares("more", [True], [False], ("a", "b")).measured.endswith("+100%")
    with pytest.raises(ValueError, match="paired"):
        course.claim_on_shares("more", more, [True], ("a", "b"))
    table = course.closing([claim]).data
    assert "| more | spoken 30/40 (75%), typed 0/40 (0%): +75% |" in table and "**seen here**" in table
