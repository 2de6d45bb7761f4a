"""Checks of the exercises: each tells what is wrong with an answer, and never what would be right.

An exercise leaves its blanks as `...` and ends with one call in a cell of its own, for instance

    check_refusal_direction(my_direction)

whose outcome is shown: passed, or not yet and why. The solution notebook fills the blank and leaves
that cell as it is.

To add one: write `check_<what>` with the decorator `tools.check`, below its chapter's heading. It
takes the student's answer (a value, or a function that is then tried on made-up tensors, so that a
check needs no model and takes no time), raises through `need_close` and its like whatever is wrong
(usual mistakes are named beside what they would give), and returns one sentence that says what the
right answer shows. What the right answer depends on (the model's own numbers) is passed in by the
notebook, never written here. `tests/course` holds a right answer and at least two wrong ones for
every check, and `tests/course/test_run_notebooks.py` runs exercises and solutions.
"""

from collections.abc import Sequence

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
    """`tokens_of(seconds)`: how many audio tokens a clip makes; compared with what the processor
    makes."""
    for seconds in (1.0, 2.5, 4.0, 7.0):
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE))
        ids = lalm.inputs([Prompt("Hi", noise.astype(np.float32))])["input_ids"]
        real = int((ids == lalm.audio_token_id).sum())
        value = call(tokens_of, seconds)
        need(isinstance(value, int), f"a number of tokens is a whole number, not {value!r}")
        # One token of play: how the ends of a clip are rounded is not the point.
        need(
            abs(value - real) <= 1,
            f"for {seconds} s you say {value}, which is {value / max(real, 1):.2f} times what the processor "
            "makes: is a halving of the rate missing, or one too many?",
        )
    return (
        "the clip's length alone decides how many places it takes in the sequence; its words do not"
    )


@check
def check_splice(splice: object) -> str:
    """`splice(embeddings, ids, audio_id, features)`: audio features put where the audio tokens
    are."""
    embeddings, features = gaussian((6, 8), (3, 8))
    ids = torch.tensor([5, 9, 9, 9, 4, 2])
    before = embeddings.clone()
    found = need_tensor(call(splice, embeddings, ids, 9, features), (6, 8), "the sequence")
    need(
        torch.equal(found[[0, 4, 5]], before[[0, 4, 5]]),
        "a text token's embedding has changed: keep it",
    )
    need(
        not torch.equal(found[1:4], before[1:4]), "the audio tokens still have their own embeddings"
    )
    need(
        torch.equal(found[1:4], features),
        "the audio tokens do not hold the features in their order",
    )
    need(
        torch.equal(embeddings, before), "the embeddings that came in were changed: work on a copy"
    )
    return "from here on nothing in the language model knows which vectors came from sound"


@check
def check_dial(turn: object) -> str:
    """`turn(pristine, a, b, scale)`: a weight with the low-rank safety delta at some scale."""
    weight, a, b = gaussian((6, 5), (2, 5), (6, 2))
    before = weight.clone()
    full, off, half = (
        need_tensor(call(turn, weight, a, b, scale), (6, 5), "the new weight")
        for scale in (1.0, 0.0, 0.5)
    )
    in_place = "the pristine weight was changed in place, so the next setting starts wrong: make a new tensor"
    need_close(weight, before, in_place, within=0)
    need_close(
        off, before, "at scale 0 the weight is not the pristine one: the change has to vanish there"
    )
    need_close(half - off, (full - off) / 2, "at scale 0.5 it is not halfway to scale 1")
    need_close(full, before + b @ a, "at scale 1 the change is not the product of B and A")
    return "a straight line in weight space; behaviour along it need not be one"


@check
def check_paired_difference(
    estimate: tuple[float, float, float], more: Sequence[float], less: Sequence[float]
) -> str:
    """Mean of `more` minus `less` over the same requests, and its 95% interval by bootstrap over
    requests."""
    need(
        isinstance(estimate, tuple | list) and len(estimate) == 3 and ... not in estimate,
        "give three numbers: (difference, lower end, upper end)",
    )
    difference, low, high = (float(value) for value in estimate)
    pairs = np.asarray(more, dtype=float) - np.asarray(less, dtype=float)
    right = float(pairs.mean())
    mistakes = {"the sign is the wrong way round": -right}
    need_close(
        difference, right, "the difference is not that of the two means", mistakes, within=1e-3
    )
    ends = bootstrap(lambda rows: float(pairs[rows].mean()), len(pairs))
    need(
        low <= difference <= high,
        "the interval does not hold the difference: give its lower end first",
    )
    need_close(
        [low, high],
        ends,
        f"the interval is too {'wide' if high - low > ends[1] - ends[0] else 'narrow'}: resample requests, "
        "both values of a request together, and take the 2.5% and 97.5% quantiles of the resampled means",
        within=max(0.02, 0.15 * (ends[1] - ends[0])),
    )
    said = "lies above 0" if ends[0] > 0 else "lies below 0" if ends[1] < 0 else "holds 0"
    return f"the interval {said}: that, and not the difference alone, decides about the claim"


# 01: the gap between typed and spoken


@check
def check_centred_cosine(cosine: object) -> str:
    """`cosine(typed, spoken)`, (prompt, d_model) each: cosine of pairs, each form's mean taken
    off."""
    content, noise, one, other = gaussian((12, 16), (12, 16), (16,), (16,))
    typed, spoken = content + 4 * one, content + noise - 7 * other
    found = need_tensor(call(cosine, typed, spoken), (12,), "the cosine")
    need(
        bool((found.abs() <= 1.0001).all()),
        "a cosine lies between -1 and 1: divide by both lengths",
    )
    mean = torch.cat([typed, spoken]).mean(0)
    mistakes = {
        "this is the cosine of the states as they are": torch.cosine_similarity(
            typed, spoken, dim=-1
        ),
        "one mean is taken off both forms, so the distance between the forms is still in there": (
            torch.cosine_similarity(typed - mean, spoken - mean, dim=-1)
        ),
    }
    right = pair_cosine(typed[:, None], spoken[:, None])[:, 0]
    need_close(
        found, right, "the values differ: centre first, then take the cosine by row", mistakes
    )
    return "what is left says whether the two forms vary alike from request to request"


@check
def check_folds(folds: object) -> str:
    """`folds(requests, n)`: a fold for each state, such that no request stands on both sides of a
    split."""
    requests = [f"request {i % 13}" for i in range(26)]
    value = call(folds, requests, 5)
    several = isinstance(value, list | tuple | Tensor | np.ndarray)
    need(several, "a list with one fold number per state is wanted")
    found = [int(fold) for fold in value]
    need(
        len(found) == 26,
        f"there are {len(found)} folds for 26 states: one number per state is wanted",
    )
    need(
        set(found) == set(range(5)),
        f"the folds are {sorted(set(found))}, but should be 0 to 4, all in use",
    )
    for request in set(requests):
        mine = {fold for fold, name in zip(found, requests, strict=True) if name == request}
        need(
            len(mine) == 1,
            f"{request!r} is in folds {sorted(mine)}: its typed state trains, its spoken one tests",
        )
    sizes = [found.count(fold) for fold in range(5)]
    need(max(sizes) - min(sizes) <= 2, f"the folds hold {sizes} states: spread the requests evenly")
    return "the probe cannot win any more by knowing a request from its other form"


@check
def check_gap(gap: float, scale: float, typed: Tensor, spoken: Tensor, n_harmful: int) -> str:
    """Distance typed-spoken, and typed harmful-harmless for scale, at one layer, in units of
    spread.

    `typed` and `spoken` are (prompt, d_model), the first `n_harmful` rows harmful requests.
    """
    right = float(centroid_distance(typed[:, None], spoken[:, None]))
    right_scale = float(centroid_distance(typed[:n_harmful, None], typed[n_harmful:, None]))
    raw = (typed.mean(0) - spoken.mean(0)).norm()
    mistakes = {"the gap is in the residual stream's own units: divide it by the spread": raw}
    otherwise = "the gap is not the distance of the two forms' means over their spread"
    need_close(gap, right, otherwise, mistakes, within=0.01 * right)
    otherwise = (
        "the scale is not the same measure, taken between typed harmful and typed harmless requests"
    )
    need_close(scale, right_scale, otherwise, within=0.01 * right_scale)
    return (
        f"the form moves the mean state {right / right_scale:.1f} times as far as harm does: the paper's "
        f"second claim, {'reproduced' if right > right_scale else 'not reproduced'} at this layer"
    )
