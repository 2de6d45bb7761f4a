"""How sure a measured share is, and whether two defences differ on the same requests."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000

CONFIDENCE = 0.95
"""How often an interval is to hold the truth; other than that, a function is told."""

IN_EACH_TAIL = 10
"""Resamples that have to lie beyond either end of a bootstrap interval."""


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share: lower and upper limit, 0 to 1.

    Without any trial nothing is known: (0, 1). Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials cannot be")
    if n == 0:
        return 0.0, 1.0
    alpha = 1 - confidence
    low, high = proportion_confint(successes, n, alpha=alpha, method="wilson")
    return float(low), float(high)


def mcnemar_p(first: Bool[np.ndarray, "prompt"], second: Bool[np.ndarray, "prompt"]) -> float:
    """Exact two-sided McNemar test: could two yes/no outcomes of the same prompts be as frequent?

    Only prompts on which the two differ count; without any, p is 1. Raises ValueError if lengths
    differ.
    """
    a, b = _paired(first, second)
    only_first = (a & ~b).sum()
    only_second = (b & ~a).sum()
    table = [[0, only_first], [only_second, 0]]  # where both agree plays no part
    return float(mcnemar(table, exact=True).pvalue)


def paired_difference(
    first: Bool[np.ndarray, "prompt"],
    second: Bool[np.ndarray, "prompt"],
    *,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """Rate of `first` minus that of `second`, with a paired bootstrap interval.

    Returns (difference, lower, upper), shares from -1 to 1. Prompts are resampled, both outcomes of
    a prompt together. Raises ValueError if lengths differ or there are no prompts.
    """
    a, b = _paired(first, second)
    if not len(a):
        raise ValueError("no prompts to compare")
    differences = a.astype(float) - b
    interval = bootstrap(lambda rows: differences[rows].mean(), len(a), confidence=confidence)
    return float(differences.mean()), *interval


def alike_interval(
    difference: float, n: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of a difference that all of n pairs have, of which every resample is alike.

    Wilson's upper end for "0 of n pairs unlike" goes to both sides, up to -1 and 1.
    """
    unseen = wilson(0, n, confidence=confidence)[1]
    return max(-1.0, difference - unseen), min(1.0, difference + unseen)


def paired_interval(
    first: Bool[np.ndarray, "prompt"],
    second: Bool[np.ndarray, "prompt"],
    *,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of the rate of `first` minus that of `second` (Agresti & Min 2005), -1 to 1.

    Wald's interval with half a prompt more in each cell of the two by two table. Where few prompts
    differ, a percentile bootstrap is too sure at high confidence: with 6 of 40 that all differ the
    same way it never reaches 0, and McNemar's exact p is 0.03. Raises ValueError if lengths differ.
    """
    a, b = _paired(first, second)
    n = len(a) + 2
    only_first, only_second = (a & ~b).sum() + 0.5, (b & ~a).sum() + 0.5
    difference = (only_first - only_second) / n
    error = np.sqrt((only_first + only_second) / n - difference**2) / np.sqrt(n)
    reach = stats.norm.ppf((1 + confidence) / 2) * error
    return max(-1.0, float(difference - reach)), min(1.0, float(difference + reach))


def mean_interval(
    values: Float[np.ndarray, "prompt"], *, scale: float = 1.0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the mean of paired differences, of few prompts too.

    Student's, with two prompts more: one that differs by nothing, and half of one by `scale` either
    way. So it is `paired_interval` for numbers in place of yes and no, and `scale` is a difference
    that would be large. Where few prompts all differ the same way a percentile bootstrap claims
    certainty; of three prompts this interval never lies on one side of 0. A single one
    tells nothing: (-`scale`, `scale`).
    """
    if len(values) < 2:
        return -scale, scale
    n = len(values) + 2
    mean = values.sum() / n
    mean_square = ((values**2).sum() + scale**2) / n
    error = np.sqrt(mean_square - mean**2) / np.sqrt(n)
    reach = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * error
    return float(mean - reach), float(mean + reach)


def bootstrap(
    statistic: Callable[[Shaped[np.ndarray, "prompt"]], float],
    n: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of `statistic(rows)`; n rows are drawn.

    There are more than `resamples` where a high `confidence` would leave few of them beyond an end.
    """
    if n == 1:  # every resample is the sample; scipy wants two
        value = float(statistic(np.zeros(1, dtype=int)))
        return value, value
    needed = round(2 * IN_EACH_TAIL / (1 - confidence))
    options: dict[str, Any] = {"method": "percentile", "vectorized": False}
    options |= {"n_resamples": max(resamples, needed), "confidence_level": confidence}
    result = stats.bootstrap([np.arange(n)], statistic, rng=seed, **options)
    low, high = result.confidence_interval
    return float(low), float(high)


def with_interval(
    statistic: Callable[[Float[np.ndarray, "harmful ..."], Float[np.ndarray, "benign ..."]], float],
    harmful: Float[np.ndarray, "harmful ..."],
    benign: Float[np.ndarray, "benign ..."],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """A statistic of both kinds' rows and its bootstrap interval; each kind is resampled.

    Returns (value, lower, upper). A single harmful request stays, and the others are resampled.
    Of one request of each kind both ends are nan.
    """
    options: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": 1}
    value = statistic(harmful, benign)
    n_benign = len(benign)
    if len(harmful) == n_benign == 1:
        return value, float("nan"), float("nan")
    if len(harmful) == 1:  # of which `bootstrap` draws nothing: it would ask once
        return value, *bootstrap(lambda rows: statistic(harmful, benign[rows]), n_benign, **options)
    generator = np.random.default_rng(0)

    def resampled(rows: np.ndarray) -> float:
        others = generator.integers(0, n_benign, n_benign)
        return statistic(harmful[rows], benign[others])

    return value, *bootstrap(resampled, len(harmful), **options)


def jackknife_ratio(
    statistic: Callable[[Shaped[np.ndarray, "prompt"]], float],
    n: int,
    *,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of a positive `statistic(rows)` on the log scale, leaving out a row at a time.

    Efron & Tibshirani 1993, chapter 11, with Student's t of n - 1 degrees of freedom. For ratios of
    distances between means: resampling with return adds noise to both distances, most to the
    smaller one, so that a bootstrap interval can leave out its own estimate. Raises ValueError if
    n < 2 or the statistic is not positive.
    """
    complaint = "a log-scale interval needs at least two rows and a positive statistic"
    if n < 2:
        raise ValueError(complaint)
    rows = np.arange(n)
    whole = statistic(rows)
    left = np.array([statistic(np.delete(rows, row)) for row in rows])
    if not (whole > 0 and (left > 0).all()):
        raise ValueError(complaint)
    freedom = n - 1
    error = np.sqrt(freedom * np.log(left).var())
    factor = np.exp(stats.t.ppf((1 + confidence) / 2, freedom) * error)
    return float(whole / factor), float(whole * factor)


def requests_to_tell(
    low: float,
    high: float,
    n: int,
    *,
    above: float = 0.0,
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
) -> int | None:
    """How many requests would let an interval, `low` to `high` on n of them, tell something.

    That is: lie wholly on one side of `above`, or wholly within `margin` of it, whichever takes
    fewer, in 80% of all samples (Lehr 1992), if the truth is the interval's middle and its width
    shrinks with the root of n. None if no number would: the middle is a bound itself, or an end is
    not a number.
    """
    middle = (low + high) / 2
    error = (high - middle) / stats.norm.ppf((1 + confidence) / 2)
    spread = error * np.sqrt(n)
    off = abs(middle - above)
    # Within the margin two bounds have to be cleared, each in 90% of all samples.
    ways = [(off, 0.8), (margin - off, 0.9)]
    numbers = []
    for distance, power in ways:
        if distance > 0 and spread > 0:
            tail = (1 - confidence) / 2
            needed = normal_sample_size_one_tail(distance, power, tail, spread)
            numbers.append(int(np.ceil(needed)))
    return min(numbers, default=None)


def _paired(
    first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    a = np.asarray(first, dtype=bool)
    b = np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        shapes = f"got {a.shape} and {b.shape}"
        raise ValueError(f"outcomes of the same prompts have to be paired; {shapes}")
    return a, b
