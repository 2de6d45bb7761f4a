"""Speak, learn and measure, or go on with it; the package says how to start it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from training.loop import AudioSide, Log
from training.understanding.alignment import Aligner
from training.understanding.development import Development
from training.understanding.learn import Learning
from training.understanding.losses import Words
from training.understanding.sentences import benign_stream, requests
from training.understanding.spoken import SHARD, make_shard, read_shard
from training.understanding.student import Student, untrained_model
from training.voices import Speaker

FIRST_SHARDS = 3


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoint, log and delta")
    parser.add_argument(
        "--shards", type=Path, required=True, help="spoken sentences; several runs may share"
    )
    parser.add_argument("--minutes", type=float, default=60, help="of learning, over all sittings")
    parser.add_argument(
        "--check-every", type=int, default=1600, help="clips heard between two measures"
    )
    parser.add_argument(
        "--shard-every", type=int, default=200, help="clips heard for each new shard"
    )
    parser.add_argument("--top", type=int, default=12, help="so many layers learn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Sitting:
    """What one run of the program holds: the model as it was, its spoken sentences, what it
    learns.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        """Load the model, speak the first shards, and go on from the folder's checkpoint."""
        self.chosen = chosen
        lalm = untrained_model()
        lalm.model.requires_grad_(False)
        self.audio = AudioSide(lalm.model).eval()
        self.audio.requires_grad_(False)
        student = Student(lalm)
        self.aligner = Aligner(student)
        self.stream = benign_stream()
        _, apart = requests()
        self.development = Development(student, self.audio, apart, chosen.shards)
        self.speaker = Speaker()
        first: list[Words] = []
        for number in range(FIRST_SHARDS):
            first += self.shard(number)
        self.learning = Learning(
            student,
            Student(untrained_model()),
            self.aligner.embedded,
            first,
            chosen.folder,
            top=chosen.top,
            seed=chosen.seed,
        )
        self.shards = FIRST_SHARDS
        self.checked = self.learning.progress["seen"] // chosen.check_every
        self.checks = Log(chosen.folder / "checks.jsonl")

    def shard(self, number: int) -> list[Words]:
        """A shard's sentences with their paths, spoken and heard now unless it lies there already.

        Those that cannot be aligned are left out.
        """
        path = self.chosen.shards / f"benign-{number:03d}.safetensors"
        if not path.exists():
            some = self.stream[number * SHARD : (number + 1) * SHARD]
            make_shard(some, self.audio, self.speaker, path, seed=1 + number)
        words = []
        for example in read_shard(path):
            heard_at = self.aligner.path(example.text, example.outputs)
            if heard_at is not None:
                words.append(Words(example.text, example.outputs, heard_at))
        return words

    def more(self, seen: int) -> None:
        """Add a shard now and then."""
        wanted = FIRST_SHARDS + seen // self.chosen.shard_every
        while self.shards < min(wanted, len(self.stream) // SHARD):
            self.learning.deck.add(self.shard(self.shards))
            self.shards += 1

    def check(self, seen: int, *, last: bool = False) -> None:
        """Measure the running average now and then, and write it."""
        if not last and seen // self.chosen.check_every <= self.checked:
            return
        self.checked = seen // self.chosen.check_every
        began = time.monotonic()
        self.learning.swap()
        measured = self.development.measure()
        self.learning.swap()
        took = time.monotonic() - began
        self.checks.write(**self.learning.progress, **measured, measuring=took)
        rounded = {name: round(value, 3) for name, value in measured.items()}
        print(json.dumps({"seen": seen, **rounded}), flush=True)
        self.learning.export(self.chosen.folder / f"understanding-{seen:05d}.safetensors")


def main() -> None:
    """Speak what is needed, learn, measure on the way, and write `understanding.safetensors`."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    for folder in (chosen.folder, chosen.shards):
        folder.mkdir(parents=True, exist_ok=True)
    sitting = Sitting(chosen)
    learning = sitting.learning
    sitting.more(learning.progress["seen"])
    learning.run(chosen.minutes, sitting.more, sitting.check)
    sitting.check(learning.progress["seen"], last=True)


if __name__ == "__main__":
    main()
