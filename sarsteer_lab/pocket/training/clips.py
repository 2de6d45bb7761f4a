"""Training stage (b): the corpus, spoken, as log-mel features in shards on disk.

A shard is one safetensors file: the clips' features side by side (`mel`, float16), and who says what in its
metadata. A shard depends only on its sentences, voices and number, so an interrupted run goes on where it
stopped, and new shards may be added while training already reads the older ones.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import WhisperFeatureExtractor

from sarsteer_lab.pocket.assemble import WINDOW_SECONDS
from sarsteer_lab.pocket.training.corpus import Sentence
from sarsteer_lab.pocket.training.voices import Speaker, Voice
from sarsteer_lab.speech import SAMPLE_RATE

SHARD_CLIPS = 200
# Sentences whose clip is longer are left out: they cost the language model most and the course has none like
# them.
LONGEST_SECONDS = 4.6


@dataclass(frozen=True)
class Clip:
    """One spoken sentence: `mel` is log-mel features at 100 frames a second, a multiple of 4 frames long."""

    text: str
    kind: str
    voice: str
    mel: Float[Tensor, "80 frame"]


def log_mel(
    wave: Float[np.ndarray, " samples"], extractor: WhisperFeatureExtractor
) -> Float[Tensor, "80 frame"]:
    """Whisper's log-mel features of a 16 kHz clip over the model's window, cut to the clip's own frames (a
    multiple of 4).
    """
    features = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]
    frames = min(len(wave) // 160, features.shape[1]) // 4 * 4
    return features[:, :frames]


def shard_path(folder: Path, engine: str, number: int) -> Path:
    """Where shard `number` of `engine`'s clips lies."""
    return folder / f"{engine}-{number:04d}.safetensors"


def speak_shard(
    sentences: Sequence[Sentence], voices: Sequence[Voice], speaker: Speaker, path: Path, *, seed: int
) -> None:
    """Speak `sentences`, each in a voice and at a pace (1.0-1.45) drawn from `seed`, and write them as one
    shard.
    """
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)
    draw = random.Random(seed)
    mels, records = [], []
    for sentence in sentences:
        voice = draw.choice(voices)
        wave = speaker.say(sentence.text, voice, speed=draw.uniform(1.0, 1.45), seed=draw.randrange(1 << 30))
        if len(wave) > LONGEST_SECONDS * SAMPLE_RATE:
            continue
        mels.append(log_mel(wave, extractor).half())
        records.append({**asdict(sentence), "voice": voice.name, "frames": mels[-1].shape[1]})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({"mel": torch.cat(mels, 1).contiguous()}, part, metadata={"clips": json.dumps(records)})
    os.replace(part, path)


def speak_corpus(
    sentences: Sequence[Sentence], voices: Sequence[Voice], folder: Path, *, seed: int, first: int = 0
) -> None:
    """Speak a corpus in shards of `SHARD_CLIPS` sentences, numbered from `first`; shards that exist are kept.
    All voices share one engine.
    """
    engine = voices[0].engine
    speaker = Speaker()
    starts = range(0, len(sentences), SHARD_CLIPS)
    for number, start in enumerate(tqdm(starts, desc=f"speaking ({engine})", unit="shard"), start=first):
        path = shard_path(folder, engine, number)
        if not path.exists():
            speak_shard(
                sentences[start : start + SHARD_CLIPS], voices, speaker, path, seed=seed * 100_003 + number
            )


def read_clips(folder: Path, skip: frozenset[str] = frozenset()) -> tuple[list[Clip], frozenset[str]]:
    """All clips of the shards in `folder` not named in `skip`, and the names of the shards read so far."""
    clips = []
    names = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(names - skip):
        with safe_open(folder / name, "pt") as shard:
            mel = shard.get_tensor("mel")
            records = json.loads(shard.metadata()["clips"])
        start = 0
        for record in records:
            stop = start + record["frames"]
            clips.append(Clip(record["text"], record["kind"], record["voice"], mel[:, start:stop]))
            start = stop
    return clips, frozenset(names | skip)
