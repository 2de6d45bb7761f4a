"""When to steer: a condition that fires or not (CAST), and a linear map that is silent on harmless
states.

Both go beyond the SARSteer paper. They look at the prompt's last position, where harmless and
harmful requests were compared when they were fitted, and what they decide there holds for the whole
answer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sarsteer_lab.lalm import LALM
from sarsteer_lab.safe_space import RANK_TOLERANCE, exact
from sarsteer_lab.steering import Alpha, Strengths, pushing
from sarsteer_lab.steering_guard import SteeringError
from sarsteer_lab.vectors import SteeringVectors

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Condition:
    """A request is taken for harmful if the cosine of `h - centre` with `direction` exceeds
    `threshold`.

    `h` is the output of decoder layer `layer` at the prompt's last position. `accuracy` is the
    balanced accuracy, 0.5 to 1, on held-out folds of the states it was fitted to (it chose layer
    and threshold, so it is a little flattering).
    """

    layer: int
    centre: Float[Tensor, "d_model"]
    direction: Float[Tensor, "d_model"]
    threshold: float
    accuracy: float

    def similarity(self, states: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt"]:
        """Cosine of each state, seen from the centre, with the direction."""
        return _cosine(states, self.centre.to(states.device), self.direction.to(states.device))

    def fires(self, states: Float[Tensor, "prompt d_model"]) -> Bool[Tensor, "prompt"]:
        """Which states are taken for harmful requests."""
        return self.similarity(states) > self.threshold


def fit_condition(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
) -> Condition:
    """The layer and threshold that best tell harmful from harmless requests (CAST, Lee et al. 2024,
    sec. 3).

    As in CAST, a condition vector per layer and a search over layers and thresholds. The vector is
    the difference in means and states are seen from the midpoint of the two means: raw states share
    so large a mean that all their cosines are alike. Layer and threshold are chosen by balanced
    accuracy on 5 held-out folds, for in-sample scores would flatter the deepest layers; ties go to
    the earlier layer. Raises ValueError for fewer than 5 states of a kind.
    """
    if min(len(harmful), len(harmless)) < FOLDS or harmful.shape[1:] != harmless.shape[1:]:
        raise ValueError(
            f"needs at least {FOLDS} states of each kind with the same layers; got "
            f"{tuple(harmful.shape)} and {tuple(harmless.shape)}"
        )
    harmful, harmless = harmful.float(), harmless.float()
    scores = [torch.empty(states.shape[:2], device=states.device) for states in (harmful, harmless)]
    for fold in range(FOLDS):
        held = [torch.arange(len(states)) % FOLDS == fold for states in (harmful, harmless)]
        centre, direction = _axis(harmful[~held[0]], harmless[~held[1]])
        for score, states, out in zip(scores, (harmful, harmless), held, strict=True):
            score[out] = _cosine(states[out], centre, direction)
    best = (-1.0, 0, 0.0)
    for layer in range(harmful.shape[1]):
        accuracy, threshold = _best_threshold(scores[0][:, layer], scores[1][:, layer])
        if accuracy > best[0]:
            best = (accuracy, layer, threshold)
    accuracy, layer, threshold = best
    centre, direction = _axis(harmful[:, layer], harmless[:, layer])
    return Condition(layer, centre, direction, threshold, accuracy)


@dataclass(frozen=True, eq=False)
class NullSpaceGate:
    """Per layer a row `w`: the state `h` is pushed by `alpha * (w . h) * r`, with `r` the refusal
    direction.

    `w . h` is about 1 for harmful requests and, on the harmless states that it was fitted to, 0.
    """

    weights: Float[Tensor, "layer d_model"]
    vectors: SteeringVectors

    def openings(
        self, states: Float[Tensor, "prompt layer d_model"]
    ) -> Float[Tensor, "prompt layer"]:
        """How far the gate opens for each state, for states of the layers that have a vector."""
        return (states.float() * self.weights.to(states.device)).sum(-1)


def fit_null_space_gate(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
    vectors: SteeringVectors,
    *,
    k: int | None = None,
    ridge: float = 0.1,
) -> NullSpaceGate:
    """The map of AlphaSteer (arXiv 2506.07022, eq. 8-12): refusal from harmful states, nothing from
    harmless.

    It solves `min |D P H_m - R|^2 + ridge |D P|^2`, where P projects onto the null space of the
    harmless states and every column of R is the refusal vector `r`. So the solution has rank one,
    and a row per layer is kept: `D P = r w^T` with `w = X^T (X X^T + ridge I)^-1 1`, X being the
    harmful states after P.

    P removes the span of the uncentred harmless states, or of their first `k` directions. `ridge`
    is in units of the mean squared length of X's rows. Float64, result in float32. Raises
    ValueError if shapes do not match.
    """
    if harmful.shape[1:] != harmless.shape[1:] or harmful.shape[1:] != vectors.values.shape:
        raise ValueError(
            f"states of shape {tuple(harmful.shape)} and {tuple(harmless.shape)} and vectors of shape "
            f"{tuple(vectors.values.shape)} are not of the same layers"
        )
    by_layer = exact(harmless).transpose(0, 1)
    _, singular, directions = torch.linalg.svd(by_layer, full_matrices=False)
    present = singular > RANK_TOLERANCE * singular[:, :1]
    span = torch.where(present[..., None], directions, 0.0)[:, :k]
    target = exact(harmful).transpose(0, 1)
    projected = target - target @ span.transpose(1, 2) @ span
    gram = projected @ projected.transpose(1, 2)
    scale = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    eye = torch.eye(len(harmful), dtype=gram.dtype, device=gram.device)
    ones = torch.ones(len(gram), len(harmful), 1, dtype=gram.dtype, device=gram.device)
    dual = torch.linalg.solve(gram + ridge * scale[:, None, None] * eye, ones)
    weights = (projected.transpose(1, 2) @ dual)[..., 0]
    # Where the harmless states span all of the harmful ones, P leaves rounding alone: the gate
    # stays shut.
    left = projected.square().sum((1, 2)) > RANK_TOLERANCE**2 * target.square().sum((1, 2))
    return NullSpaceGate(
        torch.where(left[:, None], weights, 0.0).float().to(harmful.device), vectors
    )


@contextmanager
def steer_gated(
    lalm: LALM, gate: NullSpaceGate, alpha: Alpha = 0.1, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Push each row by `alpha * (w . h) * r` while the block lasts, `h` being its state at the
    prompt's end.

    The push is computed at the prompt's last position, layer by layer on the way up, and goes on
    for every generated token: `steer` with a strength that each row and layer finds itself.
    (AlphaSteer's code pushes the prompt alone, but all of its positions.) The same ways of decoding
    are right and the same are refused as for `steer`; `alpha` may be one number per prompt as
    there, and `alpha=0` attaches nothing.
    """

    def push(layer: int, states: Tensor | None, alpha: Strengths) -> Float[Tensor, "row 1 d_model"]:
        if states is None:
            raise SteeringError(
                "the prompt ran outside of this block, so it is not known what to add"
            )
        weights = gate.weights[gate.vectors.layers.index(layer)].to(states.device)
        return alpha * (states @ weights)[..., None] * gate.vectors[layer].to(states.device)

    with pushing(lalm, push, lalm.steered_layers(gate.vectors, layers), alpha):
        yield


def _axis(
    harmful: Float[Tensor, "harmful *layer d_model"],
    harmless: Float[Tensor, "harmless *layer d_model"],
) -> tuple[Float[Tensor, "*layer d_model"], Float[Tensor, "*layer d_model"]]:
    """The midpoint of the two means, and the way from the harmless to the harmful one."""
    first, second = harmful.mean(0), harmless.mean(0)
    return (first + second) / 2, first - second


def _cosine(
    states: Float[Tensor, "prompt *layer d_model"],
    centre: Float[Tensor, "*layer d_model"],
    direction: Float[Tensor, "*layer d_model"],
) -> Float[Tensor, "prompt *layer"]:
    return torch.cosine_similarity(states.float() - centre, direction.expand_as(states), dim=-1)


def _best_threshold(
    harmful: Float[Tensor, "harmful"], harmless: Float[Tensor, "harmless"]
) -> tuple[float, float]:
    """Best balanced accuracy of "above the threshold is harmful", and the middle of its threshold's
    gap."""
    values = torch.cat([harmful, harmless]).unique()
    edges = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2])
    hits = (harmful[:, None] > edges).float().mean(0)
    passes = (harmless[:, None] <= edges).float().mean(0)
    accuracy = (hits + passes) / 2
    best = int(accuracy.argmax())
    return float(accuracy[best]), float(edges[best])
