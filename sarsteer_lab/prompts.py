"""Requests that can be typed or spoken, and the shipped paired set of them.

The project ships only prompts of its own; `evaluation.readers` reads the published sets that users
bring.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sarsteer_lab.paths import data_folder, shipped_table
from sarsteer_lab.speech import check_waveform, read_clip

INSTRUCTION = "Answer the request in the audio."
"""The fixed text part `t0` of every spoken prompt (arXiv 2510.17633)."""

REFUSALS: dict[str, str] = shipped_table("prompts/refusals.toml")
"""Refusal texts `r` by name: appended to `t0`, they shift the state along the refusal direction.

The first is the default of arXiv 2510.17633; the others are of the kinds that its authors' code
carries, in our own words. Only a text that itself makes a model refuse gives it a direction that
does: `evaluation.precondition` tests that.
"""

REFUSAL = REFUSALS["paper"]
"""The paper's refusal sentence."""

Form = Literal["typed", "spoken"]
"""How a request is put to a model."""

LABELS = ("harmful", "harmless", "pseudo-harmful", "everyday")
SPLITS = ("derive", "validation", "test")


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Prompt:
    """One user turn: a clip (a path, or a waveform at 16 kHz), then text; at least one of them.

    Tensors become arrays. Waveforms with a sampling rate of their own, `(samples, rate)` or a
    Hugging Face dataset's `{"array", "sampling_rate"}`, `{"bytes", "path"}` or AudioDecoder, and
    open binary files are checked and brought to 16 kHz at once (ClipError). `system=None` leaves
    the system turn to the model's chat template (its default one, where it has one). Raises
    TypeError for another kind of `audio`, or of text, ValueError for text that is none in UTF-8.
    """

    text: str = ""
    audio: Any = None
    system: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio", _clip(self.audio))
        for what, words in {"text": self.text, "system": self.system or ""}.items():
            if not isinstance(words, str):
                raise TypeError(f"a prompt's {what} is a string, not {words!r:.80}")
            if lone := _LONE_SURROGATE.search(words):
                reason = "half of a character, as of a file that was read in a wrong encoding"
                raise ValueError(f"a prompt's {what} holds {lone[0]!r}, {reason}: {words!r:.80}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[object, ...]:
        """All that makes it this prompt, waveforms by their samples."""
        audio = self.audio
        if isinstance(audio, np.ndarray):
            audio = (audio.dtype.str, audio.shape, audio.tobytes())
        return (self.text, audio, self.system)


@dataclass(frozen=True)
class Request:
    """A request in words and, where there is one, the clip in which a voice says it.

    `twin` is the id of the prompt of the same form and the opposite label. Two fields are for clips
    that are not the request but what it is about (AIR-Bench): `text` is then typed beside the clip,
    in place of an instruction, and `reference` is the answer that the set's authors give.
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

    def typed(self, refusal: str = "") -> Prompt:
        """The request and `refusal` as text. Raises ValueError if it is about its clip."""
        if self.text:
            raise ValueError(f"prompt {self.id!r} asks about its clip, so it has no typed form")
        return Prompt(" ".join(filter(None, (self.request, refusal))))

    def spoken(self, instruction: str = INSTRUCTION, refusal: str = "") -> Prompt:
        """The request as a clip, the rest as text. Raises ValueError without a clip."""
        if self.clip is None:
            raise ValueError(f"prompt {self.id!r} has no clip, so it has no spoken form")
        return Prompt(" ".join(filter(None, (self.text or instruction, refusal))), self.clip)


def prompts_of(requests: Sequence[Request], form: Form, refusal: str = "") -> list[Prompt]:
    """Requests in a form, each with the text `refusal`. Raises ValueError for one without it."""
    if form == "typed":
        return [request.typed(refusal) for request in requests]
    return [request.spoken(refusal=refusal) for request in requests]


def in_a_list(prompts: Iterable[object]) -> list[object]:
    """Prompts as a list. Raises TypeError for a prompt or string that is not in one.

    And for what gives something else than its prompts, or gives them in no order: a table of pandas
    would give the names of its columns, a dictionary its keys.
    """
    if isinstance(prompts, str | Prompt):
        raise TypeError(f"prompts come in a list, even a single one: write [{prompts!r:.80}]")
    if isinstance(prompts, Mapping | Set) or hasattr(prompts, "columns"):
        kind = type(prompts).__name__
        advice = "such as list(table['request'])"
        raise TypeError(f"prompts come in a list, not in a {kind}: make one of them, {advice}")
    return list(prompts)


def as_prompt(prompt: object, number: int) -> Prompt:
    """A prompt as it is, a string as a typed one; `number` is its place in the list.

    One of a module that has been loaded again since (autoreload) is a prompt too. Raises TypeError
    for anything else.
    """
    if isinstance(prompt, str):
        return Prompt(prompt)
    if isinstance(prompt, Prompt):
        return prompt
    kind = type(prompt)
    if kind.__module__ == __name__ and kind.__name__ == "Prompt":
        return Prompt(**vars(prompt))
    hint = "; call its spoken() or typed()" if kind.__name__ == "Request" else ""
    if kind.__module__.startswith("sarsteer_lab.") and not hint:
        hint = "; its module has been loaded again since it was made (autoreload): make it anew"
    raise TypeError(f"prompt {number} is a {kind.__name__}, not a Prompt or a string{hint}")


def load_prompts(split: str | None = None, label: str | None = None) -> list[Request]:
    """The shipped prompts of one split and one label (default: all), in the order of the file.

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
            found.append(Request(request=request, clip=folder / clip, **fields))
    return found


def _clip(audio: Any) -> Path | str | np.ndarray | None:
    """A prompt's audio as a path or as an array at 16 kHz. Raises TypeError and ClipError."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        return (audio.float() if audio.is_floating_point() else audio).numpy()
    if audio is None or isinstance(audio, Path | str | np.ndarray):
        return audio
    if callable(
        getattr(audio, "get_all_samples", None)
    ):  # a cell of datasets 4: torchcodec's AudioDecoder
        heard = audio.get_all_samples()
        audio = (heard.data.T, heard.sample_rate)
    if isinstance(audio, Mapping) and {"array", "sampling_rate"} <= set(audio):
        rate = audio["sampling_rate"]
        return check_waveform(_clip(audio["array"]), rate, name="the prompt's audio")
    if isinstance(audio, Mapping) and {"bytes", "path"} <= set(audio):
        if audio["bytes"] is None and audio["path"] is None:
            raise TypeError("the audio cell holds neither bytes nor a path: this row has no clip")
        return audio["path"] if audio["bytes"] is None else read_clip(BytesIO(audio["bytes"]))
    if (
        isinstance(audio, tuple)
        and len(audio) == 2
        and isinstance(audio[1], int | float | np.integer)
    ):
        return check_waveform(_clip(audio[0]), float(audio[1]), name="the prompt's audio")
    if callable(getattr(audio, "read", None)) and callable(getattr(audio, "seek", None)):
        return read_clip(audio)
    raise TypeError(
        f"audio is a {type(audio).__name__}; give a path, a 16 kHz waveform (array or tensor), "
        "(waveform, sampling rate), or an open binary file (for bytes: io.BytesIO(...))"
    )
