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

from sarsteer_lab.engine.buffers import StateBuffer
from sarsteer_lab.families import has_foreign_hooks, residual_stream
from sarsteer_lab.lalm import LALM, head_on_last_position
from sarsteer_lab.prompts import Prompt

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
        return self.keys(lalm, [prompt], layers, positions)[0]

    def keys(self, lalm: LALM, prompts: Sequence[Prompt], layers: Sequence[int], positions: str) -> list[str]:
        """`key` of several prompts; whether the model has changed is looked up once."""
        fingerprint, names = lalm.fingerprint, []
        for prompt in prompts:
            clip = lalm.waveform(prompt)
            audio = "" if clip is None else hashlib.sha256(clip.tobytes()).hexdigest()
            parts = (fingerprint, lalm.chat(prompt), audio, str(tuple(layers)), str(lalm.dtype), positions)
            names.append(hashlib.sha256("\0".join(parts).encode()).hexdigest())
        return names

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
    budget: int | None = None,
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
    budget: int | None = None,
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
    budget: int | None = None,
) -> Float[Tensor, "prompt layer d_model"] | list[Float[Tensor, "position layer d_model"]]:
    """Hidden states of typed and spoken prompts, float32, in the order of the prompts.

    `layers` (default: all) may count from the end. `positions`: "last" is the chat format's last position,
    where the answer's first token is predicted; "audio_mean" the mean over the clip's positions; both give
    one state per prompt and layer. "audio" (every position of the clip) and "all" (every position but
    padding) give a list of tensors, as prompts differ in length.

    With a `cache`, only prompts that it lacks run through the model. While foreign hooks sit on the model
    (`steer`, `ablate`, your own) the cache is neither read nor written: its key could not tell them apart.

    States lie on the model's device. Where one per prompt would take more than `budget` bytes there (default:
    half of what is free), they go to pinned host memory, past that budget to a file (`StateBuffer`).

    Raises ValueError for a layer out of range and for audio positions of a typed prompt.
    """
    chosen = layer_indices(lalm, layers)
    if positions not in ("last", "audio_mean", "audio", "all"):
        raise ValueError(f"positions={positions!r}: choose 'last', 'audio_mean', 'audio' or 'all'")
    typed = [i for i, prompt in enumerate(prompts) if prompt.audio is None]
    if positions.startswith("audio") and typed:
        raise ValueError(f"positions={positions!r}, but prompt {typed[0]} has no audio")

    keys = cache_keys(cache, lalm, prompts, chosen, positions)
    if positions in ("audio", "all"):
        return _capture_ragged(lalm, prompts, chosen, positions, batch_size, cache, keys)
    buffer = state_buffer(lalm, len(prompts), chosen, cache, budget)
    missing = take_kept(cache, keys, buffer, len(prompts))
    with (
        closing(lalm.batches([prompts[i] for i in missing], batch_size, "states")) as batches,
        head_on_last_position(lalm.core),
    ):
        for batch, inputs in batches:
            rows = [missing[row] for row in batch]
            wanted = _wanted_positions(inputs, positions, lalm)

            def keep(layer: int, stream: Tensor, rows: list[int] = rows, wanted: Tensor = wanted) -> None:
                last = positions == "last"
                buffer.put(rows, layer, stream[:, -1] if last else _mean_over(stream, wanted))

            with record_states(lalm, chosen, keep):
                lalm.trunk(**inputs, use_cache=False)
            keep_for_next_time(cache, keys, buffer, rows)
    return buffer.finish()


def _capture_ragged(
    lalm: LALM,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    positions: str,
    batch_size: int,
    cache: ActivationCache | None,
    keys: Sequence[str],
) -> list[Float[Tensor, "position layer d_model"]]:
    """All states of the wanted positions, which differ in number from prompt to prompt."""
    states = [cache.read(key) if cache is not None else None for key in keys] or [None] * len(prompts)
    missing = [i for i, kept in enumerate(states) if kept is None]
    with (
        closing(lalm.batches([prompts[i] for i in missing], batch_size, "states")) as batches,
        head_on_last_position(lalm.core),
    ):
        for rows, inputs in batches:
            wanted = _wanted_positions(inputs, positions, lalm)
            recorded: list[list[Tensor]] = []

            def keep(_layer: int, stream: Tensor, recorded: list = recorded, wanted: Tensor = wanted) -> None:
                # Copied, so that the rest of the stream is not kept alive.
                inside = zip(stream, wanted.to(stream.device), strict=True)
                recorded.append([row[at].to(wanted.device, torch.float32) for row, at in inside])

            with record_states(lalm, layers, keep):
                lalm.trunk(**inputs, use_cache=False)
            for row, layered in zip(rows, zip(*recorded, strict=True), strict=True):
                states[missing[row]] = torch.stack(layered, dim=-2)
                if cache is not None and keys:
                    cache.write(keys[missing[row]], torch.stack(layered, dim=-2))
    return [state.to(lalm.device) for state in states if state is not None]


def cache_keys(
    cache: ActivationCache | None,
    lalm: LALM,
    prompts: Sequence[Prompt],
    layers: Sequence[int],
    positions: str,
) -> list[str]:
    """The prompts' keys in `cache`; none if there is no cache or it may not be used."""
    if cache is None or has_foreign_hooks(lalm.model):
        return []
    return cache.keys(lalm, prompts, layers, positions)


def state_buffer(
    lalm: LALM, prompts: int, layers: Sequence[int], cache: ActivationCache | None, budget: int | None
) -> StateBuffer:
    """Room for one state per prompt and layer; past all budgets it lies beside the cache's files."""
    folder = None if cache is None else cache.folder
    return StateBuffer(prompts, len(layers), lalm.d_model, lalm.device, folder=folder, budget=budget)


def take_kept(
    cache: ActivationCache | None, keys: Sequence[str], buffer: StateBuffer, prompts: int
) -> list[int]:
    """Put what the cache keeps into the buffer; the indices of the prompts that it lacks."""
    missing = []
    for row in range(prompts):
        kept = cache.read(keys[row]) if cache is not None and keys else None
        if kept is None:
            missing.append(row)
        else:
            buffer.states[row] = kept.to(buffer.states.device)
    return missing


def keep_for_next_time(
    cache: ActivationCache | None, keys: Sequence[str], buffer: StateBuffer, rows: Sequence[int]
) -> None:
    """Write the states of the prompts `rows` from the buffer to the cache, if there is one."""
    if cache is not None and keys:
        states = buffer.finish()
        for row in rows:
            cache.write(keys[row], states[row])


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


def _mean_over(
    stream: Float[Tensor, "batch position d_model"], wanted: Bool[Tensor, "batch position"]
) -> Float[Tensor, "batch d_model"]:
    """Each row's mean over its wanted positions, in float32."""
    inside = zip(stream, wanted.to(stream.device), strict=True)
    return torch.stack([row[at].float().mean(0) for row, at in inside])


@contextmanager
def record_states(lalm: LALM, layers: Sequence[int], keep: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Hooks that hand the residual stream after each of `layers` to `keep`, with its place in `layers`. They
    go whatever happens.
    """
    text_config = lalm.text_config
    handles = []

    def hook(_module: Any, _args: Any, output: Any, at: int) -> None:
        keep(at, residual_stream(output, text_config))

    try:
        for at, layer in enumerate(layers):
            handles.append(lalm.layers[layer].register_forward_hook(partial(hook, at=at)))
        yield
    finally:
        for handle in handles:
            handle.remove()
