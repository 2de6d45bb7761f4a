"""What the training stages share: batches, learning rates, resumable checkpoints and logs."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Qwen2AudioForConditionalGeneration

from sarsteer_lab.pocket.assemble import with_audio_rows
from sarsteer_lab.store import atomic_write
from training.clips import Clip
from training.sound import change, log_mel
from training.voices import KOKORO_TRAIN

DROPOUT = 0.03
# The share of clips that are heard in another place and pace; the others as the engine says them.
CHANGED = 0.7
KOKORO_TIMES = 5


class AudioSide(nn.Module):
    """The audio tower and projector of a Qwen2-Audio model, run on clips cut to their own length.

    At inference the tower sees the whole 8 s window and masks the rest; cutting gives the same
    tokens at a third of the cost. The convolutions stay frozen: Whisper's are good, and they are
    the expensive part of the backward pass.
    """

    audio_tower: Any
    multi_modal_projector: Any

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        """Take the two modules of `model` (shared, not copied) and say which parameters train."""
        super().__init__()
        self.audio_tower = model.model.audio_tower
        self.multi_modal_projector = model.model.multi_modal_projector
        self.requires_grad_(True)
        tower = self.audio_tower
        # In training only. Without it the tower knew its 800 Kokoro sentences by heart (CTC word
        # errors 1%, new sentences in the same voices 12%), and the language model never saw an
        # uncertain output.
        for layer in tower.layers:
            layer.dropout = DROPOUT
        for frozen in (tower.conv1, tower.conv2, tower.embed_positions):
            frozen.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes; features may lie elsewhere."""
        return self.multi_modal_projector.linear.weight.device

    def forward(
        self, mel: Float[Tensor, "clip 80 frame"], frames: Int[Tensor, " clip"]
    ) -> Float[Tensor, "clip token d_model"]:
        """Projector outputs at 25 tokens a second; those past `frames // 4` are padding."""
        tower = self.audio_tower
        mel, frames = mel.to(self.device), frames.to(self.device)
        with torch.no_grad():
            hidden = F.gelu(tower.conv1(mel))
            hidden = F.gelu(tower.conv2(hidden))  # (clip, width, half frame)
        hidden = hidden.transpose(1, 2)
        length = hidden.shape[1]
        hidden = hidden + tower.embed_positions.weight[:length]
        inside = torch.arange(length, device=mel.device) < (frames // 2)[:, None]
        mask = torch.zeros(inside.shape, dtype=hidden.dtype, device=mel.device)
        mask = mask.masked_fill(~inside, -1e4)
        mask = mask[:, None, None].expand(-1, 1, length, -1)
        for layer in tower.layers:
            hidden = layer(hidden, mask)
        hidden = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        return self.multi_modal_projector(tower.layer_norm(hidden))

    def audio_state(self) -> dict[str, Tensor]:
        """What ships in data/pocket/audio.safetensors: tower and projector parameters, float16."""
        return {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}


@torch.no_grad()
def add_audio_rows(language_model: LlamaForCausalLM, vocab_size: int) -> None:
    """Give a plain language model the audio tokens' rows that the assembled model has."""
    rows = with_audio_rows(language_model.get_input_embeddings().weight.clone(), vocab_size)
    language_model.resize_token_embeddings(vocab_size, mean_resizing=False)
    language_model.get_input_embeddings().weight.copy_(rows)


def collate(
    clips: Sequence[Clip], augment: random.Random | None = None
) -> tuple[Float[Tensor, "clip 80 frame"], Int[Tensor, " clip"]]:
    """Features of `clips` side by side, silence behind the shorter ones.

    If `augment` is given, most are in another room and voice (`sound.change`), with shorter or
    longer vocal tracts and SpecAugment's masks.
    """
    waves = [clip.wave.numpy().astype(np.float32) / 32767 for clip in clips]
    if augment is None:
        return log_mel(waves)
    waves = [change(wave, augment) if augment.random() < CHANGED else wave for wave in waves]
    mel, frames = log_mel(waves)
    for row, length in zip(mel, frames.tolist(), strict=True):
        if augment.random() < 0.5:
            row[:] = stretch_mels(row, augment.uniform(0.88, 1.12))
        for _ in range(augment.randint(0, 2)):
            mask_parts(row[:, :length], augment)
    return mel, frames


def mask_parts(mel: Float[Tensor, "80 frame"], draw: random.Random) -> None:
    """Put the mean in place of up to 16 frames and of up to 12 bands, as SpecAugment does."""
    mean = mel.mean()
    width = draw.randint(0, 16)
    start = draw.randint(0, mel.shape[1] - width)
    mel[:, start : start + width] = mean
    width = draw.randint(0, 12)
    start = draw.randint(0, 80 - width)
    mel[start : start + width] = mean


def stretch_mels(mel: Float[Tensor, "80 frame"], factor: float) -> Float[Tensor, "80 frame"]:
    """The mel axis stretched by `factor`, as by another vocal tract.

    Bands are interpolated linearly, the top one is repeated.
    """
    top = len(mel) - 1
    band = (torch.arange(len(mel)) / factor).clamp(max=top)
    below = band.long()
    above = (below + 1).clamp(max=top)
    return torch.lerp(mel[below], mel[above], (band - below)[:, None])


def batches(clips: Sequence[Clip], size: int, seed: int) -> Iterator[list[Clip]]:
    """One epoch in batches of `size` clips of similar length, order drawn from `seed`."""
    draw = random.Random(seed)
    order = list(clips)
    draw.shuffle(order)
    many = size * 16
    for start in range(0, len(order), many):
        chunk = sorted(order[start : start + many], key=lambda clip: clip.frames)
        groups = [chunk[first : first + size] for first in range(0, len(chunk), size)]
        draw.shuffle(groups)
        yield from groups


def hear(
    audio: AudioSide,
    mel: Float[Tensor, "clip 80 frame"],
    frames: Int[Tensor, " clip"],
    dtype: torch.dtype = torch.bfloat16,
) -> Float[Tensor, "clip token d_model"]:
    """`audio`'s outputs in float32, computed in `dtype` where that is safe.

    bfloat16 is a third cheaper in training where the processor has it.
    """
    with torch.autocast(audio.device.type, dtype, enabled=dtype != torch.float32):
        return audio(mel, frames).float()


def balanced_epoch(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """The corpus's clips, half of the open ones, and Kokoro's clips `KOKORO_TIMES` times.

    Most open sentences are spoken twice; `seed` draws the half. Kokoro is slow, so its clips are
    few, but they have the most voices; hibari's many are one speaker's.
    """
    kokoro = [clip for clip in clips if clip.voice in KOKORO_TRAIN]
    others = [clip for clip in clips if clip.voice not in KOKORO_TRAIN]
    opened = [clip for clip in others if clip.open]
    corpus = [clip for clip in others if not clip.open]
    half = random.Random(seed).sample(opened, len(opened) // 2)
    return kokoro * KOKORO_TIMES + corpus + half


def rate(done: float, steps: int, *, warmup: int, flat: float) -> float:
    """Learning-rate factor: linear over `warmup` steps, 1, and from `flat` on cosine to 0.03.

    `done` and `flat` are shares of the run.
    """
    falling = min(1.0, max(0.0, done - flat) / (1 - flat))
    cosine = 0.5 * (1 + math.cos(math.pi * falling))
    rising = min(1.0, (steps + 1) / warmup)
    return rising * max(0.03, cosine)


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer | None,
    progress: dict,
) -> None:
    """Write parameters, the optimiser's moments if given, and `progress` (JSON) as one file.

    It is safetensors, and appears whole or not at all.
    """
    states = {name: module.state_dict() for name, module in modules.items()}
    if optimizer is not None:
        moments = optimizer.state_dict()["state"]
        states |= {f"optimizer.{index}": state for index, state in moments.items()}
    tensors = {}
    for prefix, state in states.items():
        for name, value in state.items():
            tensors[f"{prefix}.{name}"] = torch.as_tensor(value).contiguous().clone()
    with atomic_write(path) as part:
        save_file(tensors, part, metadata={"progress": json.dumps(progress)})


def load_checkpoint(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict:
    """Restore what `save_checkpoint` wrote (the optimiser only if given); returns the progress."""
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    tensors = load_file(path)
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, name))
    if optimizer is not None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, "optimizer").items():
            index, field = name.split(".")
            moments.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return progress


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of `tensors` that stand under `name`, by the rest of their names."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


class Run:
    """A stage's optimiser, how far it is, and the checkpoint that it goes on from if it is there.

    `groups` are parameters and their learning rate each; `modules` are what a checkpoint holds.
    """

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        weight_decay: float,
    ) -> None:
        self.path, self.modules = path, modules
        self._rates = [learning_rate for _, learning_rate in groups]
        described = [{"params": parameters, "lr": lr} for parameters, lr in groups]
        self.optimizer = torch.optim.AdamW(described, weight_decay=weight_decay, betas=(0.9, 0.98))
        self.progress = {"seen": 0, "steps": 0, "epoch": 0}
        self.resumed = path.exists()
        if self.resumed:
            self.progress = load_checkpoint(path, modules, self.optimizer)

    def batches(
        self, presentations: int, epoch_of: Callable[[int], list[Clip]], size: int, seed: int
    ) -> Iterator[list[Clip]]:
        """Batches of one epoch after another, until `presentations` clips have been heard in all.

        `epoch_of` gives an epoch's clips by its number, from 1 on.
        """
        while self.progress["seen"] < presentations:
            self.progress["epoch"] += 1
            epoch = self.progress["epoch"]
            for batch in batches(epoch_of(epoch), size, seed * 1000 + epoch):
                yield batch
                if self.progress["seen"] >= presentations:
                    break

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.path, self.modules, self.optimizer, self.progress)

    def step(
        self, loss: Tensor, clipped: Sequence[nn.Parameter], heard: int, factor: float
    ) -> None:
        """Learn from the loss of `heard` clips at `factor` times the learning rates.

        The gradient of the parameters `clipped` is clipped to norm 1.
        """
        for group, learning_rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * factor
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        self.optimizer.step()
        self.progress["seen"] += heard
        self.progress["steps"] += 1


class Log:
    """A stage's log: one JSON object a line, also the source of the card's training curves."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._started = time.monotonic()

    def write(self, **values: Any) -> None:
        """Append one line with `values` and the seconds since the log was opened."""
        line = {}
        for name, value in values.items():
            line[name] = round(value, 4) if isinstance(value, float) else value
        line["seconds"] = round(time.monotonic() - self._started, 1)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
