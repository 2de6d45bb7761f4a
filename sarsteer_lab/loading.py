"""What `load_lalm` does before and around transformers' own loading: places, sizes, and errors one can act
on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import safe_open

from sarsteer_lab.families import find_family, missing_packages
from sarsteer_lab.lalm import LALM

GROUP = "sarsteer_lab.models"
"""Entry points of named models: "NAME" or "NAME:VARIANT"; each is a maker(variant, *, device, ...)."""

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


def load_lalm(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    safety: float = 1.0,
    family: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
) -> LALM:
    """Load an audio-language model: "pocket", a folder, an id on the Hugging Face hub, or "replica:FAMILY"
    (random weights, for trying code).

    `device` "auto" is the first CUDA device, else Apple's MPS, else the CPU; `dtype` "auto" is the
    checkpoint's own. `safety` sets the pocket model's safety dial. `family` names the row of the families
    table to use (default: the model type's; "auto": the generic recipe, which `sarsteer-lab doctor` checks).

    For large models: `device_map` spreads it over several GPUs ("auto", or transformers' dictionary;
    excludes `device`), `bits` 8 or 4 quantises its weights (bitsandbytes), `attention` picks the
    implementation ("sdpa", "eager", "flash_attention_2", ...). What will be downloaded is said before,
    with a warning if it will not fit. Nothing else is moved or cast.

    `trust_remote_code=True` runs code that the checkpoint brings. Qwen-Audio-Chat and Kimi-Audio need it;
    their code was written for older versions of transformers, has processors of its own, and is untested
    here: expect typed prompts at best.

    Raises FileNotFoundError for a model that is not there or cannot be fetched, PermissionError for a
    gated one, ImportError for a package that its family needs, and ValueError for `safety` on another
    model, an unknown `family` or `bits`, and code that is not trusted."""
    folder = name
    kind, _, variant = str(name).partition(":")
    if registered := entry_points(group=GROUP, name=kind):
        [maker] = registered
        return maker.load()(
            variant,
            device=device,
            dtype=dtype,
            safety=safety,
            family=family,
            device_map=device_map,
            bits=bits,
            attention=attention,
        )
    if safety != 1.0:
        raise ValueError(f"safety={safety} is a dial of the pocket model; {name} has none")
    if str(name).startswith((".", "/", "~")) or isinstance(name, Path):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} is not the folder of a checkpoint: it holds no config.json")
    model, processor = load_parts(
        folder,
        name=str(name),
        device=device,
        dtype=dtype,
        family=family,
        device_map=device_map,
        bits=bits,
        attention=attention,
        trust_remote_code=trust_remote_code,
    )
    return LALM(model, processor, name=str(name), family=family)


def load_parts(
    folder: str | Path,
    *,
    name: str,
    device: str,
    dtype: str | torch.dtype,
    family: str | None,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Model and processor of a checkpoint where they belong; options and errors are `load_lalm`'s, which
    calls the model `name`."""
    if device_map is not None and device != "auto":
        raise ValueError(f"device={device!r} and device_map={device_map!r}: give one of them")
    device = pick_device(device)
    config = read_config(folder, family, trust_remote_code)
    stored = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    announce(name, checkpoint_size(folder), stored, bits, device)
    model, processor = read_model(
        folder,
        config,
        dtype=dtype,
        device_map=device_map or (device if bits else None),
        bits=bits,
        attention=attention,
        trust_remote_code=trust_remote_code,
    )
    # A quantised or spread model is already where it belongs.
    if device_map is None and bits is None:
        model = model.to(device)
    return model, processor


def pick_device(device: str) -> str:
    """`device`, or for "auto" the first CUDA device, else Apple's MPS, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_memory(device: str) -> int | None:
    """Bytes free on `device`; None where that cannot be asked (MPS, or no such device here)."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device == "cpu" and meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return None


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


def read_config(folder: str | Path, family: str | None, trust_remote_code: bool) -> Any:
    """The checkpoint's configuration. Raises ImportError, naming it, if the family needs a package more."""
    # Said outright: left open, transformers asks the user in the terminal.
    with explained(folder):
        config = hf.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    row = find_family(config, None if family == "auto" else family)
    if missing := missing_packages(row):
        raise ImportError(
            f"{folder} ({row.name}) needs more than this project brings: pip install {' '.join(missing)}"
        )
    return config


def read_model(
    folder: str | Path,
    config: Any,
    *,
    dtype: str | torch.dtype,
    device_map: Any = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Model and processor of a checkpoint, on the CPU or where `device_map` says.

    Raises ImportError for a missing package (accelerate, bitsandbytes), ValueError for other `bits` than 4
    and 8, for weights that the checkpoint lacks, and for weights that a device map leaves on disk or in
    the CPU's memory for a GPU to fetch: hooks cannot steer such layers."""
    options: dict[str, Any] = {"dtype": dtype}
    code = {"trust_remote_code": trust_remote_code}
    if bits not in (None, 4, 8):
        raise ValueError(f"bits={bits}: choose 4 or 8, or leave it out")
    if bits:
        need_package("bitsandbytes", f"bits={bits}")
        options["quantization_config"] = hf.BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    if device_map is not None:
        need_package("accelerate", "device_map")
        options["device_map"] = device_map
    if attention is not None:
        options["attn_implementation"] = attention
    with explained(folder):
        processor = hf.AutoProcessor.from_pretrained(folder, **code)
        model, report = model_class(config).from_pretrained(
            folder, config=config, output_loading_info=True, **options, **code
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder} lacks {len(missing)} weights, which would be random: {', '.join(missing[:3])}; is it "
            "the checkpoint of another architecture?"
        )
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ValueError(
            f"{folder} does not fit on the devices of device_map={device_map!r}, and layers kept elsewhere "
            "cannot be steered: use more or larger GPUs, or bits=4"
        )
    return model, processor


def need_package(module: str, what: str) -> None:
    """Raise ImportError, saying what for, if a package is not installed."""
    if find_spec(module) is None:
        raise ImportError(f"{what} needs the package {module}: pip install {module}")


def model_class(config: Any) -> Any:
    """The class that reads audio and writes text: transformers' mapping, else what the checkpoint names
    itself.

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
    raise ValueError(f"transformers {hf.__version__} has no audio-text model of type {config.model_type!r}")


def _parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone."""
    with safe_open(file, framework="pt") as tensors:
        return sum(torch.Size(tensors.get_slice(key).get_shape()).numel() for key in tensors.keys())
