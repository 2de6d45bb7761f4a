"""What stage (e) holds the spoken request to: the frozen model's answers to the *typed* one.

And the fixed token sequences of the chat around both.
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
from training.tokens import end_token, padded, plain_tokens

ANSWER_TOKENS = 4
TEACHER_TOP = 64


@dataclass(frozen=True)
class Frame:
    """The token sequences around a clip, cut out of the chat template: exactly its tokens."""

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
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return [plain_tokens(tokenizer, part) for part in chat.split(mark)]

    def around_clip(instruction: str) -> list[list[int]]:
        audio = {"type": "audio", "audio": None}
        return split([audio, {"type": "text", "text": instruction}], "<|AUDIO|>")

    before, repeat = around_clip(REPEAT)
    _, answer = around_clip(INSTRUCTION)
    typed_before, typed_after = split("\0", "\0")
    return Frame(before, repeat, answer, typed_before, typed_after, end_token(tokenizer))


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
    """How an answer to a typed request starts: greedy tokens and the top log-probabilities."""

    tokens: list[int]
    top: Int[Tensor, "step top"]
    log_probs: Float[Tensor, "step top"]


class Teacher:
    """The frozen model's answers to typed requests, computed when first asked for and kept."""

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
        frame = self._frame
        rows = [plain_tokens(self._tokenizer, text) + frame.typed_after for text in texts]
        start = self._prefix.length
        ids, mask = padded(rows, frame.end, self._lm.device, left=True, cached=start)
        cache = self._prefix.repeat(len(rows))
        indices, log_probs = [], []
        for _ in range(ANSWER_TOKENS):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            hidden = self._lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions[:, -ids.shape[1] :],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            top = self._lm.lm_head(hidden).float().log_softmax(-1).topk(TEACHER_TOP)
            indices.append(top.indices)
            log_probs.append(top.values)
            ids = top.indices[:, :1]
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        answers = zip(texts, torch.stack(indices, 1), torch.stack(log_probs, 1), strict=True)
        for text, tokens, values in answers:  # (step, top)
            self._known[text] = TypedAnswer(tokens[:, 0].tolist(), tokens, values)


def answer_divergence(
    logits: Float[Tensor, "answer step vocab"],
    top: Int[Tensor, "answer step top"],
    log_probs: Float[Tensor, "answer step top"],
) -> Float[Tensor, "answer step"]:
    """KL(teacher || student) in nats.

    What the teacher gives to tokens outside its top ones is compared as one lump, so that the sum
    stays a divergence.
    """
    student = logits.float().log_softmax(-1).gather(-1, top)
    within_top = (log_probs.exp() * (log_probs - student)).sum(-1)
    teacher_rest, student_rest = _log_rest(log_probs), _log_rest(student)
    return within_top + teacher_rest.exp() * (teacher_rest - student_rest)


def _log_rest(log_probs: Float[Tensor, "... top"]) -> Float[Tensor, "..."]:
    """The log-probability of all other tokens."""
    share = log_probs.exp().sum(-1)
    return torch.log1p(-share.clamp(max=1 - 1e-4))


def typed_divergence(
    lm: LlamaForCausalLM,
    frame: Frame,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    answers: Sequence[TypedAnswer],
    prefix: PrefixCache,
) -> Float[Tensor, ""]:
    """Mean KL of the beginnings of `lm`'s answers to typed `texts` from the teacher's `answers`."""
    rows, starts = [], []
    for text, answer in zip(texts, answers, strict=True):
        asked = plain_tokens(tokenizer, text) + frame.typed_after
        starts.append(len(asked) - 1)
        rows.append(asked + answer.tokens[:-1])
    ids, mask = padded(rows, frame.end, lm.device, cached=prefix.length)
    cache = prefix.repeat(len(rows))
    hidden = lm.model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
    said = []
    for row, start in zip(hidden, starts, strict=True):
        said.append(row[start : start + ANSWER_TOKENS])
    logits = lm.lm_head(torch.stack(said))
    top = torch.stack([answer.top for answer in answers])
    log_probs = torch.stack([answer.log_probs for answer in answers])
    return answer_divergence(logits, top, log_probs).mean()
