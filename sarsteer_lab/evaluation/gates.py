"""Gated steering: a condition that fires or not (CAST), a map silent on harmless states.

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

from sarsteer_lab.access import SteeringError
from sarsteer_lab.lalm import LALM
from sarsteer_lab.safe_space import RANK_TOLERANCE, exact
from sarsteer_lab.steering import Alpha, RowAlphas, pushing, steered_layers
from sarsteer_lab.vectors import SteeringVectors

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Condition:
    """A request is taken for harmful if the cosine of `h - centre` with `direction` is high enough.

    That is: above `threshold`. `h` is the output of decoder layer `layer` at the prompt's last
    position. `accuracy` is the balanced accuracy, 0.5 to 1, on held-out folds of the states it was
    fitted to (it chose layer and threshold, so it is a little flattering).
    """

    layer: int
    centre: Float[Tensor, "d_model"]
    direction: Float[Tensor, "d_model"]
    threshold: float
    accuracy: float

    def similarity(self, states: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt"]:
        """Cosine of each state, seen from the centre, with the direction."""
        return _cosine(states, self.centre, self.direction)

    def fires(self, states: Float[Tensor, "prompt d_model"]) -> Bool[Tensor, "prompt"]:
        """Which states are taken for harmful requests."""
        return self.similarity(states) > self.threshold


def fit_condition(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
) -> Condition:
    """The layer and threshold that best tell harmful from harmless requests.

    As in CAST (Lee et al. 2024, sec. 3), a condition vector per layer and a search over layers and
    thresholds. The vector is the difference in means and states are seen from the midpoint of the
    two means: raw states share so large a mean that all their cosines are alike. Layer and
    threshold are chosen by balanced accuracy on 5 held-out folds, for in-sample scores would
    flatter the deepest layers; ties go to the earlier layer. Raises ValueError for fewer than 5
    states of a kind.
    """
    counts = [len(harmful), len(harmless)]
    has_same_layers = harmful.shape[1:] == harmless.shape[1:]
    if min(counts) < FOLDS or not has_same_layers:
        shapes = [tuple(harmful.shape), tuple(harmless.shape)]
        needed = f"at least {FOLDS} states of each kind with the same layers"
        raise ValueError(f"needs {needed}; got {shapes}")
    states = torch.cat([harmful, harmless]).float()  # prompt layer d_model
    is_harmful = torch.arange(len(states)) < len(harmful)  # prompt
    folds = torch.cat([torch.arange(count) % FOLDS for count in counts])  # prompt
    scores = states.new_empty(states.shape[:2])  # prompt layer
    for fold in range(FOLDS):
        held_out = folds == fold
        fitted = ~held_out
        centre, direction = _axis(states[fitted], is_harmful[fitted])
        scores[held_out] = _cosine(states[held_out], centre, direction)
    best_accuracy = -1.0
    for layer in range(states.shape[1]):
        accuracy, threshold = _best_threshold(scores[:, layer], is_harmful)
        if accuracy > best_accuracy:
            best_accuracy = accuracy
            best_layer = layer
            best_threshold = threshold
    centre, direction = _axis(states[:, best_layer], is_harmful)
    return Condition(best_layer, centre, direction, best_threshold, best_accuracy)


@dataclass(frozen=True, eq=False)
class NullSpaceGate:
    """Per layer a row `w`: the state `h` is pushed by `alpha * (w . h) * r`.

    `r` is the refusal direction. `w . h` is about 1 for harmful requests and, on the harmless
    states that it was fitted to, 0.
    """

    weights: Float[Tensor, "layer d_model"]
    vectors: SteeringVectors

    def openings(
        self, states: Float[Tensor, "prompt layer d_model"]
    ) -> Float[Tensor, "prompt layer"]:
        """How far the gate opens for each state, for states of the layers that have a vector."""
        weights = self.weights.to(states.device)
        return (states.float() * weights).sum(-1)


def fit_null_space_gate(
    harmful: Float[Tensor, "harmful layer d_model"],
    harmless: Float[Tensor, "harmless layer d_model"],
    vectors: SteeringVectors,
    *,
    k: int | None = None,
    ridge: float = 0.1,
) -> NullSpaceGate:
    """The map of AlphaSteer: refusal from harmful states, nothing from harmless ones.

    It solves (arXiv 2506.07022, eq. 8-12) `min |D P H_m - R|^2 + ridge |D P|^2`, where P projects
    onto the null space of the harmless states and every column of R is the refusal vector `r`. So
    the solution has rank one, and a row per layer is kept: `D P = r w^T` with `w = X^T (X X^T +
    ridge I)^-1 1`, X being the harmful states after P.

    P removes the span of the uncentred harmless states, or of their first `k` directions. `ridge`
    is in units of the mean squared length of X's rows. Float64, result in float32. Raises
    ValueError if shapes do not match.
    """
    shapes = [harmful.shape[1:], harmless.shape[1:], vectors.values.shape]
    if len(set(shapes)) > 1:
        given = [tuple(shape) for shape in shapes]
        raise ValueError(
            f"harmful and harmless states and vectors are not of the same layers: {given}"
        )
    by_layer = exact(harmless).transpose(0, 1)  # layer harmless d_model
    _, singular, directions = torch.linalg.svd(by_layer, full_matrices=False)
    is_present = singular > RANK_TOLERANCE * singular[:, :1]  # layer rank
    present = torch.where(is_present[..., None], directions, 0.0)  # layer rank d_model
    span = present[:, :k]
    target = exact(harmful).transpose(0, 1)  # layer harmful d_model
    in_span = target @ span.mT @ span
    projected = target - in_span
    gram = projected @ projected.mT  # layer harmful harmful
    diagonal = gram.diagonal(dim1=1, dim2=2)  # layer harmful, a view
    scale = diagonal.mean(1, keepdim=True)
    diagonal += ridge * scale.clamp_min(torch.finfo(gram.dtype).tiny)
    dual = torch.linalg.solve(gram, torch.ones_like(diagonal))  # layer harmful
    weights = torch.einsum("lh,lhd->ld", dual, projected)
    # Where the harmless states span all of the harmful ones, P leaves rounding alone: the gate
    # stays shut.
    left = projected.square().sum((1, 2))  # layer
    whole = target.square().sum((1, 2))
    weights[left <= RANK_TOLERANCE**2 * whole] = 0.0
    return NullSpaceGate(weights.float().to(harmful.device), vectors)


@contextmanager
def steer_gated(
    lalm: LALM, gate: NullSpaceGate, alpha: Alpha = 0.1, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Push each row by `alpha * (w . h) * r` while the block lasts.

    `h` is the row's state at the prompt's end. The push is computed at the prompt's last position,
    layer by layer on the way up, and goes on for every generated token: `steer` with a strength
    that each row and layer finds itself. (AlphaSteer's code pushes the prompt alone, but all of its
    positions.) The same ways of decoding are right and the same are refused as for `steer`; `alpha`
    may be one number per prompt as there, and `alpha=0` attaches nothing.
    """

    def push(layer: int, states: Tensor | None, alpha: RowAlphas) -> Float[Tensor, "row 1 d_model"]:
        if states is None:
            reason = "the prompt ran outside of this block"
            raise SteeringError(f"{reason}, so it is not known what to add")
        row = gate.vectors.layers.index(layer)
        opening = states @ gate.weights[row].to(states.device)
        return alpha * opening[..., None] * gate.vectors[layer].to(states.device)

    with pushing(lalm, push, steered_layers(lalm, gate.vectors, layers), alpha):
        yield


def _axis(
    states: Float[Tensor, "prompt *layer d_model"], is_harmful: Bool[Tensor, "prompt"]
) -> tuple[Float[Tensor, "*layer d_model"], Float[Tensor, "*layer d_model"]]:
    """The midpoint of the two kinds' means, and the way from the harmless to the harmful one."""
    harmful = states[is_harmful].mean(0)
    harmless = states[~is_harmful].mean(0)
    return (harmful + harmless) / 2, harmful - harmless


def _cosine(
    states: Float[Tensor, "prompt *layer d_model"],
    centre: Float[Tensor, "*layer d_model"],
    direction: Float[Tensor, "*layer d_model"],
) -> Float[Tensor, "prompt *layer"]:
    seen = states.float() - centre.to(states.device)
    return torch.cosine_similarity(seen, direction.to(states.device), dim=-1)


def _best_threshold(
    scores: Float[Tensor, "prompt"], is_harmful: Bool[Tensor, "prompt"]
) -> tuple[float, float]:
    """Best balanced accuracy of "above it is harmful", and the middle of its threshold's gap."""
    values = scores.unique()
    middles = (values[1:] + values[:-1]) / 2
    thresholds = torch.cat([values[:1] - 1, middles])
    is_above = scores[:, None] > thresholds  # prompt threshold
    hits = is_above[is_harmful].float().mean(0)  # threshold
    passes = (~is_above[~is_harmful]).float().mean(0)  # threshold
    accuracies = (hits + passes) / 2
    best = int(accuracies.argmax())
    return float(accuracies[best]), float(thresholds[best])
