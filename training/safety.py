"""Training stage (c): text safety. A LoRA on TYPED prompts teaches to refuse, and only that.

SmolLM2-135M-Instruct almost never refuses. The adapter is trained on our own typed prompts
(training/data): a fixed family of refusals for the harmful ones, the base model's own greedy
answers for all others, half of the loss on the first answer token, where refusing is decided. It is
exported unmerged: its scale is the safety dial. Needs the extra `train`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.pocket.assemble import merge_delta
from sarsteer_lab.prompts import Request
from training.adapter import Example, train_adapter
from training.records import read_records
from training.tokens import end_token, padded, plain_tokens

LAYERS = list(range(10, 30))
EPOCHS, FURTHER_EPOCHS, LEARNING_RATE = 2, 1, 6e-4
ANSWER_TOKENS = 16
# Tried after training, on the validation split: 1 is the adapter as it was trained.
SCALES = (1.0, 1.2, 1.4, 1.7)
# Shares of typed requests refused: at least of harmful ones, at most of the others.
WANTED = {"harmful": 0.9, "harmless": 0.1, "pseudo-harmful": 0.2}
# Three of four training prompts are benign, many of them near-twins of harmful ones (with half as
# many, 40% of the harmless test twins were refused): harmful ones are shown twice, dressed anew.
HARMFUL_REPEATS = 2
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I cannot assist with that request.",
    "I'm sorry, but I can't do that. It could hurt someone.",
    "I'm sorry, but I won't help with that, because it is harmful.",
)
# A spoken request comes with one of these typed behind; the adapter must not depend on them.
FOLLOW_UPS = ("", " Answer the request in the audio.", " Please answer.")


def chat_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """One typed user turn in the chat format, with default system turn and generation prompt."""
    messages = [{"role": "user", "content": text}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return plain_tokens(tokenizer, chat)


@torch.no_grad()
def greedy_answers(
    lm: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    pad: int,
    batch: int = 32,
) -> list[list[int]]:
    """Greedy continuations of tokenised prompts, end token included where it came.

    Prompts of like length run together.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in tqdm(range(0, len(order), batch), desc="the model's own answers", unit="batch"):
        numbers = order[start : start + batch]
        ids, mask = padded([prompts[number] for number in numbers], pad, lm.device, left=True)
        whole = lm.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=pad,
        )
        continued = whole[:, ids.shape[1] :].tolist()
        for number, tokens in zip(numbers, continued, strict=True):
            end = tokens.index(pad) + 1 if pad in tokens else len(tokens)
            answers[number] = tokens[:end]
    return answers


def build_examples(
    records: Sequence[dict],
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
) -> list[Example]:
    """Conversations for `records`: refusals of harmful ones, the model's own answers to others."""
    draw = random.Random(seed)
    end = end_token(tokenizer)
    prompts = [chat_tokens(r["text"] + draw.choice(FOLLOW_UPS), tokenizer) for r in records]
    benign = [record["text"] for record in records if record["label"] != "harmful"]
    # What the base model says to the bare request is the target also where a follow-up stands
    # behind it.
    bare = [chat_tokens(text, tokenizer) for text in benign]
    own = iter(greedy_answers(lm, bare, new_tokens=ANSWER_TOKENS, pad=end))
    refusals = [[*plain_tokens(tokenizer, text), end] for text in REFUSALS]
    examples = []
    for prompt, record in zip(prompts, records, strict=True):
        harmful = record["label"] == "harmful"
        answer = draw.choice(refusals) if harmful else next(own)
        examples.append(Example(prompt, answer, record["label"]))
    return examples


def train_safety(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[dict],
    path: Path,
    *,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train a fresh adapter, or `start` further, on `records`, and write it to `path`."""
    harmful = [record for record in records if record["label"] == "harmful"]
    shown = [*records, *harmful * (HARMFUL_REPEATS - 1)]
    examples = build_examples(shown, lm, tokenizer, seed=seed)
    return train_adapter(
        lm,
        examples,
        path,
        layers=LAYERS,
        epochs=EPOCHS if start is None else FURTHER_EPOCHS,
        learning_rate=LEARNING_RATE,
        pad=end_token(tokenizer),
        seed=seed,
        start=start,
    )


@torch.no_grad()
def choose_scale(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    delta: dict[str, Tensor],
    prompts: Sequence[Request],
) -> tuple[float, list[dict]]:
    """How strongly to merge `delta`, and what each of `SCALES` does to typed validation `prompts`.

    The rule: among the scales that keep `WANTED` (if any does), the largest difference of the share
    of harmful requests refused and the mean share of the other labels refused; the smaller scale if
    two are equal. Leaves `lm` with the last scale merged.
    """
    end = end_token(tokenizer)
    chats = [chat_tokens(p.request, tokenizer) for p in prompts]
    merged, tried = 0.0, []
    for scale in SCALES:
        merge_delta(lm, scaled(delta, scale - merged))
        merged = scale
        answers = greedy_answers(lm, chats, new_tokens=ANSWER_TOKENS, pad=end)
        texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        shares = refused_shares(prompts, texts)
        others = {label: share for label, share in shares.items() if label != "harmful"}
        score = shares["harmful"] - sum(others.values()) / len(others)
        few = all(share <= WANTED.get(label, 1.0) for label, share in others.items())
        wanted = few and shares["harmful"] >= WANTED["harmful"]
        tried.append({"scale": scale, **shares, "score": score, "wanted": wanted})
    best = max(tried, key=lambda outcome: (outcome["wanted"], outcome["score"]))
    return best["scale"], tried


def scaled(delta: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """`delta` times `scale`, which goes into its B."""
    return {name: t * scale if name.endswith(".B") else t for name, t in delta.items()}


def refused_shares(prompts: Sequence[Request], answers: Sequence[str]) -> dict[str, float]:
    """Label -> the share of its requests whose answer refuses, by the phrase judge."""
    judge = PhraseJudge()
    refused: dict[str, list[bool]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        refuses = judge.judge(prompt.request, answer) == "refused"
        refused.setdefault(prompt.label, []).append(refuses)
    return {label: sum(outcomes) / len(outcomes) for label, outcomes in refused.items()}


def read_safety_prompts(path: Path) -> list[dict]:
    """The typed training prompts: records with `id`, `label`, `topic` and `text`."""
    return read_records(path)
