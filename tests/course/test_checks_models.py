"""Chapter 9's checks: right answers pass, wrong ones fail and are told why, blanks fail."""

import re

import pytest
import torch
from torch import nn

from sarsteer_lab.course.checks import models as checks
from sarsteer_lab.geometry import centroid_distance


def last(mask):
    return (mask * torch.arange(mask.shape[1])).argmax(1)


def find(model):
    model = getattr(model, "thinker", model)
    while not isinstance(getattr(model, "layers", None), nn.ModuleList):
        model = model.get_decoder()
    return model.layers


def memory(parameters, bits, layers, kv_width, positions, batch):
    return parameters * bits / 8 + 4 * layers * kv_width * positions * batch


STATES = [
    (torch.randn(6, 3, 4, generator=g), torch.randn(6, 3, 4, generator=g) + 1)
    for g in (torch.Generator().manual_seed(seed) for seed in range(2))
]
GAPS = [float(centroid_distance(typed, spoken)[1]) for typed, spoken in STATES]


def test_right_answers_pass():
    for result in (
        checks.check_last_positions(last),
        checks.check_find_layers(find),
        checks.check_memory(memory),
        checks.check_untrained_gap(GAPS, STATES, 1),
    ):
        assert result, str(result)


@pytest.mark.parametrize(
    ("check", "answer", "message"),
    [
        (
            checks.check_last_positions,
            lambda m: torch.full((len(m),), m.shape[1] - 1),
            "point at padding",
        ),
        (checks.check_last_positions, lambda m: m.sum(1) - 1, "padded on the left"),
        (
            checks.check_last_positions,
            lambda m: last(m) if m.shape[1] == 5 else m.sum(1) - 1,
            "one side is padded",
        ),
        (checks.check_last_positions, lambda m: last(m)[0], "shape"),
        (checks.check_last_positions, lambda m: None, "still a blank"),
        (
            checks.check_find_layers,
            lambda m: getattr(m, "talker", m).layers,
            "stops with AttributeError",
        ),
        (
            checks.check_find_layers,
            lambda m: find(m) if not hasattr(m, "talker") else m.talker.layers,
            "its voice",
        ),
        (checks.check_find_layers, lambda m: find(m)[0], "a ModuleList is wanted"),
        (checks.check_find_layers, lambda m: None, "still a blank"),
        (checks.check_memory, lambda p, b, *rest: p * b, "in bits"),
        (
            checks.check_memory,
            lambda p, b, n, w, t, k: p * b / 8 + 2 * n * w * t * k,
            "keys \\*and\\* values",
        ),
        (
            checks.check_memory,
            lambda p, b, n, w, t, k: p * b / 8 + 4 * n * w * t,
            "cache of its own",
        ),
        (
            checks.check_memory,
            lambda p, b, n, w, t, k: p * b / 8 + b / 4 * n * w * t * k,
            "leaves the cache",
        ),
        (checks.check_memory, lambda *a: ..., "still a blank"),
    ],
)
def test_wrong_answers_are_told_why(check, answer, message):
    result = check(answer)
    assert not result
    assert re.search(message, result.message), result.message


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        (..., "still a blank"),
        (GAPS[:1], "one per seed"),
        (GAPS[::-1], "is this layer 1 of this seed"),
        ([float((t[:, 1].mean(0) - s[:, 1].mean(0)).norm()) for t, s in STATES], "plain distance"),
        (["far", "near"], "not a number"),
    ],
)
def test_wrong_gaps_are_told_why(gaps, message):
    result = checks.check_untrained_gap(gaps, STATES, 1)
    assert not result and message in result.message
