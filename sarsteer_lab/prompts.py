"""Requests that can be typed or spoken, and the shipped paired set of them.

The project ships only prompts of its own; `evaluation.readers` reads the published sets that users bring.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sarsteer_lab.speech import SAMPLE_RATE, clip_seconds
from sarsteer_lab.store import data_folder

INSTRUCTION = "Answer the request in the audio."
"""The fixed text part `t0` of every spoken prompt (arXiv 2510.17633)."""

REFUSAL = "I cannot assist with that."
"""The refusal sentence `r` that is appended to `t0` to derive the refusal direction (arXiv 2510.17633)."""

LABELS = ("harmful", "harmless", "pseudo-harmful", "everyday")
SPLITS = ("derive", "validation", "test")


@dataclass(frozen=True)
class Prompt:
    """One user turn: a clip (path, or 16 kHz mono waveform), then text. Either may be missing, not both.

    `system=None` leaves the system turn to the model's chat template (its default one, where it has one).
    """

    text: str = ""
    audio: Path | str | np.ndarray | None = None
    system: str | None = None


def as_prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """Prompts of a list; strings in it become typed ones. Raises TypeError for a single one instead."""
    if isinstance(prompts, str | Prompt):
        shown = repr(prompts) if isinstance(prompts, str) else f"Prompt({prompts.text!r}, ...)"
        raise TypeError(f"prompts come in a list, even a single one: [{shown}]")
    return [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def rough_length(prompt: Prompt) -> float:
    """Positions a prompt will take, roughly (25 audio tokens a second, 4 characters a token)."""
    if prompt.audio is None:
        seconds = 0.0
    elif isinstance(prompt.audio, Path | str):
        seconds = clip_seconds(prompt.audio)
    else:
        seconds = len(prompt.audio) / SAMPLE_RATE
    return 25 * seconds + (len(prompt.text) + len(prompt.system or "")) / 4


@dataclass(frozen=True)
class SpokenPrompt:
    """A request in words and, where there is one, the clip in which a voice says it.

    `twin` is the id of the prompt of the same form and the opposite label. Two fields are for clips that are
    not the request but what it is about (AIR-Bench): `text` is then typed beside the clip, in place of an
    instruction, and `reference` is the answer that the set's authors give.
    """

    id: str
    request: str
    label: str
    topic: str
    split: str
    clip: Path | None = None
    voice: str | None = None
    twin: str | None = None
    text: str = ""
    reference: str = ""

    def typed(self, instruction: str = "") -> Prompt:
        """The request as text, after `instruction`. Raises ValueError if it has no sense without the clip."""
        if self.text:
            raise ValueError(f"prompt {self.id!r} asks about its clip, so it has no typed form")
        return Prompt(text=_join(instruction, self.request))

    def spoken(self, instruction: str = INSTRUCTION, refusal: str = "") -> Prompt:
        """The request as a clip, `instruction` and `refusal` as text. Raises ValueError without a clip."""
        if self.clip is None:
            raise ValueError(f"prompt {self.id!r} has no clip, so it has no spoken form")
        return Prompt(text=_join(self.text or instruction, refusal), audio=self.clip)


def load_prompts(split: str | None = None, label: str | None = None) -> list[SpokenPrompt]:
    """The shipped prompts of one split and one label (all of them by default), in the order of the file.

    Raises ValueError for a split or label that there is not.
    """
    for value, choices, what in ((split, SPLITS, "split"), (label, LABELS, "label")):
        if value is not None and value not in choices:
            raise ValueError(f"there is no {what} {value!r}; choose one of {', '.join(choices)}")
    folder = data_folder() / "prompts"
    found = []
    for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if split in (None, fields["split"]) and label in (None, fields["label"]):
            request, clip = fields.pop("text"), fields.pop("clip")
            found.append(SpokenPrompt(request=request, clip=folder / clip, **fields))
    return found


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
