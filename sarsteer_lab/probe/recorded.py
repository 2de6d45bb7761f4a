"""A model that was recorded, without its weights: `load_lalm("recorded:FOLDER")`.

What is kept of it is read under the model's own keys; for all that would have to be computed
`NotRecorded` says what was asked. `course.record` makes recordings.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers as hf

from sarsteer_lab.batch import Batch, Encoded
from sarsteer_lab.families import find_core
from sarsteer_lab.keys import content_key, versions
from sarsteer_lab.probe.tape import (
    Manifest,
    Taped,
    TapeStore,
    apart,
    read_manifest,
    setting,
    sketched,
)
from sarsteer_lab.results import Results
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import Store, file_sha256

CLOSE = 0.005
"""Tensors that differ by no more than this share of their length are one, computed elsewhere;
neighbouring settings of a slider differ by more."""

NAMED = 6
"""Recorded settings that a message names."""


class NotRecorded(RuntimeError):
    """A recorded model was asked for what it would have to compute."""


class Replay(Results):
    """Results of a recorded model: read from the recording, and nothing is computed."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._results = TapeStore(folder / "results")

    def store(self, store: Store) -> Store:
        """The recording's, whichever it would be."""
        return self._results

    def missing(self, what: str, prompt: Encoded, settings: Mapping[str, Any]) -> NoReturn:
        """Raise NotRecorded, which says what was asked, and what is recorded."""
        asked = f"has not been asked for {what} of {_shown(prompt)} ({_listed(settings)})"
        recorded = self.manifest.asked.get(what, [])
        if not recorded:
            functions = ", ".join(sorted(self.manifest.asked))
            raise self.refusal(f"{asked}. It holds no {what}, only {functions or 'nothing'}")
        known = [_listed(settings) for settings in recorded]
        if len(known) > NAMED:
            known[NAMED:] = [f"{len(known) - NAMED} more"]
        raise self.refusal(f"{asked}. It holds {what} of the course's prompts ({'; '.join(known)})")

    def refusal(self, reason: str) -> NotRecorded:
        """The error for something that is not there."""
        model = self.manifest.model
        here = versions()
        made_with = []
        for name, recorded in self.manifest.versions.items():
            if recorded != here.get(name):
                made_with.append(f"{name} {recorded} (here: {here.get(name)})")
        text = f"this recording of {model} {reason}. "
        if made_with:
            text += f"It was made with {', '.join(made_with)}. "
        return NotRecorded(f"{text}To ask something new, load the model itself: MODEL = {model!r}")

    def push_key(self, effect: Mapping[str, Any] | None) -> str:
        """See `Results.push_key`: that of the recorded push that is the same up to rounding."""
        key = content_key(effect)
        if effect is None or key in self.manifest.pushes:
            return key
        sketch = sketched(effect)
        nearest, least = key, CLOSE
        for recorded, sketch_of_recorded in self.manifest.pushes.items():
            distance = apart(sketch, sketch_of_recorded)
            if distance <= least:
                nearest, least = recorded, distance
        return nearest


def _shown(prompt: Encoded) -> str:
    """A prompt in words."""
    *_, user = prompt.messages
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    words = repr(" ".join(texts))
    if prompt.waveform is None:
        return words
    return f"{words} with a clip of {len(prompt.waveform) / SAMPLE_RATE:.1f} s"


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings in words."""
    listed = [f"{name}={value!r}" for name, value in settings.items()]
    return ", ".join(listed) or "default settings"


class Recorded(Taped):
    """A recorded model: all that a model has but its weights, which have shapes and no numbers."""

    results: Replay

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        config = hf.AutoConfig.from_pretrained(folder / "model")
        maker = getattr(hf, manifest.model_class)
        with torch.device("meta"):
            model = maker._from_config(config, dtype=getattr(torch, manifest.dtype))
        if (folder / "model" / "generation_config.json").is_file():
            generation = hf.GenerationConfig.from_pretrained(folder / "model")
            find_core(model).generation_config = generation
        processor = hf.AutoProcessor.from_pretrained(folder / "model")
        name, dials, family = manifest.name, manifest.dials, manifest.family
        turn = self._check_dials
        super().__init__(model, processor, name=name, dials=dials, turn=turn, family=family)
        self.manifest = manifest
        self.day = date.fromisoformat(manifest.day)
        self.results = Replay(folder, manifest)
        for part in model.modules():
            # Whoever runs a part, or reads its weights, is told that there are none.
            part.forward = part.state_dict = self._no_weights

    @property
    def device(self) -> torch.device:
        """Where results go: the CPU."""
        return torch.device("cpu")

    def fingerprint(self) -> str:
        """The model's own, at this setting of its dials."""
        return self.manifest.fingerprints[setting(self.dials)]

    def key(self, *parts: Any) -> str:
        """The model's own, where it was recorded (see `LALM.key`)."""
        super().key()  # or its error
        manifest = self.manifest
        dtype = f"torch.{manifest.dtype}"
        made_with = manifest.versions
        return content_key(self.fingerprint(), made_with, dtype, manifest.device, *parts)

    def batches(
        self, prompts: Sequence[Encoded], batch_size: int, description: str
    ) -> Iterator[Batch]:
        """Raises NotRecorded: batches are what runs through a model."""
        if not prompts:
            return iter(())
        reason = f"has no weights, so it cannot compute {description} of {_shown(prompts[0])}"
        advice = "what is kept is read by `kept`, `course` and `evaluation`"
        raise self.results.refusal(f"{reason}; {advice}")

    def _no_weights(self, *_: Any, **__: Any) -> NoReturn:
        reason = "has no weights, so no part of it can run"
        raise self.results.refusal(f"{reason}; cells tagged by-hand keep their recorded outputs")

    def _check_dials(self, _model: Any, dials: Mapping[str, float]) -> None:
        if setting(dials) not in self.manifest.fingerprints:
            recorded = "; ".join(sorted(self.manifest.fingerprints))
            reason = f"has not been asked anything at {setting(dials)}, only at {recorded}"
            raise self.results.refusal(reason)


def load_recorded(
    folder: str,
    *,
    safety: float | None = None,
    understanding: float | None = None,
    spoken_safety: float | None = None,
) -> Recorded:
    """`load_lalm("recorded:FOLDER")`: every file's hash is checked.

    Raises FileNotFoundError for a folder that holds no recording, ValueError for a damaged one and
    for a dial that the model has not, NotRecorded for a setting at which nothing was asked.
    """
    place = Path(folder).expanduser()
    if not (place / "manifest.json").is_file():
        advice = f"sarsteer-lab record MODEL --out {place}"
        raise FileNotFoundError(f"{place}: holds no recording ({advice})")
    manifest = read_manifest(place / "manifest.json")
    for name, entry in manifest.files.items():
        path = place / name
        if not path.is_file() or file_sha256(path) != entry["sha256"]:
            raise ValueError(f"{path}: is missing or damaged: copy the recording again")
    lalm = Recorded(place, manifest)
    dials = {"safety": safety, "understanding": understanding, "spoken_safety": spoken_safety}
    lalm.set_dials(**{dial: scale for dial, scale in dials.items() if scale is not None})
    return lalm
