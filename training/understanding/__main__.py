"""Speak, learn and measure, or go on with it; the package says how to start it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from training.loop import AudioSide, Log
from training.understanding.development import Development
from training.understanding.learn import Learning, Weights
from training.understanding.losses import Whitening
from training.understanding.sentences import in_turn, requests
from training.understanding.spoken import SHARD, Example, make_shard, read_shard
from training.understanding.student import Student, untrained_model
from training.voices import Speaker

STREAM = {"harmful": 8, "harmless": 6, "pseudo-harmful": 2, "everyday": 1}
"""How many of each label are spoken in turn."""
FIRST_SHARDS = 3
NEVER = 1_000_000


def shard_path(shards: Path, number: int) -> Path:
    """Where a shard lies."""
    return shards / f"{number:03d}.safetensors"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoint, log and delta")
    parser.add_argument(
        "--shards", type=Path, required=True, help="spoken requests; several runs may share"
    )
    parser.add_argument("--minutes", type=float, default=60, help="of learning, over all sittings")
    parser.add_argument(
        "--check-every", type=int, default=800, help="clips heard between two measures"
    )
    parser.add_argument(
        "--shard-every", type=int, default=400, help="clips heard for each new shard"
    )
    parser.add_argument("--first-layer", type=int, default=10, help="the adapter's lowest layer")
    parser.add_argument("--ranking", type=float, default=Weights.ranking)
    parser.add_argument("--projection", type=float, default=Weights.projection)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Sitting:
    """What one run of the program holds: the model as it was, its spoken requests, what it learns.

    `first_layer` is the adapter's lowest layer; the upper layers' states alone are read.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        """Load the model, speak the first shards, and go on from the folder's checkpoint."""
        self.chosen = chosen
        lalm = untrained_model()
        lalm.model.requires_grad_(False)
        self.audio = AudioSide(lalm.model).eval()
        self.audio.requires_grad_(False)
        self.plain = Student(lalm, chosen.first_layer)
        self.layers = range(chosen.first_layer, lalm.n_layers)
        known, apart = requests(0)
        self.stream = in_turn(known, STREAM, 0)
        self.development = Development(self.plain, self.audio, apart, chosen.shards)
        self.speaker = Speaker()
        first: list[Example] = []
        for number in range(FIRST_SHARDS):
            first += self.shard(number)
        self.learning = Learning(
            self.plain,
            Whitening.of(first),
            first,
            chosen.folder,
            weights=Weights(ranking=chosen.ranking, projection=chosen.projection),
            layers=self.layers,
            seed=chosen.seed,
        )
        self.learning.decks.add(first)
        self.shards = FIRST_SHARDS
        self.checked = self.learning.progress["seen"] // chosen.check_every
        self.checks = Log(chosen.folder / "checks.jsonl")

    def shard(self, number: int) -> list[Example]:
        """A shard's examples, spoken and heard now unless it lies there already."""
        path = shard_path(self.chosen.shards, number)
        if not path.exists():
            some = self.stream[number * SHARD : (number + 1) * SHARD]
            make_shard(some, self.plain, self.audio, self.speaker, path, seed=1 + number)
        return read_shard(path, len(self.layers))

    def more(self, seen: int) -> None:
        """Add a shard now and then; the untrained model answers for it."""
        wanted = FIRST_SHARDS + seen // self.chosen.shard_every
        while self.shards < min(wanted, len(self.stream) // SHARD):
            with self.learning.untrained():
                examples = self.shard(self.shards)
            self.learning.decks.add(examples)
            self.learning.held += examples
            self.shards += 1

    def check(self, seen: int, *, last: bool = False) -> None:
        """Measure the running average now and then, and write it."""
        if not last and seen // self.chosen.check_every <= self.checked:
            return
        self.checked = seen // self.chosen.check_every
        began = time.monotonic()
        self.learning.swap()
        found = self.development.measure()
        self.learning.swap()
        took = time.monotonic() - began
        self.checks.write(**self.learning.progress, **found, measuring=took)
        rounded = {name: round(value, 3) for name, value in found.items()}
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
    if chosen.check_every < NEVER:
        sitting.check(learning.progress["seen"], last=True)
    learning.export(chosen.folder / "understanding.safetensors")


if __name__ == "__main__":
    main()
