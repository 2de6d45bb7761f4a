"""What the training stages share: batches, the learning-rate schedule, resumable checkpoints and
JSON-lines logs.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Qwen2AudioForConditionalGeneration

from sarsteer_lab.pocket.assemble import with_audio_rows
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
        # In training only. Without it the tower knew its 800 Kokoro sentences by heart (CTC word
        # errors 1%, new sentences in the same voices 12%), and the language model never saw an
        # uncertain output.
        for layer in self.audio_tower.layers:
            layer.dropout = DROPOUT
        for frozen in (
            self.audio_tower.conv1,
            self.audio_tower.conv2,
            self.audio_tower.embed_positions,
        ):
            frozen.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes; features may lie elsewhere."""
        return self.multi_modal_projector.linear.weight.device

    def forward(
        self, mel: Float[Tensor, "clip 80 frame"], frames: Int[Tensor, " clip"]
    ) -> Float[Tensor, "clip token d_model"]:
        """Projector outputs at 25 tokens a second; those past `frames // 4` of a clip are
        padding."""
        tower = self.audio_tower
        mel, frames = mel.to(self.device), frames.to(self.device)
        with torch.no_grad():
            hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(mel)))).transpose(1, 2)
        hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
        inside = torch.arange(hidden.shape[1], device=mel.device) < (frames // 2)[:, None]
        mask = torch.zeros(inside.shape, dtype=hidden.dtype, device=mel.device).masked_fill(
            ~inside, -1e4
        )
        mask = mask[:, None, None].expand(-1, 1, hidden.shape[1], -1)
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
    """Features of `clips` side by side, silence behind the shorter ones; if `augment` is given,
    most of them in another room and voice (`sound.change`), with shorter or longer vocal tracts and
    SpecAugment's masks.
    """
    waves = [clip.wave.numpy().astype(np.float32) / 32767 for clip in clips]
    if augment is not None:
        waves = [change(wave, augment) if augment.random() < CHANGED else wave for wave in waves]
    mel, frames = log_mel(waves)
    if augment is not None:
        for row, length in zip(mel, frames.tolist(), strict=True):
            if augment.random() < 0.5:
                row[:] = stretch_mels(row, augment.uniform(0.88, 1.12))
            for _ in range(augment.randint(0, 2)):
                width = augment.randint(0, 16)
                start = augment.randint(0, length - width)
                mean = row[:, :length].mean()
                row[:, start : start + width] = mean
                width = augment.randint(0, 12)
                start = augment.randint(0, 80 - width)
                row[start : start + width, :length] = mean
    return mel, frames


def stretch_mels(mel: Float[Tensor, "80 frame"], factor: float) -> Float[Tensor, "80 frame"]:
    """The mel axis stretched by `factor` (linear interpolation, the top band repeated): another
    vocal tract.
    """
    place = (torch.arange(len(mel)) / factor).clamp(max=len(mel) - 1)
    below = place.long()
    above = (below + 1).clamp(max=len(mel) - 1)
    return torch.lerp(mel[below], mel[above], (place - below)[:, None])


def batches(clips: Sequence[Clip], size: int, seed: int) -> Iterator[list[Clip]]:
    """One epoch in batches of `size` clips of similar length, order drawn from `seed`."""
    draw = random.Random(seed)
    order = list(clips)
    draw.shuffle(order)
    for start in range(0, len(order), size * 16):
        chunk = sorted(order[start : start + size * 16], key=lambda clip: clip.frames)
        groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        draw.shuffle(groups)
        yield from groups


def hear(
    audio: AudioSide,
    mel: Float[Tensor, "clip 80 frame"],
    frames: Int[Tensor, " clip"],
    dtype: torch.dtype = torch.bfloat16,
) -> Float[Tensor, "clip token d_model"]:
    """`audio`'s outputs in float32, computed in `dtype` where that is safe: bfloat16 is a third
    cheaper in training where the processor has it.
    """
    with torch.autocast(audio.device.type, dtype, enabled=dtype != torch.float32):
        return audio(mel, frames).float()


def balanced_epoch(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """The corpus's clips, half of those of open sentences (drawn from `seed`; most are spoken
    twice), and Kokoro's clips `KOKORO_TIMES` times.

    Kokoro is slow, so its clips are few, but they have the most voices; hibari's many are one
    speaker's.
    """
    kokoro = [clip for clip in clips if clip.voice in KOKORO_TRAIN]
    others = [clip for clip in clips if clip.voice not in KOKORO_TRAIN]
    opened = [clip for clip in others if clip.open]
    half = random.Random(seed).sample(opened, len(opened) // 2)
    return kokoro * KOKORO_TIMES + [clip for clip in others if not clip.open] + half


def rate(done: float, steps: int, *, warmup: int, flat: float) -> float:
    """Learning-rate factor: linear over `warmup` steps, 1 until the share `flat` of the run, then
    cosine to 0.03.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done - flat) / (1 - flat))))
    return min(1.0, (steps + 1) / warmup) * max(0.03, cosine)


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer | None,
    progress: dict,
) -> None:
    """Write parameters, the optimiser's moments if given, and `progress` (JSON) as one safetensors
    file, atomically.
    """
    tensors = {
        f"{key}.{name}": t.contiguous()
        for key, m in modules.items()
        for name, t in m.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items() if optimizer else ():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value).contiguous()
            for name, value in state.items()
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()},
        part,
        metadata={"progress": json.dumps(progress)},
    )
    os.replace(part, path)


def load_checkpoint(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict:
    """Restore what `save_checkpoint` wrote (the optimiser only if given) and return its
    progress."""
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    for key, module in modules.items():
        prefix = key + "."
        module.load_state_dict(
            {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        )
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".")
                state.setdefault(int(index), {})[field] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return progress


class Log:
    """A stage's log: one JSON object a line, also the source of the card's training curves."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._started = time.monotonic()

    def write(self, **values: Any) -> None:
        """Append one line with `values` and the seconds since the log was opened."""
        line = {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}
        with self._path.open("a") as file:
            file.write(
                json.dumps({**line, "seconds": round(time.monotonic() - self._started, 1)}) + "\n"
            )
