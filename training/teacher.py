"""What stage (e) holds the spoken request to: the frozen model's answers to the *typed* one, and
the fixed token sequences of the chat around both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2AudioProcessor,
)

from sarsteer_lab.course.hearing import REPEAT
from sarsteer_lab.prompts import INSTRUCTION

ANSWER_TOKENS = 4
TEACHER_TOP = 64


@dataclass(frozen=True)
class Frame:
    """The fixed token sequences around a clip, cut out of the chat template so that they are
    exactly its tokens.
    """

    before: list[int]
    repeat: list[int]
    answer: list[int]
    typed_before: list[int]
    typed_after: list[int]
    end: int


def chat_frame(processor: Qwen2AudioProcessor) -> Frame:
    """Render the processor's chat template around a clip and split it at the audio token."""
    tokenizer = processor.tokenizer

    def split(content: list[dict] | str, mark: str) -> list[list[int]]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return [tokenizer(part, add_special_tokens=False).input_ids for part in text.split(mark)]

    audio = {"type": "audio", "audio": None}
    before, repeat = split([audio, {"type": "text", "text": REPEAT}], "<|AUDIO|>")
    _, answer = split([audio, {"type": "text", "text": INSTRUCTION}], "<|AUDIO|>")
    typed_before, typed_after = split("\0", "\0")
    return Frame(
        before,
        repeat,
        answer,
        typed_before,
        typed_after,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )


class PrefixCache:
    """Keys and values of a fixed prompt prefix, computed once and repeated for each batch."""

    def __init__(self, lm: LlamaForCausalLM, tokens: Sequence[int]) -> None:
        """Run `tokens` through `lm` once."""
        self.length = len(tokens)
        with torch.no_grad():
            ids = torch.tensor([list(tokens)], device=lm.device)
            cache = lm.model(input_ids=ids, use_cache=True).past_key_values
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]

    def repeat(self, rows: int) -> DynamicCache:
        """A fresh cache holding the prefix for `rows` sequences."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache


@dataclass(frozen=True)
class TypedAnswer:
    """How the frozen model starts its answer to a typed request: greedy tokens and their top
    log-probabilities.
    """

    tokens: list[int]
    top: Int[Tensor, "step top"]
    log_probs: Float[Tensor, "step top"]


class Teacher:
    """The frozen model's answers to typed requests, computed when first asked for and then
    remembered."""

    def __init__(
        self, lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, frame: Frame
    ) -> None:
        """Keep the typed prompt's fixed prefix in a cache."""
        self._lm, self._tokenizer, self._frame = lm, tokenizer, frame
        self._prefix = PrefixCache(lm, frame.typed_before)
        self._known: dict[str, TypedAnswer] = {}

    @torch.no_grad()
    def answers(self, texts: Sequence[str]) -> list[TypedAnswer]:
        """The typed answers to `texts`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._ask(new)
        return [self._known[text] for text in texts]

    def _ask(self, texts: Sequence[str]) -> None:
        rows = [
            self._tokenizer(t, add_special_tokens=False).input_ids + self._frame.typed_after
            for t in texts
        ]
        width = max(map(len, rows))
        pad = [width - len(row) for row in rows]
        device = self._lm.device
        ids = torch.tensor(
            [[self._frame.end] * p + row for p, row in zip(pad, rows, strict=True)], device=device
        )
        start = self._prefix.length
        mask = torch.tensor(
            [[1] * start + [0] * p + [1] * len(row) for p, row in zip(pad, rows, strict=True)],
            device=device,
        )
        cache = self._prefix.repeat(len(rows))
        steps = []
        for _ in range(ANSWER_TOKENS):
            positions = (mask.cumsum(1) - 1)[:, -ids.shape[1] :].clamp(min=0)
            hidden = self._lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            top = self._lm.lm_head(hidden).float().log_softmax(-1).topk(TEACHER_TOP)
            steps.append((top.indices, top.values))
            ids = top.indices[:, :1]
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        for i, text in enumerate(texts):
            indices = torch.stack([step[0][i] for step in steps])
            self._known[text] = TypedAnswer(
                indices[:, 0].tolist(), indices, torch.stack([step[1][i] for step in steps])
            )


def answer_divergence(
    logits: Float[Tensor, "answer step vocab"],
    top: Int[Tensor, "answer step top"],
    log_probs: Float[Tensor, "answer step top"],
) -> Float[Tensor, "answer step"]:
    """KL(teacher || student) in nats. What the teacher gives to tokens outside its top ones is
    compared as one lump, so that the sum stays a divergence.
    """
    student = logits.float().log_softmax(-1).gather(-1, top)
    rest = (
        torch.log1p(-log_probs.exp().sum(-1).clamp(max=1 - 1e-4)),
        torch.log1p(-student.exp().sum(-1).clamp(max=1 - 1e-4)),
    )
    return (log_probs.exp() * (log_probs - student)).sum(-1) + rest[0].exp() * (rest[0] - rest[1])


def typed_divergence(
    lm: LlamaForCausalLM,
    frame: Frame,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    answers: Sequence[TypedAnswer],
    prefix: PrefixCache,
) -> Float[Tensor, ""]:
    """How far `lm`'s answers to typed `texts` are from the teacher's `answers`: mean KL over their
    first tokens.
    """
    rows = [
        tokenizer(text, add_special_tokens=False).input_ids + frame.typed_after for text in texts
    ]
    starts = [len(row) - 1 for row in rows]
    rows = [row + answer.tokens[:-1] for row, answer in zip(rows, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [frame.end] * (width - len(row)) for row in rows], device=lm.device)
    read = [[1] * (prefix.length + len(row)) + [0] * (width - len(row)) for row in rows]
    mask = torch.tensor(read, device=lm.device)
    hidden = lm.model(
        input_ids=ids, attention_mask=mask, past_key_values=prefix.repeat(len(rows)), use_cache=True
    ).last_hidden_state
    said = torch.stack(
        [row[start : start + ANSWER_TOKENS] for row, start in zip(hidden, starts, strict=True)]
    )
    top, log_probs = (
        torch.stack([getattr(a, name) for a in answers]) for name in ("top", "log_probs")
    )
    return answer_divergence(lm.lm_head(said), top, log_probs).mean()
