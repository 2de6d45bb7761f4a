"""Keys, the checksum of weights, and what is kept on disk: nothing may be taken for something
else."""

import numpy as np
import pytest
import torch
from torch import nn

from sarsteer_lab import weights
from sarsteer_lab.weights import change_sums, weights_checksum


def model() -> nn.Module:
    """Parameters and buffers of all kinds: tied, 0-d, empty, not contiguous, not saved, of several
    types."""
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {"first": nn.Linear(3, 5), "second": nn.Linear(3, 5), "norm": nn.BatchNorm1d(5)}
    )
    parts["second"].weight = parts["first"].weight
    parts["norm"].half()
    parts["second"].bias = nn.Parameter(torch.randn(5, 5)[:, 2])
    parts.register_parameter("scale", nn.Parameter(torch.tensor(0.5)))
    parts.register_buffer("passing", torch.arange(7), persistent=False)
    parts.register_buffer("kept", torch.randn(9).bfloat16())
    parts.register_buffer("mask", torch.tensor([True, False, True]))
    parts.register_buffer("empty", torch.empty(0))
    return parts


@torch.no_grad()
def test_any_element_of_any_tensor_counts():
    plain, changed = weights_checksum(model()), model()
    assert weights_checksum(changed) == plain
    tensors = [*changed.parameters(), *changed.buffers()]
    seen = {plain}
    for tensor in tensors:
        for index in np.ndindex(tensor.shape):
            before = tensor[index].clone()
            tensor.data[index] = ~before if tensor.dtype == torch.bool else before + 1
            seen.add(weights_checksum(changed))
            tensor.data[index] = before
    # The tied weight is one tensor, and every change of any element gives another sum.
    assert len(seen) == 1 + sum(tensor.numel() for tensor in tensors)
    assert weights_checksum(changed) == plain


def swap(weight: nn.Parameter) -> None:
    weight.data = weight.data[[1, 0, *range(2, len(weight))]]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: setattr(w, "data", w.data * 2),
        lambda w: w.data.mul_(3),
        lambda w: w.data.copy_(w.data.flip(0)),
        lambda w: setattr(w, "data", w.data.half().float()),
        lambda w: setattr(w, "data", w.data.half()),
        lambda w: w.data.neg_(),
        swap,
    ],
    ids=["assigned", "multiplied", "copied", "rounded", "halved", "negated", "swapped"],
)
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_changes_that_leave_no_trace_in_the_version_are_seen(change, as_on_a_gpu):
    layer = nn.Linear(4, 6)
    seen = (lambda m: change_sums(list(m.parameters()))) if as_on_a_gpu else weights_checksum
    before, version = seen(layer), layer.weight._version
    change(layer.weight)
    assert layer.weight._version == version and seen(layer) != before


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_every_single_element_of_a_large_weight_counts(as_on_a_gpu):
    """A sample with a stride saw 16 of these 4,096 columns, and of 32 attention heads only the even
    ones."""
    weight = torch.zeros(4096, 4096, dtype=torch.bfloat16)
    seen = (lambda: change_sums([weight])) if as_on_a_gpu else (lambda: weights_checksum([weight]))
    sums = [seen()]
    for row, column in [(0, 0), (0, 1), (129, 77), (1, 4095), (4095, 0), (4095, 4095)]:
        weight[row, column] = 1
        sums.append(seen())
        weight[row, column] = 0
    weight[128 * 3 : 128 * 4] = 1
    sums.append(seen())
    assert len({str(each) for each in sums}) == len(sums)


@torch.no_grad()
def test_the_sum_made_on_a_gpu_sees_every_bit_and_place():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(weights.CHUNK + 11, generator=generator),
        torch.randint(0, 256, (13,), generator=generator).to(torch.uint8),
        torch.tensor(1.0).half(),
        torch.empty(0),
    ]
    sums = [change_sums(tensors)]
    large = tensors[0].view(torch.int32)
    for place in (0, 1, 2, 3, 2 * 1000, len(large) - 1, len(large) - 2):
        for bit in (0, 15, 30, 31):
            flip = torch.tensor(1 << bit).to(torch.int32)
            large[place] ^= flip
            sums.append(change_sums(tensors))
            large[place] ^= flip
    # Two signs at once, in the same place of their words and in others: they must not cancel out.
    for one, other in [(1, 3), (1, 5), (0, 2), (0, 1), (101, 100001)]:
        tensors[0][[one, other]] *= -1
        sums.append(change_sums(tensors))
        tensors[0][[one, other]] *= -1
    tensors[0][[0, 2]] = tensors[0][[2, 0]]
    sums.append(change_sums(tensors))
    tensors[0][[0, 2]] = tensors[0][[2, 0]]
    for place in range(13):
        tensors[1][place] ^= 128
        sums.append(change_sums(tensors))
        tensors[1][place] ^= 128
    assert len({str(each) for each in sums}) == len(sums)
    assert change_sums(tensors) == sums[0]


def test_weights_on_a_gpu_come_to_the_host_only_after_a_change(monkeypatch):
    layer, other = nn.Linear(4, 6), nn.Linear(4, 6)
    other.load_state_dict(layer.state_dict())
    plain = weights_checksum(layer)
    hashed = []
    monkeypatch.setattr(weights, "SUMMED", ("cpu",))
    monkeypatch.setattr(
        weights,
        "_hashes",
        lambda tensors, plain=weights._hashes: hashed.append(1) or plain(tensors),
    )
    assert weights_checksum(layer) == weights_checksum(layer) == weights_checksum(other) == plain
    assert len(hashed) == 1
    layer.weight.data.mul_(2)
    assert weights_checksum(layer) == weights_checksum(layer) != plain and len(hashed) == 2


def test_the_checksum_of_tensors_knows_types_shapes_and_order():
    a, b = torch.ones(4), torch.zeros(4)
    sums = [
        weights_checksum(some)
        for some in ([a, b], [b, a], [a], [a, b, b], [a.view(2, 2), b], [a.int(), b])
    ]
    assert len(set(sums)) == len(sums) and weights_checksum(iter([a, b])) == sums[0]
