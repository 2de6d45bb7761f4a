"""Checks of the exercises of chapter 04; how checks are made stands in `checks`."""

from math import isnan

import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import (
    call,
    check,
    gaussian,
    need,
    need_close,
    need_each,
    need_tensor,
)

# 04: steering


@check
def check_added_up(added_up: object) -> str:
    """`added_up(vectors, alpha)`: how far all pushes up to each layer would move a state.

    The vectors have the shape (layer, d_model); nothing between the layers is to react.
    """
    [vectors] = gaussian((5, 5))
    vectors += torch.linspace(0, 1, 5)
    answer = need_tensor(call(added_up, vectors, 0.5), (5,), "the moves")
    lengths = vectors.norm(dim=-1)
    right = 0.5 * vectors.cumsum(0).norm(dim=-1)
    sums_of_lengths = 0.5 * lengths.cumsum(0)
    over_width = 0.5 * vectors.cumsum(1).norm(dim=-1)
    from_the_last = 0.5 * vectors.flip(0).cumsum(0).norm(dim=-1)
    mistakes = {
        "alpha is missing": right / 0.5,
        "these are the single pushes: add up those of all layers so far": 0.5 * lengths,
        "lengths are added up: pushes in different directions partly cancel, so add the vectors": (
            sums_of_lengths
        ),
        "the sum went over the wrong axis: over the width": over_width,
        "the pushes are added up from the last layer down": from_the_last.flip(0),
    }
    otherwise = "these are not the lengths of the sums of all pushes up to each layer"
    need_close(answer, right, otherwise, mistakes)
    return "small pushes that point the same way become a large one"


@check
def check_first_share(first_share: object) -> str:
    """`first_share(p_logits, q_logits)`: how much of an answer's KL(p || q) is at its first token.

    The logits of its tokens have the shape (token, vocab). A token of the vocabulary that can never
    be said has minus infinity in both.
    """
    p, q = gaussian((4, 9), (4, 9))
    p *= 3
    q *= 2
    q[2] = p[2] + 1.0  # the same distribution
    p[:, 5] = -torch.inf
    q[:, 5] = -torch.inf
    by_token = _divergences(p, q)
    right = by_token[0] / by_token.sum()
    reverse = _divergences(q, p)
    mistakes = {
        "this is KL(q || p): which of the two is the unsteered model?": reverse[0] / reverse.sum(),
        "this is the divergence of the first token, and not its share of the sum": by_token[0],
        "this is the share of the later tokens": 1 - right,
        "this is the first token against the later ones: divide by the sum of all": (
            by_token[0] / by_token[1:].sum()
        ),
    }
    answer = float(call(first_share, p, q))
    undefined = (
        "the share is not a number: 0 times minus infinity is none. A token that can never be said "
        "adds nothing"
    )
    need(not isnan(answer), undefined)
    otherwise = "this is not the divergence of the first token over the sum of all tokens'"
    need_close(answer, right, otherwise, mistakes)
    return "a divergence of the first token alone says nothing of what comes after it"


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """KL of each row's distribution p from q, in nats, by their logits."""
    log_p = p.log_softmax(-1)
    log_q = q.log_softmax(-1)
    terms = log_p.exp() * (log_p - log_q)
    return terms.nan_to_num().sum(-1)


@check
def check_equal_push(equal_alpha: object) -> str:
    """`equal_alpha(alpha, full, shorter)`: the strength at which the shorter ones push as hard.

    Vectors are (layer, d_model); their push is the root of the sum over layers of squared lengths.
    """
    full, shorter = gaussian((5, 7), (5, 7))
    shorter *= 0.3
    right = 0.1 * full.norm() / shorter.norm()
    by_layer = full.norm(dim=-1) / shorter.norm(dim=-1)
    mistakes = {
        "with your alpha the shorter vectors push even less: turn the ratio round": 0.1**2 / right,
        "this averages the layers' ratios: sum first": 0.1 * by_layer.mean(),
    }
    otherwise = (
        "alpha times the total length is not the same for both: which ratio of lengths makes it so?"
    )
    answer = float(call(equal_alpha, 0.1, full, shorter))
    need_close(answer, right, otherwise, mistakes, within=1e-5)
    return "equal push, not equal alpha, is the fair comparison of directions"


@check
def check_transfer(rises: dict[str, float], refusal_probability: dict[str, Tensor]) -> str:
    """Mean rise of the refusal probability under each push; "none" is without steering."""
    means = {name: float(values.mean()) for name, values in refusal_probability.items()}
    without = means.pop("none")
    answers = need_each(rises, means, "rise", "push")
    for name, answer in answers.items():
        mistakes = {f"{name}: this is the mean probability; how much did it rise?": means[name]}
        otherwise = (
            f"{name}: this is not the mean rise over the requests: subtract the mean without "
            "steering"
        )
        need_close(answer, means[name] - without, otherwise, mistakes)
    best = max(answers, key=lambda name: answers[name])
    return f"at equal push, {best!r} raises refusal most here: {answers[best]:+.3f}"
