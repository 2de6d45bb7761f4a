"""Checks of the exercises of chapter 04; how checks are made stands in `checks`."""

import numpy as np
import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import (
    call,
    check,
    gaussian,
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
def check_divergence(divergence: object) -> str:
    """`divergence(p_logits, q_logits)`: KL(p || q) in nats per row.

    The logits have the shape (prompt, vocab).
    """
    p, q = gaussian((4, 9), (4, 9))
    p *= 3
    q *= 3
    q[0] = p[0] + 2.0  # the same distribution
    answer = need_tensor(call(divergence, p, q), (4,), "the divergence")
    log_p = p.log_softmax(-1)
    log_q = q.log_softmax(-1)
    right = (log_p.exp() * (log_p - log_q)).sum(-1)
    reverse = (log_q.exp() * (log_q - log_p)).sum(-1)
    mistakes = {
        "this is KL(q || p): which of the two is the unsteered model?": reverse,
        "this is in bits: nats use the natural logarithm": right / np.log(2),
    }
    otherwise = "the numbers are not KL(p || q): sum p times (log p - log q) over the vocabulary"
    if abs(answer[0]) > 1e-4:
        otherwise = (
            "two sets of logits that differ by a constant are one distribution: their divergence "
            "is 0"
        )
    need_close(answer, right, otherwise, mistakes)
    return "never negative, 0 only for equal distributions, and not the same in both directions"


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
