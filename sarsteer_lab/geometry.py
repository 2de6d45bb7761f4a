"""How far apart typed and spoken states lie, and what a linear probe or the logit lens reads from
them.

States are `Float[Tensor, "prompt layer d_model"]`; in paired measures row i of both is the same
request.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sarsteer_lab.lalm import LALM
from sarsteer_lab.safe_space import States, check_pairs, exact


def pair_cosine(
    typed: States, spoken: States, *, center: bool = True
) -> Float[Tensor, "prompt layer"]:
    """Cosine between the typed and the spoken state of each request, per layer.

    With `center` each modality's mean state is taken off first, so that the value tells whether the
    two vary alike from request to request; without it the mean, which most states share, dominates.
    Raises ValueError if the shapes differ.
    """
    first, second = _pairs(typed, spoken, center)
    return torch.nn.functional.cosine_similarity(first, second, dim=-1).float().to(typed.device)


def centroid_distance(
    first: States, second: Float[Tensor, "other layer d_model"]
) -> Float[Tensor, "layer"]:
    """Distance between two sets' mean states, in units of their spread, per layer.

    The unit is the root mean square distance of a state from its own set's mean, pooled over both
    sets, which makes layers comparable although the residual stream grows. The sets need not be
    paired.
    """
    sets = [exact(first), exact(second)]
    means = [states.mean(0) for states in sets]
    spreads = [(s - mean).square().sum(-1).mean(0) for s, mean in zip(sets, means, strict=True)]
    distance = (means[0] - means[1]).norm(dim=-1) / torch.stack(spreads).mean(0).sqrt()
    return distance.float().to(first.device)


def linear_cka(
    first: States, second: Float[Tensor, "prompt layer other_d_model"]
) -> Float[Tensor, "layer"]:
    """Linear centred kernel alignment of two representations of the same prompts, per layer, from 0
    to 1.

    `|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)` with centred columns (Kornblith et al. 2019, eq. 5),
    computed from the prompt-by-prompt Gram matrices. Raises ValueError if prompts or layers differ.
    """
    if first.shape[:2] != second.shape[:2]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"states of shape {shapes} are not of the same prompts")
    centred = [
        (exact(states) - exact(states).mean(0)).transpose(0, 1) for states in (first, second)
    ]
    a, b = (states @ states.transpose(1, 2) for states in centred)
    return (
        ((a * b).sum((1, 2)) / (a.norm(dim=(1, 2)) * b.norm(dim=(1, 2)))).float().to(first.device)
    )


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
    """Accuracy of a logistic regression that learns `labels` from one form and reads them in
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
    forms = (states.transpose(0, 1).cpu().numpy() for states in _pairs(train, test, center))
    answers, splitter = (
        np.asarray(labels),
        StratifiedKFold if groups is None else StratifiedGroupKFold,
    )
    splits = list(splitter(folds, shuffle=True, random_state=seed).split(answers, answers, groups))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = []
    for first, second in zip(*forms, strict=True):
        right = [
            (probe.fit(first[known], answers[known]).predict(second[new]) == answers[new]).sum()
            for known, new in splits
        ]
        accuracy.append(sum(right) / len(answers))
    return torch.tensor(accuracy, dtype=torch.float32)


@torch.no_grad()
def logit_lens(
    lalm: LALM, states: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch vocab"]:
    """What residual states would say if they were the last layer's: final norm, then unembedding;
    float32.

    Of the last layer's last-token states these are the model's own next-token logits
    (nostalgebraist 2020). Computed in the model's dtype and on its device. A model that scales or
    caps its logits afterwards (Gemma, Granite) has other values but, as both are monotonic, the
    same order. Raises ValueError for a decoder without a final norm of that name.
    """
    norm = getattr(lalm.decoder, "norm", None)
    if norm is None:
        raise ValueError(f"{lalm.name}: its decoder has no final `norm` to read states through")
    head = lalm.core.get_output_embeddings()
    return head(norm(states.to(lalm.device, lalm.dtype))).float()


def _pairs(first: States, second: States, center: bool) -> list[States]:
    """Both in float64, less their means if asked for. Raises ValueError if they are not pairs."""
    check_pairs(first, second)
    both = [exact(first), exact(second)]
    return [states - states.mean(0) for states in both] if center else both
