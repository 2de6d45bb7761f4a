"""Areas under the ROC curve while training: requests kept apart, derive and validation splits.
Never the test.

Clips are heard once and their projected outputs kept; what the untrained model says to the typed
requests is kept beside them, so that a run that goes on compares with the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.speech import read_clip
from training.clips import Clip
from training.loop import AudioSide
from training.understanding.sentences import LabelledText
from training.understanding.spoken import projected, to_int16
from training.understanding.student import Student, readiness, refusing_tokens
from training.voices import Speaker, Voice

APART = 48
"""Requests kept apart that are spoken, of each of two labels."""
VOICES = (Voice("hibari-91", "hibari", 0.91), Voice("hibari-110", "hibari", 1.10))
BATCH = 12


class Development:
    """Three sets of requests with their clips heard, and the measure of a model on them."""

    def __init__(
        self, student: Student, audio: AudioSide, apart: Sequence[LabelledText], folder: Path
    ) -> None:
        """Hear the clips, unless `folder` holds what was heard. `student` is the untrained model
        then.
        """
        self.student = student
        self.sets: dict[str, list[LabelledText]] = {"apart": [], "derive": [], "validation": []}
        for label in ("harmful", "harmless"):
            self.sets["apart"] += [r for r in apart if r.label == label][:APART]
        prompts = {split: load_prompts(split) for split in ("derive", "validation")}
        for split, own in prompts.items():
            prompts[split] = [p for p in own if p.label in ("harmful", "harmless")]
            self.sets[split] = [LabelledText(p.request, p.label) for p in prompts[split]]
        path = folder / "development.safetensors"
        if not path.exists():
            speaker = Speaker()
            clips = [_spoken(r, speaker, number) for number, r in enumerate(self.sets["apart"])]
            for own in prompts.values():
                clips += [
                    Clip(p.request, p.label, "", to_int16(read_clip(p.clip))) for p in own if p.clip
                ]
            outputs = projected(audio, clips, random.Random(0), changed=0.0)
            kept = {f"clip.{number:04d}": own for number, own in enumerate(outputs)}
            save_file({**kept, "typed": self.typed().half()}, path)
        found = load_file(path)
        self.before = found.pop("typed").float()
        self._outputs = [found[name] for name in sorted(found)]

    @cached_property
    def begun(self) -> list[Float[Tensor, "position d_model"]]:
        """The clips as they enter the student's first layer that learns."""
        made: list[Tensor] = []
        for at in range(0, len(self._outputs), BATCH):
            some = self._outputs[at : at + BATCH]
            made += self.student.begun_spoken(some)
        return made

    @torch.no_grad()
    def typed(self) -> Float[Tensor, "request vocab"]:
        """Log-probabilities of the first token of the answers to the typed validation requests."""
        texts = [r.text for r in self.sets["validation"]]
        parts = [
            self.student.typed(texts[start : start + BATCH])
            for start in range(0, len(texts), BATCH)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def spoken(self) -> Float[Tensor, "request"]:
        """Readiness to refuse each spoken request, the sets one after another."""
        found = torch.zeros(len(self.begun))
        order = sorted(range(len(self.begun)), key=lambda i: len(self.begun[i]))
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            said = self.student.go_on([self.begun[i] for i in rows], self.student.before_clip)
            found[rows] = readiness(said, refusing_tokens(self.student.tokenizer))
        return found

    def measure(self) -> dict[str, float]:
        """Spoken areas of each set (harmful against harmless), refused shares, and what typed
        answers lost.
        """
        scores, start = self.spoken().numpy(), 0
        found: dict[str, float] = {}
        for name, own in self.sets.items():
            rows = scores[start : start + len(own)]
            start += len(own)
            of = {label: rows[[r.label == label for r in own]] for label in {r.label for r in own}}
            found[name] = roc_area(of["harmful"], of["harmless"])
            for label, values in of.items():
                found[f"{name} {label} refused"] = float(np.mean(values > 0))
        typed = self.typed()
        found["typed kl"] = (self.before.exp() * (self.before - typed)).sum(-1).mean().item()
        tokens = refusing_tokens(self.student.tokenizer)
        ready = {"before": readiness(self.before, tokens), "now": readiness(typed, tokens)}
        of_label = {
            label: torch.tensor([r.label == label for r in self.sets["validation"]])
            for label in ("harmful", "harmless")
        }
        found["typed"] = roc_area(
            ready["now"][of_label["harmful"]].numpy(), ready["now"][of_label["harmless"]].numpy()
        )
        for when, readinesses in ready.items():
            for label, chosen in of_label.items():
                refused = readinesses[chosen] > 0
                found[f"typed {label} refused {when}"] = refused.float().mean().item()
        return found


def _spoken(request: LabelledText, speaker: Speaker, number: int) -> Clip:
    voice = VOICES[number % len(VOICES)]
    wave = speaker.say(request.text, voice, speed=1.2, seed=number)
    return Clip(request.text, request.label, voice.name, to_int16(wave))
