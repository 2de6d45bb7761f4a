"""Training stage (b): the corpus, spoken, as waveforms in shards on disk.

A shard is one safetensors file: the clips end to end (`wave`, int16 at 16 kHz), and who says what
in its metadata. Features are made when a clip is heard, since rooms, noise and pace differ each
time (`sound`). A shard depends only on its sentences, voices and number, so an interrupted run goes
on where it stopped, and new shards may be added while training already reads the older ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import atomic_write
from training.corpus import Sentence
from training.voices import Speaker, Voice

SHARD_CLIPS = 200
# Sentences whose clip is longer are left out: they cost the language model most and the course has
# none like them.
LONGEST_SECONDS = 5.0


@dataclass(frozen=True)
class Clip:
    """One spoken sentence, int16 at 16 kHz."""

    text: str
    kind: str
    voice: str
    wave: Int16[Tensor, " samples"]
    open: bool = False
    """True for a sentence of the open vocabulary (`open_text`), False for one of the corpus."""

    @property
    def frames(self) -> int:
        """Log-mel frames (100 a second) of the clip as it was spoken, a multiple of 4."""
        return len(self.wave) // 160 // 4 * 4


def shard_path(folder: Path, engine: str, number: int) -> Path:
    """Where shard `number` of `engine`'s clips lies."""
    return folder / f"{engine}-{number:04d}.safetensors"


def speak_shard(
    sentences: Sequence[Sentence],
    voices: Sequence[Voice],
    speaker: Speaker,
    path: Path,
    *,
    seed: int,
) -> None:
    """Write one shard: `sentences`, each in a voice and at a pace (1.0-1.45) drawn from `seed`."""
    draw = random.Random(seed)
    waves, records = [], []
    for sentence in sentences:
        voice = draw.choice(voices)
        speed, number = draw.uniform(1.0, 1.45), draw.randrange(1 << 30)
        wave = speaker.say(sentence.text, voice, speed=speed, seed=number)
        if len(wave) > LONGEST_SECONDS * SAMPLE_RATE:
            continue
        whole = (wave * 32767).astype(np.int16)
        waves.append(torch.from_numpy(whole))
        records.append({**asdict(sentence), "voice": voice.name, "samples": len(wave)})
    metadata = {"clips": json.dumps(records)}
    with atomic_write(path) as part:
        save_file({"wave": torch.cat(waves)}, part, metadata=metadata)


def speak_corpus(
    sentences: Sequence[Sentence],
    voices: Sequence[Voice],
    folder: Path,
    *,
    seed: int,
    first: int = 0,
) -> None:
    """Speak a corpus in shards of `SHARD_CLIPS` sentences, numbered from `first`.

    Shards are named after the first voice's engine; those that exist are kept.
    """
    engine = voices[0].engine
    speaker = Speaker()
    starts = range(0, len(sentences), SHARD_CLIPS)
    bar = tqdm(starts, desc=f"speaking ({engine})", unit="shard")
    for number, start in enumerate(bar, start=first):
        path = shard_path(folder, engine, number)
        if not path.exists():
            chosen = sentences[start : start + SHARD_CLIPS]
            speak_shard(chosen, voices, speaker, path, seed=seed * 100_003 + number)


def read_clips(
    folder: Path, skip: frozenset[str] = frozenset()
) -> tuple[list[Clip], frozenset[str]]:
    """All clips of the shards in `folder` not named in `skip`, and the names of all shards read."""
    clips = []
    names = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(names - skip):
        with safe_open(folder / name, "pt") as shard:
            wave = shard.get_tensor("wave")
            records = json.loads(shard.metadata()["clips"])
        start = 0
        for record in records:
            stop = start + record["samples"]
            clip = Clip(record["text"], record["kind"], record["voice"], wave[start:stop])
            clips.append(clip)
            start = stop
    return clips, frozenset(names | skip)
