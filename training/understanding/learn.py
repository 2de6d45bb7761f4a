"""The training itself: a low-rank adapter on some layers, minutes counted over all sittings."""

from __future__ import annotations

import copy
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from training.adapter import LORA_SCALE, inject_adapter
from training.loop import Log, load_checkpoint, rate, save_checkpoint
from training.understanding.losses import (
    HOLDING,
    PROJECTION,
    RANKING,
    STATES,
    Whitening,
    agrees,
    divergence,
    ranking,
)
from training.understanding.spoken import Example
from training.understanding.student import Heard, Memory, Student, readiness, refusing_tokens

RANK, RATE = 16, 6e-4
SHARES = {"harmful": 4, "harmless": 3, "other": 1}
"""A batch's rows; others are pseudo-harmful and everyday ones."""
MEMORY = 0.99
"""What is kept is the running average of the weights, over some hundred updates."""
AGAIN, REMEMBERED = 3, 10
"""Updates on a batch of the last few whose clips are not run again (`Student.end_again`)."""
TYPED, TYPED_EVERY = 8, 2
SAVE_SECONDS, REFRESH, ROUND = 60, 10, 4


@dataclass(frozen=True)
class Weights:
    """Of the losses beside the divergence (see `losses`)."""

    states: float = STATES
    projection: float = PROJECTION
    ranking: float = RANKING
    holding: float = HOLDING


class Decks:
    """Deals batches, rows of similar length: each example once before any comes again."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._all: dict[str, list[Example]] = {kind: [] for kind in SHARES}
        self._decks: dict[str, list[Example]] = {kind: [] for kind in SHARES}
        self._waiting: list[list[Example]] = []

    def add(self, examples: Sequence[Example]) -> None:
        """Shuffle new examples in."""
        for example in examples:
            kind = example.label if example.label in SHARES else "other"
            self._all[kind].append(example)
            self._decks[kind].append(example)
        for deck in self._decks.values():
            self._draw.shuffle(deck)

    def batch(self) -> list[Example]:
        """The next batch, as many of each kind as `SHARES` says."""
        if not self._waiting:
            self._waiting = self._deal()
        return self._waiting.pop()

    def _deal(self) -> list[list[Example]]:
        batches: list[list[Example]] = [[] for _ in range(ROUND)]
        for kind, count in SHARES.items():
            drawn = sorted(self._take(kind, count * ROUND), key=lambda e: len(e.outputs))
            for number, batch in enumerate(batches):
                batch += drawn[number * count : (number + 1) * count]
        self._draw.shuffle(batches)
        return batches

    def _take(self, kind: str, count: int) -> list[Example]:
        deck = self._decks[kind]
        if len(deck) < count:
            deck += self._draw.sample(self._all[kind], len(self._all[kind]))
        taken, self._decks[kind] = deck[:count], deck[count:]
        return taken


def average_of(adapter: nn.ParameterList) -> nn.ParameterList:
    """A copy of an adapter, to hold its running average."""
    kept = copy.deepcopy(adapter)
    for parameter in kept:
        parameter.requires_grad_(False)
    return kept


class Learning:
    """A run that goes on where it stopped: adapter, average, moments and the time it has had."""

    def __init__(
        self,
        student: Student,
        whitening: Whitening,
        held: Sequence[Example],
        folder: Path,
        *,
        weights: Weights,
        layers: Sequence[int],
        seed: int,
    ) -> None:
        """`held` are examples whose *typed* answers stay as they are."""
        torch.manual_seed(seed)
        self.student, self.whitening, self.held, self.folder = (
            student,
            whitening,
            list(held),
            folder,
        )
        self.weights = weights
        self.refusing = refusing_tokens(student.tokenizer)
        inject_adapter(student.lm, layers, rank=RANK)
        self.names = [name for name, p in student.lm.named_parameters() if p.requires_grad]
        self.adapter = nn.ParameterList([p for p in student.lm.parameters() if p.requires_grad])
        self.average = average_of(self.adapter)
        self.optimizer = torch.optim.AdamW(
            self.adapter, lr=RATE, weight_decay=0.0, betas=(0.9, 0.98)
        )
        self.progress: dict[str, Any] = {"steps": 0, "updates": 0, "seen": 0, "learnt": 0.0}
        self.path = folder / "learning.safetensors"
        if self.path.exists():
            self.progress = load_checkpoint(self.path, self._modules(), self.optimizer)
        self.draw = random.Random(seed + self.progress["seen"])
        self.decks = Decks(self.draw)
        self.recent: deque[tuple[list[Example], Memory]] = deque(maxlen=REMEMBERED)
        self._clips: dict[Example, torch.Tensor] = {}
        self._texts: dict[Example, torch.Tensor] = {}
        self.log = Log(folder / "log.jsonl")
        student.refresh()

    def _modules(self) -> dict[str, nn.Module]:
        return {"adapter": self.adapter, "average": self.average}

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
            found = self.step(self.progress["learnt"] / (60 * minutes))
            self.progress["learnt"] += time.monotonic() - began
            self.log.write(**self.progress, **found)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.export(self.folder / "understanding.safetensors")
                save_checkpoint(self.path, self._modules(), self.optimizer, self.progress)
                saved = time.monotonic()
            more(self.progress["seen"])
            check(self.progress["seen"])
        save_checkpoint(self.path, self._modules(), self.optimizer, self.progress)

    def step(self, done: float) -> dict[str, float]:
        """One batch; returns its losses. `done` is the share of the run that has passed."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate(done, self.progress["steps"], warmup=15, flat=0.35)
        batch = self.decks.batch()
        heard = self.student.go_on(self.begun(batch), self.student.before_clip)
        self.recent.append((batch, self.student.remembered()))
        losses = self.spoken_losses(heard, batch)
        loss = self._sum(losses)
        if self.progress["steps"] % TYPED_EVERY == 0:
            losses["typed"] = self.typed_loss()
            loss = loss + self.weights.holding * losses["typed"]
        self._update(loss)
        for _ in range(AGAIN):
            again, memory = self.draw.choice(self.recent)
            heard = self.student.end_again(self.begun(again), memory, self.student.before_clip)
            self._update(self._sum(self.spoken_losses(heard, again)))
        self.progress["steps"] += 1
        self.progress["seen"] += len(batch)
        if self.progress["steps"] % REFRESH == 0:
            self.student.refresh()
        return {name: value.item() for name, value in losses.items()}

    def _update(self, loss: torch.Tensor) -> None:
        """One step of the optimiser, and of the running average."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.adapter, 1.0)
        self.optimizer.step()
        self.progress["updates"] += 1
        memory = min(MEMORY, self.progress["updates"] / (self.progress["updates"] + 10))
        with torch.no_grad():
            for kept, now in zip(self.average, self.adapter, strict=True):
                kept.lerp_(now, 1 - memory)

    def _sum(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        total = losses["kl"] + self.weights.ranking * losses["ranking"]
        return (
            total
            + self.weights.states * losses["states"]
            + self.weights.projection * losses["projection"]
        )

    def begun(self, batch: Sequence[Example]) -> list[torch.Tensor]:
        """The clips as they enter the first layer that learns; remembered."""
        new = [e for e in batch if e not in self._clips]
        if new:
            made = self.student.begun_spoken([e.outputs for e in new], [e.answer for e in new])
            self._clips.update(zip(new, made, strict=True))
        return [self._clips[e] for e in batch]

    def begun_texts(self, batch: Sequence[Example]) -> list[torch.Tensor]:
        """The same of the typed requests."""
        new = [e for e in batch if e not in self._texts]
        if new:
            made = self.student.begun_typed([e.text for e in new], [e.answer for e in new])
            self._texts.update(zip(new, made, strict=True))
        return [self._texts[e] for e in batch]

    def spoken_losses(self, heard: Heard, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Divergence from the typed answers, states, projection, ranking of one batch."""
        imitated = torch.tensor([float(agrees(e, self.refusing)) for e in batch])
        top = torch.stack([e.top for e in batch])
        apart = divergence(heard.log_probs, top, torch.stack([e.log_probs for e in batch]))
        states, projection = self.whitening.distances(heard, batch)
        scores = readiness(heard.log_probs[:, 0], self.refusing)
        harmful = torch.tensor([e.label == "harmful" for e in batch])
        return {
            "kl": (apart * imitated).sum() / imitated.sum().clamp(min=1),
            "ranking": ranking(scores, harmful),
            "states": states,
            "projection": projection,
        }

    def typed_loss(self) -> torch.Tensor:
        """How far answers to some typed requests have moved."""
        some = self.draw.sample(self.held, TYPED)
        said = self.student.go_on(self.begun_texts(some), self.student.before_text)
        top, log_probs = (
            torch.stack([getattr(e, name) for e in some]) for name in ("top", "log_probs")
        )
        return divergence(said.log_probs, top, log_probs).mean()

    def averaged(self) -> dict[str, torch.Tensor]:
        """The running average in float16, as `adapter.export_delta` writes an adapter."""
        delta = {}
        for name, parameter in zip(self.names, self.average, strict=True):
            module, kind = name.split(".lora_")
            scale = LORA_SCALE if kind[0] == "B" else 1.0
            key = "model.language_model." + module.removeprefix("model.") + "." + kind[0]
            delta[key] = (parameter.detach() * scale).half().contiguous()
        return delta

    def swap(self) -> None:
        """Exchange the adapter and its average, in place; twice is as before."""
        with torch.no_grad():
            for kept, now in zip(self.average, self.adapter, strict=True):
                before = now.clone()
                now.copy_(kept)
                kept.copy_(before)
        self.student.refresh()

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The model as it was: the adapter's second factors are nothing in the block."""
        kept = [parameter.detach().clone() for parameter in self.adapter]
        with torch.no_grad():
            for name, parameter in zip(self.names, self.adapter, strict=True):
                if ".lora_B" in name:
                    parameter.zero_()
        self.student.refresh()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.adapter, kept, strict=True):
                    parameter.copy_(value)
            self.student.refresh()

    def export(self, path: Path) -> None:
        """Write the average as a delta."""
        save_file(
            self.averaged(), path, metadata={name: str(v) for name, v in self.progress.items()}
        )
