"""Checks of workshop 7: the instruments with which defences are measured.

Each instrument is compared with the library's, on made-up numbers with ties and on small samples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sarsteer_lab.course.checks.tools import call, need, need_close
from sarsteer_lab.evaluation.curves import choose as library_choice
from sarsteer_lab.evaluation.curves import cost_at
from sarsteer_lab.evaluation.intervals import wilson, with_interval
from sarsteer_lab.evaluation.separation import best_benign_rate, roc_area, uniform_bound
from workshop.mine import step

Scores = Float[np.ndarray, "request"]


def made_up(seed: int, n_harmful: int = 13, n_benign: int = 9) -> tuple[Scores, Scores]:
    """Scores of harmful and benign requests, rounded, so that some are equal."""
    generator = np.random.default_rng(seed)
    return (
        generator.normal(0.6, 0.3, n_harmful).round(1),
        generator.normal(0.4, 0.3, n_benign).round(1),
    )


@step
def check_area(area: object) -> str:
    """`area(harmful, benign)`: how often a harmful request scores higher than a benign one."""
    for seed in range(4):
        harmful, benign = made_up(seed)
        found = float(call(area, harmful, benign))
        right = roc_area(harmful, benign)
        pairs = harmful[:, None] - benign
        mistakes = {
            "this is the other way round: how often a benign one scores higher": 1 - right,
            "equal scores count as nothing here: they count one half": (pairs > 0).mean(),
            "equal scores count as a whole pair here: they count one half": (pairs >= 0).mean(),
            "this is a number of pairs: divide by how many there are": right * pairs.size,
            "this is the difference of the means, which depends on the scale": pairs.mean(),
        }
        need_close(found, right, "this is not the share of pairs in order", mistakes, within=1e-6)
    return "0.5 is a coin; what `separation.roc_area` gives"


@step
def check_bound(bound: object) -> str:
    """`bound(harmful, benign)`: (threshold, 2): benign left answered, harmful refused."""
    for seed in range(4):
        harmful, benign = made_up(seed)
        right = uniform_bound(harmful, benign)
        found = np.asarray(call(bound, harmful, benign), dtype=float)
        need(
            found.ndim == 2 and found.shape[1] == 2,
            f"shape {found.shape}, but (threshold, 2) is wanted",
        )
        need(
            len(found) != len(right) - 1,
            "one threshold is missing: above all scores nothing is refused, and everything answered",
        )
        need(
            len(found) == len(right),
            f"{len(found)} thresholds for {len(right) - 1} different scores: each score is one, and infinity",
        )
        thresholds = np.unique(np.r_[harmful, benign, np.inf])[:, None]
        mistakes = {
            "the columns have changed places: first benign answered, then harmful refused": right[
                :, ::-1
            ].copy(),
            "the thresholds go down: begin with the lowest": right[::-1].copy(),
            "a harmful request at the threshold is refused (`>=`)": np.column_stack(
                [right[:, 0], (harmful > thresholds).mean(1)]
            ),
            "a benign request at the threshold is refused, so it is not answered (`<`)": (
                np.column_stack([(benign <= thresholds).mean(1), right[:, 1]])
            ),
            "the first column is what is refused of the benign; what is left answered is wanted": (
                np.column_stack([1 - right[:, 0], right[:, 1]])
            ),
        }
        need_close(found, right, "the shares are not those at each threshold", mistakes)
    return "every threshold is a point of the dotted line; what `separation.uniform_bound` gives"


@step
def check_answered_at(answered_at: object) -> str:
    """`answered_at(harmful, benign, refused)`: the bound at one share of harmful refused."""
    for seed in range(6):
        harmful, benign = made_up(seed, 13, 15)
        for refused in (0.4, 0.9, 1.0):
            right = best_benign_rate(harmful, benign, refused)
            points = uniform_bound(harmful, benign)
            enough = points[:, 1] >= refused - 1e-9
            nearest = points[np.abs(points[:, 1] - refused).argmin(), 0]
            mistakes = {
                "this is at the nearest share, which may refuse fewer than asked for": nearest,
                "this is the lowest threshold that refuses enough: the highest leaves more answered": (
                    points[enough, 0].min()
                ),
                "this is what is refused of the benign; what is left answered is wanted": 1 - right,
            }
            found = float(call(answered_at, harmful, benign, refused))
            otherwise = f"not what is left answered at best once {refused:.0%} are refused"
            need_close(found, right, otherwise, mistakes, within=1e-6)
    return "what no uniform push can beat; what `separation.best_benign_rate` gives"


CURVES = (
    ([0.0, 0.3, 0.6, 0.9], [0.9, 0.8, 0.5, 0.2]),
    ([0.2, 0.5, 0.4, 0.8], [1.0, 0.7, 0.75, 0.1]),
    ([0.5, 0.7], [0.6, 0.4]),
)


@step
def check_price(price: object) -> str:
    """`price(refused, answered, target)`: benign requests lost where refusal reaches the target."""
    for refused, answered in CURVES:
        for target in (0.45, 0.6, 0.7, 0.95):
            one, other = np.array(refused), np.array(answered)
            right = cost_at(target)(other, one)
            reached = np.flatnonzero(one >= target)
            mistakes: dict[str, float] = {}
            if len(reached):
                first = reached[0]
                mistakes = {
                    "this is at the first strength that reaches the target: between two strengths the price is "
                    "interpolated": 1 - other[first],
                    "this is at the last strength below the target: go on to where it is reached": 1
                    - other[max(0, first - 1)],
                    "this is what is left answered; the price is what is lost": 1 - right,
                }
            if (one[1:] < one[:-1]).any():
                order = np.argsort(one)
                mistakes["the points are sorted by refusal: keep them by strength"] = 1 - float(
                    np.interp(target, one[order], other[order])
                )
            found = float(call(price, one, other, target))
            otherwise = f"not the price of {target:.0%}, on a curve that refuses {refused}"
            if not len(reached):
                otherwise = "no strength reaches the target: then the price is 1, all of them"
            need_close(found, right, otherwise, mistakes, within=1e-6)
    return "two defences at equal refusal, whatever their alphas; what `curves.cost_at` gives"


def wald(hits: int, n: int) -> tuple[float, float]:
    """The share plus-minus two standard errors."""
    share = hits / n
    half = 1.959964 * (share * (1 - share) / n) ** 0.5
    return share - half, share + half


@step
def check_coverage(coverage: object) -> str:
    """`coverage(interval, share, n)`: how often an interval holds the true share, exactly."""
    from scipy.stats import binom

    for share, n in ((0.05, 20), (0.3, 40), (0.97, 20)):
        chances = binom.pmf(np.arange(n + 1), n, share)
        for interval in (wald, wilson):
            ends = np.array([interval(hits, n) for hits in range(n + 1)])
            holds = (ends[:, 0] <= share) & (share <= ends[:, 1])
            mistakes = {
                "this is how often it misses": chances @ ~holds,
                "every number of hits counts the same here: weight each by its chance (binomial)": (
                    holds.mean()
                ),
                "no hit at all, 0 of n, is left out": chances[1:] @ holds[1:],
                "n of n is left out": chances[:-1] @ holds[:-1],
            }
            found = float(call(coverage, interval, share, n))
            otherwise = "not the sum of the chances of those hits whose interval holds the share"
            need_close(found, chances @ holds, otherwise, mistakes, within=1e-6)
    return "an interval is an instrument, too, and can be tested"


def _means(harmful: np.ndarray, benign: np.ndarray) -> float:
    return float(harmful.mean() - benign.mean())


@step
def check_bootstrap(bootstrap: object) -> str:
    """`bootstrap(statistic, harmful, benign, resamples, seed)`: a 95% percentile interval."""
    generator = np.random.default_rng(5)
    harmful, benign = generator.exponential(3, 30), generator.normal(0, 1, 60)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def noted(one: np.ndarray, other: np.ndarray) -> float:
        seen.append((np.array(one), np.array(other)))
        return _means(one, other)

    low, high = (float(end) for end in call(bootstrap, noted, harmful, benign, 2000, 0))
    need(len(seen) >= 2000, f"the statistic was asked {len(seen)} times for 2000 resamples")
    sizes = {(len(one), len(other)) for one, other in seen}
    need(
        sizes == {(30, 60)},
        f"resamples have {sorted(sizes)[:2]} requests: as many of each kind as there are",
    )
    kinds = all(np.isin(one, harmful).all() for one, _ in seen)
    need(kinds, "kinds are mixed: harmful requests are drawn from harmful ones alone")
    drawn = [len({tuple(np.sort(part[at])) for part in seen[:50]}) for at in (0, 1)]
    for kind, different in zip(("harmful", "benign"), drawn, strict=True):
        need(
            different > 40,
            f"the {kind} requests are the same in every resample: draw them anew, with return",
        )
    _, *right = with_interval(_means, harmful, benign, resamples=4000)
    values = np.array([_means(*part) for part in seen])
    error = 1.96 * values.std()
    mistakes = {
        "this is a 90% interval: 2.5% lie beyond either end of a 95% one": np.quantile(
            values, [0.05, 0.95]
        ),
        "this is the mean plus-minus two standard deviations: take the quantiles": (
            values.mean() + np.array([-error, error])
        ),
        "this is from the least to the greatest resample": [values.min(), values.max()],
    }
    need_close(
        [low, high], right, "these are not its 2.5% and 97.5% quantiles", mistakes, within=0.12
    )
    again = call(bootstrap, _means, harmful, benign, 200, 3)
    need(
        tuple(again) == tuple(call(bootstrap, _means, harmful, benign, 200, 3)),
        "the same seed gives another interval",
    )
    pairs = np.stack([benign, benign + 1], axis=1)  # two defences: the second is 1 higher

    def difference(_: np.ndarray, other: np.ndarray) -> float:
        return float((other[:, 1] - other[:, 0]).mean())

    ends = [float(end) for end in call(bootstrap, difference, harmful, pairs, 200, 0)]
    otherwise = "a row's numbers are torn apart: what belongs to one request is drawn together"
    need_close(ends, [1, 1], otherwise)
    return "for any statistic of both kinds; what `intervals.with_interval` gives, up to the draw"


@step
def check_choose(choose: object) -> str:
    """`choose(shares)`: the alpha that the course's rule picks from validation requests."""
    generator = np.random.default_rng(2)
    for case in range(40):
        alphas = [0.0, 0.1, 0.2, 0.4]
        hits = generator.integers(0, 11, (4, 3))
        if case % 2:
            hits[:, 0] = generator.integers(9, 11, 4)
        shares = {alpha: tuple(row / 10) for alpha, row in zip(alphas, hits, strict=True)}
        if case % 4 == 1:  # a tie, and the weaker strength comes last
            shares = dict(reversed(shares.items())) | {0.05: shares[0.2]}
        found = call(choose, shares)
        need(found in shares, f"{found!r} is none of the strengths {list(shares)}")
        right = library_choice(_outcomes(shares))[2]
        if found == right:
            continue
        enough = [alpha for alpha in shares if shares[alpha][0] >= 0.9]
        counted = [sum(shares[alpha][1 if enough else 0 :]) for alpha in (found, right)]
        need(
            abs(counted[0] - counted[1]) > 1e-9 or (enough and found not in enough),
            "two strengths are equally good: then the weaker one is taken",
        )
        need(
            not enough or found in enough,
            "some strength refuses 90% of the harmful requests, and one that does not is chosen",
        )
        need(
            enough or sum(shares[found]) == sum(shares[right]),
            "where no strength refuses 90%, the share of harmful requests refused counts as well",
        )
        need(False, "among those that refuse 90%, only what is answered counts")
    return "a rule that is written down before the look; what `curves.choose` picks"


def _outcomes(shares: dict[float, Any]) -> pd.DataFrame:
    """Ten requests of each kind by strength, as the library's sweep has them."""
    rows = []
    for alpha, (refused, harmless, pseudo) in shares.items():
        for label, hits in (
            ("harmful", 10 - round(10 * refused)),
            ("harmless", round(10 * harmless)),
            ("pseudo-harmful", round(10 * pseudo)),
        ):
            for number in range(10):
                outcome = "answered" if number < hits else "refused"
                rows.append(("push", "all", alpha, label, outcome))
    return pd.DataFrame(rows, columns=["variant", "layers", "alpha", "label", "outcome"])


Outcomes = Bool[np.ndarray, "request setting"]


def _peeked(
    refused: Outcomes, answered: Outcomes, draws: int, seed: int, judges: Callable[..., Any]
) -> Any:
    """The two means, with some choice of who judges (so that mistakes can be told apart)."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        scores = []
        parts = []
        for rows in (refused, answered):
            order = generator.permutation(len(rows))
            parts.append((rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]))
        for half in (0, 1):
            scores.append(parts[0][half].mean(0) + parts[1][half].mean(0))
        found.append(judges(*scores))
    return np.mean(found, axis=0)


@step
def check_peeking(peeking: object) -> str:
    """`peeking(refused, answered, draws, seed)`: mean score of the chosen setting, seen and new."""
    generator = np.random.default_rng(7)
    refused = generator.random((40, 12)) < 0.5
    answered = generator.random((60, 12)) < 0.5
    call_of = call(peeking, refused, answered, 400, 0)
    need(len(call_of) == 2, "two numbers are wanted: on the half that chose, on the other half")
    found = [float(each) for each in call_of]
    need(found[0] != found[1], "the half that chose is asked twice: the other half judges")

    def mean(judges: Callable[..., Any]) -> Any:
        return _peeked(refused, answered, 2000, 1, judges)

    right = mean(lambda a, b: (a.max(), b[a.argmax()]))
    mistakes = {
        "each half chooses for itself: the other half has to judge the setting chosen on the first": mean(
            lambda a, b: (a.max(), b.max())
        ),
        "the two have changed places: first the half that chose": right[::-1].copy(),
        "this is the mean over all settings: the chosen one is wanted": mean(
            lambda a, b: (a.mean(), b.mean())
        ),
    }
    otherwise = (
        "the score of a setting is the share of harmful refused plus the share of benign answered; choose the "
        "best on one half, then look at it on the other"
    )
    need_close(found, right, otherwise, mistakes, within=0.02)
    whole = float(refused.mean() + answered.mean())
    again = call(peeking, refused, answered, 50, 3)
    need(
        tuple(again) == tuple(call(peeking, refused, answered, 50, 3)),
        "the same seed gives other numbers",
    )
    return (
        f"twelve settings that are all equally good score {whole:.2f} on the whole. The best of them is seen "
        f"with {right[0]:.2f}, and on new requests it has {right[1]:.2f}"
    )
