"""Training stage (c): text safety. A LoRA on TYPED prompts teaches the base language model to refuse, and
only to refuse.

SmolLM2-135M-Instruct almost never refuses. The adapter is trained on our own typed prompts
(data/pocket/training): a fixed family of refusals for the harmful ones, the base model's own greedy answers
for all others, half of the loss on the first answer token, where refusing is decided. It is exported
unmerged: its scale is the safety dial. Needs the extra `train`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerBase

from sarsteer_lab.pocket.loop import Log, rate

RANK, LORA_ALPHA = 8, 16
LAYERS = list(range(10, 30))
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EPOCHS, BATCH, LEARNING_RATE = 2, 16, 6e-4
ANSWER_TOKENS = 16
# Three of four training prompts are benign, many of them near-twins of harmful ones (with half as many, 40%
# of the harmless test twins were refused): harmful ones are shown twice, in different dress.
HARMFUL_REPEATS = 2
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I cannot assist with that request.",
    "I'm sorry, but I can't do that. It could hurt someone.",
    "I'm sorry, but I won't help with that, because it is harmful.",
)
# A spoken request comes with one of these typed behind the clip; the adapter must not depend on them.
FOLLOW_UPS = ("", " Answer the request in the audio.", " Please answer.")


@dataclass(frozen=True)
class Example:
    """One training conversation in tokens: the chat-formatted prompt, and the answer with its end token."""

    prompt: list[int]
    answer: list[int]
    label: str


def chat_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The chat-formatted prompt (default system turn, generation prompt included) of one typed user turn."""
    messages = [{"role": "user", "content": text}]
    return tokenizer(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False),
        add_special_tokens=False,
    ).input_ids


@torch.no_grad()
def greedy_answers(
    lm: LlamaForCausalLM, prompts: Sequence[Sequence[int]], *, new_tokens: int, pad: int, batch: int = 32
) -> list[list[int]]:
    """Greedy continuations (end token included where it came) of tokenised prompts, batched by length."""
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in tqdm(range(0, len(order), batch), desc="the model's own answers", unit="batch"):
        rows = order[start : start + batch]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in rows])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows])
        out = lm.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=pad
        )[:, width:].tolist()
        for i, row in zip(rows, out, strict=True):
            end = row.index(pad) + 1 if pad in row else len(row)
            answers[i] = row[:end]
    return answers


def build_examples(
    records: Sequence[dict], lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0
) -> list[Example]:
    """Training conversations for `records` (`label`, `text`): refusals for harmful ones, own answers for
    the others.
    """
    draw = random.Random(seed)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompts = [chat_tokens(r["text"] + draw.choice(FOLLOW_UPS), tokenizer) for r in records]
    benign = [i for i, r in enumerate(records) if r["label"] != "harmful"]
    # What the base model says to the bare request is the target also where a follow-up stands behind it.
    bare = [chat_tokens(records[i]["text"], tokenizer) for i in benign]
    own = dict(zip(benign, greedy_answers(lm, bare, new_tokens=ANSWER_TOKENS, pad=end), strict=True))
    refusals = [[*tokenizer(text, add_special_tokens=False).input_ids, end] for text in REFUSALS]
    return [
        Example(prompt, own[i] if i in own else draw.choice(refusals), record["label"])
        for i, (prompt, record) in enumerate(zip(prompts, records, strict=True))
    ]


def answer_loss(lm: Any, examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the first answer token, and of all answer tokens.

    The prompts' common beginning (the system turn) runs once and its cache, with its gradient, serves all.
    """
    shared = os.path.commonprefix([e.prompt for e in examples])
    start = lm.model(input_ids=torch.tensor([shared]), use_cache=True).past_key_values
    cache = DynamicCache()
    for index, layer in enumerate(start.layers):
        size = (len(examples), -1, -1, -1)
        cache.update(layer.keys.expand(size), layer.values.expand(size), index)
    texts = [e.prompt[len(shared) :] + e.answer for e in examples]
    width = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * (len(shared) + len(text)) + [0] * (width - len(text)) for text in texts])
    hidden = lm.model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
    rows = [
        row[len(text) - len(e.answer) - 1 : len(text) - 1]
        for row, text, e in zip(hidden, texts, examples, strict=True)
    ]
    losses = torch.nn.functional.cross_entropy(
        lm.lm_head(torch.cat(rows)), torch.tensor([t for e in examples for t in e.answer]), reduction="none"
    )
    starts = torch.tensor([0, *[len(e.answer) for e in examples[:-1]]]).cumsum(0)
    return losses[starts].mean(), losses.mean()


def train_safety(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[dict],
    folder: Path,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train the adapter and return the delta as it ships: `model.language_model....A` and `.B` (scale inside
    B), float16.

    Logs to `folder`/safety.jsonl and writes `folder`/safety.safetensors. Leaves `lm` with the adapter
    injected.
    """
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    harmful = [record for record in records if record["label"] == "harmful"]
    examples = build_examples([*records, *harmful * (HARMFUL_REPEATS - 1)], lm, tokenizer, seed=seed)
    lm.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=LORA_ALPHA, target_modules=MODULES, layers_to_transform=LAYERS)
    lm = inject_adapter_in_model(config, lm)
    trained = [p for p in lm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    log = Log(folder / "safety.jsonl")
    draw = random.Random(seed)
    steps = EPOCHS * -(-len(examples) // BATCH)
    bar = tqdm(total=steps, desc="text safety", unit="step")
    step = 0
    for epoch in range(EPOCHS):
        draw.shuffle(examples)
        for start in range(0, len(examples), BATCH):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate(step / steps, step, warmup=10, flat=0.3)
            first, every = answer_loss(lm, examples[start : start + BATCH], end)
            optimizer.zero_grad()
            (0.5 * first + 0.5 * every).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
            bar.update()
            bar.set_postfix(first=f"{first.item():.2f}")
            log.write(step=step, epoch=epoch, first=first.item(), every=every.item())
    bar.close()
    delta = export_delta(lm)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(delta, folder / "safety.safetensors")
    return delta


def export_delta(lm: torch.nn.Module) -> dict[str, Tensor]:
    """The injected adapter under the parameter names of the assembled Qwen2-Audio model, float16,
    alpha/rank inside B.
    """
    delta = {}
    for name, parameter in lm.named_parameters():
        if ".lora_" in name:
            module, kind = name.split(".lora_")
            module = "model.language_model." + module.removeprefix("model.")
            if kind.startswith("A"):
                delta[f"{module}.A"] = parameter.detach().half().contiguous()
            else:
                delta[f"{module}.B"] = (parameter.detach() * LORA_ALPHA / RANK).half().contiguous()
    return delta


def read_safety_prompts(path: Path) -> list[dict]:
    """The typed training prompts: one JSON object a line with `id`, `label`, `topic` and `text`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
