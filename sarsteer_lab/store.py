"""A hash of all that decides what a model computes: kept results are never taken for another model's."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def data_folder() -> Path:
    """The shipped prompts, clips and pocket weights: `sarsteer_lab/_data` in a wheel, `data/` in a checkout.

    Raises FileNotFoundError if the installation carries no data.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the data of sarsteer-lab are not beside {package} (neither _data/ in it nor data/ next to it): "
        "install the wheel, or install a checkout with `pip install -e .`"
    )


def cache_folder() -> Path:
    """Where assembled models and captured activations are kept; created if missing.

    The environment variable `SARSTEER_CACHE` names it, else it is `~/.cache/sarsteer-lab`. Everything in it
    can be made again, so it may be deleted at any time.
    """
    folder = Path(os.environ.get("SARSTEER_CACHE") or "~/.cache/sarsteer-lab").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Tensors up to this many elements go into the fingerprint whole, longer ones by as many evenly spaced
# elements (every low-rank or full-rank change of a weight matrix touches those too). Models below the
# second limit are hashed whole.
FINGERPRINT_SAMPLE = 65_536
FINGERPRINT_WHOLE_BELOW = 2**30


@torch.no_grad()
def fingerprint_of(model: Any, processor: Any, state: dict[str, Tensor]) -> str:
    """sha256 over configuration, what turns prompts into inputs, and weights (see `LALM.fingerprint`)."""
    settings: dict[str, Any] = {
        "config": _without_origin(model.config.to_dict()),
        # Most families call it a feature extractor, some an audio processor.
        "features": [
            getattr(getattr(processor, part, None), "to_dict", dict)()
            for part in ("feature_extractor", "audio_processor")
        ],
        "vocabulary": sorted(getattr(processor, "tokenizer", processor).get_vocab().items()),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    whole = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) < FINGERPRINT_WHOLE_BELOW
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        if not whole and flat.numel() > FINGERPRINT_SAMPLE:
            flat = flat[:: flat.numel() // FINGERPRINT_SAMPLE]
        digest.update(flat.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what tells only where a checkpoint came from (the weights' dtype counts)."""
    origin = {"_name_or_path", "transformers_version", "architectures", "dtype"}
    kept = {key: value for key, value in config.items() if key not in origin}
    return {key: _without_origin(value) if isinstance(value, dict) else value for key, value in kept.items()}
