"""A folder or an id on the hub -> model and processor, with errors one can act on.

Before the weights come: how big they are, and what is downloaded.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import Any

import psutil
import torch
import transformers as hf
from huggingface_hub import (
    HfApi,
    errors,
    parse_local_safetensors_file_metadata,
    try_to_load_from_cache,
)
from safetensors import SafetensorError, safe_open
from torch import nn

from sarsteer_lab.chat import Processor
from sarsteer_lab.families import Settings, find_family, missing_packages

DeviceMap = str | dict[str, int | str]
"""Where the parts of a model go: "auto", or transformers' dictionary."""

OVERHEAD = 1.2
"""A rule of thumb: the factor of memory for activations, key-value cache and workspace."""


SECOND_COPY = "consolidated"
"""How files begin that hold a model's weights once more, for a loader of Mistral's own."""


@dataclass(frozen=True)
class Size:
    """How big a checkpoint is: its `parameters`, and how many bytes are still to be downloaded."""

    parameters: int
    download: int

    def memory(self, dtype: torch.dtype, bits: int | None = None) -> int:
        """Bytes that the loaded model takes, roughly: weights in `dtype` or `bits`, with room."""
        bytes_each = bits / 8 if bits else dtype.itemsize
        return round(self.parameters * bytes_each * OVERHEAD)


def free_memory(device: str) -> int | None:
    """Bytes free on `device`; None where that cannot be asked (MPS, or no such device here)."""
    kind = torch.device(device).type
    if kind == "cpu":
        return psutil.virtual_memory().available
    if kind != "cuda" or not torch.cuda.is_available():
        return None
    # What torch's allocator has reserved and does not use is free for a model too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def checkpoint_size(name: str | Path, revision: str | None = None) -> Size | None:
    """Size of a folder's or hub checkpoint's safetensors files; None where it cannot be found out.

    Of a hub id only file names and sizes are asked for; what lies in the hub's cache needs no
    download.
    """
    if Path(name).is_dir():
        parameters = 0
        for shard in Path(name).glob("*.safetensors"):
            if shard.name.startswith(SECOND_COPY):
                continue
            counts = parse_local_safetensors_file_metadata(shard).parameter_count
            parameters += sum(counts.values())
        return Size(parameters, 0) if parameters else None
    try:
        info = HfApi().model_info(str(name), revision=revision, files_metadata=True)
    except (OSError, errors.HTTPError):  # the second is no OSError where there is no network
        return None
    if info.safetensors is None:
        return None
    download = 0
    for file in info.siblings or []:
        is_copy = file.rfilename.startswith(SECOND_COPY)
        weights = file.rfilename.endswith(".safetensors") and not is_copy
        cached = try_to_load_from_cache(str(name), file.rfilename, revision=revision)
        if weights and not isinstance(cached, str):
            download += file.size or 0
    return Size(info.safetensors.total, download)


def announce(
    name: str | Path, size: Size | None, dtype: torch.dtype, bits: int | None, device: str
) -> None:
    """Say on standard error what will be downloaded, and warn if it will hardly fit on `device`.

    Silent for models that are there and small beside the free memory.
    """
    if size is None:
        return
    if size.download:
        sizes = f"{size.download / 1e9:.1f} GB, {size.parameters / 1e9:.1f} billion parameters"
        print(f"{name}: downloads {sizes}", file=sys.stderr)
    needed = size.memory(dtype, bits)
    free = free_memory(device)
    if free is not None and needed > free:
        how = f"{bits} bits" if bits else str(dtype)
        sizes = f"about {needed / 1e9:.1f} GB in {how}, but {device} has {free / 1e9:.1f} GB free"
        advice = "take a smaller dtype, bits=4 or device_map='auto' on several GPUs"
        print(f"{name}: needs {sizes}: {advice}", file=sys.stderr)


def refuse_damaged(folder: Path) -> None:
    """Raise ValueError, naming it, for a file of a checkpoint's folder that cannot be read whole.

    transformers would say something of JSON, without a name, or leave the file out.
    """
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}): copy or download it again") from error


@contextmanager
def explained(place: str | Path, name: str | Path = "") -> Iterator[None]:
    """Turn errors about getting a checkpoint into one sentence that says what to do.

    `place` is its id or folder, `name` what the sentence calls it (default: the same).
    Raises PermissionError for a gated model, FileNotFoundError for one that is not there, or cannot
    be fetched, ValueError for one that needs its authors' code.
    """
    name = name or place
    try:
        yield
    except (OSError, ValueError) as error:
        story = "".join(format_exception(error, limit=0))  # with the errors behind it
        if "GatedRepoError" in story:
            advice = "ask for access on its page on the hub, then log in with `hf auth login`"
            raise PermissionError(f"{name} is gated: {advice}") from error
        if "RepositoryNotFoundError" in story:
            advice = "or it is private; check the id, or run `hf auth login`"
            raise FileNotFoundError(f"{name}: the hub has no such model, {advice}") from error
        if "trust_remote_code" in story:
            raise ValueError(
                f"{name} brings model code of its own, which would run on this machine: read it, "
                "and if you trust its authors, pass trust_remote_code=True"
            ) from error
        if "couldn't connect" in story or "offline" in story.lower():
            raise FileNotFoundError(
                f"{name} is not on this machine and the hub cannot be reached: where there is "
                f"network, `hf download {place}`, copy the folder here and pass its path"
            ) from error
        raise


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
    for place in (folder, adapter):
        if place is not None and Path(place).is_dir():
            refuse_damaged(Path(place))
    # Said outright: left open, transformers asks the user in the terminal about code.
    source = {"trust_remote_code": trust_remote_code, "revision": revision}
    with explained(folder):
        config = hf.AutoConfig.from_pretrained(folder, **source)
    traits = find_family(config, None if family == "auto" else family)
    missing = missing_packages(traits)
    if missing:
        needs = f"pip install {' '.join(missing)}"
        raise ImportError(f"{folder} ({traits.name}) needs more packages: {needs}")
    stored = dtype
    if not isinstance(stored, torch.dtype):
        stored = getattr(config, "dtype", None) or torch.float32
    announce(name, checkpoint_size(folder, revision), stored, bits, device)
    options = {"dtype": dtype, **source, **_placement(device, device_map, bits, attention)}
    if traits.adapter == "":  # after the weights, or its report would take the place of theirs
        options["adapter_kwargs"] = {"subfolder": "none"}
    with explained(folder):
        processor = hf.AutoProcessor.from_pretrained(folder, **source)
        load = _loading_with_report(config)
        model, report = load(folder, config=config, output_loading_info=True, **options)
        lacking = report["missing_keys"]
        if traits.adapter is not None and getattr(config, "has_lora_adapter", True):
            within = {"subfolder": traits.adapter, "revision": revision}
            lacking |= model.load_adapter(str(folder), adapter_kwargs=within).missing_keys
        if adapter is not None:
            lacking |= _put_on(model, adapter, name)
    _refuse_lacking(model, lacking, adapter or folder)
    if "device_map" not in options:
        model = model.to(device)
    return model, processor


def _loading_with_report(
    config: Settings,
) -> Callable[..., tuple[hf.PreTrainedModel, dict[str, set[str]]]]:
    """The `from_pretrained` of the class that `model_class` finds, which can give a report out.

    Qwen2.5-Omni's own cannot: it goes on with the report as if it were the model, for its voices.
    """
    auto = model_class(config)
    mapping = getattr(auto, "_model_mapping", {})
    own = mapping[type(config)] if type(config) in mapping else auto
    if "from_pretrained" in vars(own) and issubclass(own, hf.PreTrainedModel):
        return partial(hf.PreTrainedModel.from_pretrained.__func__, own)
    return auto.from_pretrained


def _put_on(model: hf.PreTrainedModel, adapter: Path, name: str) -> set[str]:
    """Put a LoRA on its base; what it lacks. Raises ValueError for one that does not fit it."""
    try:
        report = model.load_adapter(str(adapter))
    except Exception as error:  # peft and transformers raise of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} does not fit its base model ({reason})") from error
    if homeless := sorted(report.unexpected_keys):
        count = f"{len(homeless)} weights of {name} have no place in its base model"
        raise ValueError(f"{count}: {', '.join(homeless[:3])}; is it the LoRA of another model?")
    return report.missing_keys


def _placement(
    device: str, device_map: DeviceMap | None, bits: int | None, attention: str | None
) -> dict[str, Any]:
    """Options of transformers that say where and how weights are loaded."""
    options: dict[str, Any] = {}
    if attention is not None:
        options["attn_implementation"] = attention
    if bits:
        kind = "load_in_4bit" if bits == 4 else "load_in_8bit"
        options["quantization_config"] = hf.BitsAndBytesConfig(**{kind: True})
        device_map = device_map or device
    if device_map is not None:
        options["device_map"] = device_map
    return options


def _refuse_lacking(model: nn.Module, lacking: set[str], source: str | Path) -> None:
    """Raise ValueError for weights that would be random, or lie where no hook sees them."""
    if lacking:
        names = ", ".join(sorted(lacking)[:3])
        raise ValueError(
            f"{source} lacks {len(lacking)} weights, which would be random: {names}; "
            "is it the checkpoint of another architecture?"
        )
    if any(weight.is_meta for weight in model.parameters()):
        # accelerate would fetch them for each forward pass, past every hook.
        raise ValueError(
            f"{source} does not fit on the devices of its device_map, and layers kept elsewhere "
            "cannot be steered: use more or larger GPUs, or bits=4"
        )


def check_options(
    device: str, dtype: str | torch.dtype, bits: int | None = None, family: str | None = None
) -> None:
    """Raise ValueError for a device that is not here, or an unknown `dtype`, `bits` or `family`."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):
            seen = f"torch sees {torch.cuda.device_count()} CUDA devices (cpu, cuda, cuda:1, mps)"
            raise ValueError(f"device={device!r} is not here: {seen}") from None
    if dtype != "auto" and not isinstance(getattr(torch, str(dtype), dtype), torch.dtype):
        choices = "float32, bfloat16, float16 or auto"
        raise ValueError(f"dtype={dtype!r} is none that torch knows: {choices}")
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
    """The class that reads audio and writes text: transformers' mapping, or the checkpoint's word.

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
        if hasattr(hf, name):
            return getattr(hf, name)
    raise ValueError(
        f"transformers {hf.__version__} has no audio-text model of type {config.model_type!r}"
    )
