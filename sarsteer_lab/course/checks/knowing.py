"""Checks of chapter 8's exercises, on made-up paths and scores (see `checks`)."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from sarsteer_lab.course.checks.tools import call, check, gaussian, need, need_close, need_tensor
from sarsteer_lab.evaluation.intervals import with_interval
from sarsteer_lab.evaluation.separation import Scores, best_benign_rate, roc_area

Readiness = Mapping[str, Scores]
"""Refusal probabilities of the "harmful" and of the "harmless" requests, in a fixed order."""

PATHS = {
    (0, 5, 5, 0, 0, 5, 3, 3, 0, 9, 5): [5, 5, 3, 9, 5],
    (4, 4, 4): [4],
    (0, 0, 0): [],
    (8, 0, 8, 8, 0, 0): [8, 8],
}
"""Paths of a CTC head, 0 a blank, and the tokens that each stands for."""


@check
def check_collapse(collapse: object) -> str:
    """`collapse(path)`: the tokens that a CTC path stands for; 0 is the blank."""
    for path, right in PATHS.items():
        answer = call(collapse, list(path))
        need(isinstance(answer, list | tuple), "a list of tokens is wanted")
        given = [int(symbol) for symbol in answer]
        runs = [b for a, b in zip((None, *path), path, strict=False) if a != b]
        spoken = [symbol for symbol in path if symbol]
        merged = [b for a, b in zip([None, *spoken], spoken, strict=False) if a != b]
        mistakes = {
            "two equal tokens with a blank between them have become one": merged,
            "a token that lasts for several positions stands there several times": spoken,
            "blanks are still among the tokens": runs,
            "a token that comes back later is missing": list(dict.fromkeys(spoken)),
        }
        for words, mistaken in mistakes.items():
            need(given == right or given != mistaken, f"{list(path)}: {words}")
        need(given == right, f"{list(path)}: {given} is not what this path stands for")
    return "the blank does two things: it fills the silence, and it keeps equal neighbours apart"


@check
def check_soft_tokens(soft_tokens: object) -> str:
    """`soft_tokens(outputs, log_chances, embeddings, silence, share)`: what the dial hands over.

    `outputs` (position, d_model), `log_chances` (position, the blank and then each token),
    `embeddings` (token, d_model), `silence` (d_model); `share` is 0 to 1.
    """
    outputs, scores, embeddings, silence = gaussian((6, 8), (6, 5), (4, 8), (8,))
    log_chances = (2 * scores).log_softmax(-1)
    symbols = torch.cat([silence[None], embeddings])
    chances = log_chances.exp()
    mixture = chances @ symbols
    tokens = chances[:, 1:] @ embeddings
    of_tokens = 1 - chances[:, :1]
    by_logarithms = log_chances @ symbols
    columns_mixed_up = chances @ symbols.roll(-1, 0)
    likeliest = symbols[chances.argmax(-1)]
    mistakes = {
        "these are the logarithms themselves as weights": by_logarithms,
        "the weights of a position do not add up to 1: the blank is missing": tokens,
        "a blank says nothing here: its probability is handed on to the tokens": tokens / of_tokens,
        "the blank's probability has come to a token: which column is whose?": columns_mixed_up,
        "this is the likeliest symbol alone, and no mixture": likeliest,
    }
    for share in (1.0, 0.25, 0.0):
        given = (outputs, log_chances, embeddings, silence, share)
        answer = need_tensor(call(soft_tokens, *given), (6, 8), "what is handed over")
        if share < 1:
            mistakes = {"the share does nothing: this is the mixture at every share": mixture}
        turned = torch.lerp(mixture, outputs, share)
        mistakes[f"share {share:g}: the dial is turned the wrong way round"] = turned
        otherwise = f"at share {share:g} this is not what lies so far on the way to the mixture"
        need_close(answer, torch.lerp(outputs, mixture, share), otherwise, mistakes)
    return "where the head is sure it is one token's embedding, elsewhere what several would share"


@check
def check_bound_moves(moves: object, first: Readiness, later: Readiness, pushed: Readiness) -> str:
    """`moves(before, after)`: how far the bound of a uniform push moves, and its 95% interval.

    It is tried on made-up scores, then on this model's: at first, later, and under a push that
    keeps the order of all requests.
    """
    generator = np.random.default_rng(0)
    before = {"harmful": 0.2 + generator.random(40), "harmless": generator.random(30)}
    raised = before["harmful"] + generator.random(40) / 2
    _need_moves(moves, before, before | {"harmful": raised}, "made-up scores")
    _need_moves(moves, first, pushed, "the push")
    gain, low, high = _need_moves(moves, first, later, "this model, at first and later")
    return (
        f"from the first scores to the later ones the bound moves by {gain:+.0%} "
        f"[{low:+.0%}, {high:+.0%}], and under the push by nothing: it is made of the order alone"
    )


def _need_moves(
    moves: object, before: Readiness, after: Readiness, which: str
) -> tuple[float, float, float]:
    """The student's three numbers if they are right for these scores; else raises `Wrong`."""
    answer = call(moves, before, after)
    three = isinstance(answer, tuple | list) and len(answer) == 3 and ... not in answer
    need(three, "give three numbers: (how far the bound moves, lower end, upper end)")
    gain, low, high = map(float, answer)
    pairs = []
    for kind in ("harmful", "harmless"):
        pairs.append(np.stack([before[kind], after[kind]], axis=1))
    right, right_low, right_high = with_interval(_gain, *pairs)
    bound = best_benign_rate(after["harmful"], after["harmless"])
    area_before = roc_area(before["harmful"], before["harmless"])
    area_after = roc_area(after["harmful"], after["harmless"])
    mistakes = {
        f"{which}: the sign is the wrong way round": -right,
        f"{which}: this is the bound afterwards; how far has it moved?": bound,
        f"{which}: this is the change of the ROC area, which is no bound": area_after - area_before,
    }
    otherwise = f"{which}: this is not the bound at 90% refused afterwards minus that before"
    need_close(gain, right, otherwise, mistakes)
    _need_interval(low, high, right_low, right_high, which)
    return gain, low, high


def _need_interval(
    low: float, high: float, right_low: float, right_high: float, which: str
) -> None:
    """Raise `Wrong` unless an interval is about as wide as the right one, and where it is."""
    width = right_high - right_low
    together = "draw harmful and harmless requests anew, both scores of a request together"
    than = "wide" if high - low > width else "narrow"
    otherwise = f"{which}: the interval is too {than}, or lies elsewhere: {together}"
    need_close([low, high], [right_low, right_high], otherwise, within=max(0.06, 0.2 * width))


def _gain(
    harmful: Float[np.ndarray, "harmful 2"], harmless: Float[np.ndarray, "harmless 2"]
) -> float:
    """The bound of the second column's scores minus that of the first's."""
    bounds = [best_benign_rate(harmful[:, time], harmless[:, time]) for time in (0, 1)]
    return bounds[1] - bounds[0]
