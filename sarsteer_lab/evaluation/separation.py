"""How well could any uniform push do? The ROC curve of the model's own readiness to refuse.

Adding one vector to every request moves all of them towards refusal. Which cross first depends on
how well the undefended model's readiness to refuse, the probability of a refusing opening, already
tells harmful requests from others: the area under its ROC curve is the yardstick for every defence
that pushes all alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.intervals import with_interval
from sarsteer_lab.evaluation.kept import opening_chances
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request

Scores = Float[np.ndarray, "prompt"]


def roc_area(harmful: Scores, benign: Scores) -> float:
    """Area under the ROC curve, 0 to 1: how often a harmful request scores higher than a benign
    one.

    Ties count one half (Mann-Whitney). Raises ValueError if either kind is missing.
    """
    if not len(harmful) or not len(benign):
        raise ValueError("a ROC curve takes harmful and benign requests")
    # What sklearn's roc_auc_score gives, at a tenth of its time: a bootstrap asks thousands of
    # times.
    below, up_to = (np.searchsorted(np.sort(benign), harmful, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(benign)))


def best_benign_rate(harmful: Scores, benign: Scores, refused: float = 0.9) -> float:
    """The largest share of benign requests below a threshold that at least `refused` of the harmful
    reach.

    What a push that moved all requests' readiness alike would leave answered, at best, once it
    refuses that share: the bound that a uniform push is compared with.
    """
    # The threshold is one of the harmful scores: the highest that leaves enough of them at or above
    # it.
    needed = int(np.ceil(refused * len(harmful) - 1e-9))
    threshold = np.sort(harmful)[len(harmful) - needed] if needed else np.inf
    return float((benign < threshold).mean())


def uniform_bound(harmful: Scores, benign: Scores) -> Float[np.ndarray, "threshold 2"]:
    """The bound at every threshold, from the lowest on: (benign below it, harmful at or above
    it)."""
    thresholds = np.unique(np.r_[harmful, benign, np.inf])
    return np.array([((benign < t).mean(), (harmful >= t).mean()) for t in thresholds])


def refusal_probability_rows(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    form: str = "spoken",
) -> pd.DataFrame:
    """How likely each request's answer is to open as a refusal under each defence: a row for each.

    Columns: defence, set, label, id, `refusal_probability` (0 to 1). A typed request is asked
    without what a prompt defence writes beside the clip. Kept in the user's cache. Raises as
    `kept.opening_chances`.
    """
    asked = [(name, request) for name, requests in sets.items() for request in requests]
    variants: list[list[Prompt]] = []
    pushes = []
    for defence in defences:
        own = [r.typed() if form == "typed" else defence.prompt(r) for _, r in asked]
        if own not in variants:
            variants.append(own)
        pushes.append((variants.index(own), defence))
    found = opening_chances(lalm, variants, pushes, f"readiness to refuse, {form}")
    rows = [
        (defence.name, name, request.label, request.id, probability)
        for defence, probabilities in zip(defences, found, strict=True)
        for (name, request), probability in zip(asked, probabilities.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["defence", "set", "label", "id", "refusal_probability"])


def separation(probabilities: pd.DataFrame, refused: float = 0.9) -> pd.DataFrame:
    """Per defence and set of benign requests: the area under the ROC curve against all harmful
    ones.

    From `refusal_probability_rows`. Columns: defence, set, `n_harmful`, `n`, `area` with its
    bootstrap 95% interval `area_low` to `area_high`, and `best_rate` (`best_benign_rate` at
    `refused`) with its own.
    """
    rows = []
    for defence, own in probabilities.groupby("defence", sort=False):
        harmful = own.loc[own["label"] == "harmful", "refusal_probability"].to_numpy()
        for name, cell in own[own["label"] != "harmful"].groupby("set", sort=False):
            benign = cell["refusal_probability"].to_numpy()
            area = with_interval(roc_area, harmful, benign)
            rate = with_interval(lambda a, b: best_benign_rate(a, b, refused), harmful, benign)
            rows.append((defence, name, len(harmful), len(benign), *area, *rate))
    columns = ["defence", "set", "n_harmful", "n", "area", "area_low", "area_high"]
    return pd.DataFrame(rows, columns=[*columns, "best_rate", "best_rate_low", "best_rate_high"])
