"""A hash of all that decides what a model computes: kept results are never taken for another model's."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

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
