"""Low-rank adapters on the language model, trained on text: what the stages `readout` and `safety`
share.

Adapters are exported unmerged, as plain A and B factors under the parameter names of the assembled
Qwen2-Audio model, so that nothing but a matrix product is needed to use them. Training needs the
extra `train`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, LlamaForCausalLM

from training.loop import Log, rate

RANK, LORA_SCALE = 8, 2
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH = 16


@dataclass(frozen=True)
class Example:
    """One training conversation in tokens: the chat-formatted prompt, and the answer with its end
    token."""

    prompt: list[int]
    answer: list[int]
    label: str
    heard: tuple[int, int] | None = None
    """Where in the prompt text stands in for a clip: in training its embeddings are roughened."""


def roughen(
    embeddings: Float[Tensor, "position d_model"], spread: Tensor, draw: random.Random
) -> Float[Tensor, "position d_model"]:
    """Token embeddings as a projector says them: shrunk, run into their neighbours, and noisy.

    After stage (d) an output is off from the embedding it stands for by about half the variance of
    embeddings (`spread` is their standard deviation); text read without this is no preparation for
    reading speech.
    """
    blur = draw.uniform(0, 0.25)
    padded = torch.cat([embeddings[:1], embeddings, embeddings[-1:]])
    mixed = (1 - 2 * blur) * embeddings + blur * (padded[:-2] + padded[2:])
    noise = torch.randn(
        mixed.shape, generator=torch.Generator().manual_seed(draw.randrange(1 << 30))
    )
    return draw.uniform(0.6, 1.1) * mixed + draw.uniform(0, 1.0) * spread * noise.to(mixed.device)


def answer_loss(
    lm: Any, examples: Sequence[Example], pad: int, draw: random.Random | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the first answer token, and of all answer tokens.

    The prompts' common beginning (the system turn) runs once and its cache, with its gradient,
    serves all. What is `heard` is roughened if `draw` is given.
    """
    shared = os.path.commonprefix([e.prompt for e in examples])
    prefix = lm.model(
        input_ids=torch.tensor([shared], device=lm.device), use_cache=True
    ).past_key_values
    cache = DynamicCache()
    for index, layer in enumerate(prefix.layers):
        size = (len(examples), -1, -1, -1)
        cache.update(layer.keys.expand(size), layer.values.expand(size), index)
    texts = [e.prompt[len(shared) :] + e.answer for e in examples]
    width = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts], device=lm.device)
    read = [[1] * (len(shared) + len(text)) + [0] * (width - len(text)) for text in texts]
    mask = torch.tensor(read, device=lm.device)
    embeddings = lm.get_input_embeddings()
    embedded = embeddings(ids)
    for row, e in enumerate(examples):
        if draw is not None and e.heard is not None:
            start, stop = (max(0, place - len(shared)) for place in e.heard)
            embedded[row, start:stop] = roughen(
                embedded[row, start:stop], embeddings.weight.std(), draw
            )
    hidden = lm.model(
        inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
    rows = [
        row[len(text) - len(e.answer) - 1 : len(text) - 1]
        for row, text, e in zip(hidden, texts, examples, strict=True)
    ]
    wanted = torch.tensor([token for e in examples for token in e.answer], device=lm.device)
    losses = torch.nn.functional.cross_entropy(
        lm.lm_head(torch.cat(rows)), wanted, reduction="none"
    )
    starts = torch.tensor([0, *[len(e.answer) for e in examples[:-1]]]).cumsum(0)
    return losses[starts].mean(), losses.mean()


def train_adapter(
    lm: LlamaForCausalLM,
    examples: Sequence[Example],
    path: Path,
    *,
    layers: Sequence[int],
    epochs: int,
    learning_rate: float,
    pad: int,
    seed: int = 0,
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train a LoRA on `layers` (fresh, or going on from the delta `start`) and return the delta as
    it ships: `model.language_model....A` and `.B` (scale inside B), float16.

    Half of the loss is on the first answer token, where what kind of answer it will be is decided.
    Writes the delta to `path` and logs beside it, as JSON lines. Leaves `lm` with the adapter
    injected.
    """
    torch.manual_seed(seed)
    trained = inject_adapter(lm, layers, start)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    log = Log(path.with_suffix(".jsonl"))
    draw = random.Random(seed)
    examples = list(examples)
    steps = epochs * -(-len(examples) // BATCH)
    bar = tqdm(total=steps, desc=path.stem, unit="step")
    step = 0
    for epoch in range(epochs):
        draw.shuffle(examples)
        for at in range(0, len(examples), BATCH):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate(step / steps, step, warmup=10, flat=0.3)
            # The frozen weights in bfloat16: half the cost. The adapter itself and its moments stay
            # float32.
            with torch.autocast(lm.device.type, torch.bfloat16):
                first, every = answer_loss(lm, examples[at : at + BATCH], pad, draw)
            optimizer.zero_grad()
            (0.5 * first + 0.5 * every).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            step += 1
            bar.update()
            bar.set_postfix(first=f"{first.item():.2f}", every=f"{every.item():.2f}")
            log.write(step=step, epoch=epoch, first=first.item(), every=every.item())
    bar.close()
    delta = export_delta(lm)
    save_file(delta, path)
    return delta


def inject_adapter(
    lm: LlamaForCausalLM,
    layers: Sequence[int],
    delta: dict[str, Tensor] | None = None,
    *,
    rank: int = RANK,
) -> list[torch.nn.Parameter]:
    """Freeze `lm`, put a LoRA on `layers` in place, and return its parameters, float32 in any
    model.

    The LoRA is fresh, or goes on from a `delta` that `export_delta` made of one on the same layers
    or some of them, of this rank or a lower one (what is new begins at nothing).
    """
    from peft import LoraConfig, inject_adapter_in_model

    lm.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=LORA_SCALE * rank,
        target_modules=MODULES,
        layers_to_transform=list(layers),
    )
    inject_adapter_in_model(config, lm)
    trained = {name: p for name, p in lm.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        parameter.data = parameter.data.float()
        if delta is not None:
            key, kind = _delta_key(name)
            if (known := delta.get(f"{key}.{kind}")) is None:
                continue
            rows, columns = known.shape
            parameter.data[:rows, :columns] = known.float() / (LORA_SCALE if kind == "B" else 1.0)
    return list(trained.values())


def _delta_key(name: str) -> tuple[str, str]:
    """Of a LoRA parameter's name in the language model: its module in the assembled Qwen2-Audio
    model, and "A" or "B".
    """
    module, kind = name.split(".lora_")
    return "model.language_model." + module.removeprefix("model."), kind[0]


def export_delta(lm: torch.nn.Module) -> dict[str, Tensor]:
    """The injected adapter under the parameter names of the assembled Qwen2-Audio model, float16,
    alpha/rank inside B.
    """
    delta = {}
    for name, parameter in lm.named_parameters():
        if ".lora_" in name:
            module, kind = _delta_key(name)
            scale = LORA_SCALE if kind == "B" else 1.0
            delta[f"{module}.{kind}"] = (parameter.detach() * scale).half().contiguous()
    return delta


def truncated(delta: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """`delta` with each product B A replaced by the nearest one of this rank."""
    short = {}
    for name in (name.removesuffix(".A") for name in delta if name.endswith(".A")):
        left, upper = torch.linalg.qr(delta[f"{name}.B"].float())
        right, lower = torch.linalg.qr(delta[f"{name}.A"].float().T)
        u, sizes, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        roots = sizes[:rank].sqrt()
        short[f"{name}.A"] = (roots[:, None] * (v[:rank] @ right.T)).half().contiguous()
        short[f"{name}.B"] = (left @ u[:, :rank] * roots).half().contiguous()
    return short
