"""Capture of hidden states by hooks on the decoder layers.

Layer `l` is always the *output* of decoder layer `l`, 0-based, before the final norm.
(transformers' `output_hidden_states` counts from the embeddings, and its last entry is after the
final norm.) All states are float32, in the order of the prompts, on the model's device. `keeping`
keeps them on disk; `engine.contrast` reads several texts behind the same clips faster.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.access import in_this_thread
from sarsteer_lab.batch import Prompts
from sarsteer_lab.decoding import ANSWER_TOKENS, NonFiniteError
from sarsteer_lab.families import Output, residual_stream
from sarsteer_lab.lalm import LALM

Stream = Float[Tensor, "row position d_model"]
"""The residual stream after a layer, of the rows of a batch."""


@torch.no_grad()
def capture(
    lalm: LALM, prompts: Prompts, *, layers: Sequence[int] | None = None, batch_size: int = 16
) -> Float[Tensor, "prompt layer d_model"]:
    """Hidden states at the prompts' last position, where the answer's first token is predicted.

    `layers` (default: all) may count from the end. Raises ValueError for a layer out of range,
    NonFiniteError for states that are not finite.
    """
    indices = lalm.layer_indices(layers)
    encoded = lalm.encode(prompts)
    shape = (len(encoded), len(indices), lalm.d_model)
    states = torch.zeros(shape, dtype=torch.float32, device=lalm.device)
    for batch in lalm.batches(encoded, batch_size, "states"):
        with record_states(lalm, indices) as recorded:
            lalm.read(batch)
        states[batch.prompt_numbers] = first_pass(lalm, recorded)
    check_finite(states, indices)
    return states


@torch.no_grad()
def capture_positions(
    lalm: LALM,
    prompts: Prompts,
    positions: Literal["audio", "all"] = "all",
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
) -> list[Float[Tensor, "position layer d_model"]]:
    """Hidden states at every position of the clip ("audio"), or at all of them but padding.

    A list, as prompts differ in length. Raises as `capture` does, and ValueError for audio
    positions of a typed prompt.
    """
    if positions not in ("audio", "all"):
        raise ValueError(f"positions={positions!r}: choose audio or all")
    indices = lalm.layer_indices(layers)
    encoded = lalm.encode(prompts)
    for number, prompt in enumerate(encoded):
        if positions == "audio" and prompt.waveform is None:
            raise ValueError(f"positions={positions!r}, but prompt {number} has no audio")
    states = [torch.empty(0)] * len(encoded)
    for batch in lalm.batches(encoded, batch_size, "states"):
        wanted = batch.inputs["attention_mask"].bool()  # row position
        if positions == "audio":
            wanted = batch.inputs["input_ids"] == lalm.audio_token_id
        with record_states(lalm, indices, partial(at_positions, wanted=wanted)) as recorded:
            lalm.read(batch)
        for row, number in enumerate(batch.prompt_numbers):
            by_layer = [passes[0][row].to(lalm.device) for passes in recorded]
            states[number] = torch.stack(by_layer, dim=1)
    check_finite(states, indices)
    return states


@torch.no_grad()
def capture_answer(
    lalm: LALM,
    prompts: Prompts,
    *,
    layers: Sequence[int] | None = None,
    max_new_tokens: int = ANSWER_TOKENS,
    batch_size: int = 16,
) -> list[Float[Tensor, "position layer d_model"]]:
    """Hidden states at the tokens of the greedy answers, without the one that ends an answer.

    A token's state is where it is read and the next one predicted; what steering holds meanwhile
    acts. Raises as `capture` does.
    """
    indices = lalm.layer_indices(layers)
    encoded = lalm.encode(prompts)
    states = [torch.empty(0)] * len(encoded)
    for batch in lalm.batches(encoded, batch_size, "answers"):
        with record_states(lalm, indices) as recorded:
            # One token more: a token is read, and has a state, when the next one is decoded.
            tokens = lalm.decode(batch, max_new_tokens=max_new_tokens + 1)
        # Padding too: an answer may end at a string, without a token that ends it.
        ends = torch.cat([lalm.ends, lalm.ends.new_tensor([lalm.tokenizer.pad_token_id])])
        no_end = ~torch.isin(tokens[:, :max_new_tokens], ends)  # row token
        lengths = no_end.cumprod(dim=1).sum(dim=1).tolist()  # 0 from the first end on
        by_layer = [torch.stack(passes, dim=1).to(lalm.device) for passes in recorded]
        by_row = torch.stack(by_layer, dim=2)  # row pass layer d_model; the first pass: the prompt
        for number, length, passes in zip(batch.prompt_numbers, lengths, by_row, strict=True):
            states[number] = passes[1 : 1 + length].clone()
    check_finite(states, indices)
    return states


def last_position(stream: Stream) -> Float[Tensor, "row d_model"]:
    """Each row's state at the last position: a copy, so that the stream is not kept alive."""
    return stream[:, -1].to(torch.float32, copy=True)


def at_positions(stream: Stream, wanted: Tensor) -> list[Float[Tensor, "position d_model"]]:
    """Each row's states at the positions that `wanted` (row position, bool) marks."""
    states = []
    for row, marks in zip(stream, wanted.to(stream.device), strict=True):
        states.append(row[marks].float())
    return states


@contextmanager
def record_states(
    lalm: LALM, layers: Sequence[int], pick: Callable[[Stream], Any] = last_position
) -> Iterator[list[list[Any]]]:
    """Hooks, while the block lasts, that note what `pick` takes of the stream after each layer.

    Gives a list for each of `layers`, in their order, that grows by one entry a forward pass.
    """
    recorded: list[list[Any]] = [[] for _ in layers]

    def note(notes: list[Any], _module: object, _args: object, output: Output) -> None:
        notes.append(pick(residual_stream(output, lalm.text_config)))

    with ExitStack() as hooks:
        hooks.enter_context(lalm.access.alone())
        for layer, notes in zip(layers, recorded, strict=True):
            hook = in_this_thread(partial(note, notes))
            hooks.enter_context(lalm.layers[layer].register_forward_hook(hook))
        yield recorded


def first_pass(lalm: LALM, recorded: Sequence[list[Tensor]]) -> Float[Tensor, "row layer d_model"]:
    """What `record_states` has noted of the first forward pass, on the model's device."""
    return torch.stack([passes[0].to(lalm.device) for passes in recorded], dim=1)


def check_finite(
    states: Sequence[Float[Tensor, "*position layer d_model"]] | Tensor, layers: Sequence[int]
) -> None:
    """Raise NonFiniteError, naming prompt and first layer, for states that are not finite."""
    for number, of_prompt in enumerate(states):
        finite = of_prompt.isfinite().all(-1).reshape(-1, len(layers)).all(0)  # layer
        if not finite.all():
            broken = [layers[column] for column in (~finite).nonzero().flatten().tolist()]
            raise NonFiniteError(number, f"states from layer {min(broken)} on")
