"""The training: a small convolution behind the projector, minutes counted over all sittings.

The language model is not changed. What it makes of a request whose *typed* tokens stand in the
clip's place is what it is to make of the clip: the first token of the answer, how ready it is to
refuse, the states of the last position. Gradients run through it to the projector's outputs.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from sarsteer_lab.pocket.soft_tokens import Context
from training.loop import Log, load_checkpoint, rate, save_checkpoint
from training.understanding.student import Student, readiness, refusing_tokens

RATE, DECAY, BATCH = 2e-3, 0.01, 8
MEMORY = 0.98
"""What is kept is the running average of the weights, over some fifty updates."""
COMPARED = (14, 19, 24, 29)
"""The layers whose last-position states are compared."""
ANSWER, STATES = 0.5, 0.5
"""Weights beside the readiness to refuse, which has 1."""
FURTHEST, READINESS_UNIT = 12.0, 4.0
"""Readiness is compared in units of four, and as if it never were further off than twelve."""
SMALLEST = 1e-2
"""Added to a spread."""
MEASURED = 100
"""Requests by which the spread of states is measured."""
SAVE_SECONDS, DEALT = 60, 12


@dataclass(frozen=True)
class Heard:
    """A spoken request: what the head reads in its clip, and what its typed tokens lead to."""

    text: str
    mixture: Float[Tensor, "position d_model"]
    blank: Float[Tensor, "position 1"]
    states: Float[Tensor, "layer d_model"]
    """Of the last position, in the `COMPARED` layers."""
    log_probs: Float[Tensor, "vocab"]
    """Of the answer's first token."""


class Deck:
    """Deals batches of requests of similar length, a new order each time all have been dealt."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.requests: list[Heard] = []
        self._left: list[Heard] = []
        self._waiting: list[list[Heard]] = []

    def add(self, requests: Sequence[Heard]) -> None:
        """Shuffle new requests in."""
        self.requests += requests
        self._left += requests
        self._draw.shuffle(self._left)

    def batch(self) -> list[Heard]:
        """The next batch."""
        if not self._waiting:
            if len(self._left) < BATCH:
                self._left = self._draw.sample(self.requests, len(self.requests))
            dealt, self._left = self._left[: BATCH * DEALT], self._left[BATCH * DEALT :]
            dealt.sort(key=lambda heard: len(heard.mixture))
            whole = range(0, len(dealt) - BATCH + 1, BATCH)
            self._waiting = [dealt[start : start + BATCH] for start in whole]
            self._draw.shuffle(self._waiting)
        return self._waiting.pop()


class Learning:
    """A run that goes on where it stopped: context, average, moments and the time it has had."""

    def __init__(
        self, student: Student, requests: Sequence[Heard], folder: Path, *, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.student, self.folder = student, folder
        self.refusing = refusing_tokens(student.tokenizer)
        self.context = Context(requests[0].mixture.shape[1])
        self.average = copy.deepcopy(self.context).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.context.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98)
        )
        self.progress: dict[str, Any] = {"steps": 0, "seen": 0, "learnt": 0.0}
        self.path = folder / "learning.safetensors"
        if self.path.exists():
            self.progress = load_checkpoint(self.path, self._modules(), self.optimizer)
        self.deck = Deck(random.Random(seed + self.progress["seen"]))
        self.deck.add(requests)
        some = torch.stack([heard.states.float() for heard in requests[:MEASURED]])
        self.spread: Float[Tensor, "layer d_model"] = some.std(0) + SMALLEST
        self.log = Log(folder / "log.jsonl")

    def _modules(self) -> dict[str, nn.Module]:
        return {"context": self.context, "average": self.average}

    def run(
        self, minutes: float, more: Callable[[int], None], check: Callable[[int], None]
    ) -> None:
        """Learn until `minutes` have passed over all sittings.

        `more` and `check` are called with the number of clips heard after each step; their time is
        not counted.
        """
        saved = time.monotonic()
        while self.progress["learnt"] < 60 * minutes:
            began = time.monotonic()
            losses = self.step(self.progress["learnt"] / (60 * minutes))
            self.progress["learnt"] += time.monotonic() - began
            self.log.write(**self.progress, **losses)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
            more(self.progress["seen"])
            check(self.progress["seen"])
        self.save()

    def save(self) -> None:
        """Write the checkpoint, and the average as what would ship."""
        self.export(self.folder / "spoken_safety.safetensors")
        save_checkpoint(self.path, self._modules(), self.optimizer, self.progress)

    def step(self, done: float) -> dict[str, float]:
        """One batch; returns its losses. `done` is the share of the run that has passed."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate(done, self.progress["steps"], warmup=20, flat=0.4)
        batch = self.deck.batch()
        losses = self.losses(batch)
        loss = losses["readiness"] + ANSWER * losses["answer"] + STATES * losses["states"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.context.parameters(), 1.0)
        self.optimizer.step()
        self.progress["steps"] += 1
        self.progress["seen"] += len(batch)
        self._remember()
        return {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _remember(self) -> None:
        steps = self.progress["steps"]
        memory = min(MEMORY, steps / (steps + 15))
        for kept, now in zip(self.average.parameters(), self.context.parameters(), strict=True):
            kept.lerp_(now, 1 - memory)

    def losses(self, batch: Sequence[Heard]) -> dict[str, Tensor]:
        """How far the clips' answers, readiness and states are from those of the typed tokens."""
        student = self.student
        rows = [said(self.context, heard.mixture, heard.blank) for heard in batch]
        heard_states = student.states(student.spoken_rows(rows), student.before_clip, COMPARED)
        answers = torch.stack([student.answer(states) for states in heard_states])
        wanted = torch.stack([heard.log_probs.float() for heard in batch])
        divergence = (wanted.exp() * (wanted - answers)).sum(-1)
        apart = readiness(answers, self.refusing) - readiness(wanted, self.refusing)
        apart = apart.clamp(-FURTHEST, FURTHEST) / READINESS_UNIT
        distances = []
        for states, heard in zip(heard_states, batch, strict=True):
            away = (states[:, -1] - heard.states.float()) / self.spread
            distances.append(away.pow(2).mean())
        return {
            "answer": divergence.mean(),
            "readiness": apart.pow(2).mean(),
            "states": torch.stack(distances).mean(),
        }

    def swap(self) -> None:
        """Exchange the context and its average, in place; twice is as before."""
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.context.parameters(), strict=True):
                before = now.clone()
                now.copy_(kept)
                kept.copy_(before)

    def export(self, path: Path) -> None:
        """Write the average."""
        progress = {name: str(value) for name, value in self.progress.items()}
        averaged = {
            name: part.half().contiguous() for name, part in self.average.state_dict().items()
        }
        save_file(averaged, path, metadata=progress)


def said(
    context: Context,
    mixture: Float[Tensor, "position d_model"],
    blank: Float[Tensor, "position 1"],
) -> Float[Tensor, "position d_model"]:
    """What the projector says of one clip with both dials at 1."""
    return mixture + context(mixture[None], blank[None])[0]


@torch.no_grad()
def heard_requests(
    student: Student,
    texts: Sequence[str],
    readings: Sequence[tuple[Tensor, Tensor]],
    together: int = 16,
) -> list[Heard]:
    """Spoken requests with what their typed tokens lead to; `readings` are of `TokenHead`."""
    requests = []
    for start in range(0, len(texts), together):
        some = texts[start : start + together]
        rows = student.spoken_rows([student.embed(student.tokens(text)) for text in some])
        all_states = student.states(rows, student.before_clip, COMPARED)
        for text, states, (mixture, blank) in zip(
            some, all_states, readings[start : start + together], strict=True
        ):
            log_probs = student.answer(states).half()
            requests.append(Heard(text, mixture, blank, states[:, -1].half(), log_probs))
    return requests
