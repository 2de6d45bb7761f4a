"""How the course chooses a defence's settings: on validation requests, by a rule written before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from sarsteer_lab.course.session import requests, sweep
from sarsteer_lab.evaluation import curves, separation
from sarsteer_lab.evaluation.base import BaseStates
from sarsteer_lab.evaluation.defences import Defence, SteeringDefence
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Form, Request
from sarsteer_lab.vectors import SteeringVectors

CHOSEN = "SARSteer, chosen"
"""The name of the setting that the rule chose."""

STRENGTHS = (0.025, 0.05, 0.1, 0.2, 0.4)
"""At which a rival is tried, to be as strong as what it is compared with."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The setting that `curves.RULE` chose, and all that were tried.

    `scores` has a row for each setting (`curves.scores`), no push among them; `tried` are the
    validation requests.
    """

    variant: str
    vectors: SteeringVectors
    alpha: float
    scores: pd.DataFrame
    tried: Mapping[str, Sequence[Request]]

    @property
    def push(self) -> SteeringDefence:
        """The chosen setting as a defence; at strength 0 if the rule chose no push at all."""
        return SteeringDefence(CHOSEN, self.vectors, self.alpha)


def choose(
    lalm: LALM,
    states: BaseStates,
    texts: Sequence[str],
    tried: Mapping[str, int],
    alphas: Sequence[float] = (0.1, 0.15, 0.2, 0.3),
    form: Form = "spoken",
) -> Choice:
    """Choose SARSteer's text, strength and share of ablation (0 or 1; k = 10), by `curves.RULE`.

    `tried` says how many validation requests of each kind are asked, in this form. What has been
    run is kept.
    """
    variants = curves.grid(states, lams=(0, 1), ks=(10,), refusals=list(dict.fromkeys(texts)))
    asked: dict[str, list[Request]] = {}
    for label, number in tried.items():
        asked |= requests("validation", number, [label])
    options = {"max_new_tokens": 10, "batch_size": 80, "form": form}
    rows = sweep(lalm, "choice", variants, alphas, asked, **options)
    variant, _, alpha = curves.choose(rows)
    vectors = variants.get(variant, next(iter(variants.values())))
    return Choice(variant, vectors, alpha, curves.scores(rows), asked)


def mean_refusal(lalm: LALM, defences: Sequence[Defence], harmful: Sequence[Request]) -> np.ndarray:
    """Mean refusal probability of these requests under each defence: `(defence,)`."""
    rows = separation.refusal_probability_rows(lalm, defences, {"harmful": harmful})
    by_defence = rows.groupby("defence", sort=False)[separation.PROBABILITY]
    return by_defence.mean().to_numpy()


class Matched(NamedTuple):
    """A rival as strong as the chosen push, and whether it ever gets so far."""

    rival: SteeringDefence
    is_as_strong: bool


def matched(lalm: LALM, choice: Choice, rivals: Sequence[SteeringDefence]) -> list[Matched]:
    """Rivals, each as strong as it takes to refuse what the chosen push refuses.

    Measured by the mean refusal probability of the harmful validation requests, between
    `STRENGTHS` by interpolation. A defence that never gets so far keeps the strength at which it
    comes nearest. All rivals share one reading of the clips.
    """
    tried: list[SteeringDefence] = [choice.push]
    for rival in rivals:
        for strength in STRENGTHS:
            name = f"{rival.name}, alpha {strength:g}"
            tried.append(replace(rival, name=name, alpha=strength))
    target, *means = mean_refusal(lalm, tried, choice.tried["harmful"])
    by_rival = np.reshape(means, (len(rivals), len(STRENGTHS)))
    found = []
    for rival, of_rival in zip(rivals, by_rival, strict=True):
        as_strong = replace(rival, alpha=_strength(of_rival, target))
        found.append(Matched(as_strong, bool(of_rival.max() >= target)))
    return found


def _strength(means: np.ndarray, target: float) -> float:
    """The first strength at which the means reach a target, to two digits."""
    step = int(means.argmax())
    strength = STRENGTHS[step]
    if means.max() >= target:
        step = int((means >= target).argmax())
        upper = slice(max(0, step - 1), step + 1)
        strength = float(np.interp(target, means[upper], STRENGTHS[upper]))
    return float(f"{strength:.2g}")
