"""`load_lalm`: an audio-language model by its name, a folder, or an id on the hub."""

import json
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import torch

from sarsteer_lab.checkpoints import DeviceMap, check_options, load_parts
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.dial import load_pocket
from sarsteer_lab.probe.recorded import load_recorded
from sarsteer_lab.probe.replica import load_replica
from sarsteer_lab.probe.tape import being_recorded, record_on

DEFAULTS: dict[str, object] = {"device": "auto", "dtype": "auto", "trust_remote_code": False}
"""Options that are something when they are not given; all others are None then."""


def load_lalm(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    safety: float | None = None,
    understanding: float | None = None,
    spoken_safety: float | None = None,
    family: str | None = None,
    device_map: DeviceMap | None = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> LALM:
    """Load an audio-language model by its name, from a folder, or from the Hugging Face hub.

    `name` is "pocket", a folder, an id on the hub, "replica:FAMILY" (random weights, for trying
    code), or "recorded:FOLDER" (what was recorded of a model, without its weights). A LoRA's folder
    (peft) loads its base with it. A `Path` is always a path.

    `device` "auto" is the first CUDA device, else Apple's MPS, else the CPU; `dtype` "auto" is the
    checkpoint's own. `safety`, `understanding` and `spoken_safety` set the pocket model's dials
    (see `pocket.dial`). `family` names the row of the families table to use (default: the model
    type's; "auto": the generic recipe, which `sarsteer-lab doctor` checks).

    For large models: `device_map` spreads it over several GPUs ("auto", or transformers'
    dictionary; excludes `device`), `bits` 8 or 4 quantises its weights (bitsandbytes): states and
    vectors stay in `dtype`, and are the quantised model's own, which may differ from the full
    one's. `attention` picks the implementation ("sdpa", "eager", "flash_attention_2", ...). What
    will be downloaded, and if it will not fit, is said before. `trust_remote_code=True` runs code
    that the checkpoint brings (Qwen-Audio-Chat, Kimi-Audio): it is of older versions of
    transformers, and untested here, so expect typed prompts at best. `revision`: a branch, tag or
    commit of the hub's.

    Raises FileNotFoundError for a model that is not there or cannot be fetched, PermissionError for
    a gated one, ImportError for a package that its family needs, and ValueError for a dial on
    another model, an option that is unknown or cannot be had, and code that is not trusted.
    """
    options: dict[str, object] = {"device": device, "dtype": dtype, "safety": safety}
    options |= {
        "understanding": understanding,
        "spoken_safety": spoken_safety,
        "family": family,
        "device_map": device_map,
        "bits": bits,
        "attention": attention,
    }
    options |= {"trust_remote_code": trust_remote_code, "revision": revision}
    check_options(device, dtype, bits, family)
    maker: Callable[..., LALM] = load_checkpoint
    source: str | Path = name
    kind, _, variant = str(name).partition(":")
    if isinstance(name, str) and kind in NAMED:  # a Path is always a path
        maker, source = NAMED[kind], variant
    given = {}
    for option, value in options.items():
        if value is not None and value != DEFAULTS.get(option):
            given[option] = value
    if refused := sorted(given.keys() - signature(maker).parameters.keys()):
        raise ValueError(f"{name} has no option {refused[0]} ({given[refused[0]]!r}): leave it out")
    return maker(source, **given)


def load_checkpoint(
    source: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
    device_map: DeviceMap | None = None,
    bits: int | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> LALM:
    """A model from a folder (also a LoRA's) or an id on the hub; see `load_lalm`."""
    folder: str | Path = source
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or Path(source).is_dir():
        folder = Path(source).expanduser()
        if revision is not None:
            here = f"only models on the hub have revisions; {source} is here"
            raise ValueError(f"revision={revision!r}: {here}")
    adapter = None
    if Path(folder).is_file():
        raise NotADirectoryError(f"{source} is a file: give the folder of a checkpoint")
    if isinstance(folder, Path) and not (folder / "config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            missing = "it holds no config.json"
            if (folder / "adapter_config.json").is_file():
                missing = "its LoRA has no adapter_model.safetensors (a .bin is not read)"
            raise FileNotFoundError(f"{folder} is not the folder of a checkpoint: {missing}")
        adapter = folder
        base = base_of_adapter(folder)
        folder = Path(base) if Path(base).is_dir() else base
        _tell_own_tokenizer(adapter, folder)
    model, processor = load_parts(
        folder,
        name=str(source),
        device=device,
        dtype=dtype,
        family=family,
        device_map=device_map,
        bits=bits,
        attention=attention,
        trust_remote_code=trust_remote_code,
        revision=revision,
        adapter=adapter,
    )
    return LALM(model, processor, name=str(source), family=family)


def base_of_adapter(folder: Path) -> str:
    """The base model of the LoRA in a folder.

    Raises ValueError if its settings do not name it, FileNotFoundError if they name a folder that
    is not there.
    """
    path = folder / "adapter_config.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = f"cannot be read as a LoRA's settings ({type(error).__name__}: {error})"
        raise ValueError(f"{path}: {reason}: copy the folder again") from error
    if not isinstance(base, str) or not base:
        advice = "write its folder or hub id into base_model_name_or_path"
        raise ValueError(f"{path}: does not name the LoRA's base model: {advice}")
    is_path = Path(base).is_absolute() or base.startswith((".", "~")) or base.count("/") > 1
    if is_path and not Path(base).is_dir():
        advice = "write its folder or hub id into base_model_name_or_path"
        raise FileNotFoundError(f"{path}: the LoRA's base model {base} is not here: {advice}")
    return base


def _tell_own_tokenizer(adapter: Path, base: str | Path) -> None:
    """Say that a LoRA's folder holds a tokenizer or chat template other than the base's."""
    for name in ("tokenizer.json", "chat_template.jinja"):
        own, usual = adapter / name, Path(base) / name
        if own.is_file() and not (usual.is_file() and usual.read_bytes() == own.read_bytes()):
            advice = "load both yourself and pass them to LALM(...) if the LoRA was trained with it"
            print(f"{own} is not read, but the one of {base}: {advice}", file=sys.stderr)


def load_recording(folder: str) -> LALM:
    """The model of which a recording is being made in `folder`: what is kept of it goes there.

    `load_lalm("recording:FOLDER")`, for the kernels of `sarsteer-lab record`.
    """
    manifest = being_recorded(Path(folder))
    lalm = load_lalm(manifest.model)
    return record_on(Path(folder), manifest, lalm)


NAMED: dict[str, Callable[..., LALM]] = {
    "pocket": load_pocket,
    "replica": load_replica,
    "recorded": load_recorded,
    "recording": load_recording,
}
"""Makers of models by the first part of their names, "NAME" or "NAME:VARIANT"."""
