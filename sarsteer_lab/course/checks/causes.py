"""Checks of chapter 5's exercises, on made-up streams and grids (see `checks`)."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sarsteer_lab.course.checks.tools import (
    call,
    check,
    gaussian,
    need,
    need_close,
    need_each,
    need_tensor,
)


@check
def check_patch_hook(make_hook: object) -> str:
    """`make_hook(states, positions)`: a forward hook that overwrites these positions."""
    [stream] = gaussian((2, 6, 4))
    states = torch.linspace(1, 2, 8).reshape(2, 4)
    positions = [1, 4]
    before = stream.clone()
    hook = call(make_hook, states, positions)
    need(callable(hook), "`make_hook` has to return a function: the hook")
    returned = hook(None, (), stream)
    after = stream if returned is None else returned
    after = need_tensor(after, (2, 6, 4), "what goes on to the next layer")
    need(not torch.equal(after, before), "nothing has changed: does it reach the next layer?")
    others = [0, 2, 3, 5]
    need_close(after[:, others], before[:, others], "other positions have changed, too", within=0)
    wanted = states.expand(2, 2, 4)
    there = before[:, positions]
    mistakes = {"the states are added to what is there: a patch takes its place": there + states}
    mistakes["the states of the two positions have changed places"] = wanted.flip(1)
    otherwise = "the positions do not hold the states they were given"
    need_close(after[:, positions], wanted, otherwise, mistakes, within=0)
    half = torch.zeros(1, 6, 4, dtype=torch.bfloat16)
    returned = call(make_hook, states, positions)(None, (), half)
    after = half if returned is None else returned
    otherwise = "a bfloat16 stream has become another type: the next layer will fail"
    need(after.dtype == torch.bfloat16, otherwise)
    return "what stood there is gone, and all above reads what was put in"


WINDOWS = {
    (0.0, 0.4, 10, 25, 0.04): (10, 20),
    (0.4, 1.0, 10, 25, 0.04): (20, 35),
    (0.5, 0.9, 3, 12, 0.08): (9, 14),
    (0.8, 9.9, 3, 12, 0.08): (13, 15),
}
"""Windows, and where their positions begin and end."""


@check
def check_window(positions_of: object) -> str:
    """`positions_of(start, end, first, n, length)`: the audio positions of a window."""
    for given, (begin, stop) in WINDOWS.items():
        right = list(range(begin, stop))
        start, end, first, n, length = given
        answer = [int(position) for position in call(positions_of, *given)]
        window = f"from {start:g} s to {end:g} s, {n} positions of {length:g} s from {first} on"
        counted = [position - first for position in right]
        need(
            answer != counted,
            f"{window}: you count from the clip's first position, not the prompt's",
        )
        need(
            all(position < first + n for position in answer), f"{window}: the clip ends before that"
        )
        by_start = [first + k for k in range(n) if start <= k * length < end]
        otherwise = "these are not the positions whose middle lies in it"
        if answer == by_start:
            otherwise = "a position belongs where its *middle* lies"
        need(answer == right, f"{window}: {otherwise}")
    return "windows side by side share no position, and leave none out"


@check
def check_control(control: object) -> str:
    """`control(shift)`: a shift of equal size in another direction, row by row."""
    [shift] = gaussian((5, 4000))
    sizes = torch.tensor([0.1, 1.0, 5.0, 20.0, 100.0])
    shift *= sizes[:, None]
    answer = need_tensor(call(control, shift.clone()), (5, 4000), "the control")
    lengths, wanted = answer.norm(dim=-1), shift.norm(dim=-1)
    otherwise = "a row is not as long as the shift's: its size is what has to be equal"
    ratios = lengths / wanted
    need_close(ratios, torch.ones(5), otherwise, within=1e-3)
    cosines = cosine_similarity(answer, shift, dim=-1)
    largest = float(cosines.abs().max())
    otherwise = "a row still points along the shift, or against it"
    need(largest < 0.25, f"{otherwise} (cosine {largest:.2f})")
    return "it moves the states as far, and says nothing of what the donor says"


@check
def check_rises(rises: dict[str, float], refusal_probability: dict[str, Tensor]) -> str:
    """Mean rise of the refusal probability with each donor; "nothing" is without a patch."""
    means = {}
    for name, values in refusal_probability.items():
        means[name] = float(values.mean())
    without = means.pop("nothing")
    answers = need_each(rises, means, "rise", "donor")
    for name, answer in answers.items():
        mistakes = {f"{name}: this is the mean probability; how much did it rise?": means[name]}
        otherwise = f"{name}: this is not the mean rise: subtract the mean without a patch"
        need_close(answer, means[name] - without, otherwise, mistakes)
    apart = answers["own"] - answers["another request"]
    return f"the own state does {apart:+.3f} more than another request's"
