"""Chapter 5's checks: right answers pass, wrong ones fail and are told why, blanks fail."""

import pytest
import torch

from sarsteer_lab.course.checks.causes import (
    check_control,
    check_patch_hook,
    check_rises,
    check_window,
)


def hook_of(change):
    """What a student might write, with the one line that matters."""

    def make_hook(states, positions):
        def hook(_module, _args, output):
            return change(output, positions, states)

        return hook

    return make_hook


def overwrite(output, positions, states):
    output[:, positions] = states.to(output)


def add(output, positions, states):
    output[:, positions] += states.to(output)


def turned(output, positions, states):
    output[:, positions] = states.flip(0).to(output)


def everywhere(output, positions, states):
    output[:] = states[0].to(output)


def widened(output, positions, states):
    output = output.float()
    output[:, positions] = states
    return output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (overwrite, ""),
        (add, "added to what is there"),
        (turned, "changed places"),
        (everywhere, "other positions"),
        (widened, "another type"),
        (lambda *_: None, "nothing has changed"),
    ],
)
def test_the_patch(change, told):
    result = check_patch_hook(hook_of(change))
    assert bool(result) == (not told) and told in result.message


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

    for check in (check_patch_hook, check_window, check_control):
        assert not check(blank) and not check(...)
