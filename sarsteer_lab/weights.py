"""A checksum of weights, as fast as memory: it sees every change, however it was made.

`tensor._version` does not move when someone assigns `weight.data` (weight orthogonalisation, peft,
`.half().float()`), so only the bytes themselves tell.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from xxhash import xxh3_128

from sarsteer_lab.families import adapter_layers
from sarsteer_lab.keys import content_key, host_bytes, tensor_bytes


@torch.no_grad()
def weights_checksum(weights: nn.Module | Iterable[Tensor]) -> str:
    """A hash of every byte of a model's parameters and buffers, or of some tensors; of a model also
    which of its adapters are on, and how strongly.

    Computed at each call, so it sees `weight.data = ...` and what peft merges. The same on every
    device: on a GPU a sum made there says whether anything has changed, and only then do the
    weights come to the host.
    """
    adapters: list[object] = []
    if isinstance(weights, nn.Module):
        for part in adapter_layers(weights):
            adapters.append(
                [part.active_adapters, part.disable_adapters, getattr(part, "scaling", {})]
            )
        # The state holds what quantised layers keep beside their weights; buffers, what is not
        # saved.
        state = {
            name: value for name, value in weights.state_dict().items() if isinstance(value, Tensor)
        }
        named = sorted({**dict(weights.named_buffers(remove_duplicate=False)), **state}.items())
    else:
        named = [(str(number), tensor) for number, tensor in enumerate(weights)]
    described = [[name, str(tensor.dtype), *tensor.shape] for name, tensor in named] + adapters
    tensors = [tensor for _, tensor in named]
    if not any(tensor.device.type in SUMMED for tensor in tensors):
        return content_key(described, _hashes(tensors))
    seen = content_key(described, change_sums(tensors))
    if seen not in _known:
        _known[seen] = content_key(described, _hashes(tensors))
    return _known[seen]


SUMMED = ("cuda",)
"""Types of devices that sum faster than their weights come to the host."""

_known: dict[str, str] = {}
"""Checksums of weights on GPUs by what `change_sums` made of them."""


def _hashes(tensors: Sequence[Tensor]) -> list[str]:
    """The hash of each tensor's bytes; tied ones are read once."""
    places = [(t.data_ptr(), t.dtype, t.shape, t.stride(), t.device) for t in tensors]
    distinct = dict(zip(places, tensors, strict=True))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        hashes = pool.map(
            lambda tensor: xxh3_128(host_bytes(tensor)).hexdigest(), distinct.values()
        )
        found = dict(zip(distinct, hashes, strict=True))
    return [found[place] for place in places]


CHUNK = 2**20
"""Words of 8 bytes that are mixed at a time on a GPU."""

ODD = 0x9E3779B97F4A7C15 - 2**64
"""An odd number with bits everywhere (2^64 over the golden ratio): to multiply by it loses
nothing."""


def change_sums(tensors: Sequence[Tensor]) -> list[int]:
    """Sums over the tensors' bytes, on their own devices, that any change of them changes.

    Every word of 8 bytes is mixed with its place in its chunk by steps that can be undone, so a
    change of one word surely changes its chunk's sum; several cancel out no more often than a hash
    of 32 bits collides.
    """
    groups: dict[object, list[Tensor]] = {}
    for place, data in enumerate(map(tensor_bytes, tensors)):
        # Small ones together, for a start of the GPU costs as much as a small tensor.
        groups.setdefault(data.device if len(data) < CHUNK else place, []).append(data)
    sums: list[Tensor] = []
    for parts in groups.values():
        data = torch.cat(parts) if len(parts) > 1 else parts[0]
        if len(data) % 8 or data.storage_offset() % 8:
            data = nn.functional.pad(data, (0, -len(data) % 8))  # a copy, so it is aligned too
        words = data.view(torch.int64)
        places = torch.arange(min(CHUNK, len(words)), device=words.device).mul_(ODD)
        for chunk in words.split(CHUNK):
            mixed = chunk ^ places[: len(chunk)]
            halves = mixed.view(torch.int32).view(-1, 2)
            for _ in range(2):
                # Lower bits reach the upper ones by the product, upper ones the lower ones by the
                # shift.
                mixed *= ODD
                halves[:, 0] ^= halves[:, 1]
            sums.append(mixed.sum())
    return torch.stack([total.to(sums[0].device) for total in sums]).tolist() if sums else []
