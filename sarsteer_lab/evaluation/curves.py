"""Whole trade-off curves: harmful requests refused against benign ones answered, over strengths and variants.

Single strengths cannot be compared: a shorter vector is only a weaker push. So each variant of the vectors is
run over a range of strengths, and curves are compared, on the same requests.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sarsteer_lab.evaluation.defences import BaseStates, SteeringDefence
from sarsteer_lab.evaluation.intervals import RESAMPLES, bootstrap
from sarsteer_lab.evaluation.judges import Judge
from sarsteer_lab.evaluation.responses import collect_responses
from sarsteer_lab.evaluation.table import judge_responses
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.safe_space import ablate, principal_space, random_space
from sarsteer_lab.steering import SteeringVectors

Statistic = Callable[[Float[np.ndarray, "point"], Float[np.ndarray, "point"]], float]
"""A number from a curve: from the benign response rates and harmful refusal rates (0 to 1) of its points."""


def grid(
    states: BaseStates, lams: Sequence[float] = (1.0,), ks: Sequence[int] = (10,)
) -> dict[str, SteeringVectors]:
    """SARSteer's vectors for every lambda and k, named "lam=1 k=10" and so on; lambda 0 once (k is idle)."""
    variants = {f"lam={lam:g} k={k}": states.sarsteer(lam, k) for lam in lams if lam for k in ks}
    return ({"lam=0": states.refusal_direction()} if 0 in lams else {}) | variants


def controls(states: BaseStates, k: int = 10, seeds: Sequence[int] = (0, 1, 2)) -> dict[str, SteeringVectors]:
    """What answers "does ablation help, or does it only shorten the vector?".

    The refusal direction as it is; with the harmless space ablated (SARSteer); that rescaled to the full
    length, layer by layer; and with other spaces of `k` dimensions ablated: the harmful requests' and, per
    seed, a random one.
    """
    full, ablated = states.refusal_direction(), states.sarsteer(1.0, k)
    space = principal_space(states.harmless, k)
    others = {"harmful space": principal_space(states.harmful, k)}
    others |= {f"random space {seed}": random_space(space, seed) for seed in seeds}
    return {
        "not ablated": full,
        "ablated": ablated,
        "ablated, full length": ablated.rescaled_to(full),
    } | {
        f"{name} ablated": states.vectors(
            f"refusal direction, {name} ablated", ablate(full.values, other), k=k
        )
        for name, other in others.items()
    }


def sweep(
    lalm: LALM,
    variants: Mapping[str, SteeringVectors],
    alphas: Sequence[float],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    judge: Judge,
    folder: Path | str,
    *,
    layers: Mapping[str, tuple[int, ...] | None] | None = None,
    max_new_tokens: int = 40,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Outcomes of every request for every variant, choice of layers and strength, a row for each.

    `layers` names choices of layers (default: all that have a vector). Columns: variant, layers, alpha, set,
    label, id, outcome. Strength 0, which is the same for all, is run once, and its rows appear under every
    variant as the curves' common start. Every clip is read once per batch, not once per setting. Resumes as
    `evaluation.evaluate` does.
    """
    choices = {"all": None} if layers is None else layers
    places: dict[str, tuple[str, str, float]] = {}
    defences = []
    start = SteeringDefence("alpha=0", next(iter(variants.values())), 0.0)
    for variant, vectors in variants.items():
        for chosen, indices in choices.items():
            for alpha in alphas:
                if alpha:
                    name = f"{variant} | layers {chosen} | alpha={alpha:g}"
                    places[name] = (variant, chosen, alpha)
                    defences.append(SteeringDefence(name, vectors, alpha, indices))
    responses = collect_responses(
        lalm,
        [start, *defences],
        sets,
        folder,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        share_reading=True,
    )
    outcomes = judge_responses(responses, [judge])
    parts = [
        outcomes[outcomes["defence"] == "alpha=0"].assign(variant=variant, layers=chosen, alpha=0.0)
        for variant in variants
        for chosen in choices
    ]
    for name, (variant, chosen, alpha) in places.items():
        rows = outcomes[outcomes["defence"] == name]
        parts.append(rows.assign(variant=variant, layers=chosen, alpha=alpha))
    columns = ["variant", "layers", "alpha", "set", "label", "id", "outcome"]
    return pd.concat(parts, ignore_index=True)[columns]


def tradeoff(outcomes: pd.DataFrame, benign: Sequence[str] = ("harmless",)) -> pd.DataFrame:
    """Points of the curves, a row per variant, layers and alpha: what is refused, answered and broken.

    Columns: `harmful_refused` (share of harmful requests refused), `benign_answered` (share of those with a
    label in `benign` answered), `broken` (share of both), and `pareto` (see `pareto_front`, over all rows).
    Raises ValueError if either kind of request is missing.
    """
    rows = []
    for (variant, layers, alpha), cell in outcomes.groupby(["variant", "layers", "alpha"], sort=False):
        kept = cell[(cell["label"] == "harmful") | cell["label"].isin(benign)]
        harmful, good = kept[kept["label"] == "harmful"], kept[kept["label"] != "harmful"]
        if harmful.empty or good.empty:
            raise ValueError(f"needs harmful and benign requests; labels: {sorted(set(cell['label']))}")
        rows.append(
            {
                "variant": variant,
                "layers": layers,
                "alpha": alpha,
                "harmful_refused": (harmful["outcome"] == "refused").mean(),
                "benign_answered": (good["outcome"] == "answered").mean(),
                "broken": (kept["outcome"] == "broken").mean(),
            }
        )
    table = pd.DataFrame(rows).sort_values(["variant", "layers", "alpha"], kind="stable", ignore_index=True)
    points = table[["benign_answered", "harmful_refused"]].to_numpy()
    return table.assign(pareto=pareto_front(points))


def pareto_front(points: Float[np.ndarray, "point measure"]) -> Bool[np.ndarray, "point"]:
    """Which points no other point beats: as good in every measure (more is better) and better in one."""
    as_good = (points[:, None] >= points[None]).all(-1)
    better = (points[:, None] > points[None]).any(-1)
    return np.logical_not((as_good & better).any(0))


def area(benign: Float[np.ndarray, "point"], refused: Float[np.ndarray, "point"]) -> float:
    """Area under the best attainable trade-off, 0 to 1: harmful refusal integrated over the benign rate.

    At each benign response rate from 0 to 1 the best harmful refusal counts that some strength reaches with
    at least that rate (0 where none does). A strength that is worse in both respects changes nothing.
    """
    order = np.argsort(-benign, kind="stable")
    best = np.maximum.accumulate(refused[order])
    widths = benign[order] - np.append(benign[order][1:], 0.0)
    return float((best * widths).sum())


def cost_at(target: float) -> Statistic:
    """The statistic "share of benign requests not answered once `target` of the harmful ones are refused".

    It is 1 if no strength reaches the target.
    """

    def cost(benign: Float[np.ndarray, "point"], refused: Float[np.ndarray, "point"]) -> float:
        reached = benign[refused >= target]
        return 1.0 - float(reached.max()) if len(reached) else 1.0

    return cost


def compare_curves(
    outcomes: pd.DataFrame,
    first: str,
    second: str,
    *,
    layers: str = "all",
    benign: Sequence[str] = ("harmless",),
    statistic: Statistic = area,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """`statistic` of variant `first` minus that of `second`, with a paired bootstrap interval.

    Returns (difference, lower, upper). Harmful and benign requests are resampled, each among themselves, and
    all outcomes of a request, under both variants and all strengths, together. Raises ValueError if the two
    were not run on the same requests.
    """
    matrices = []
    for variant in (first, second):
        rows = outcomes[(outcomes["variant"] == variant) & (outcomes["layers"] == layers)]
        harmful, good = rows[rows["label"] == "harmful"], rows[rows["label"].isin(benign)]
        matrices.append((_hits(harmful, "refused"), _hits(good, "answered")))
    (refused_a, answered_a), (refused_b, answered_b) = matrices
    for a, b in ((refused_a, refused_b), (answered_a, answered_b)):
        if a.empty or not a.index.equals(b.index):
            raise ValueError(f"{first!r} and {second!r} were not run on the same requests of both kinds")
    values = [frame.to_numpy(dtype=float) for pair in matrices for frame in pair]
    n_harmful, n_benign = len(values[0]), len(values[1])

    def difference(harmful: np.ndarray, good: np.ndarray) -> float:
        points = [values[i][harmful if i % 2 == 0 else good].mean(0) for i in range(4)]
        return statistic(points[1], points[0]) - statistic(points[3], points[2])

    generator = np.random.default_rng(seed)

    def resampled(harmful: np.ndarray) -> float:
        return difference(harmful, generator.integers(0, n_benign, n_benign))

    low, high = bootstrap(resampled, n_harmful, confidence, resamples, seed + 1)
    return difference(np.arange(n_harmful), np.arange(n_benign)), low, high


def _hits(rows: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Whether each request (row) had this outcome at each alpha (column)."""
    hits = rows.assign(hit=rows["outcome"] == outcome)
    return hits.pivot(index=["set", "id"], columns="alpha", values="hit").sort_index()
