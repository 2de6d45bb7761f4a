"""Does safe-space ablation help, or does it only shorten the vector? Whole curves against controls.

At equal strength a shorter vector pushes less, so that it refuses less of everything. So each version of the
refusal direction runs over a range of strengths, and curves are compared on the same requests: as it is,
ablated, ablated and stretched to full length again, and with two other spaces ablated.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from sarsteer_lab.defenses import SteeringDefence, collect_states
from sarsteer_lab.derivation import activation_cache
from sarsteer_lab.judges import OUTCOMES, PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.steering import SteeringVectors
from sarsteer_lab.study_cache import BATCH, SWEEP_TOKENS, place, say
from sarsteer_lab.tradeoff import compare_curves, controls, cost_at, sweep, tradeoff

CURVE_ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
FAR_ALPHAS = (0.9, 1.3)
"""Strengths past those worth choosing: without them a curve that needs a stronger push would look like one
that ends. They run after the others, on their own."""

DIALS = (1.0, 0.4)
K = 10
"""Dimensions of every space, as in the paper."""

LABELS = ("harmful", "harmless", "pseudo-harmful")
MATCHED = "pseudo-harmful not answered, at matched refusal"
PAIRS = (
    ("ablated", "not ablated"),
    ("ablated, full length", "not ablated"),
    ("ablated", "random space 0 ablated"),
    ("ablated", "harmful space ablated"),
)
"""Which curves of the study of ablation are compared."""


def ablation(
    lalm: LALM, sets: Mapping[str, Mapping[str, Sequence[SpokenPrompt]]], dials: Sequence[float]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Trade-off curves of `tradeoff.controls` at each dial, their differences, and the vectors' lengths.

    Requests are the harmful, harmless and pseudo-harmful ones of the validation and test splits; nothing is
    chosen by them. Benign are the harmless and pseudo-harmful together, and each alone.
    """
    before = lalm.safety
    asked = {label: [*sets["validation"][label], *sets["test"][label]] for label in LABELS}
    derive = [prompt for found in sets["derive"].values() for prompt in found]
    curves, compared, lengths = [], [], []
    try:
        for dial in dials if before is not None else (float("nan"),):
            if before is not None:
                lalm.set_safety(dial)
            say(f"Trade-off curves, safety dial at {dial:g}")
            states = collect_states(lalm, derive, batch_size=BATCH, cache=activation_cache())
            variants = controls(states, k=K, seeds=(0,))
            near, far = (_outcomes(lalm, variants, alphas, asked) for alphas in (CURVE_ALPHAS, FAR_ALPHAS))
            # Both start from strength 0; one start is enough.
            outcomes = pd.concat([near, far[far["alpha"] > 0]], ignore_index=True)
            curves.append(_points(outcomes).assign(dial=dial))
            compared.append(compare(outcomes).assign(dial=dial))
            full = variants["not ablated"].norm()
            lengths.append(
                pd.DataFrame(
                    {name: (vectors.norm() / full).cpu().numpy() for name, vectors in variants.items()}
                ).assign(dial=dial, layer=range(lalm.n_layers))
            )
    finally:
        if before is not None:
            lalm.set_safety(before)
    return tuple(pd.concat(parts, ignore_index=True) for parts in (curves, compared, lengths))


def _outcomes(
    lalm: LALM,
    variants: Mapping[str, SteeringVectors],
    alphas: Sequence[float],
    asked: Mapping[str, Sequence[SpokenPrompt]],
) -> pd.DataFrame:
    defences = [
        SteeringDefence(name, vectors, alpha) for name, vectors in variants.items() for alpha in alphas
    ]
    return sweep(
        lalm,
        variants,
        alphas,
        asked,
        PhraseJudge(),
        place("curves", lalm, defences, asked, SWEEP_TOKENS),
        max_new_tokens=SWEEP_TOKENS,
        batch_size=BATCH,
    )


def compare(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Differences of the curves in `PAIRS`, with paired bootstrap 95% intervals.

    Statistics: area under the curve (benign: harmless and pseudo-harmful together, and each alone), and the
    share of pseudo-harmful requests not answered at matched harmful refusal. The match is the highest share
    refused, in steps of 5 points and at most 95%, that both curves reach; where no steering reaches it
    already, nothing is compared (nan).
    """
    benign = ("harmless", "pseudo-harmful")
    points = tradeoff(outcomes, benign)
    rows = []
    for first, second in PAIRS:
        for name, labels in (("both", benign), ("harmless", benign[:1]), ("pseudo-harmful", benign[1:])):
            found = compare_curves(outcomes, first, second, benign=labels)
            rows.append((first, second, f"area, benign: {name}", float("nan"), *found))
        reached = [points.loc[points["variant"] == v, "harmful_refused"].max() for v in (first, second)]
        target = min(0.95, int(min(reached) * 20 + 1e-9) / 20)
        start = points.loc[points["alpha"] == 0, "harmful_refused"].iloc[0]
        found = (float("nan"),) * 3
        if target > start:
            found = compare_curves(
                outcomes, first, second, benign=benign[1:], statistic=cost_at(target - 1e-9)
            )
        rows.append((first, second, MATCHED, target, *found))
    return pd.DataFrame(
        rows, columns=["first", "second", "statistic", "matched", "difference", "low", "high"]
    )


def _points(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row per variant and alpha: counts of each outcome of each label, wide."""
    counts = outcomes.groupby(["variant", "alpha", "label", "outcome"], sort=False).size()
    wide = counts.unstack(["label", "outcome"], fill_value=0)
    wide.columns = [f"{label} {outcome}" for label, outcome in wide.columns]
    for label in LABELS:
        for outcome in OUTCOMES:
            if (name := f"{label} {outcome}") not in wide:
                wide[name] = 0
    return wide.reset_index()
