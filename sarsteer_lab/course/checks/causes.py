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


def _attended(
    query: Tensor, keys: Tensor, heard: list[int], *, root: bool = True, turned: bool = False
) -> Tensor:
    """Each head's share; without the `root`, or with the keys dealt out in turn, as mistakes do."""
    n_sharing = len(query) // len(keys)
    of_head = keys.repeat_interleave(n_sharing, dim=0)  # head position size
    if turned:
        of_head = keys.repeat(n_sharing, 1, 1)
    scores = torch.einsum("hd,hpd->hp", query, of_head)
    if root:
        scores = scores / query.shape[1] ** 0.5
    return scores.softmax(-1)[:, heard].sum(-1)


@check
def check_audio_shares(audio_shares: object) -> str:
    """`audio_shares(query, keys, heard)`: each head's attention on the clip."""
    heard = [3, 4, 5, 6]
    for n_heads, n_keys in ((6, 2), (4, 4)):
        query, keys = gaussian((n_heads, 16), (n_keys, 10, 16))
        right = _attended(query, keys, heard)
        answer = need_tensor(call(audio_shares, query, keys, heard), (n_heads,), "the shares")
        without_root = "the scores grow with the size of a head: divide them by its root"
        mistakes = {without_root: _attended(query, keys, heard, root=False)}
        in_turn = "a head has another's keys: the first heads share the first keys"
        mistakes[in_turn] = _attended(query, keys, heard, turned=True)
        mistakes["this is a mean over positions: how much falls on all of them?"] = right / 4
        mistakes["all other positions have to be weighed, too"] = torch.ones(n_heads)
        mistakes["this is what falls on the other positions"] = 1 - right
        otherwise = f"{n_heads} heads, {n_keys} sets of keys: these are not their shares"
        need_close(answer, right, otherwise, mistakes)
    return "the weights of a head add up to 1, and these are the clip's part of them"


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
