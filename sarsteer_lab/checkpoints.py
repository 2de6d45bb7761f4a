"""A folder or an id on the hub -> model and processor, with errors one can act on.

Before the weights come: how big they are, and what is downloaded.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers as hf
from huggingface_hub import HfApi, errors, try_to_load_from_cache
from safetensors import safe_open

from sarsteer_lab.families import Processor, Settings, find_family, missing_packages

DeviceMap = str | dict[str, int | str]
"""Where the parts of a model go: "auto", or transformers' dictionary."""

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


def load_parts(
    folder: str | Path,
    *,
    name: str,
    device: str,
    dtype: str | torch.dtype,
    family: str | None,
    device_map: DeviceMap | None = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    adapter: Path | None = None,
) -> tuple[Any, Processor]:
    """Model and processor of a checkpoint that messages call `name`; `adapter` is a LoRA's folder.

    Options and errors are those of `loading.load_lalm`.
    """
    if device_map is not None and device != "auto":
        raise ValueError(f"device={device!r} and device_map={device_map!r}: give one of them")
    device = pick_device(device)
    # Said outright: left open, transformers asks the user in the terminal about code.
    source = {"trust_remote_code": trust_remote_code, "revision": revision}
    with explained(folder):
        config = hf.AutoConfig.from_pretrained(folder, **source)
    row = find_family(config, None if family == "auto" else family)
    if missing := missing_packages(row):
        raise ImportError(
            f"{folder} ({row.name}) needs more packages: pip install {' '.join(missing)}"
        )
    stored = (
        dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    )
    announce(name, checkpoint_size(folder, revision), stored, bits, device)
    options: dict[str, Any] = {"dtype": dtype, **source}
    if attention is not None:
        options["attn_implementation"] = attention
    if bits:
        options["quantization_config"] = hf.BitsAndBytesConfig(
            load_in_8bit=bits == 8, load_in_4bit=bits == 4
        )
        device_map = device_map or device
    if device_map is not None:
        options["device_map"] = device_map
    if row.adapter == "":  # after the weights, or its report would take the place of theirs
        options["adapter_kwargs"] = {"subfolder": "none"}
    with explained(folder):
        processor = hf.AutoProcessor.from_pretrained(folder, **source)
        model, report = model_class(config).from_pretrained(
            folder, config=config, output_loading_info=True, **options
        )
        if row.adapter is not None and getattr(config, "has_lora_adapter", True):
            place = {"subfolder": row.adapter, "revision": revision}
            report["missing_keys"] |= model.load_adapter(
                str(folder), adapter_kwargs=place
            ).missing_keys
        if adapter is not None:
            report["missing_keys"] |= model.load_adapter(str(adapter)).missing_keys
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(
            f"{adapter or folder} lacks {len(lacking)} weights, which would be random: "
            f"{', '.join(lacking[:3])}; is it the checkpoint of another architecture?"
        )
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        # accelerate would fetch them for each forward pass, past every hook.
        raise ValueError(
            f"{folder} does not fit on the devices of device_map={device_map!r}, and layers kept elsewhere "
            "cannot be steered: use more or larger GPUs, or bits=4"
        )
    return (model if device_map is not None else model.to(device)), processor


def check_options(
    device: str, dtype: str | torch.dtype, bits: int | None = None, family: str | None = None
) -> None:
    """Raise ValueError for a device that is not here, and for an unknown `dtype`, `bits` or
    `family`."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):
            seen = f"torch sees {torch.cuda.device_count()} CUDA devices"
            raise ValueError(
                f"device={device!r} is not here: {seen} (cpu, cuda, cuda:1, mps)"
            ) from None
    if dtype != "auto" and not isinstance(getattr(torch, str(dtype), dtype), torch.dtype):
        raise ValueError(
            f"dtype={dtype!r} is none that torch knows: float32, bfloat16, float16 or auto"
        )
    if bits not in (None, 4, 8):
        raise ValueError(f"bits={bits}: choose 4 or 8, or leave it out")
    if family is not None:
        find_family(None, family)


def pick_device(device: str) -> str:
    """`device`, or for "auto" the first CUDA device, else Apple's MPS, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def model_class(config: Settings) -> Any:
    """The class that reads audio and writes text: transformers' mapping, else what the checkpoint
    names.

    Raises ValueError if transformers has no such class and the checkpoint brings none.
    """
    remote = getattr(config, "auto_map", None) or {}
    for auto in (hf.AutoModelForMultimodalLM, hf.AutoModelForCausalLM):
        if auto.__name__ in remote:
            return auto
    if type(config) in hf.AutoModelForMultimodalLM._model_mapping:
        return hf.AutoModelForMultimodalLM
    # transformers lists the Flamingos elsewhere, so the checkpoint's own word counts.
    for name in config.architectures or ():
        if (found := getattr(hf, name, None)) is not None:
            return found
    raise ValueError(
        f"transformers {hf.__version__} has no audio-text model of type {config.model_type!r}"
    )
