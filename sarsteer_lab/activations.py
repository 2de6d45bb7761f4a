"""Capture of hidden states by hooks on the decoder layers, and a cache of them on disk.

Layer `l` is always the *output* of decoder layer `l`, 0-based, before the final norm. (transformers'
`output_hidden_states` counts from the embeddings, and its last entry is after the final norm.)
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BatchFeature

from sarsteer_lab.families import residual_stream
from sarsteer_lab.lalm import LALM, Prompt, head_on_last_position

Fixed = Literal["last", "audio_mean"]
Ragged = Literal["audio", "all"]


class ActivationCache:
    """Captured states in a folder, one safetensors file per prompt.

    A file's name hashes everything its content depends on: model fingerprint, rendered prompt, audio
    samples, layers, dtype and positions. So a rerun reads instead of computing, and a state of another model,
    prompt or clip is never found. Files appear whole or not at all; the folder may be deleted at any time.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def key(self, lalm: LALM, prompt: Prompt, layers: Sequence[int], positions: str) -> str:
        """The name under which the states of one prompt are kept (64 hexadecimal digits)."""
        clip = lalm.waveform(prompt)
        audio = "" if clip is None else hashlib.sha256(clip.tobytes()).hexdigest()
        parts = (lalm.fingerprint, lalm.chat(prompt), audio, str(tuple(layers)), str(lalm.dtype), positions)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def read(self, key: str) -> Tensor | None:
        """The kept states, or None. A damaged file counts as absent, with a warning: it will be rewritten."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            return load_file(path)["states"]
        except (SafetensorError, KeyError, OSError) as error:
            warnings.warn(f"{path} is damaged ({error}); its states are computed again", stacklevel=2)
            return None

    def write(self, key: str, states: Tensor) -> None:
        """Keep the states of one prompt; a reader in another process sees the whole file or none."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.close(handle)
        try:
            save_file({"states": states.detach().cpu().contiguous()}, scratch)
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


@overload
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Fixed = "last",
    batch_size: int = 16,
    cache: ActivationCache | None = None,
) -> Float[Tensor, "prompt layer d_model"]: ...
@overload
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Ragged,
    batch_size: int = 16,
    cache: ActivationCache | None = None,
) -> list[Float[Tensor, "position layer d_model"]]: ...
@torch.no_grad()
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Fixed | Ragged = "last",
    batch_size: int = 16,
    cache: ActivationCache | None = None,
) -> Float[Tensor, "prompt layer d_model"] | list[Float[Tensor, "position layer d_model"]]:
    """Hidden states of typed and spoken prompts, float32 on the model's device, in the order of the prompts.

    `layers` (default: all) may count from the end. `positions`: "last" is the chat format's last position,
    where the answer's first token is predicted; "audio_mean" the mean over the clip's positions; both give
    one state per prompt and layer. "audio" (every position of the clip) and "all" (every position but
    padding) give a list of tensors, as prompts differ in length.

    With a `cache`, only prompts that it lacks run through the model. While foreign hooks sit on the model
    (`steer`, `ablate`, your own) the cache is neither read nor written: its key could not tell them apart.

    Raises ValueError for a layer out of range and for audio positions of a typed prompt.
    """
    chosen = layer_indices(lalm, layers)
    if positions not in ("last", "audio_mean", "audio", "all"):
        raise ValueError(f"positions={positions!r}: choose 'last', 'audio_mean', 'audio' or 'all'")
    typed = [i for i, prompt in enumerate(prompts) if prompt.audio is None]
    if positions.startswith("audio") and typed:
        raise ValueError(f"positions={positions!r}, but prompt {typed[0]} has no audio")

    states: list[Tensor | None] = [None] * len(prompts)
    keys: list[str] = []
    if cache is not None and not _has_foreign_hooks(lalm):
        keys = [cache.key(lalm, prompt, chosen, positions) for prompt in prompts]
        states = [None if (kept := cache.read(key)) is None else kept.to(lalm.device) for key in keys]
    missing = [i for i, kept in enumerate(states) if kept is None]

    with (
        closing(lalm.batches([prompts[i] for i in missing], batch_size, "states")) as batches,
        head_on_last_position(lalm.core),
    ):
        for rows, inputs in batches:
            wanted = _wanted_positions(inputs, positions, lalm)
            with _record(lalm, chosen, partial(_pick, wanted=wanted, positions=positions)) as recorded:
                lalm.trunk(**inputs, use_cache=False)
            for i, row in enumerate(rows):
                state = torch.stack([recorded[layer][i] for layer in chosen], dim=-2)
                states[missing[row]] = state
                if cache is not None and keys:
                    cache.write(keys[missing[row]], state)

    found = [state for state in states if state is not None]
    if positions in ("audio", "all"):
        return found
    return torch.stack(found) if found else torch.empty(0, len(chosen), lalm.d_model, device=lalm.device)


def layer_indices(lalm: LALM, layers: Sequence[int] | None) -> tuple[int, ...]:
    """`layers` as indices from 0 (None: all). Raises ValueError if one is out of range or repeated."""
    if layers is None:
        return tuple(range(lalm.n_layers))
    chosen = tuple(layer + lalm.n_layers if layer < 0 else layer for layer in layers)
    if (
        not chosen
        or len(set(chosen)) < len(chosen)
        or not all(0 <= layer < lalm.n_layers for layer in chosen)
    ):
        raise ValueError(f"layers={list(layers)}: give each of 0 to {lalm.n_layers - 1} at most once")
    return chosen


def _wanted_positions(inputs: BatchFeature, positions: str, lalm: LALM) -> Bool[Tensor, "batch position"]:
    """Which positions of each row belong to `positions`; unused for "last", the final column."""
    if not positions.startswith("audio"):
        return inputs["attention_mask"].bool()
    return inputs["input_ids"] == lalm.audio_token_id


def _pick(
    stream: Float[Tensor, "batch position d_model"], *, wanted: Bool[Tensor, "batch position"], positions: str
) -> list[Float[Tensor, "*position d_model"]]:
    """The wanted part of a layer's output per row, in float32, copied so that the rest is not kept alive."""
    if positions == "last":
        return list(stream[:, -1].to(wanted.device, torch.float32, copy=True))
    rows = [
        row[keep.to(row.device)].float().to(wanted.device) for row, keep in zip(stream, wanted, strict=True)
    ]
    return [row.mean(0) for row in rows] if positions == "audio_mean" else rows


@contextmanager
def _record(
    lalm: LALM, layers: Sequence[int], pick: Callable[[Tensor], Sequence[Tensor]]
) -> Iterator[dict[int, Sequence[Tensor]]]:
    """Hooks that keep `pick(residual stream)` of each layer under its index; they go whatever happens."""
    recorded: dict[int, Sequence[Tensor]] = {}
    text_config = lalm.text_config
    handles = []

    def hook(_module: Any, _args: Any, output: Any, layer: int) -> None:
        recorded[layer] = pick(residual_stream(output, text_config))

    try:
        for layer in layers:
            handles.append(lalm.layers[layer].register_forward_hook(partial(hook, layer=layer)))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _has_foreign_hooks(lalm: LALM) -> bool:
    """Whether anything but transformers' own (inert) output recorders is hooked to the model."""
    for module in lalm.model.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if not getattr(hook, "__module__", "").startswith("transformers."):
                return True
    return False
