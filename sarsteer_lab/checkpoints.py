"""Checkpoints before they are loaded: how big they are, what is downloaded, and errors one can act on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import safe_open

OVERHEAD = 1.2
"""Memory taken over weights: activations, key-value cache and workspace, as a factor. A rule of thumb."""


@dataclass(frozen=True)
class Size:
    """How big a checkpoint is: `parameters`, `bytes` of its files, and what of them is still to be
    downloaded."""

    parameters: int
    bytes: int
    download: int

    def memory(self, dtype: torch.dtype, bits: int | None = None) -> int:
        """Bytes that the loaded model will take, roughly: its weights in `dtype` or `bits`, times
        `OVERHEAD`."""
        per_weight = bits / 8 if bits else dtype.itemsize
        return round(self.parameters * per_weight * OVERHEAD)


def free_memory(device: str) -> int | None:
    """Bytes free on `device`; None where that cannot be asked (MPS, or no such device here)."""
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        # What torch's allocator has reserved and does not use is free for a model too.
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + unused
    return psutil.virtual_memory().available if place.type == "cpu" else None


def checkpoint_size(name: str | Path) -> Size | None:
    """Size of a folder's or hub checkpoint's safetensors files; None where it cannot be found out.

    For a hub id this asks the hub for file names and sizes, nothing else; what lies in the hub's cache needs
    no download.
    """
    folder = Path(name)
    if folder.is_dir():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            return None
        return Size(sum(map(_parameters, files)), sum(file.stat().st_size for file in files), 0)
    try:
        info = HfApi().model_info(str(name), files_metadata=True)
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled):
        return None
    remote = {
        f.rfilename: f.size for f in info.siblings or [] if f.rfilename.endswith(".safetensors") and f.size
    }
    if not remote or info.safetensors is None:
        return None
    missing = [f for f in remote if not isinstance(try_to_load_from_cache(str(name), f), str)]
    return Size(info.safetensors.total, sum(remote.values()), sum(remote[f] for f in missing))


def announce(name: str | Path, size: Size | None, dtype: torch.dtype, bits: int | None, device: str) -> None:
    """Say on standard error what is about to be downloaded, and warn if it will hardly fit on `device`.

    Silent for models that are there and small beside the free memory.
    """
    if size is None:
        return
    needed, free = size.memory(dtype, bits), free_memory(device)
    if size.download:
        print(
            f"{name}: downloads {size.download / 1e9:.1f} GB, {size.parameters / 1e9:.1f} billion parameters",
            file=sys.stderr,
        )
    if free is not None and needed > free:
        how = f"{bits} bits" if bits else str(dtype)
        print(
            f"{name}: needs about {needed / 1e9:.1f} GB in {how}, but {device} has {free / 1e9:.1f} GB free: "
            "take a smaller dtype, bits=4 or device_map='auto' on several GPUs",
            file=sys.stderr,
        )


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turn the hub's and transformers' errors about getting a checkpoint into one sentence that says what
    to do.

    Raises PermissionError for a gated model, FileNotFoundError for one that is not there, or cannot be
    fetched, ValueError for one that needs its authors' code.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        chain = [error, error.__cause__, error.__context__]
        while chain[-1] is not None and len(chain) < 12:
            chain.append(chain[-1].__cause__ or chain[-1].__context__)
        text = " ".join(str(link) for link in chain if link is not None)
        if any(isinstance(link, GatedRepoError) for link in chain):
            raise PermissionError(
                f"{name} is gated: ask for access on its page on the hub, then log in with `hf auth login`"
            ) from error
        if any(isinstance(link, RepositoryNotFoundError) for link in chain):
            raise FileNotFoundError(
                f"{name}: the hub has no such model, or it is private; check the id, or run `hf auth login`"
            ) from error
        if "trust_remote_code" in text:
            raise ValueError(
                f"{name} brings model code of its own, which would run on this machine: read it, and if you "
                "trust its authors, pass trust_remote_code=True"
            ) from error
        offline = (
            any(isinstance(link, OfflineModeIsEnabled) for link in chain)
            or "couldn't connect" in text.lower()
        )
        if offline or "offline" in text.lower():
            raise FileNotFoundError(
                f"{name} is not on this machine and the hub cannot be reached: where there is network, "
                f"`hf download {name}`, copy the folder here and pass its path"
            ) from error
        raise


def _parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone."""
    with safe_open(file, framework="pt") as tensors:
        return sum(torch.Size(tensors.get_slice(key).get_shape()).numel() for key in tensors.keys())
