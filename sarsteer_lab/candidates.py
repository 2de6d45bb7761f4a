"""The steering defences that the study compares: every setting to try, and the directions they come from."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import capture
from sarsteer_lab.defenses import (
    BaseStates,
    ConditionalDefence,
    Defence,
    GatedDefence,
    SteeringDefence,
    prompt_defences,
)
from sarsteer_lab.derivation import activation_cache
from sarsteer_lab.directions import difference_in_means, text_refusal_direction
from sarsteer_lab.gates import fit_condition, fit_null_space_gate
from sarsteer_lab.lalm import LALM, Prompt
from sarsteer_lab.prompts import REFUSAL, SpokenPrompt
from sarsteer_lab.steering import SteeringVectors
from sarsteer_lab.study_cache import BATCH

ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
"""Strengths to choose from, for vectors as long as the refusal direction (the paper's is 0.1)."""

GATED_ALPHAS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Strengths for the null-space gate, which multiplies them by how far it opens (1 or less)."""

SPACES = ((1.0, 5), (1.0, 10), (1.0, 20), (0.5, 10))
"""(lambda, k) to choose from for SARSteer; the paper's are (1, 10)."""

SARSTEER, DIRECTION, FROM_TYPED = "SARSteer", "refusal direction", "refusal direction, from typed prompts"
TYPED_MEANS, SPOKEN_MEANS = "typed difference-in-means", "spoken difference-in-means"
CAST, GATE = "conditional (CAST)", "null-space (AlphaSteer)"


def candidates(states: BaseStates, from_typed: SteeringVectors) -> list[tuple[str, str, float, Defence]]:
    """Every setting to try: (method, space, alpha, defence), strengths matched to the vectors' lengths."""
    direction = states.refusal_direction()
    plain = {
        DIRECTION: direction,
        FROM_TYPED: from_typed,
        TYPED_MEANS: states.vectors(
            TYPED_MEANS, difference_in_means(states.typed_harmful, states.typed_harmless)
        ),
        SPOKEN_MEANS: states.vectors(SPOKEN_MEANS, difference_in_means(states.harmful, states.harmless)),
    }
    vectors = {(SARSTEER, f"lam={lam:g} k={k}"): states.sarsteer(lam, k) for lam, k in SPACES}
    vectors |= {(method, ""): found for method, found in plain.items()}
    settings: list[tuple[str, str, float, Defence]] = []
    for (method, space), found in vectors.items():
        # A push of the same length, in the middle layer by ratio, whatever a method's vectors measure.
        ratio = 1.0
        if method not in (SARSTEER, DIRECTION):
            ratio = float((direction.norm() / found.norm().clamp_min(1e-12)).median())
        for base in ALPHAS:
            alpha = float(f"{base * ratio:.2g}")
            name = " | ".join(part for part in (method, space, f"alpha={alpha:g}") if part)
            settings.append((method, space, alpha, SteeringDefence(name, found, alpha)))
    gate = fit_null_space_gate(states.harmful, states.harmless, direction)
    for alpha in GATED_ALPHAS:
        defence = GatedDefence(f"{GATE} | alpha={alpha:g}", direction, alpha, gate=gate)
        settings.append((GATE, "", alpha, defence))
    return settings


def chosen_defences(states: BaseStates, chosen: pd.DataFrame) -> list[Defence]:
    """The prompt defences, and each steering defence at its chosen setting."""
    direction = states.refusal_direction()
    lam, k = parse_space(chosen.loc[SARSTEER, "space"])
    typed = difference_in_means(states.typed_harmful, states.typed_harmless)
    spoken = difference_in_means(states.harmful, states.harmless)

    def alpha(method: str) -> float:
        return float(chosen.loc[method, "alpha"])

    # Last the steering defences that share one reading with "none", then those that read anew.
    none, *reminders = prompt_defences()
    return [
        none,
        SteeringDefence(TYPED_MEANS, states.vectors(TYPED_MEANS, typed), alpha(TYPED_MEANS)),
        SteeringDefence(SPOKEN_MEANS, states.vectors(SPOKEN_MEANS, spoken), alpha(SPOKEN_MEANS)),
        SteeringDefence(DIRECTION, direction, alpha(DIRECTION)),
        SteeringDefence(SARSTEER, states.sarsteer(lam, k), alpha(SARSTEER)),
        ConditionalDefence(
            CAST, direction, alpha(CAST), condition=fit_condition(states.harmful, states.harmless)
        ),
        GatedDefence(
            GATE,
            direction,
            alpha(GATE),
            gate=fit_null_space_gate(states.harmful, states.harmless, direction),
        ),
        *reminders,
    ]


def parse_space(space: str) -> tuple[float, int]:
    """Lambda and k from "lam=1 k=10"."""
    lam, k = (part.partition("=")[2] for part in space.split())
    return float(lam), int(k)


def typed_refusal_direction(
    lalm: LALM, states: BaseStates, harmful: Sequence[SpokenPrompt]
) -> SteeringVectors:
    """The text-derived direction of typed prompts: the refusal sentence after the typed request."""
    prompts = [Prompt(f"{request.typed().text} {REFUSAL}") for request in harmful]
    refusing = capture(lalm, prompts, batch_size=BATCH, cache=activation_cache())
    return states.vectors(FROM_TYPED, text_refusal_direction(states.typed_harmful, refusing))


def direction_cosines(states: BaseStates, from_typed: SteeringVectors) -> pd.DataFrame:
    """Cosines per layer between the directions of the two modalities, and between kinds of direction."""
    text = states.refusal_direction().values
    typed = difference_in_means(states.typed_harmful, states.typed_harmless)
    spoken = difference_in_means(states.harmful, states.harmless)
    both = difference_in_means(
        torch.cat([states.harmful, states.typed_harmful]), torch.cat([states.harmless, states.typed_harmless])
    )

    def cosine(
        a: Float[Tensor, "layer d_model"], b: Float[Tensor, "layer d_model"]
    ) -> Float[Tensor, "layer"]:
        return torch.cosine_similarity(a, b, dim=-1).cpu()

    columns = {
        "difference-in-means: typed, spoken": cosine(typed, spoken),
        "difference-in-means: both together, spoken": cosine(both, spoken),
        "text-derived: typed, spoken": cosine(from_typed.values, text),
        "spoken: text-derived, difference-in-means": cosine(text, spoken),
        "typed: text-derived, difference-in-means": cosine(from_typed.values, typed),
    }
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return table.assign(layer=range(len(table)))
