"""Every check of chapter 8 takes a right answer, and tells wrong ones apart by what is wrong."""

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
import torch
from checking import Check, all_tested, told_apart
from torch import Tensor, nn

from sarsteer_lab.course.checks import knowing as checks
from sarsteer_lab.evaluation.intervals import bootstrap, with_interval
from sarsteer_lab.evaluation.separation import best_benign_rate, roc_area
from sarsteer_lab.pocket.soft_tokens import Context, SoftTokenProjector, TokenHead

Scores = dict[str, np.ndarray]


def collapsed(path: list[int]) -> list[int]:
    return [symbol for symbol, _ in groupby(path) if symbol]


def blanks_first(path: list[int]) -> list[int]:
    return [symbol for symbol, _ in groupby(filter(None, path))]


def mixture(chances: Tensor, embeddings: Tensor, silence: Tensor) -> Tensor:
    """Position by position and token by token, in plain loops."""
    rows = []
    for chance in chances:
        row = chance[0] * silence
        for token, embedding in enumerate(embeddings, start=1):
            row = row + chance[token] * embedding
        rows.append(row)
    return torch.stack(rows)


def soft_tokens(
    outputs: Tensor, logs: Tensor, embeddings: Tensor, silence: Tensor, share: float
) -> Tensor:
    return (1 - share) * outputs + share * mixture(logs.exp(), embeddings, silence)


def likeliest(
    outputs: Tensor, logs: Tensor, embeddings: Tensor, silence: Tensor, share: float
) -> Tensor:
    sure = torch.eye(logs.shape[1])[logs.argmax(-1)]
    return soft_tokens(outputs, sure.log(), embeddings, silence, share)


def without_blank(outputs: Tensor, logs: Tensor, embeddings: Tensor, *rest: object) -> Tensor:
    return logs[:, 1:].exp() @ embeddings


def tokens_alone(outputs: Tensor, logs: Tensor, embeddings: Tensor, *rest: object) -> Tensor:
    return logs[:, 1:].softmax(-1) @ embeddings


def blank_last(
    o: Tensor, logs: Tensor, embeddings: Tensor, silence: Tensor, share: float
) -> Tensor:
    return soft_tokens(o, logs.roll(1, -1), embeddings, silence, share)


def rows_of(before: Scores, after: Scores) -> list[np.ndarray]:
    return [np.stack([before[kind], after[kind]], 1) for kind in ("harmful", "harmless")]


def gain(bad: np.ndarray, good: np.ndarray) -> float:
    before, after = (best_benign_rate(bad[:, time], good[:, time]) for time in (0, 1))
    return after - before


def moves(before: Scores, after: Scores) -> tuple[float, float, float]:
    return with_interval(gain, *rows_of(before, after))


def moves_by_pairs(before: Scores, after: Scores) -> tuple[float, float, float]:
    """Another bootstrap of the same, with other draws."""
    bad, good = rows_of(before, after)
    generator = np.random.default_rng(7)

    def resampled(_: np.ndarray) -> float:
        drawn = generator.integers(0, len(bad), len(bad))
        others = generator.integers(0, len(good), len(good))
        return gain(bad[drawn], good[others])

    return gain(bad, good), *bootstrap(resampled, len(bad), seed=7)


def unpaired(before: Scores, after: Scores) -> tuple[float, float, float]:
    """Each measurement resampled by itself."""
    bad, good = rows_of(before, after)
    generator = np.random.default_rng(7)

    def resampled(_: np.ndarray) -> float:
        bounds = []
        for time in (0, 1):
            drawn = generator.choice(bad[:, time], len(bad))
            bounds.append(best_benign_rate(drawn, generator.choice(good[:, time], len(good))))
        return bounds[1] - bounds[0]

    return gain(bad, good), *bootstrap(resampled, len(bad))


def changed(of: Callable[[float, float, float], tuple]) -> Callable[[Scores, Scores], tuple]:
    return lambda before, after: of(*moves(before, after))


def area_moves(before: Scores, after: Scores) -> tuple[float, float, float]:
    areas = [roc_area(scores["harmful"], scores["harmless"]) for scores in (before, after)]
    return areas[1] - areas[0], -1.0, 1.0


def bound_after(before: Scores, after: Scores) -> tuple[float, float, float]:
    return best_benign_rate(after["harmful"], after["harmless"]), 0.0, 1.0


generator = np.random.default_rng(3)
FIRST = {"harmful": generator.random(30), "harmless": generator.random(30)}
LATER = {"harmful": FIRST["harmful"] ** 0.3, "harmless": FIRST["harmless"] ** 1.1}
PUSHED = {kind: 7 * p / (1 - p + 7 * p) for kind, p in FIRST.items()}
ON_MODEL = (FIRST, LATER, PUSHED)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (
            checks.check_collapse,
            (collapsed,),
            {
                "have become one": (blanks_first,),
                "stands there several times": (lambda path: [*filter(None, path)],),
                "blanks are still": (lambda path: [symbol for symbol, _ in groupby(path)],),
                "comes back later": (lambda path: [*dict.fromkeys(filter(None, path))],),
                "not what this path": (lambda path: [1],),
                "a list of tokens": (lambda path: 5,),
            },
        ),
        (
            checks.check_soft_tokens,
            (soft_tokens,),
            {
                "logarithms themselves": (lambda o, logs, e, s, share: mixture(logs, e, s),),
                "do not add up": (without_blank,),
                "handed on to the tokens": (tokens_alone,),
                "which column": (blank_last,),
                "no mixture": (likeliest,),
                "wrong way round": (
                    lambda o, logs, e, s, share: soft_tokens(o, logs, e, s, 1 - share),
                ),
                "at every share": (lambda o, logs, e, s, share: soft_tokens(o, logs, e, s, 1.0),),
                "on the way to": (lambda o, *rest: 2 * o,),
                "should have shape": (lambda o, *rest: o[0],),
            },
        ),
        (
            checks.check_bound_moves,
            (moves, *ON_MODEL),
            {
                "the sign": (changed(lambda g, low, high: (-g, low, high)), *ON_MODEL),
                "bound afterwards; how": (bound_after, *ON_MODEL),
                "ROC area": (area_moves, *ON_MODEL),
                "minus that before": (changed(lambda g, low, high: (g + 1, low, high)), *ON_MODEL),
                "too wide": (changed(lambda g, low, high: (g, -1, 1)), *ON_MODEL),
                "too narrow": (changed(lambda g, low, high: (g, g, g)), *ON_MODEL),
                "together": (unpaired, *ON_MODEL),
                "three numbers": (changed(lambda g, low, high: (g, low)), *ON_MODEL),
            },
        ),
    ],
)
def test_right_passes_and_wrong_is_told_apart(
    check: Check, right: tuple, wrong: dict[str, tuple]
) -> None:
    told_apart(check, right, wrong)


def test_every_check_is_tested() -> None:
    all_tested(checks, test_every_check_is_tested, 3)


def test_another_bootstrap_of_the_same_passes() -> None:
    assert checks.check_bound_moves(moves_by_pairs, *ON_MODEL)


def test_a_push_that_keeps_the_order_moves_nothing() -> None:
    """The interval of the push has no width; requests drawn apart give it one."""
    assert moves(FIRST, PUSHED) == (0, 0, 0)
    _, low, high = unpaired(FIRST, PUSHED)
    assert low < 0 < high
    swapped = PUSHED | {"harmful": PUSHED["harmful"][::-1] ** 2}
    assert moves(FIRST, swapped) != (0, 0, 0)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_soft_tokens_are_what_the_dial_hands_over(share: float) -> None:
    """The exercise's right answer beside the projector of the pocket model, on random weights."""
    torch.manual_seed(0)
    embeddings, outputs = torch.randn(12, 8), torch.randn(1, 5, 8)
    parts = {"ids": torch.tensor([2, 5, 9]), "bias": torch.randn(3), "silence": torch.tensor(7)}
    parts |= {"temperature": torch.tensor(-1.0)}
    parts |= {"blank.weight": torch.randn(1, 8), "blank.bias": torch.randn(1)}
    linear = nn.Linear(8, 8)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    dials = {"understanding": share, "spoken_safety": 0.0}
    projector = SoftTokenProjector(linear, TokenHead(parts, embeddings), Context(8), **dials)
    mean = embeddings.mean(0)
    centred, tokens = outputs[0] - mean, embeddings[parts["ids"]]
    blank = centred @ parts["blank.weight"].T + parts["blank.bias"]
    scores = centred @ (tokens - mean).T * parts["temperature"].exp() + parts["bias"]
    logs = torch.cat([blank, scores], -1).log_softmax(-1)
    expected = projector(outputs)[0]
    answer = soft_tokens(outputs[0], logs, tokens, embeddings[7], share)
    assert torch.allclose(answer, expected, atol=1e-5)
