"""How sure a measured share is, and whether two defences differ on the same requests."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval (1927) of a share: lower and upper limit, 0 to 1.

    Without any trial nothing is known: (0, 1). Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials cannot be")
    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
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
    first: Bool[np.ndarray, "prompt"], second: Bool[np.ndarray, "prompt"]
) -> tuple[float, float, float]:
    """Rate of `first` minus that of `second`, with a paired bootstrap 95% interval.

    Returns (difference, lower, upper), shares from -1 to 1. Prompts are resampled, both outcomes of
    a prompt together. Raises ValueError if lengths differ or there are no prompts.
    """
    a, b = _paired(first, second)
    if not len(a):
        raise ValueError("no prompts to compare")
    differences = a.astype(float) - b
    interval = bootstrap(lambda rows: differences[rows].mean(), len(a))
    return float(differences.mean()), *interval


def bootstrap(
    statistic: Callable[[Shaped[np.ndarray, "prompt"]], float],
    n: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap 95% interval (Efron 1979) of `statistic(rows)`; n rows are drawn."""
    if n == 1:  # every resample is the sample; scipy wants two
        value = float(statistic(np.zeros(1, dtype=int)))
        return value, value
    options = {"n_resamples": resamples, "method": "percentile", "vectorized": False}
    result = stats.bootstrap([np.arange(n)], statistic, rng=seed, **options)
    low, high = result.confidence_interval
    return float(low), float(high)


def with_interval(
    statistic: Callable[[Float[np.ndarray, "harmful ..."], Float[np.ndarray, "benign ..."]], float],
    harmful: Float[np.ndarray, "harmful ..."],
    benign: Float[np.ndarray, "benign ..."],
    *,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """A statistic of both kinds' rows and its bootstrap 95% interval; each kind is resampled."""
    generator = np.random.default_rng(0)
    n_benign = len(benign)

    def resampled(rows: np.ndarray) -> float:
        others = generator.integers(0, n_benign, n_benign)
        return statistic(harmful[rows], benign[others])

    interval = bootstrap(resampled, len(harmful), resamples=resamples, seed=1)
    return statistic(harmful, benign), *interval


def jackknife_ratio(
    statistic: Callable[[Shaped[np.ndarray, "prompt"]], float], n: int
) -> tuple[float, float]:
    """95% interval of a positive `statistic(rows)` on the log scale, leaving out a row at a time.

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
    factor = np.exp(stats.t.ppf(0.975, freedom) * error)
    return float(whole / factor), float(whole * factor)


def requests_to_tell(
    low: float, high: float, n: int, *, above: float = 0.0, margin: float = 0.0
) -> int | None:
    """How many requests would let a 95% interval, `low` to `high` on n of them, clear a bound.

    That is: lie wholly above `above`, or wholly below `above + margin`, whichever takes fewer, in
    80% of all samples (Lehr 1992), if the truth is the interval's middle and its width shrinks with
    the root of n. None if no number would: the middle is the bound itself, or an end is not a
    number.
    """
    middle = (low + high) / 2
    error = (high - middle) / stats.norm.ppf(0.975)
    spread = error * np.sqrt(n)
    distance = max(middle - above, above + margin - middle)
    if not (distance > 0 and spread > 0):
        return None
    needed = normal_sample_size_one_tail(distance, 0.8, 0.025, spread)
    return int(np.ceil(needed))


def _paired(
    first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    a = np.asarray(first, dtype=bool)
    b = np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        shapes = f"got {a.shape} and {b.shape}"
        raise ValueError(f"outcomes of the same prompts have to be paired; {shapes}")
    return a, b
