"""Checkpoints before they are loaded: how big they are, what is downloaded, and errors one can act
on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, errors, try_to_load_from_cache
from safetensors import safe_open

OVERHEAD = 1.2
"""Memory taken over weights: activations, key-value cache and workspace, as a factor. A rule of
thumb."""


@dataclass(frozen=True)
class Size:
    """How big a checkpoint is: its `parameters`, and how many bytes are still to be downloaded."""

    parameters: int
    download: int

    def memory(self, dtype: torch.dtype, bits: int | None = None) -> int:
        """Bytes that the loaded model will take, roughly: its weights in `dtype` or `bits`, with
        overhead."""
        return round(self.parameters * (bits / 8 if bits else dtype.itemsize) * OVERHEAD)


def free_memory(device: str) -> int | None:
    """Bytes free on `device`; None where that cannot be asked (MPS, or no such device here)."""
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        # What torch's allocator has reserved and does not use is free for a model too.
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + unused
    return psutil.virtual_memory().available if place.type == "cpu" else None


def checkpoint_size(name: str | Path, revision: str | None = None) -> Size | None:
    """Size of a folder's or hub checkpoint's safetensors files; None where it cannot be found out.

    Of a hub id only file names and sizes are asked for; what lies in the hub's cache needs no
    download.
    """
    if (folder := Path(name)).is_dir():
        shards = list(folder.glob("*.safetensors"))
        return Size(sum(map(_parameters, shards)), 0) if shards else None
    try:
        info = HfApi().model_info(str(name), revision=revision, files_metadata=True)
    except (OSError, errors.HTTPError):  # the second is no OSError where there is no network
        return None
    files = [file for file in info.siblings or [] if file.rfilename.endswith(".safetensors")]
    if not files or info.safetensors is None:
        return None
    cached = partial(try_to_load_from_cache, str(name), revision=revision)
    missing = [file for file in files if not isinstance(cached(file.rfilename), str)]
    return Size(info.safetensors.total, sum(file.size or 0 for file in missing))


def announce(
    name: str | Path, size: Size | None, dtype: torch.dtype, bits: int | None, device: str
) -> None:
    """Say on standard error what is about to be downloaded, and warn if it will hardly fit on
    `device`.

    Silent for models that are there and small beside the free memory.
    """
    if size is None:
        return
    if size.download:
        sizes = f"{size.download / 1e9:.1f} GB, {size.parameters / 1e9:.1f} billion parameters"
        print(f"{name}: downloads {sizes}", file=sys.stderr)
    needed, free = size.memory(dtype, bits), free_memory(device)
    if free is not None and needed > free:
        how = f"{bits} bits" if bits else str(dtype)
        sizes = f"about {needed / 1e9:.1f} GB in {how}, but {device} has {free / 1e9:.1f} GB free"
        advice = "take a smaller dtype, bits=4 or device_map='auto' on several GPUs"
        print(f"{name}: needs {sizes}: {advice}", file=sys.stderr)


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turn errors about getting a checkpoint into one sentence that says what to do.

    Raises PermissionError for a gated model, FileNotFoundError for one that is not there, or cannot
    be fetched, ValueError for one that needs its authors' code.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        chain: list[BaseException] = [error]
        while (
            link := chain[-1].__cause__ or chain[-1].__context__
        ) is not None and link not in chain:
            chain.append(link)
        text = " ".join(map(str, chain)).lower()
        kinds = {kind for link in chain for kind in type(link).__mro__}
        if errors.GatedRepoError in kinds:
            advice = "ask for access on its page on the hub, then log in with `hf auth login`"
            raise PermissionError(f"{name} is gated: {advice}") from error
        if errors.RepositoryNotFoundError in kinds:
            advice = "or it is private; check the id, or run `hf auth login`"
            raise FileNotFoundError(f"{name}: the hub has no such model, {advice}") from error
        if "trust_remote_code" in text:
            raise ValueError(
                f"{name} brings model code of its own, which would run on this machine: read it, and if you "
                "trust its authors, pass trust_remote_code=True"
            ) from error
        if errors.OfflineModeIsEnabled in kinds or "couldn't connect" in text or "offline" in text:
            raise FileNotFoundError(
                f"{name} is not on this machine and the hub cannot be reached: where there is network, "
                f"`hf download {name}`, copy the folder here and pass its path"
            ) from error
        raise


def _parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone."""
    with safe_open(file, framework="pt") as tensors:
        return sum(torch.Size(tensors.get_slice(key).get_shape()).numel() for key in tensors.keys())
