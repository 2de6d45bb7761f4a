"""Speak, learn and measure, or go on with it; the package says how to start it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.pocket.soft_tokens import TokenHead
from training.loop import AudioSide, Log
from training.understanding.development import Development
from training.understanding.dials import pocket_with, trained_token_head
from training.understanding.learn import Heard, Learning, heard_requests, said
from training.understanding.sentences import SHARES, request_stream, requests
from training.understanding.spoken import SHARD, make_shard, read_shard
from training.understanding.student import Student
from training.voices import Speaker

FIRST_SHARDS = 3


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="checkpoint, log and what was learnt"
    )
    parser.add_argument(
        "--shards", type=Path, required=True, help="spoken requests; several runs may share"
    )
    parser.add_argument("--minutes", type=float, default=60, help="of learning, over all sittings")
    parser.add_argument(
        "--check-every", type=int, default=1600, help="clips heard between two measures"
    )
    parser.add_argument(
        "--shard-every", type=int, default=200, help="clips heard for each new shard"
    )
    parser.add_argument(
        "--labels", nargs="+", default=tuple(SHARES), choices=SHARES, help="requests to speak"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Sitting:
    """What one run of the program holds: the model, its spoken requests, what it learns."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        """Load the model, speak the first shards, and go on from the folder's checkpoint."""
        self.chosen = chosen
        lalm = pocket_with(None)
        lalm.model.requires_grad_(False)
        self.audio = AudioSide(lalm.model).eval()
        self.audio.requires_grad_(False)
        self.student = Student(lalm)
        embeddings = lalm.core.get_input_embeddings().weight.detach()
        self.head = TokenHead(trained_token_head(lalm.tokenizer), embeddings)
        self.stream = request_stream(chosen.labels)
        _, apart = requests()
        self.development = Development(self.student, self.audio, apart, chosen.shards)
        self.speaker = Speaker()
        first: list[Heard] = []
        for number in range(FIRST_SHARDS):
            first += self.shard(number)
        self.learning = Learning(self.student, first, chosen.folder, seed=chosen.seed)
        self.shards = FIRST_SHARDS
        self.checked = self.learning.progress["seen"] // chosen.check_every
        self.checks = Log(chosen.folder / "checks.jsonl")

    def shard(self, number: int) -> list[Heard]:
        """A shard's requests, spoken and heard now unless it lies there already."""
        labels = "-".join(self.chosen.labels)
        path = self.chosen.shards / f"{labels}-{number:03d}.safetensors"
        if not path.exists():
            some = self.stream[number * SHARD : (number + 1) * SHARD]
            make_shard(some, self.audio, self.speaker, path, seed=100 + number)
        examples = read_shard(path)
        with torch.no_grad():
            readings = [self.head(example.outputs.float()) for example in examples]
        return heard_requests(self.student, [example.text for example in examples], readings)

    @torch.no_grad()
    def say(self, outputs: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
        """What the projector says as it has learnt."""
        return said(self.learning.context, *self.head(outputs))

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
        measured = self.development.measure(self.say)
        self.learning.swap()
        took = time.monotonic() - began
        self.checks.write(**self.learning.progress, **measured, measuring=took)
        rounded = {name: round(value, 3) for name, value in measured.items()}
        print(json.dumps({"seen": seen, **rounded}), flush=True)
        self.learning.export(self.chosen.folder / f"spoken_safety-{seen:05d}.safetensors")


def main() -> None:
    """Speak what is needed, learn, measure on the way, and write `spoken_safety.safetensors`."""
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
