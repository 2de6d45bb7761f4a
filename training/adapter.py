"""Low-rank adapters on the language model, trained on text: what `readout` and `safety` share.

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

from sarsteer_lab.pocket.assemble import factors_of
from training.loop import Log, rate
from training.tokens import padded

RANK, LORA_SCALE = 8, 2
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH = 16


@dataclass(frozen=True)
class Example:
    """One conversation in tokens: the chat-formatted prompt, the answer with its end token."""

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
    repeated = torch.cat([embeddings[:1], embeddings, embeddings[-1:]])
    neighbours = repeated[:-2] + repeated[2:]
    mixed = (1 - 2 * blur) * embeddings + blur * neighbours
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    noise = torch.randn(mixed.shape, generator=generator).to(mixed.device)
    size, loudness = draw.uniform(0.6, 1.1), draw.uniform(0, 1.0)
    return size * mixed + loudness * spread * noise


def answer_loss(
    lm: Any, examples: Sequence[Example], pad: int, draw: random.Random | None = None
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the first answer token, and of all answer tokens.

    The prompts' common beginning (the system turn) runs once and its cache, with its gradient,
    serves all. What is `heard` is roughened if `draw` is given.
    """
    prefix = os.path.commonprefix([example.prompt for example in examples])
    shared = len(prefix)
    cache = repeated_cache(lm, prefix, len(examples))
    texts = [example.prompt[shared:] + example.answer for example in examples]
    ids, mask = padded(texts, pad, lm.device, cached=shared)
    embeddings = lm.get_input_embeddings()
    embedded = embeddings(ids)  # (example, position, d_model)
    for number, example in enumerate(examples):
        if draw is not None and example.heard is not None:
            start = max(0, example.heard[0] - shared)
            stop = max(0, example.heard[1] - shared)
            exact = embedded[number, start:stop]
            embedded[number, start:stop] = roughen(exact, embeddings.weight.std(), draw)
    hidden = lm.model(
        inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, use_cache=True
    ).last_hidden_state
    said: list[Tensor] = []
    wanted: list[int] = []
    starts: list[int] = []
    for row, text, example in zip(hidden, texts, examples, strict=True):
        end = len(text) - 1  # what says a token stands before it
        said.append(row[end - len(example.answer) : end])
        starts.append(len(wanted))
        wanted += example.answer
    logits = lm.lm_head(torch.cat(said))
    tokens = torch.tensor(wanted, device=lm.device)
    losses = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    return losses[starts].mean(), losses.mean()


def repeated_cache(lm: Any, prefix: Sequence[int], rows: int) -> DynamicCache:
    """The cache of `prefix`, run once with its gradient, for so many rows."""
    ids = torch.tensor([prefix], device=lm.device)
    layers = lm.model(input_ids=ids, use_cache=True).past_key_values.layers
    cache = DynamicCache()
    for index, layer in enumerate(layers):
        keys = layer.keys.expand(rows, -1, -1, -1)
        values = layer.values.expand(rows, -1, -1, -1)
        cache.update(keys, values, index)
    return cache


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
    """Train a LoRA on `layers`, fresh or from the delta `start`, and return the delta as it ships.

    That is `model.language_model....A` and `.B` (scale inside B), float16. Half of the loss is on
    the first answer token, where what kind of answer it will be is decided. Writes the delta to
    `path` and logs beside it, as JSON lines. Leaves `lm` with the adapter injected.
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
        for start_of_batch in range(0, len(examples), BATCH):
            batch = examples[start_of_batch : start_of_batch + BATCH]
            factor = rate(step / steps, step, warmup=10, flat=0.3)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            # The frozen weights in bfloat16: half the cost. Adapter and moments stay float32.
            with torch.autocast(lm.device.type, torch.bfloat16):
                first, every = answer_loss(lm, batch, pad, draw)
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
    """Freeze `lm`, put a LoRA on `layers` in place, and return its parameters, in float32.

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
            key, scale = _delta_key(name)
            if key in delta:
                known = delta[key].float() / scale
                rows, columns = known.shape
                parameter.data[:rows, :columns] = known
    return list(trained.values())


def _delta_key(name: str) -> tuple[str, float]:
    """Of a LoRA parameter: its name in a delta of the assembled model, and its scale there."""
    module, factor = name.split(".lora_")  # "A.default.weight" or "B.default.weight"
    kind = factor[0]
    key = f"model.language_model.{module.removeprefix('model.')}.{kind}"
    return key, LORA_SCALE if kind == "B" else 1.0


def export_delta(lm: torch.nn.Module) -> dict[str, Tensor]:
    """The injected adapter, named as in the assembled model, float16, alpha/rank inside B."""
    delta = {}
    for name, parameter in lm.named_parameters():
        if ".lora_" in name:
            key, scale = _delta_key(name)
            delta[key] = (parameter.detach() * scale).half().contiguous()
    return delta


def truncated(delta: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """`delta` with each product B A replaced by the nearest one of this rank."""
    short = {}
    for module, (a, b) in factors_of(delta).items():
        left, upper = torch.linalg.qr(b)
        right, lower = torch.linalg.qr(a.T)
        u, sizes, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        roots = sizes[:rank].sqrt()
        new_a = roots[:, None] * (v[:rank] @ right.T)
        new_b = left @ u[:, :rank] * roots
        short[f"{module}.A"] = new_a.half().contiguous()
        short[f"{module}.B"] = new_b.half().contiguous()
    return short
