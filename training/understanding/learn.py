"""The training: a low-rank adapter on the lower layers, minutes counted over all sittings."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from training.adapter import LORA_SCALE, inject_adapter
from training.loop import Log, load_checkpoint, rate, save_checkpoint
from training.understanding.losses import Aim, Spread, Words, distances, moved
from training.understanding.student import Student

RANK, RATE = 32, 1e-3
BATCH, TYPED = 8, 4
BEHIND, HOLDING = 0.5, 1.0
"""Weights beside the states in the clip, which have 1: of those behind it, and of typed ones."""
MEMORY = 0.98
"""What is kept is the running average of the weights, over some fifty updates."""
COMPARED = (1, 3, 6, 9, 11, 14, 17, 20, 23, 26, 29)
"""The layers whose states are compared: those of these that learn."""
MEASURED = 40
"""Sentences by which the spread of states is measured."""
SAVE_SECONDS, REFRESH, DEALT = 60, 8, 16


class Deck:
    """Deals batches of sentences of similar length, a new order each time all have been dealt."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.words: list[Words] = []
        self._left: list[Words] = []
        self._waiting: list[list[Words]] = []

    def add(self, words: Sequence[Words]) -> None:
        """Shuffle new sentences in."""
        self.words += words
        self._left += words
        self._draw.shuffle(self._left)

    def batch(self) -> list[Words]:
        """The next batch."""
        if not self._waiting:
            if len(self._left) < BATCH:
                self._left = self._draw.sample(self.words, len(self.words))
            dealt, self._left = self._left[: BATCH * DEALT], self._left[BATCH * DEALT :]
            dealt.sort(key=lambda words: len(words.path))
            whole = range(0, len(dealt) - BATCH + 1, BATCH)
            self._waiting = [dealt[start : start + BATCH] for start in whole]
            self._draw.shuffle(self._waiting)
        return self._waiting.pop()


class Learning:
    """A run that goes on where it stopped: adapter, average, moments and the time it has had."""

    def __init__(
        self,
        student: Student,
        teacher: Student,
        embedded: Callable[[Sequence[int]], torch.Tensor],
        words: Sequence[Words],
        folder: Path,
        *,
        top: int,
        seed: int,
    ) -> None:
        """`top` layers learn; `teacher` is a model of its own, unchanged.

        `embedded` gives the embeddings of a path (`alignment`), `words` the first sentences.
        """
        torch.manual_seed(seed)
        self.student, self.teacher, self.embedded, self.folder = student, teacher, embedded, folder
        self.layers = [layer for layer in COMPARED if layer < top - 1] + [top - 1]
        inject_adapter(student.lm, range(top), rank=RANK)
        named = [(name, p) for name, p in student.lm.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.adapter = nn.ParameterList([parameter for _, parameter in named])
        self.average = copy.deepcopy(self.adapter).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.adapter, lr=RATE, weight_decay=0.0, betas=(0.9, 0.98)
        )
        self.progress: dict[str, Any] = {"steps": 0, "seen": 0, "learnt": 0.0}
        self.path = folder / "learning.safetensors"
        if self.path.exists():
            self.progress = load_checkpoint(self.path, self._modules(), self.optimizer)
        self.draw = random.Random(seed + self.progress["seen"])
        self.deck = Deck(self.draw)
        self.deck.add(words)
        self.spread = Spread.of(self.aims(words[:MEASURED]), len(student.frame.answer))
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
        """Write the checkpoint, and the average as a delta."""
        self.export(self.folder / "understanding.safetensors")
        save_checkpoint(self.path, self._modules(), self.optimizer, self.progress)

    def step(self, done: float) -> dict[str, float]:
        """One batch; returns its losses. `done` is the share of the run that has passed."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate(done, self.progress["steps"], warmup=30, flat=0.5)
        batch = self.deck.batch()
        losses = self.spoken_losses(batch)
        losses["typed"] = self.typed_loss([words.text for words in self.draw.sample(batch, TYPED)])
        loss = losses["clip"] + BEHIND * losses["behind"] + HOLDING * losses["typed"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.adapter, 1.0)
        self.optimizer.step()
        self.progress["steps"] += 1
        self.progress["seen"] += len(batch)
        self._remember()
        if self.progress["steps"] % REFRESH == 0:
            self.student.refresh()
        return {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _remember(self) -> None:
        steps = self.progress["steps"]
        memory = min(MEMORY, steps / (steps + 15))
        for kept, now in zip(self.average, self.adapter, strict=True):
            kept.lerp_(now, 1 - memory)

    @torch.no_grad()
    def aims(self, batch: Sequence[Words]) -> list[Aim]:
        """What the unchanged model makes of the sentences' own words."""
        teacher = self.teacher
        at_frames = teacher.spoken_rows([self.embedded(words.path) for words in batch])
        tokens = [teacher.embed(teacher.tokens(words.text)) for words in batch]
        in_order = teacher.spoken_rows(tokens)
        return [
            Aim(frames, order)
            for frames, order in zip(
                teacher.states(at_frames, teacher.before_clip, self.layers),
                teacher.states(in_order, teacher.before_clip, self.layers),
                strict=True,
            )
        ]

    def spoken_losses(self, batch: Sequence[Words]) -> dict[str, torch.Tensor]:
        """How far the clips' states are from their aim, in the clip and behind it."""
        student = self.student
        rows = student.spoken_rows([words.outputs for words in batch])
        heard = student.states(rows, student.before_clip, self.layers)
        in_clips, behinds = [], []
        for states, words, aim in zip(heard, batch, self.aims(batch), strict=True):
            in_clip, behind = distances(states, words, aim, self.spread)
            in_clips.append(in_clip.mean())
            behinds.append(behind.mean())
        return {"clip": torch.stack(in_clips).mean(), "behind": torch.stack(behinds).mean()}

    def typed_loss(self, texts: Sequence[str]) -> torch.Tensor:
        """How far the states of some typed sentences have moved."""
        rows = self.student.typed_rows(texts)
        now = self.student.states(rows, self.student.before_text, self.layers)
        with torch.no_grad():
            before = self.teacher.states(rows, self.teacher.before_text, self.layers)
        pairs = zip(now, before, strict=True)
        return torch.stack([moved(here, there, self.spread) for here, there in pairs]).mean()

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

    def export(self, path: Path) -> None:
        """Write the average as a delta."""
        progress = {name: str(value) for name, value in self.progress.items()}
        save_file(self.averaged(), path, metadata=progress)
