"""`load_lalm`: an audio-language model by its name, a folder, or an id on the hub."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from sarsteer_lab.checkpoints import announce, checkpoint_size, explained
from sarsteer_lab.families import find_family, missing_packages
from sarsteer_lab.lalm import LALM

GROUP = "sarsteer_lab.models"
"""Entry points of named models: "NAME" or "NAME:VARIANT"; each is a maker(variant, *, device,
...)."""


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
    revision: str | None = None,
) -> LALM:
    """Load an audio-language model: "pocket", a folder, an id on the Hugging Face hub,
    "replica:FAMILY" (random weights, for trying code) or "recorded:FOLDER". A LoRA's folder (peft)
    loads its base with it.

    `device` "auto" is the first CUDA device, else Apple's MPS, else the CPU; `dtype` "auto" is the
    checkpoint's own. `safety` sets the pocket model's safety dial. `family` names the row of the
    families table to use (default: the model type's; "auto": the generic recipe, which
    `sarsteer-lab doctor` checks).

    For large models: `device_map` spreads it over several GPUs ("auto", or transformers'
    dictionary; excludes `device`), `bits` 8 or 4 quantises its weights (bitsandbytes): states and
    vectors stay in `dtype`, and are the quantised model's own, which may differ from the full
    one's. `attention` picks the implementation ("sdpa", "eager", "flash_attention_2", ...). What
    will be downloaded, and if it will not fit, is said before. `trust_remote_code=True` runs code
    that the checkpoint brings (Qwen-Audio-Chat, Kimi-Audio): it is of older versions of
    transformers, and untested here, so expect typed prompts at best. `revision`: a branch, tag or
    commit of the hub's.

    Raises FileNotFoundError for a model that is not there or cannot be fetched, PermissionError for
    a gated one, ImportError for a package that its family needs, and ValueError for `safety` on
    another model, an option that is unknown or cannot be had, and code that is not trusted.
    """
    check_options(device, dtype, bits, family)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "family": family}
    options |= {"device_map": device_map, "bits": bits, "attention": attention}
    kind, _, variant = str(name).partition(":")
    registered = entry_points(group=GROUP, name=kind)
    local = isinstance(name, Path) or name.startswith((".", "/", "~"))
    if revision is not None and (registered or local):
        raise ValueError(
            f"revision={revision!r}: only models on the hub have revisions; {name} is here"
        )
    if registered:
        [maker] = registered
        return maker.load()(variant, safety=safety, **options)
    if safety != 1.0:
        raise ValueError(f"safety={safety} is a dial of the pocket model; {name} has none")
    folder, adapter = Path(name).expanduser() if local else name, None
    if isinstance(folder, Path) and not (folder / "config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise FileNotFoundError(
                f"{folder} is not the folder of a checkpoint: it holds no config.json"
            )
        adapter = folder
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        folder = Path(base) if Path(base).is_dir() else base
    options |= {"trust_remote_code": trust_remote_code, "revision": revision, "adapter": adapter}
    parts = load_parts(folder, name=str(name), **options)
    return LALM(*parts, name=str(name), family=family)


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
    revision: str | None = None,
    adapter: Path | None = None,
) -> tuple[Any, Any]:
    """Model and processor of a checkpoint that `load_lalm` calls `name` (`adapter`: a LoRA's
    folder); options and errors are its own."""
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


def model_class(config: Any) -> Any:
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
