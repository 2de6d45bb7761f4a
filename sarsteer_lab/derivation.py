"""The method (SARSteer, arXiv 2510.17633) as one pure function: from states to steering vectors.

Step 1, collecting the states, is `activations.capture`; step 5, steering with the vectors, is
`steering.steer`. What lies between is here. States are last-token outputs of every decoder layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.safe_space import SafeSpace, ablate, principal_space
from sarsteer_lab.vectors import SteeringVectors, shapes


@dataclass(frozen=True, eq=False)
class Derivation:
    """What comes out on the way: the refusal direction, the safe space, the vectors to steer with.

    `direction` is not ablated, `vectors` are. Neither is normalised: one `alpha` serves all layers.
    """

    direction: SteeringVectors
    space: SafeSpace
    vectors: SteeringVectors


def derive(
    base: Float[Tensor, "harmful layer d_model"],
    refusing: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
    lam: float = 1.0,
    k: int = 10,
    provenance: Mapping[str, Any] | None = None,
) -> Derivation:
    """SARSteer's vectors (steps 2 to 4), in float32 whatever the states' dtype.

    `base` are states h(a_i, t0) of harmful clips under the usual text, `refusing` h(a_i, t0 + r) of
    the same clips with a refusal sentence behind it, row by row; `harmless` h(b_i, t0) of harmless
    clips. `lam` is the share of the safe space that is ablated, `k` its dimensions. `provenance`
    travels with the vectors.

    Raises ValueError if `base` and `refusing` are not pairs, for no harmful or fewer than two
    harmless states, for other layers or another width, and for k < 1.
    """
    if len(harmless) < 2 or base.shape[1:] != harmless.shape[1:]:
        raise ValueError(
            "needs states (prompt layer d_model) of at least 1 harmful and 2 harmless requests "
            f"over the same layers; got {shapes(base, harmless)}"
        )
    # 2. The text-derived refusal direction: d_l = mean_i [ h_l(a_i, t0 + r) - h_l(a_i, t0) ].
    refusal_direction = text_refusal_direction(base, refusing)

    # 3. The safe space: U_l, the top-k principal directions of the centred harmless states.
    space = principal_space(harmless, k)

    # 4. Safe-space ablation: v_l = d_l - lambda * U_l U_l^T d_l.
    ablated = ablate(refusal_direction, space, lam)

    origin = dict(provenance or {})
    method = {"method": "text-derived refusal direction"}
    direction = SteeringVectors(refusal_direction, method | origin)
    settings = {"method": "SARSteer", "lam": lam, "k": k}
    return Derivation(direction, space, SteeringVectors(ablated, settings | origin))
