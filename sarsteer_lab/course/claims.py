"""Claims at a chapter's end: what was measured, its interval, and the verdict that follows from
them.

One rule judges everything: `RULE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np
from IPython.display import Markdown

from sarsteer_lab.evaluation.intervals import paired_difference, requests_to_tell, wilson

Verdict = Literal["seen here", "not seen here", "cannot tell"]

MARGIN = 0.1
"""The smallest difference of two shares that matters here."""

RULE = (
    "*How to read a verdict.* **Seen here**: the whole interval lies above what is claimed. **Not seen "
    "here**: the whole interval lies below that plus a margin, the smallest difference that would matter "
    f"({MARGIN:.0%} for shares); this goes first. **Cannot tell**: neither. The n beside it is a sample that "
    "would tell, four times out of five, if what was measured here is the truth."
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
    """Judge the claim that a number lies above `above` by its interval; `measured` says it in
    words.

    See `RULE`; "cannot tell" also if an end is not a number. `n` is the number of requests (of each
    kind, if there are two) behind the interval; without it nothing is said about how many could
    tell.
    """
    low, high = interval
    verdict: Verdict = "seen here" if low > above else "cannot tell"
    if high < above + margin:
        verdict = "not seen here"
    needed = None
    if n is not None and verdict == "cannot tell":
        needed = requests_to_tell(low, high, n, above=above, margin=margin)
    shown = f"[{low:{style}}, {high:{style}}], claimed: above {above:{style}}"
    return Claim(claim, measured, shown, verdict, needed)


def claim_on_shares(
    claim: str, more: Sequence[bool], less: Sequence[bool], names: tuple[str, str]
) -> Claim:
    """Judge the claim that something happens to the same requests more often in one condition.

    `more` and `less` say for each request whether it did. The interval is that of the difference,
    by paired bootstrap. Where all pairs are alike no resample differs, which says nothing about how
    sure that is: then Wilson's upper end for "0 of n pairs unlike" goes to both sides. Raises
    ValueError if the two are not of the same requests.
    """
    difference, low, high = paired_difference(
        np.array(more, dtype=bool), np.array(less, dtype=bool)
    )
    alike = low == high
    if alike:
        unseen = wilson(0, len(more))[1]
        low, high = max(-1.0, difference - unseen), min(1.0, difference + unseen)
    measured = (
        f"{names[0]} {share_text(sum(more), len(more))}, {names[1]} {share_text(sum(less), len(less))}: "
        f"{difference:+.0%}"
    )
    found = claim_on_value(claim, measured, (low, high), style="+.0%", n=len(more))
    if (
        alike and found.verdict == "cannot tell"
    ):  # Wilson's end shrinks faster than a bootstrap interval
        found = replace(found, needed=next(n for n in count(1) if wilson(0, n)[1] < MARGIN))
    return found


def closing(claims: Sequence[Claim]) -> Markdown:
    """The table that ends a chapter: claim, measured number, interval, verdict."""
    rows = ["| claim | measured | 95% interval | verdict |", "| --- | --- | --- | --- |"]
    could = [f" (n = {c.needed:,} could)" if c.needed else "" for c in claims]
    rows += [
        f"| {c.claim} | {c.measured} | {c.interval} | **{c.verdict}**{more} |"
        for c, more in zip(claims, could, strict=True)
    ]
    return Markdown("\n".join(rows) + "\n\n" + RULE)
