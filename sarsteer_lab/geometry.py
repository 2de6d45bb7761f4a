"""How far apart typed and spoken states lie, and what a probe or the logit lens reads from them.

States are `Float[Tensor, "prompt layer d_model"]`; in paired measures row i of both is the same
request.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from sarsteer_lab.lalm import LALM
from sarsteer_lab.safe_space import exact
from sarsteer_lab.vectors import States, check_pairs, shapes


@dataclass(frozen=True, eq=False)
class Gap:
    """How typed and spoken states of the same requests compare, per layer.

    `cosine` and `centred_cosine` are `pair_cosine`s, `distance` the `centroid_distance` of the two
    forms, `harm_distance` that of typed harmful and harmless requests, the measure of scale for
    `distance`. `probe`: how often a linear probe tells the forms apart, by the seed of its folds.
    """

    cosine: Float[Tensor, "prompt layer"]
    centred_cosine: Float[Tensor, "prompt layer"]
    distance: Float[Tensor, "layer"]
    harm_distance: Float[Tensor, "layer"]
    probe: Float[Tensor, "layer seed"]

    @property
    def layer(self) -> int:
        """The layer to look at: where typed harmful and harmless requests lie furthest apart."""
        return int(self.harm_distance.argmax())


def measure_gap(typed: States, spoken: States, n_harmful: int) -> Gap:
    """Compare typed and spoken states of the same requests, the first `n_harmful` of them harmful.

    The probe is cross-validated with each request's two states on the same side of every split.
    Raises ValueError if the shapes differ, and without harmful or without other requests.
    """
    cosine = pair_cosine(typed, spoken, center=False)
    n = len(typed)
    both = torch.cat([typed, spoken])  # state layer d_model
    forms = ["typed"] * n + ["spoken"] * n
    requests = [str(number) for number in range(n)] * 2
    probes = []
    for seed in tqdm((0, 1, 2), desc="probes", unit="seed", delay=2, leave=False):
        probe = transfer_accuracy(both, both, forms, groups=requests, folds=min(5, n), seed=seed)
        probes.append(probe)
    centred_cosine = pair_cosine(typed, spoken)
    distance = centroid_distance(typed, spoken)
    harm_distance = centroid_distance(typed[:n_harmful], typed[n_harmful:])
    return Gap(cosine, centred_cosine, distance, harm_distance, torch.stack(probes, dim=1))


def pair_cosine(
    typed: States, spoken: States, *, center: bool = True
) -> Float[Tensor, "prompt layer"]:
    """Cosine between the typed and the spoken state of each request, per layer.

    With `center` each modality's mean state is taken off first, so that the value tells whether the
    two vary alike from request to request; without it the mean, which most states share, dominates.
    Raises ValueError if the shapes differ.
    """
    check_pairs(typed, spoken)
    cosine = cosine_similarity(_centred(typed, center), _centred(spoken, center), dim=-1)
    return cosine.float().to(typed.device)


def centroid_distance(
    first: States, second: Float[Tensor, "other layer d_model"]
) -> Float[Tensor, "layer"]:
    """Distance between two sets' mean states, in units of their spread, per layer.

    The unit is the root mean square distance of a state from its own set's mean, pooled over both
    sets, which makes layers comparable although the residual stream grows. The sets need not be
    paired. Raises ValueError if one is empty.
    """
    if not len(first) or not len(second):
        raise ValueError(f"states of shape {shapes(first, second)} cannot be compared")
    one, other = exact(first), exact(second)
    variances = one.var(0, correction=0) + other.var(0, correction=0)  # layer d_model
    spread = (variances.sum(-1) / 2).sqrt()  # layer
    distance = (one.mean(0) - other.mean(0)).norm(dim=-1) / spread
    return distance.float().to(first.device)


def linear_cka(
    first: States, second: Float[Tensor, "prompt layer other_d_model"]
) -> Float[Tensor, "layer"]:
    """Linear centred kernel alignment of two forms of the same prompts, per layer, from 0 to 1.

    `|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)` with centred columns (Kornblith et al. 2019, eq. 5): the
    cosine of the prompt-by-prompt Gram matrices. Raises ValueError if prompts or layers differ.
    """
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"states of shape {shapes(first, second)} are not of the same prompts")
    alignment = cosine_similarity(_gram(first), _gram(second), dim=1)
    return alignment.float().to(first.device)


def transfer_accuracy(
    train: States,
    test: States,
    labels: Sequence[int] | Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    center: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> Float[Tensor, "layer"]:
    """Accuracy of a probe that learns `labels` in one form, read in another: `transfer_hits`."""
    hits = transfer_hits(train, test, labels, groups=groups, center=center, folds=folds, seed=seed)
    return hits.float().mean(-1)


def transfer_hits(
    train: States,
    test: States,
    labels: Sequence[int] | Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    center: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> Bool[Tensor, "layer prompt"]:
    """What a probe (logistic regression) tells right that learns `labels` in one form, read in
    another.

    Row i of `train` and `test` is the same request in either form; give the same states twice for
    the cross-validated accuracy within a form. It is trained on all folds but one (`seed` shuffles
    them) in the first form and tested on that one in the second, so no request is on both sides;
    nor is any of `groups`: a request typed and spoken (else a probe could win by recognising it),
    or a harmful request and its harmless twin (else it takes the one for the other). Features are
    standardised by the training form; with `center` each form's own mean is taken off first, which
    removes a constant shift between them. Raises ValueError if the shapes differ, and (from
    scikit-learn) if a class has fewer members than folds.
    """
    check_pairs(train, test)
    answers = np.asarray(labels)
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    splits = splitter(folds, shuffle=True, random_state=seed).split(answers, answers, groups)
    splits = list(splits)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    learnt = _centred(train, center).cpu().numpy()  # prompt layer d_model
    read = _centred(test, center).cpu().numpy()
    right = np.zeros((train.shape[1], len(answers)), dtype=bool)  # layer prompt
    for layer in range(len(right)):
        for known, new in splits:
            probe.fit(learnt[known, layer], answers[known])
            right[layer, new] = probe.predict(read[new, layer]) == answers[new]
    return torch.from_numpy(right)


@torch.no_grad()
def logit_lens(
    lalm: LALM, states: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch vocab"]:
    """What states would say if they were the last layer's: final norm, then unembedding; float32.

    Of the last layer's last-token states these are the model's own next-token logits
    (nostalgebraist 2020). Computed in the model's dtype and on its device. A model that scales or
    caps its logits afterwards (Gemma, Granite) has other values but, as both are monotonic, the
    same order. Gemma 3n's norm reads the mean of several streams, of which states hold one: its
    lens is not its answer. Raises ValueError for a decoder without a final norm of that name.
    """
    norm = getattr(lalm.decoder, "norm", None)
    if norm is None:
        raise ValueError(f"{lalm.name}: its decoder has no final `norm` to read states through")
    head = lalm.core.get_output_embeddings()
    return head(norm(states.to(lalm.device, lalm.dtype))).float()


def _centred(states: States, center: bool = True) -> Float[Tensor, "prompt layer d_model"]:
    """States in float64, less their mean if asked for."""
    states = exact(states)
    return states - states.mean(0) if center else states


def _gram(states: States) -> Float[Tensor, "layer pair"]:
    """The products of all pairs of centred states."""
    by_layer = _centred(states).transpose(0, 1)  # layer prompt d_model
    return (by_layer @ by_layer.mT).flatten(1)  # layer prompt*prompt
