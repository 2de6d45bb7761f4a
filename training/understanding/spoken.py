"""Spoken sentences as the projector hears them: shards on disk.

A shard is one safetensors file: the projector's outputs of its clips end to end. It depends on the
list of sentences, its number and the seed alone; an interrupted run goes on with the next one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import atomic_write
from training.clips import LONGEST_SECONDS, Clip
from training.loop import AudioSide, collate, hear
from training.sound import log_mel
from training.understanding.sentences import LabelledText
from training.voices import Speaker, Voice, training_voices

SHARD = 200
HEARD_TOGETHER = 10
SHARES = {"hibari": 6, "flite": 2, "espeak-ng": 2}
"""How often each engine speaks. Kokoro is twenty times slower; its training voices are left to
others.
"""
CHANGED = 0.6
"""The share of clips heard in another place, pace and vocal tract (`sound`)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A spoken sentence, as the projector says it."""

    text: str
    label: str
    voice: str
    outputs: Float[Tensor, "token d_model"]


def speak(requests: Sequence[LabelledText], speaker: Speaker, draw: random.Random) -> list[Clip]:
    """Each request in a voice and at a pace from `draw`; what takes too long is spoken faster."""
    engines = {engine: [v for v in training_voices() if v.engine == engine] for engine in SHARES}
    clips = []
    for request in requests:
        [engine] = draw.choices(list(SHARES), list(SHARES.values()))
        voice: Voice = draw.choice(engines[engine])
        seed, speed = draw.randrange(1 << 30), draw.uniform(1.1, 1.45)
        wave = speaker.say(request.text, voice, speed=speed, seed=seed)
        if len(wave) > LONGEST_SECONDS * SAMPLE_RATE:
            wave = speaker.say(request.text, voice, speed=1.5, seed=seed)
        kept = wave[: int(LONGEST_SECONDS * SAMPLE_RATE)]
        clips.append(Clip(request.text, request.label, voice.name, to_int16(kept)))
    return clips


def to_int16(wave: Float[np.ndarray, "samples"]) -> Tensor:
    """A waveform as clips hold it."""
    return torch.from_numpy((wave * 32767).astype(np.int16))


@torch.no_grad()
def clip_outputs(
    audio: AudioSide, waves: Sequence[Float[np.ndarray, "samples"]], *, together: int = 1
) -> list[Float[Tensor, "token d_model"]]:
    """What a projector says of each clip, heard as it is.

    With others in a batch (`together`) the padding behind a clip is heard a little: readiness to
    refuse moves by some hundredths.
    """
    outputs: list[Tensor] = []
    for start in range(0, len(waves), together):
        mel, frames = log_mel(waves[start : start + together])
        heard = hear(audio, mel, frames, torch.float32)
        for row, length in zip(heard, frames.tolist(), strict=True):
            outputs.append(row[: length // 4])
    return outputs


@torch.no_grad()
def projected(
    audio: AudioSide, clips: Sequence[Clip], draw: random.Random, *, changed: float = CHANGED
) -> list[Tensor]:
    """The projector's outputs of each clip; the share `changed` of the clips is heard elsewhere."""
    outputs: list[Tensor] = []
    for start in range(0, len(clips), HEARD_TOGETHER):
        some = clips[start : start + HEARD_TOGETHER]
        mel, frames = collate(some, draw if draw.random() < changed else None)
        heard = hear(audio, mel, frames, torch.float32)
        for row, length in zip(heard, frames.tolist(), strict=True):
            outputs.append(row[: length // 4].half())
    return outputs


def make_shard(
    requests: Sequence[LabelledText], audio: AudioSide, speaker: Speaker, path: Path, *, seed: int
) -> None:
    """Speak and hear `requests`, and write what the projector says of them as one shard."""
    draw = random.Random(seed)
    clips = speak(requests, speaker, draw)
    outputs = projected(audio, clips, draw)
    records = [
        {"text": clip.text, "label": clip.kind, "voice": clip.voice, "tokens": len(rows)}
        for clip, rows in zip(clips, outputs, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        save_file({"outputs": torch.cat(outputs)}, part, metadata={"clips": json.dumps(records)})


def read_shard(path: Path) -> list[Example]:
    """The examples of a shard."""
    with safe_open(path, "pt") as file:
        records = json.loads(file.metadata()["clips"])
        outputs = file.get_tensor("outputs")
    examples, start = [], 0
    for record in records:
        stop = start + record.pop("tokens")
        examples.append(Example(**record, outputs=outputs[start:stop]))
        start = stop
    return examples
