"""A checksum of weights, as fast as memory: it sees every change, however it was made.

`tensor._version` does not move when someone assigns `weight.data` (weight orthogonalisation, peft,
`.half().float()`), so only the bytes themselves tell.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Int
from torch import Tensor, nn
from xxhash import xxh3_128

from sarsteer_lab.families import adapter_layers
from sarsteer_lab.keys import content_key, host_bytes, tensor_bytes

SUMMED = ("cuda",)
"""Types of devices that sum faster than their weights come to the host."""

CHUNK = 2**20
"""Words of 8 bytes that are mixed at a time on a GPU."""

ODD = 0x9E3779B97F4A7C15 - 2**64
"""An odd number with bits everywhere (2^64 over the golden ratio): its products lose nothing."""

_known: dict[str, str] = {}
"""Checksums of weights on GPUs by what `change_sums` made of them."""


@torch.no_grad()
def weights_checksum(weights: nn.Module | Iterable[Tensor]) -> str:
    """A hash of every byte of a model's parameters and buffers, or of some tensors.

    Of a model also of which of its adapters are on, and how strongly. Computed at each call, so it
    sees `weight.data = ...` and what peft merges. The same on every device: on a GPU a sum made
    there says whether anything has changed, and only then do the weights come to the host. Raises
    ValueError for a model without weights.
    """
    named = _named_tensors(weights)
    tensors = [tensor for _, tensor in named]
    if isinstance(weights, nn.Module):
        refuse_weightless(weights)
    described: list[object] = [[name, str(part.dtype), *part.shape] for name, part in named]
    if isinstance(weights, nn.Module):
        for layer in adapter_layers(weights):
            scaling = getattr(layer, "scaling", {})
            described.append([layer.active_adapters, layer.disable_adapters, scaling])
    if not any(tensor.device.type in SUMMED for tensor in tensors):
        return content_key(described, _hashes(tensors))
    seen = content_key(described, change_sums(tensors))
    if seen not in _known:
        _known[seen] = content_key(described, _hashes(tensors))
    return _known[seen]


def refuse_weightless(model: nn.Module) -> None:
    """Raise ValueError for a model some of whose weights are on the device meta."""
    lacking = [name for name, weight in model.named_parameters() if weight.is_meta]
    if lacking:
        count = f"{len(lacking)} weights hold no numbers (device meta): {lacking[0]}, ..."
        advice = "load the model with from_pretrained, on devices that have room for all of it"
        raise ValueError(f"{count}; {advice}")


def _named_tensors(weights: nn.Module | Iterable[Tensor]) -> list[tuple[str, Tensor]]:
    if not isinstance(weights, nn.Module):
        return [(str(number), tensor) for number, tensor in enumerate(weights)]
    # Buffers that are not saved, and what quantised layers keep beside their weights.
    named = dict(weights.named_buffers(remove_duplicate=False))
    for name, value in weights.state_dict().items():
        if isinstance(value, Tensor):
            named[name] = value
    return sorted(named.items())


def _hashes(tensors: Sequence[Tensor]) -> list[str]:
    """The hash of each tensor's bytes."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(lambda tensor: xxh3_128(host_bytes(tensor)).hexdigest(), tensors))


def change_sums(tensors: Sequence[Tensor]) -> list[int]:
    """Sums over the tensors' bytes, on their own devices, that any change of them changes.

    Every word of 8 bytes is mixed with its place in its chunk by steps that can be undone, so a
    change of one word surely changes its chunk's sum; several cancel out no more often than a hash
    of 32 bits collides.
    """
    groups: dict[object, list[Tensor]] = {}
    for number, data in enumerate(map(tensor_bytes, tensors)):
        # Small ones together, for a start of the GPU costs as much as a small tensor.
        group = data.device if len(data) < CHUNK else number
        groups.setdefault(group, []).append(data)
    sums: list[Tensor] = []
    for parts in groups.values():
        data = torch.cat(parts) if len(parts) > 1 else parts[0]
        if len(data) % 8 or data.storage_offset() % 8:
            data = nn.functional.pad(data, (0, -len(data) % 8))  # a copy, so it is aligned too
        words = data.view(torch.int64)
        places = torch.arange(min(CHUNK, len(words)), device=words.device).mul_(ODD)
        for chunk in words.split(CHUNK):
            sums.append(_mixed(chunk, places[: len(chunk)]).sum())
    # On one device at last, so that they come to the host together.
    return torch.stack([total.to(sums[0].device) for total in sums]).tolist() if sums else []


def _mixed(words: Int[Tensor, "word"], places: Int[Tensor, "word"]) -> Int[Tensor, "word"]:
    """Words mixed with their places, so that each word's every bit reaches the whole of it."""
    mixed = words ^ places
    halves = mixed.view(torch.int32).view(-1, 2)  # word half
    for _ in range(2):
        # Lower bits reach the upper ones by the product, upper ones the lower ones by the shift.
        mixed *= ODD
        halves[:, 0] ^= halves[:, 1]
    return mixed
