"""Claims at a chapter's end: what was measured, its interval, and the verdict that follows from them.

One rule judges everything: `RULE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from IPython.display import Markdown

from sarsteer_lab.evaluation.intervals import paired_difference, wilson

Verdict = Literal["seen here", "not seen here", "cannot tell"]

MARGIN = 0.1
"""The smallest difference of two shares that matters here."""

RULE = (
    "*Not seen here*: the whole interval lies below what the claim says plus a margin "
    f"({MARGIN:.0%} for shares), so nothing that matters is left. *Seen here*: otherwise, if all of it "
    "lies above what the claim says. *Cannot tell*: neither."
)


def share_text(count: int, n: int) -> str:
    """A share as it is written everywhere: "3/4 (75%)"."""
    return f"{count}/{n} ({count / n:.0%})" if n else "0/0"


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, its 95% interval, and the verdict that follows from them."""

    claim: str
    measured: str
    interval: str
    verdict: Verdict


def claim_on_value(
    claim: str,
    measured: str,
    interval: tuple[float, float],
    *,
    above: float = 0.0,
    margin: float = MARGIN,
    style: str = ".2f",
) -> Claim:
    """Judge the claim that a number lies above `above` by its interval; `measured` says it in words.

    See `RULE`; "cannot tell" also if an end is not a number.
    """
    low, high = interval
    verdict: Verdict = "seen here" if low > above else "cannot tell"
    if high < above + margin:
        verdict = "not seen here"
    return Claim(claim, measured, f"[{low:{style}}, {high:{style}}], claimed: above {above:{style}}", verdict)


def claim_on_shares(claim: str, more: Sequence[bool], less: Sequence[bool], names: tuple[str, str]) -> Claim:
    """Judge the claim that something happens to the same requests more often in one condition.

    `more` and `less` say for each request whether it did. The interval is that of the difference, by paired
    bootstrap. Where all pairs are alike no resample differs, which says nothing about how sure that is: then
    Wilson's upper end for "0 of n pairs unlike" goes to both sides. Raises ValueError if the two are not of
    the same requests.
    """
    difference, low, high = paired_difference(np.array(more, dtype=bool), np.array(less, dtype=bool))
    if low == high:
        unseen = wilson(0, len(more))[1]
        low, high = max(-1.0, difference - unseen), min(1.0, difference + unseen)
    measured = (
        f"{names[0]} {share_text(sum(more), len(more))}, {names[1]} {share_text(sum(less), len(less))}: "
        f"{difference:+.0%}"
    )
    return claim_on_value(claim, measured, (low, high), style="+.0%")


def closing(claims: Sequence[Claim]) -> Markdown:
    """The table that ends a chapter: claim, measured number, interval, verdict."""
    rows = ["| claim | measured | 95% interval | verdict |", "| --- | --- | --- | --- |"]
    rows += [f"| {c.claim} | {c.measured} | {c.interval} | **{c.verdict}** |" for c in claims]
    return Markdown("\n".join(rows) + "\n\n" + RULE)
