"""Spoken requests as the projector hears them, and what the model says to the typed ones: shards on
disk.

A shard is one safetensors file: the projector's outputs of its clips end to end, the typed answer's
first tokens with their likeliest alternatives, and the typed states. It depends on the list of
requests, its number and the seed alone; an interrupted run goes on with the next one.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.speech import SAMPLE_RATE
from training.clips import LONGEST_SECONDS, Clip
from training.loop import AudioSide, collate, hear
from training.understanding.sentences import LabelledText
from training.understanding.student import READ, Student
from training.voices import Speaker, Voice, training_voices

SHARD = 200
TOP = 64
SHARES = {"hibari": 6, "flite": 2, "espeak-ng": 2}
"""How often each engine speaks. Kokoro is twenty times slower; its training voices are left to
others.
"""
CHANGED = 0.6
"""The share of clips heard in another place, pace and vocal tract (`sound`)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A spoken request and what the model says to the typed one."""

    text: str
    label: str
    voice: str
    outputs: Float[Tensor, "token d_model"]
    answer: list[int]
    top: Int[Tensor, "read top"]
    log_probs: Float[Tensor, "read top"]
    states: Float[Tensor, "layer read d_model"]


@torch.no_grad()
def typed_answers(student: Student, texts: Sequence[str]) -> dict[str, Tensor]:
    """For each typed request its answer's first `READ` tokens, their top log-probabilities and the
    states.
    """
    first = student.typed(texts, [[0]] * len(texts))
    answers = first.log_probs[:, :1].argmax(-1).tolist()
    for _ in range(READ - 1):
        heard = student.typed(texts, [[*answer, 0] for answer in answers])
        best = heard.log_probs[:, -1].argmax(-1).tolist()
        answers = [[*answer, token] for answer, token in zip(answers, best, strict=True)]
    top = heard.log_probs.topk(TOP)
    return {
        "answer": torch.tensor(answers),
        "top": top.indices,
        "log_probs": top.values,
        "states": heard.states.half(),
    }


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
def projected(
    audio: AudioSide, clips: Sequence[Clip], draw: random.Random, *, changed: float = CHANGED
) -> list[Tensor]:
    """The projector's outputs of each clip; the share `changed` of the clips is heard elsewhere."""
    outputs: list[Tensor] = []
    for start in range(0, len(clips), 10):
        some = clips[start : start + 10]
        mel, frames = collate(some, draw if draw.random() < changed else None)
        heard = hear(audio, mel, frames, torch.float32)
        outputs += [
            row[: length // 4].half() for row, length in zip(heard, frames.tolist(), strict=True)
        ]
    return outputs


def make_shard(
    requests: Sequence[LabelledText],
    student: Student,
    audio: AudioSide,
    speaker: Speaker,
    path: Path,
    *,
    seed: int,
) -> None:
    """Speak and hear `requests`, ask for the typed answers, and write all as one shard.

    `student` has to be the model as it was before any training here.
    """
    draw = random.Random(seed)
    clips = speak(requests, speaker, draw)
    outputs = projected(audio, clips, draw)
    parts = [
        typed_answers(student, [clip.text for clip in clips[start : start + 25]])
        for start in range(0, len(clips), 25)
    ]
    tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
    records = [
        {"text": clip.text, "label": clip.kind, "voice": clip.voice, "tokens": len(own)}
        for clip, own in zip(clips, outputs, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(
        {**tensors, "outputs": torch.cat(outputs)}, part, metadata={"clips": json.dumps(records)}
    )
    os.replace(part, path)


def read_shard(path: Path, layers: int | None = None) -> list[Example]:
    """The examples of a shard, with the states of the upper `layers` alone if given."""
    with safe_open(path, "pt") as file:
        records = json.loads(file.metadata()["clips"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    examples, start = [], 0
    for number, record in enumerate(records):
        stop = start + record.pop("tokens")
        own = {name: tensors[name][number] for name in ("top", "log_probs", "states")}
        if layers is not None:
            own["states"] = own["states"][-layers:]
        answer = tensors["answer"][number].tolist()
        examples.append(
            Example(**record, outputs=tensors["outputs"][start:stop], answer=answer, **own)
        )
        start = stop
    return examples
