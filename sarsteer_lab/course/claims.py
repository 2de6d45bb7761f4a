"""Claims at a chapter's end: what was measured, its interval, and the verdict that follows.

One rule judges everything: `RULE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
from IPython.display import Markdown

from sarsteer_lab.course.tables import table
from sarsteer_lab.evaluation.intervals import (
    CONFIDENCE,
    alike_interval,
    paired_difference,
    paired_interval,
    requests_to_tell,
    wilson,
)

Verdict = Literal["seen", "opposite", "no difference", "cannot tell"]

MARGIN = 0.1
"""The smallest difference of two shares that matters here."""

RULE = (
    "*How to read a verdict.* A claim names a border, as in *more than 0%*. **No difference**: "
    "the whole interval lies within a margin of the border, and the margin is the smallest "
    "difference that would matter (10 points for shares; for other numbers the table says it). "
    "This is asked first. **Seen**: the whole interval lies above the border. **Opposite**: it "
    "lies below. **Cannot tell**: none of these. The n beside it is a sample that would tell, four "
    "times out of five, if the truth is the middle of this interval. *How wide an interval is.* "
)

FAMILY = (
    "A chapter with {m} claims has {m} chances to be wrong, so each interval is a {each:.1%} "
    "interval: all {m} hold the truth together at least 95 times in 100 (Bonferroni)."
)

ALONE = "It is a 95% interval."


class Interval(Protocol):
    """Gives a number's interval at a confidence; what stands before its two ends is not read."""

    def __call__(self, *, confidence: float) -> tuple[float, ...]:
        """For instance `functools.partial(intervals.wilson, hits, n)`."""


def share_text(count: int, n: int) -> str:
    """A share as it is written everywhere: "3/4 (75%)"."""
    return f"{count}/{n} ({count / n:.0%})" if n else "0/0"


def verdict_of(low: float, high: float, *, above: float = 0.0, margin: float = MARGIN) -> Verdict:
    """What an interval says of the claim that a number lies above `above`: see `RULE`.

    "Cannot tell" also if an end is not a number.
    """
    if above - margin < low and high < above + margin:
        return "no difference"
    if low > above:
        return "seen"
    if high < above:
        return "opposite"
    return "cannot tell"


@dataclass(frozen=True)
class Judged:
    """A claim's interval, the verdict that follows from it, and how many requests could tell.

    `needed` (`intervals.requests_to_tell`) is None where the verdict tells, or that is not known.
    """

    low: float
    high: float
    verdict: Verdict
    needed: int | None = None


@dataclass(frozen=True)
class Claim:
    """The claim that a number lies above `above`, what was measured, and its interval.

    `measured` says the number in words. `n` is the number of requests (of each kind, if there are
    two) behind the interval; without it nothing is said about how many could tell. `unit` is that
    of the number, where it has one ("°").
    """

    claim: str
    measured: str
    interval: Interval
    above: float = 0.0
    margin: float = MARGIN
    style: str = ".2f"
    n: int | None = None
    unit: str = ""

    def judged(self, confidence: float = CONFIDENCE) -> Judged:
        """The verdict by the interval at this confidence."""
        *_, low, high = self.interval(confidence=confidence)
        verdict = verdict_of(low, high, above=self.above, margin=self.margin)
        needed = None
        if self.n is not None and verdict == "cannot tell":
            needed = requests_to_tell(
                low, high, self.n, above=self.above, margin=self.margin, confidence=confidence
            )
        return Judged(low, high, verdict, needed)


@dataclass(frozen=True)
class ClaimOnShares(Claim):
    """The claim that the same requests do something more often in one condition."""

    all_alike: bool = False

    def judged(self, confidence: float = CONFIDENCE) -> Judged:
        """As of any claim; but pairs that are all alike tell sooner than a bootstrap could."""
        judged = super().judged(confidence)
        if self.all_alike and judged.verdict == "cannot tell":
            return Judged(judged.low, judged.high, judged.verdict, _alike_to_tell(confidence))
        return judged


def claim_on_value(
    claim: str,
    measured: str,
    interval: Interval,
    *,
    above: float = 0.0,
    margin: float = MARGIN,
    style: str = ".2f",
    n: int | None = None,
    unit: str = "",
) -> Claim:
    """The claim that a number lies above `above`; see `Claim`."""
    return Claim(claim, measured, interval, above, margin, style, n, unit)


def claim_on_shares(
    claim: str, more: Sequence[bool], less: Sequence[bool], names: tuple[str, str]
) -> Claim:
    """The claim that the same requests do something more often in one condition.

    `more` and `less` say for each request whether it did. The interval is that of the difference,
    from the pairs that differ (`intervals.paired_interval`). Where all pairs are alike, Wilson's
    upper end for "0 of n pairs unlike" goes to both sides. Raises ValueError if the two are not of
    the same requests, or there are none.
    """
    n = len(more)
    pairs = np.array(more, bool), np.array(less, bool)
    difference, low, high = paired_difference(*pairs)
    all_alike = low == high
    interval: Interval = partial(paired_interval, *pairs)
    if all_alike:
        interval = partial(alike_interval, difference, n)
    first = f"{names[0]} {share_text(sum(more), n)}"
    second = f"{names[1]} {share_text(sum(less), n)}"
    measured = f"{first}, {second}: {difference:+.0%}"
    return ClaimOnShares(claim, measured, interval, style="+.0%", n=n, all_alike=all_alike)


def _alike_to_tell(confidence: float) -> int:
    """How many pairs, all alike, would tell that nothing differs by as much as the margin."""
    n = 1
    while wilson(0, n, confidence=confidence)[1] >= MARGIN:
        n += 1
    return n


def closing(claims: Sequence[Claim]) -> Markdown:
    """The table that ends a chapter: claim, measured number, interval, verdict.

    The intervals are simultaneous: each is wider, so that all hold together at 95%.
    """
    m = len(claims)
    each = 1 - (1 - CONFIDENCE) / max(1, m)
    rows = []
    for claim in claims:
        judged = claim.judged(each)
        verdict = f"**{judged.verdict}**"
        if judged.verdict == "no difference":
            verdict += f" of {_size(claim)}"
        if judged.needed:
            verdict += f" (n = {judged.needed:,} could)"
        ends = f"[{judged.low:{claim.style}}, {judged.high:{claim.style}}]"
        border = f"{claim.above:{claim.style.lstrip('+')}}{claim.unit}"
        interval = f"{ends}, claimed: above {border}"
        if not _is_share(claim) or claim.margin != MARGIN:
            interval += f" (margin {_size(claim)})"
        row = {"claim": Markdown(claim.claim), "measured": claim.measured}
        rows.append(row | {"interval": interval, "verdict": Markdown(verdict)})
    return table(rows, note=RULE + (FAMILY.format(m=m, each=each) if m > 1 else ALONE))


def _is_share(claim: Claim) -> bool:
    """Whether a claim is about a share, written in percent."""
    return claim.style.endswith("%")


def _size(claim: Claim) -> str:
    """A claim's margin in words."""
    if _is_share(claim):
        return f"{100 * claim.margin:g} points"
    return f"{claim.margin:g}{claim.unit}"
