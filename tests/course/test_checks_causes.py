"""Chapter 5's checks: right answers pass, wrong ones fail and are told why, blanks fail."""

import pytest
import torch

from sarsteer_lab.course.checks.causes import (
    check_audio_shares,
    check_control,
    check_rises,
    check_window,
)


def shares(query, keys, heard, *, root=True, deal=torch.Tensor.repeat_interleave):
    """Head by head, as one might write it."""
    found = []
    set_of_head = deal(torch.arange(len(keys)), len(query) // len(keys)).tolist()
    for own, chosen in zip(query, set_of_head, strict=True):
        scores = keys[chosen] @ own
        weights = (scores / len(own) ** 0.5 if root else scores).exp()
        found.append(weights[heard].sum() / weights.sum())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (shares, ""),
        (lambda q, k, h: shares(q, k, h, root=False), "its root"),
        (lambda q, k, h: shares(q, k, h, deal=torch.Tensor.repeat), "another's keys"),
        (lambda q, k, h: shares(q, k, h) / len(h), "a mean over positions"),
        (lambda q, k, h: torch.ones(len(q)), "all other positions"),
        (lambda q, k, h: 1 - shares(q, k, h), "the other positions"),
        (lambda q, k, h: shares(q, k, h[:-1]), "these are not"),
        (lambda q, k, h: shares(q[: len(k)], k, h), "shape"),
    ],
)
def test_shares_of_attention(answer, told):
    result = check_audio_shares(answer)
    assert bool(result) == (not told) and told in result.message, result.message


def middle(start, end, first, n, length):
    return [first + k for k in range(n) if start <= (k + 0.5) * length < end]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (middle, ""),
        (lambda s, e, f, n, d: [k for k in range(n) if s <= (k + 0.5) * d < e], "count from"),
        (lambda s, e, f, n, d: [f + k for k in range(n) if s <= k * d < e], "*middle*"),
        (lambda s, e, f, n, d: range(f + round(s / d), f + round(e / d)), "the clip ends"),
        (lambda s, e, f, n, d: [f], "not the positions"),
    ],
)
def test_windows(answer, told):
    result = check_window(answer)
    assert bool(result) == (not told) and told in result.message, result.message


def signs(shift):
    generator = torch.Generator().manual_seed(3)
    return shift * (torch.randint(0, 2, shift.shape[-1:], generator=generator) * 2 - 1)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (signs, ""),
        (lambda shift: -shift, "against it"),
        (lambda shift: shift, "along the shift"),
        (lambda shift: signs(torch.ones_like(shift)), "not as long"),
        (lambda shift: signs(shift)[0], "shape"),
    ],
)
def test_controls(answer, told):
    result = check_control(answer)
    assert bool(result) == (not told) and told in result.message, result.message


def test_rises():
    chances = {
        "nothing": torch.tensor([0.1, 0.3]),
        "own": torch.tensor([0.9, 0.7]),
        "another request": torch.tensor([0.5, 0.7]),
    }
    right = {"own": 0.6, "another request": 0.4}
    assert check_rises(right, chances) and "+0.200" in check_rises(right, chances).message
    assert "how much did it rise" in check_rises(right | {"own": 0.8}, chances).message
    assert "subtract the mean" in check_rises(right | {"own": 0.1}, chances).message
    assert "no rise for own" in check_rises({"another request": 0.4}, chances).message
    assert not check_rises({"own": ..., "another request": 0.4}, chances)


def test_blanks_fail():
    def blank(*_): ...

    for check in (check_audio_shares, check_window, check_control):
        assert not check(blank) and not check(...)
