"""Checks of chapter 9's exercises, on made-up masks and modules (see `checks`)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.course.checks.tools import call, check, need, need_close, need_tensor
from sarsteer_lab.geometry import centroid_distance


@check
def check_last_positions(last_positions: object) -> str:
    """`last_positions(mask)`: index of each row's last real token, for masks of 0 and 1.

    Masks have the shape (batch, position).
    """
    left = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    masks = {"left": left, "right": left.flip(1)}
    last = {"left": [4, 4, 4], "right": [2, 4, 0]}
    for side, mask in masks.items():
        answer = need_tensor(call(last_positions, mask), (3,), "the positions").tolist()
        at_padding = side == "right" and answer == [4, 4, 4]
        otherwise = "with padding on the right you point at padding, not at the last token"
        need(not at_padding, otherwise)
        otherwise = f"for a mask padded on the {side} you say {answer}"
        need(answer == last[side], f"{otherwise}; its row 0 is {mask[0].tolist()}")
    both = torch.tensor([[0, 1, 1, 0]])
    answer = call(last_positions, both).tolist()
    otherwise = f"this is right while only one side is padded; for {both[0].tolist()} you say"
    need(answer == [2], f"{otherwise} {answer}")
    return (
        "this is what `LALM` saves you by padding on the left, and what `sarsteer-lab doctor` "
        "checks"
    )


class _Holder(nn.ModuleDict):
    """Modules by name, each an attribute; `get_decoder` leads on to the one called "inner"."""

    def get_decoder(self) -> nn.Module | None:
        return self["inner"] if "inner" in self else None


def _layers(n: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2, 2) for _ in range(n))


@check
def check_find_layers(find_layers: object) -> str:
    """`find_layers(model)`: the ModuleList of the text decoder's layers, however deep it lies.

    It is to be found behind `thinker` and `get_decoder()`.
    """
    plain = _Holder({"layers": _layers(3)})
    tower = _Holder({"layers": _layers(7)})
    nested = _Holder({"inner": _Holder({"inner": plain}), "audio_tower": tower})
    speaking = _Holder({"talker": tower, "thinker": nested})
    models = {"a decoder itself": plain, "a nested model": nested, "a model that speaks": speaking}
    for name, model in models.items():
        answer = call(find_layers, model)
        otherwise = f"{name}: a ModuleList is wanted, not a {type(answer).__name__}"
        need(isinstance(answer, nn.ModuleList), otherwise)
        otherwise = "these are the layers of its audio tower or its voice: they write no text"
        need(answer is not tower.layers, f"{name}: {otherwise}")
        otherwise = "these are not the layers of its text decoder"
        need(answer is plain.layers, f"{name}: {otherwise}")
    return "the recipe needs no list of families; `families.find_decoder` is the same in ten lines"


@check
def check_memory(memory: object) -> str:
    """`memory(parameters, bits, layers, kv_width, positions, batch)`: bytes of weights and cache.

    The cache has 16 bits.
    """
    for bits in (16, 4):
        answer = call(memory, 1_000_000, bits, 10, 64, 0, 1)
        kind = type(answer).__name__
        need(isinstance(answer, int | float), f"a number of bytes is wanted, not a {kind}")
        right = 1_000_000 * bits / 8
        otherwise = (
            f"a million weights of {bits} bits take {answer:,.0f} bytes, you say, with nothing "
            "cached: how many bytes is one weight?"
        )
        mistakes = {"this is in bits; 8 of them make a byte": right * 8}
        need_close(answer, right, otherwise, mistakes, within=1)
    answer = call(memory, 0, 16, 10, 64, 100, 3)
    right = 2 * 2 * 10 * 64 * 100 * 3
    mistakes = {
        "keys *and* values are kept": right / 2,
        "every prompt of the batch has a cache of its own": right / 3,
    }
    otherwise = (
        f"for 10 layers, width 64, 100 positions and 3 prompts the cache takes {answer:,.0f} "
        "bytes, you say: which factor is missing, or too many?"
    )
    need_close(answer, right, otherwise, mistakes, within=1)
    quantised = call(memory, 0, 4, 10, 64, 100, 3)
    need(quantised == answer, "quantising the weights leaves the cache at 16 bits")
    return (
        "a 30 s clip is 750 positions in Qwen2-Audio: long audio fills the cache, not the weights"
    )


@check
def check_untrained_gap(
    gaps: Sequence[float],
    states: Sequence[tuple[Float[Tensor, "p l d"], Float[Tensor, "p l d"]]],
    layer: int,
) -> str:
    """The typed/spoken centroid distance at one layer of several models with random weights."""
    several = isinstance(gaps, list | tuple) and len(gaps) == len(states)
    need(several, f"give a list of {len(states)} numbers, one per seed")
    for number, (gap, (typed, spoken)) in enumerate(zip(gaps, states, strict=True)):
        otherwise = f"number {number} is a {type(gap).__name__}, not a number"
        need(isinstance(gap, int | float | Tensor), otherwise)
        right = float(centroid_distance(typed, spoken)[layer])
        shift = typed[:, layer].mean(0) - spoken[:, layer].mean(0)
        plain = shift.norm()
        mistakes = {
            "this is a plain distance: without the spread of the states it says nothing across "
            "models": plain
        }
        otherwise = (
            f"number {number} is {float(gap):.3g}: is this layer {layer} of this seed, typed "
            "against spoken?"
        )
        need_close(gap, right, otherwise, mistakes, within=1e-3 * max(right, 1.0))
    listed = ", ".join(f"{float(gap):.1f}" for gap in gaps)
    return (
        f"{listed} spreads, in models that never learnt anything: a gap alone is no trace of "
        "safety training"
    )
