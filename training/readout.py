"""Training stage (c): reading out. A LoRA on text teaches to repeat a sentence on demand.

SmolLM2-135M-Instruct cannot: with the request *typed* in the clip's place and the read-out
instruction behind it, the word error rate of what it says is above 100% (it answers instead).
Without this skill no word error rate could tell what the model hears, and stage (e) would spend its
time on teaching to repeat through the clip. Sentences stand in the clip's place as they are typed,
or spread out among spaces at about the pace of speech and roughened as a projector's outputs are
(`adapter.roughen`); a part of the examples asks for an answer instead and keeps the model's own, so
that the instruction decides. Harmless corpus sentences only, no speech.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2AudioProcessor

from training.adapter import Example, train_adapter
from training.corpus import Sentence
from training.safety import ANSWER_TOKENS, greedy_answers
from training.teacher import chat_frame
from training.tokens import end_token, plain_tokens

LAYERS = range(30)
LEARNING_RATE = 6e-4
REPEATED, ANSWERED = 900, 300
# Up to so many spaces between tokens, as a clip has outputs between its words: 25 a second.
MOST_SPACES = 5


def spread(tokens: Sequence[int], space: int, draw: random.Random) -> list[int]:
    """`tokens`, some said twice, with 0 to `MOST_SPACES` spaces before each and after the last."""
    out: list[int] = []
    for token in tokens:
        out += [space] * draw.randint(0, MOST_SPACES)
        times = 2 if draw.random() < 0.25 else 1
        out += [token] * times
    return out + [space] * draw.randint(0, MOST_SPACES)


def build_examples(
    sentences: Sequence[Sentence],
    lm: LlamaForCausalLM,
    processor: Qwen2AudioProcessor,
    *,
    seed: int = 0,
) -> list[Example]:
    """Conversations with text in the clip's place: sentences read out, and questions answered."""
    draw = random.Random(seed)
    tokenizer = processor.tokenizer
    frame = chat_frame(processor)
    [space] = plain_tokens(tokenizer, " ")

    def example(tokens: list[int], after: list[int], answer: list[int], label: str) -> Example:
        start = len(frame.before)
        if draw.random() < 0.2:
            return Example(frame.before + tokens + after, answer, label)
        tokens = spread(tokens, space, draw)
        heard = (start, start + len(tokens))
        return Example(frame.before + tokens + after, answer, label, heard)

    repeated = draw.sample(list(sentences), REPEATED)
    questions = draw.sample([s for s in sentences if s.kind == "question"], ANSWERED)
    asked = [plain_tokens(tokenizer, question.text) for question in questions]
    typed = [frame.typed_before + tokens + frame.typed_after for tokens in asked]
    own = greedy_answers(lm, typed, new_tokens=ANSWER_TOKENS, pad=frame.end)
    examples = []
    for sentence in repeated:
        tokens = plain_tokens(tokenizer, sentence.text)
        examples.append(example(tokens, frame.repeat, [*tokens, frame.end], "repeat"))
    for tokens, answer in zip(asked, own, strict=True):
        examples.append(example(tokens, frame.answer, answer, "answer"))
    return examples


def train_readout(
    lm: LlamaForCausalLM,
    processor: Qwen2AudioProcessor,
    sentences: Sequence[Sentence],
    path: Path,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train the adapter, write it to `path` and return it. `lm` needs the audio tokens' rows."""
    pad = end_token(processor.tokenizer)
    examples = build_examples(sentences, lm, processor, seed=seed)
    return train_adapter(
        lm, examples, path, layers=LAYERS, epochs=1, learning_rate=LEARNING_RATE, pad=pad, seed=seed
    )
