"""Claims at a chapter's end: what was measured, its interval, and the verdict that follows.

One rule judges everything: `RULE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from IPython.display import Markdown

from sarsteer_lab.course.tables import table
from sarsteer_lab.evaluation.intervals import paired_difference, requests_to_tell, wilson

Verdict = Literal["seen here", "not seen here", "cannot tell"]

MARGIN = 0.1
"""The smallest difference of two shares that matters here."""

RULE = (
    "*How to read a verdict.* **Seen here**: the whole interval lies above what is claimed. "
    "**Not seen here**: the whole interval lies below that plus a margin, the smallest difference "
    f"that would matter ({MARGIN:.0%} for shares); this goes first. **Cannot tell**: neither. The "
    "n beside it is a sample that would tell, four times out of five, if what was measured here is "
    "the truth."
)


def share_text(count: int, n: int) -> str:
    """A share as it is written everywhere: "3/4 (75%)"."""
    return f"{count}/{n} ({count / n:.0%})" if n else "0/0"


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, its 95% interval, and the verdict that follows from them.

    `needed` is how many requests could tell where these cannot (`intervals.requests_to_tell`); None
    where that is not known.
    """

    claim: str
    measured: str
    interval: str
    verdict: Verdict
    needed: int | None = None


def claim_on_value(
    claim: str,
    measured: str,
    interval: tuple[float, float],
    *,
    above: float = 0.0,
    margin: float = MARGIN,
    style: str = ".2f",
    n: int | None = None,
) -> Claim:
    """Judge by its interval the claim that a number lies above `above`.

    See `RULE`; "cannot tell" also if an end is not a number. `measured` says the number in words.
    `n` is the number of requests (of each kind, if there are two) behind the interval; without it
    nothing is said about how many could tell.
    """
    low, high = interval
    verdict: Verdict = "cannot tell"
    if high < above + margin:
        verdict = "not seen here"
    elif low > above:
        verdict = "seen here"
    needed = None
    if n is not None and verdict == "cannot tell":
        needed = requests_to_tell(low, high, n, above=above, margin=margin)
    ends = f"[{low:{style}}, {high:{style}}], claimed: above {above:{style}}"
    return Claim(claim, measured, ends, verdict, needed)


def claim_on_shares(
    claim: str, more: Sequence[bool], less: Sequence[bool], names: tuple[str, str]
) -> Claim:
    """Judge the claim that the same requests do something more often in one condition.

    `more` and `less` say for each request whether it did. The interval is that of the difference,
    by paired bootstrap. Where all pairs are alike no resample differs, which says nothing about how
    sure that is: then Wilson's upper end for "0 of n pairs unlike" goes to both sides. Raises
    ValueError if the two are not of the same requests.
    """
    n = len(more)
    difference, low, high = paired_difference(np.array(more, bool), np.array(less, bool))
    all_alike = low == high
    if all_alike:
        unseen = wilson(0, n)[1]
        low = max(-1.0, difference - unseen)
        high = min(1.0, difference + unseen)
    first = f"{names[0]} {share_text(sum(more), n)}"
    second = f"{names[1]} {share_text(sum(less), n)}"
    measured = f"{first}, {second}: {difference:+.0%}"
    judged = claim_on_value(claim, measured, (low, high), style="+.0%", n=n)
    if all_alike and judged.verdict == "cannot tell":
        # Wilson's end shrinks faster than a bootstrap interval.
        judged = replace(judged, needed=_alike_to_tell())
    return judged


def _alike_to_tell() -> int:
    """How many pairs, all alike, would tell that nothing differs by as much as the margin."""
    n = 1
    while wilson(0, n)[1] >= MARGIN:
        n += 1
    return n


def closing(claims: Sequence[Claim]) -> Markdown:
    """The table that ends a chapter: claim, measured number, interval, verdict."""
    rows = []
    for claim in claims:
        verdict = f"**{claim.verdict}**"
        if claim.needed:
            verdict += f" (n = {claim.needed:,} could)"
        row = {"claim": Markdown(claim.claim), "measured": claim.measured}
        rows.append(row | {"95% interval": claim.interval, "verdict": Markdown(verdict)})
    return table(rows, note=RULE)
