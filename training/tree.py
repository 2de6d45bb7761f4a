"""Clips in the chat with two continuations each, behind one prefix: the batch and its losses.

A tree-shaped mask lets "repeat" and "answer" both read the clip, and neither the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM

from training.teacher import Frame, TypedAnswer, answer_divergence

CLIP, REPEAT, ANSWER, PADDING = range(4)


@dataclass(frozen=True)
class Branches:
    """Lengths of a row's pieces: the shared prefix, the repeat branch and the answer branch."""

    shared: int
    repeat: int
    answer: int

    @property
    def fork(self) -> int:
        """Where the repeat branch ends and the answer branch begins."""
        return self.shared + self.repeat

    @property
    def end(self) -> int:
        """Where the answer branch ends."""
        return self.fork + self.answer


def tree_batch(
    lm: LlamaForCausalLM,
    frame: Frame,
    outputs: Sequence[Float[Tensor, "token d_model"]],
    given: Sequence[Sequence[int]],
    answers: Sequence[TypedAnswer | None],
    prefix: int,
) -> tuple[
    Float[Tensor, "clip position d_model"],
    Int[Tensor, "clip position"],
    Float[Tensor, "clip 1 position prefix+position"],
    list[Branches],
]:
    """Embeddings, positions, additive tree mask and the layout of a batch.

    The mask is over `prefix` cached positions, then the row. `given` are the transcripts as they
    are read.
    """
    embed = lm.get_input_embeddings()
    dtype = embed.weight.dtype
    rows, layout = [], []
    for audio, transcript, answer in zip(outputs, given, answers, strict=True):
        repeat = [*frame.repeat, *transcript]
        reply = [*frame.answer, *answer.tokens[:-1]] if answer else []
        tokens = torch.tensor(repeat + reply, device=lm.device)
        rows.append(torch.cat([audio.to(dtype), embed(tokens)]))
        layout.append(Branches(len(audio), len(repeat), len(reply)))
    width = max(map(len, rows))
    embeddings = torch.stack([F.pad(row, (0, 0, 0, width - len(row))) for row in rows])
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    branch = torch.full((len(rows), width), PADDING)
    for number, part in enumerate(layout):
        positions[number, : part.fork] = torch.arange(part.fork)
        positions[number, part.fork : part.end] = part.shared + torch.arange(part.answer)
        branch[number, : part.shared] = CLIP
        branch[number, part.shared : part.fork] = REPEAT
        branch[number, part.fork : part.end] = ANSWER
    mask = tree_mask(branch, prefix, dtype)
    return embeddings, (positions + prefix).to(lm.device), mask.to(lm.device), layout


def tree_mask(
    branch: Int[Tensor, "clip position"], prefix: int, dtype: torch.dtype
) -> Float[Tensor, "clip 1 position prefix+position"]:
    """0 where a position reads another: the prefix, and earlier ones of the clip or its branch."""
    rows, width = branch.shape
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    read, reading = branch[:, None, :], branch[:, :, None]
    visible = causal & ((read == CLIP) | (read == reading))
    known = torch.ones(rows, width, prefix, dtype=torch.bool)
    visible = torch.cat([known, visible], -1)
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def losses(
    lm: LlamaForCausalLM,
    frame: Frame,
    hidden: Float[Tensor, "clip position d_model"],
    layout: Sequence[Branches],
    transcripts: Sequence[Sequence[int]],
    answers: Sequence[TypedAnswer | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Transcript cross-entropy per token, KL(typed || spoken) over the answer's start.

    The third is the KL of the answer's first token alone.
    """
    repeating, wanted, answering, top, log_probs = [], [], [], [], []
    for row, part, transcript, answer in zip(hidden, layout, transcripts, answers, strict=True):
        # What says a token stands before it: the instruction's last position says the first.
        start = part.shared + len(frame.repeat) - 1
        repeating.append(row[start : part.fork])
        wanted += [*transcript, frame.end]
        if answer:
            start = part.fork + len(frame.answer) - 1
            answering.append(row[start : part.end])
            top.append(answer.top)
            log_probs.append(answer.log_probs)
    labels = torch.tensor(wanted, device=lm.device)
    logits = lm.lm_head(torch.cat(repeating)).float()
    repeat = F.cross_entropy(logits, labels)
    if not answering:
        zero = repeat.new_zeros(())
        return repeat, zero, zero
    logits = lm.lm_head(torch.stack(answering))
    divergence = answer_divergence(logits, torch.stack(top), torch.stack(log_probs))
    return repeat, divergence.mean(), divergence[:, 0].mean()
