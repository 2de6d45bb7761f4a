"""Checks of the exercises of chapters 00 to 02: how checks are made stands in `checks`."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from sarsteer_lab.course.checks.tools import call, check, gaussian, need, need_close, need_tensor
from sarsteer_lab.evaluation.intervals import bootstrap
from sarsteer_lab.geometry import centroid_distance, pair_cosine
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE

# 00: meet the model


@check
def check_audio_tokens(tokens_of: object, lalm: LALM) -> str:
    """`tokens_of(seconds)`: how many audio tokens a clip makes, compared with the processor."""
    for seconds in (1.0, 2.5, 4.0, 7.0):
        noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))
        clip = (0.1 * noise).astype(np.float32)
        ids = lalm.inputs([Prompt("Hi", clip)])["input_ids"]
        right = int((ids == lalm.audio_token_id).sum())
        answer = call(tokens_of, seconds)
        need(isinstance(answer, int), f"a number of tokens is a whole number, not {answer!r}")
        # One token of play: how the ends of a clip are rounded is not the point.
        otherwise = (
            f"for {seconds} s you say {answer}, which is {answer / max(right, 1):.2f} times what "
            "the processor makes: is a halving of the rate missing, or one too many?"
        )
        need(abs(answer - right) <= 1, otherwise)
    return (
        "the clip's length alone decides how many places it takes in the sequence; its words do not"
    )


@check
def check_splice(splice: object) -> str:
    """`splice(embeddings, ids, audio_id, features)`: features put where the audio tokens are."""
    embeddings, features = gaussian((6, 8), (3, 8))
    ids = torch.tensor([5, 9, 9, 9, 4, 2])
    text, audio = [0, 4, 5], [1, 2, 3]
    before = embeddings.clone()
    answer = need_tensor(call(splice, embeddings, ids, 9, features), (6, 8), "the sequence")
    kept = torch.equal(answer[text], before[text])
    need(kept, "a text token's embedding has changed: keep it")
    untouched = torch.equal(answer[audio], before[audio])
    need(not untouched, "the audio tokens still have their own embeddings")
    in_order = torch.equal(answer[audio], features)
    need(in_order, "the audio tokens do not hold the features in their order")
    intact = torch.equal(embeddings, before)
    need(intact, "the embeddings that came in were changed: work on a copy")
    return "from here on nothing in the language model knows which vectors came from sound"


@check
def check_dial(turn: object) -> str:
    """`turn(pristine, a, b, scale)`: a weight with the low-rank safety delta at some scale."""
    weight, a, b = gaussian((6, 5), (2, 5), (6, 2))
    before = weight.clone()
    turned = {}
    for scale in (1.0, 0.0, 0.5):
        answer = call(turn, weight, a, b, scale)
        turned[scale] = need_tensor(answer, (6, 5), "the new weight")
    otherwise = (
        "the pristine weight was changed in place, so the next setting starts wrong: make a new "
        "tensor"
    )
    need_close(weight, before, otherwise, within=0)
    otherwise = "at scale 0 the weight is not the pristine one: the change has to vanish there"
    need_close(turned[0.0], before, otherwise)
    halfway = (turned[1.0] + turned[0.0]) / 2
    need_close(turned[0.5], halfway, "at scale 0.5 it is not halfway to scale 1")
    otherwise = "at scale 1 the change is not the product of B and A"
    need_close(turned[1.0], before + b @ a, otherwise)
    return "a straight line in weight space; behaviour along it need not be one"


@check
def check_paired_difference(
    estimate: tuple[float, float, float], more: Sequence[float], less: Sequence[float]
) -> str:
    """Mean of `more` minus `less` over the same requests, and its 95% interval by bootstrap."""
    three = isinstance(estimate, tuple | list) and len(estimate) == 3
    otherwise = "give three numbers: (difference, lower end, upper end)"
    need(three and ... not in estimate, otherwise)
    difference, low, high = map(float, estimate)
    pairs = np.asarray(more, dtype=float) - np.asarray(less, dtype=float)
    right = pairs.mean()
    mistakes = {"the sign is the wrong way round": -right}
    otherwise = "the difference is not that of the two means"
    need_close(difference, right, otherwise, mistakes, within=1e-3)
    right_low, right_high = bootstrap(lambda rows: float(pairs[rows].mean()), len(pairs))
    otherwise = "the interval does not hold the difference: give its lower end first"
    need(low <= difference <= high, otherwise)
    width = right_high - right_low
    otherwise = (
        f"the interval is too {'wide' if high - low > width else 'narrow'}: resample requests, "
        "both values of a request together, and take the 2.5% and 97.5% quantiles of the resampled "
        "means"
    )
    within = max(0.02, 0.15 * width)
    need_close([low, high], [right_low, right_high], otherwise, within=within)
    where = "holds 0"
    if right_low > 0:
        where = "lies above 0"
    elif right_high < 0:
        where = "lies below 0"
    return f"the interval {where}: that, and not the difference alone, decides about the claim"


# 01: the gap between typed and spoken


@check
def check_centred_cosine(cosine: object) -> str:
    """`cosine(typed, spoken)`: cosine of pairs, each form's mean taken off.

    Both arguments have the shape (prompt, d_model).
    """
    content, noise, one, other = gaussian((12, 16), (12, 16), (16,), (16,))
    typed = content + 4 * one
    spoken = content + noise - 7 * other
    answer = need_tensor(call(cosine, typed, spoken), (12,), "the cosine")
    within_bounds = (answer.abs() <= 1.0001).all()
    need(within_bounds, "a cosine lies between -1 and 1: divide by both lengths")
    mean = torch.cat([typed, spoken]).mean(0)
    as_they_are = torch.cosine_similarity(typed, spoken, dim=-1)
    one_mean = torch.cosine_similarity(typed - mean, spoken - mean, dim=-1)
    mistakes = {
        "this is the cosine of the states as they are": as_they_are,
        "one mean is taken off both forms, so the distance between the forms is still in there": (
            one_mean
        ),
    }
    right = pair_cosine(typed[:, None], spoken[:, None])[:, 0]
    otherwise = "the values differ: centre first, then take the cosine by row"
    need_close(answer, right, otherwise, mistakes)
    return "what is left says whether the two forms vary alike from request to request"


@check
def check_folds(folds: object) -> str:
    """`folds(requests, n)`: a fold for each state, with a request on one side of every split."""
    requests = [f"request {i % 13}" for i in range(26)]
    answer = call(folds, requests, 5)
    several = isinstance(answer, list | tuple | Tensor | np.ndarray)
    need(several, "a list with one fold number per state is wanted")
    fold_of = list(map(int, answer))
    n = len(fold_of)
    need(n == 26, f"there are {n} folds for 26 states: one number per state is wanted")
    in_use = sorted(set(fold_of))
    need(in_use == [*range(5)], f"the folds are {in_use}, but should be 0 to 4, all in use")
    for i, request in enumerate(requests[:13]):
        typed, spoken = sorted([fold_of[i], fold_of[i + 13]])
        need(
            typed == spoken,
            f"{request!r} is in folds {[typed, spoken]}: its typed state trains, its spoken one "
            "tests",
        )
    sizes = [fold_of.count(fold) for fold in range(5)]
    spread = max(sizes) - min(sizes)
    need(spread <= 2, f"the folds hold {sizes} states: spread the requests evenly")
    return "the probe cannot win any more by knowing a request from its other form"


@check
def check_gap_over_layers(
    ratios: Tensor, overall: float, typed: Tensor, spoken: Tensor, n_harmful: int
) -> str:
    """Distance typed-spoken over distance harmful-harmless by layer, and its geometric mean.

    `typed` and `spoken` are (prompt, layer, d_model), the first `n_harmful` rows harmful requests.
    """
    form = centroid_distance(typed, spoken)
    harm = _distance_of_harm(typed, n_harmful)
    right = form / harm
    answer = need_tensor(ratios, tuple(form.shape), "the ratios")
    raw = (typed.mean(0) - spoken.mean(0)).norm(dim=-1)
    spoken_harm = _distance_of_harm(spoken, n_harmful)
    mistakes = {
        "the ratio is upside down: form over harm": harm / form,
        "this is the distance of the forms: divide by that of harmful and harmless": form,
        "the gap is in the residual stream's own units: use `centroid_distance` for both": raw
        / harm,
        "the scale is that of the spoken requests: the typed ones are asked for": form
        / spoken_harm,
    }
    otherwise = "these are not the distances of the forms over those of harm, layer by layer"
    within = 1e-3 * float(right.max())
    need_close(answer, right, otherwise, mistakes, within=within)
    geometric = float(right.log().mean().exp())
    mistakes = {
        "this is the arithmetic mean: a few large ratios make nearly all of it": right.mean(),
        "this is the ratio of one layer, the largest: all layers count alike": right.max(),
        "this is the mean of the logarithms: take it back to a ratio": right.log().mean(),
        "this is the number of layers in which the ratio is above 1": (right > 1).sum(),
    }
    otherwise = "this is not the geometric mean of the ratios over all layers"
    need_close(float(overall), geometric, otherwise, mistakes, within=1e-3 * geometric)
    n_farther = int((right > 1).sum())
    return (
        f"over all layers typed and spoken states lie {geometric:.1f} times as far apart as "
        f"harmful and harmless ones, and in {n_farther} of {len(form)} layers farther"
    )


def _distance_of_harm(states: Tensor, n_harmful: int) -> Tensor:
    """Between the first rows, the harmful requests, and all others, layer by layer."""
    harmful, harmless = states[:n_harmful], states[n_harmful:]
    return centroid_distance(harmful, harmless)


# 02: refusal directions


@check
def check_sign_flips(
    estimate: tuple[float, float], more: Sequence[float], less: Sequence[float]
) -> str:
    """Mean of `more` minus `less` over the same requests, and the p-value of the sign-flip test."""
    two = isinstance(estimate, tuple | list) and len(estimate) == 2 and ... not in estimate
    need(two, "give two numbers: (difference, p)")
    difference, p = map(float, estimate)
    pairs = np.asarray(more, dtype=float) - np.asarray(less, dtype=float)
    observed = pairs.mean()
    mistakes = {"the sign is the wrong way round": -observed}
    otherwise = "the difference is not that of the two means"
    need_close(difference, observed, otherwise, mistakes, within=1e-3)
    patterns = list(product((1, -1), repeat=len(pairs)))
    means = np.array(patterns) @ pairs / len(pairs)
    least = abs(observed) - 1e-9  # up to rounding
    right = (np.abs(means) >= least).mean()
    one_sided = (means >= least).mean()  # patterns are symmetrical, so either side will do
    mistakes = {
        "this is one-sided: the difference could as well have had the other sign": one_sided,
        "this is 1 - p": 1 - right,
    }
    otherwise = "this is not the share of sign patterns whose mean is as far from 0 as yours"
    need_close(p, right, otherwise, mistakes, within=0.02)
    return (
        f"p = {right:.3f}: so often a difference as large comes out if the two pushes act alike on "
        "every request"
    )
