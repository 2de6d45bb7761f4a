"""Areas under the ROC curve while training: requests kept apart, derive and validation splits.
Never the test.

Clips are heard once and their projected outputs kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.speech import read_clip
from training.clips import Clip
from training.loop import AudioSide
from training.understanding.sentences import LabelledText
from training.understanding.spoken import projected, to_int16
from training.understanding.student import Student, in_batches, readiness, refusing_tokens
from training.voices import Speaker, Voice

APART = 48
"""Requests kept apart that are spoken, of each of two labels."""
VOICES = (Voice("hibari-91", "hibari", 0.91), Voice("hibari-110", "hibari", 1.10))


class Development:
    """Three sets of requests with their clips heard, and the measure of a model on them."""

    def __init__(
        self, student: Student, audio: AudioSide, apart: Sequence[LabelledText], folder: Path
    ) -> None:
        """Hear the clips, unless `folder` holds what was heard."""
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
            save_file({f"clip.{number:04d}": own for number, own in enumerate(outputs)}, path)
        kept = load_file(path)
        self.outputs = [kept[name].float() for name in sorted(kept)]

    def measure(self, say: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Spoken areas of each set (harmful against harmless), and refused shares.

        `say` makes of a clip's outputs what the language model is given.
        """
        log_probs = in_batches(self.student.spoken, [say(outputs) for outputs in self.outputs])
        scores = readiness(log_probs, refusing_tokens(self.student.tokenizer)).numpy()
        start = 0
        measured: dict[str, float] = {}
        for name, own in self.sets.items():
            rows = scores[start : start + len(own)]
            start += len(own)
            of = {label: rows[[r.label == label for r in own]] for label in {r.label for r in own}}
            measured[name] = roc_area(of["harmful"], of["harmless"])
            for label, values in of.items():
                measured[f"{name} {label} refused"] = float(np.mean(values > 0))
        return measured


def _spoken(request: LabelledText, speaker: Speaker, number: int) -> Clip:
    voice = VOICES[number % len(VOICES)]
    wave = speaker.say(request.text, voice, speed=1.2, seed=number)
    return Clip(request.text, request.label, voice.name, to_int16(wave))
