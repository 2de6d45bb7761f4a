"""Capture of hidden states by hooks on the decoder layers, kept on disk if wanted.

Layer `l` is always the *output* of decoder layer `l`, 0-based, before the final norm.
(transformers' `output_hidden_states` counts from the embeddings, and its last entry is after the
final norm.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, Literal, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.families import foreign_hooks, residual_stream
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM, NonFiniteError, head_on_last_position
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.prompts import Prompt, as_prompts
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors

Ragged = Literal["audio", "all", "answer"]


@overload
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Literal["last"] = "last",
    batch_size: int = 16,
    cache: Store | None = None,
) -> Float[Tensor, "prompt layer d_model"]: ...
@overload
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Ragged,
    max_new_tokens: int = 48,
    batch_size: int = 16,
    cache: Store | None = None,
) -> list[Float[Tensor, "position layer d_model"]]: ...
@torch.no_grad()
def capture(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    layers: Sequence[int] | None = None,
    positions: Literal["last"] | Ragged = "last",
    max_new_tokens: int = 48,
    batch_size: int = 16,
    cache: Store | None = None,
) -> Float[Tensor, "prompt layer d_model"] | list[Float[Tensor, "position layer d_model"]]:
    """Hidden states of typed and spoken prompts, float32, in the order of the prompts.

    `layers` (default: all) may count from the end. `positions`: "last" is the chat format's last
    position, where the answer's first token is predicted. "audio" (every position of the clip) and
    "all" (every position but padding) give a list of tensors, as prompts differ in length. So does
    "answer": the tokens of the greedy answer, at most `max_new_tokens` and without the one that
    ends it, under whatever steering holds; a token's state is where it is read, and the next one
    predicted.

    With a `cache` (`activation_store()`), only prompts that it lacks run through the model. While
    foreign hooks sit on the model (`steer`, `project_out`, your own) the cache is neither read nor
    written: its keys could not tell them apart. States lie on the model's device.

    Raises ValueError for a layer out of range and for audio positions of a typed prompt,
    NonFiniteError for states that are not finite.
    """
    prompts = as_prompts(prompts)
    chosen = layer_indices(lalm, layers)
    if positions not in (choices := ("last", *get_args(Ragged))):
        raise ValueError(f"positions={positions!r}: choose one of {', '.join(choices)}")
    typed = [i for i, prompt in enumerate(prompts) if prompt.audio is None]
    if positions == "audio" and typed:
        raise ValueError(f"positions={positions!r}, but prompt {typed[0]} has no audio")
    answer = positions == "answer"
    gathered = Gathered(
        lalm, prompts, chosen, f"answer {max_new_tokens}" if answer else positions, cache
    )
    missing, found = [prompts[row] for row in gathered.missing], None
    passes: list[list[Any]] = [[] for _ in chosen]
    reading: Any = lalm.batches(missing, batch_size, "states")
    if answer:  # one token more: a state comes with the token after it
        reading = lalm.decode(missing, batch_size, max_new_tokens=max_new_tokens + 1)

    def keep(at: int, stream: Tensor) -> None:
        passes[at].append(_pick(stream, found, positions, lalm))

    hooks = record_states(lalm, chosen, keep)
    with closing(reading) as batches, head_on_last_position(lalm.core), hooks:
        for rows, found in batches:
            if answer:
                said = ~torch.isin(found[:, :max_new_tokens], lalm.ends)
                ends = said.cumprod(1).sum(1) + 1  # the first pass is the prompt's
                recorded = [
                    [s[1:n] for s, n in zip(torch.stack(p, 1), ends, strict=True)] for p in passes
                ]
            else:
                lalm.trunk(**found, use_cache=False)
                recorded = [once for [once] in passes]
            gathered.add([gathered.missing[row] for row in rows], recorded)
            for layer in passes:
                layer.clear()
    return gathered.states


class Gathered:
    """The states of some prompts as they come in: first what the cache keeps, then what the model
    gives.

    `states` is what `capture` returns, `missing` the indices of the prompts that the cache lacks.
    """

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Prompt],
        layers: Sequence[int],
        positions: str,
        cache: Store | None,
    ) -> None:
        self._device, self._layers = lalm.device, layers
        self.states: Any = [torch.empty(0)] * len(prompts)
        if positions == "last":
            self.states = torch.zeros(len(prompts), len(layers), lalm.d_model, device=self._device)
        self._cache = None if foreign_hooks(lalm.model) else cache
        self.missing = list(range(len(prompts)))
        if self._cache is not None:
            shared = lalm.key("states", layers, positions)
            self._keys = [content_key(shared, prompt.key) for prompt in lalm.encode(prompts)]
            self.missing = []
            for row, key in enumerate(self._keys):
                if (kept := self._cache.read(key)) is None:
                    self.missing.append(row)
                else:
                    self.states[row] = kept.to(self._device)

    def add(self, rows: Sequence[int], recorded: Sequence[Any]) -> None:
        """Take what was recorded of the prompts `rows`, by layer and prompt, and keep it for next
        time."""
        if isinstance(self.states, Tensor):
            self.states[rows] = torch.stack([layer.to(self._device) for layer in recorded], dim=1)
        else:
            for row, layers in zip(rows, zip(*recorded, strict=True), strict=True):
                self.states[row] = torch.stack(
                    [states.to(self._device) for states in layers], dim=-2
                )
        for row in rows:
            check_finite(self.states[row], row, self._layers)
            if self._cache is not None:
                self.states[row] = self._cache.write(self._keys[row], self.states[row])


def check_finite(
    states: Float[Tensor, "*position layer d_model"], row: int, layers: Sequence[int]
) -> None:
    """Raise NonFiniteError for states of prompt `row` that are not finite."""
    finite = states.isfinite().all(-1).reshape(-1, len(layers)).all(0)
    if not finite.all():
        first = min(layer for layer, fine in zip(layers, finite, strict=True) if not fine)
        raise NonFiniteError(row, f"states from layer {first} on")


def activation_store() -> Store:
    """Captured states in the user's cache folder."""
    return Store(cache_folder() / "activations")


def layer_indices(lalm: LALM, layers: Sequence[int] | None) -> tuple[int, ...]:
    """`layers` as indices from 0 (None: all). Raises ValueError if one is out of range or
    repeated."""
    if layers is None:
        return tuple(range(lalm.n_layers))
    chosen = tuple(layer + lalm.n_layers if layer < 0 else layer for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(lalm.n_layers)):
        raise ValueError(
            f"layers={list(layers)}: give each of 0 to {lalm.n_layers - 1} at most once"
        )
    return chosen


def chosen_layers(
    lalm: LALM, vectors: SteeringVectors, layers: Sequence[int] | None
) -> tuple[int, ...]:
    """The layers to act on. Raises ValueError if the vectors do not fit the model or lack one of
    them."""
    if vectors.d_model != lalm.d_model or max(vectors.layers) >= lalm.n_layers:
        raise ValueError(
            f"vectors of width {vectors.d_model} for layers up to {max(vectors.layers)} do not fit "
            f"{lalm.name}, which has {lalm.n_layers} layers of width {lalm.d_model}"
        )
    chosen = vectors.layers if layers is None else layer_indices(lalm, layers)
    if missing := set(chosen) - set(vectors.layers):
        raise ValueError(f"no vector for layers {sorted(missing)}; there are {vectors.layers}")
    return chosen


def _pick(
    stream: Float[Tensor, "batch position d_model"], inputs: Any, positions: str, lalm: LALM
) -> Float[Tensor, "batch d_model"] | list[Float[Tensor, "position d_model"]]:
    """Each row's state or states at the wanted positions: copies, so that the stream is not kept
    alive."""
    if positions in ("last", "answer"):
        return stream[:, -1].to(torch.float32, copy=True)
    heard = inputs["input_ids"] == lalm.audio_token_id
    wanted = heard if positions == "audio" else inputs["attention_mask"].bool()
    return [row[at].float() for row, at in zip(stream, wanted.to(stream.device), strict=True)]


@contextmanager
def record_states(
    lalm: LALM, layers: Sequence[int], keep: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Hooks, while the block lasts, that hand the stream after each of `layers` to `keep`, with its
    place."""
    text_config = lalm.text_config

    def hook(_module: Any, _args: Any, output: Any, at: int) -> None:
        keep(at, residual_stream(output, text_config))

    with ExitStack() as hooks:
        for at, layer in enumerate(layers):
            hooks.enter_context(lalm.layers[layer].register_forward_hook(partial(hook, at=at)))
        yield
