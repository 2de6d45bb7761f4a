"""What a recording of a model is made of: a store of its results, notes, and a manifest.

While a course is recorded, all that is kept of the model goes on a `Tape`. `probe.recorded` replays
it, and `course.record` is the command.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.batch import Encoded
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.keeping import PerPrompt, kept
from sarsteer_lab.keys import content_key, versions
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import Results
from sarsteer_lab.store import Store, atomic_write, file_sha256

FORMAT = "sarsteer-lab recording 3"


@dataclass
class Manifest:
    """What a recording is of, and what is in it.

    `model` is what was loaded, `name` what results call it; `dials` where its dials stood at first,
    `day` the date that its chat template writes, `fingerprints` by the settings of the dials (see
    `setting`). `pushes`: the sketch of each push by its key; `asked`: what was asked for, by
    function. `files`: size and hash of each, by path.
    """

    model: str
    name: str
    model_class: str
    family: str
    dtype: str
    device: str
    dials: dict[str, float]
    day: str
    versions: dict[str, str] = field(default_factory=versions)
    fingerprints: dict[str, str] = field(default_factory=dict)
    pushes: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: str = FORMAT

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        with atomic_write(path) as scratch:
            content = json.loads(json.dumps(asdict(self)))
            text = json.dumps({**content, "checksum": content_key(content)}, indent=1)
            scratch.write_text(text, encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """A recording's manifest. Raises ValueError for one of another format, or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({error}): copy the recording again") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{path}: is no manifest of a recording: copy the recording again")
    if content["format"] != FORMAT:
        made = f"is of the format {content['format']!r}, not {FORMAT!r}"
        raise ValueError(f"{path}: {made}: record it again with this version")
    # Recordings of earlier versions have no checksum; another name in its place is damage.
    checksum = content.pop("checksum", None)
    names = [part.name for part in fields(Manifest)]
    if lacking := [name for name in names if name not in content]:
        raise ValueError(f"{path}: lacks {', '.join(lacking)}: copy the recording again")
    for name in ("versions", "fingerprints", "pushes", "asked", "files"):
        if not isinstance(content[name], dict):
            raise ValueError(f"{path}: has no record of {name}: copy the recording again")
    if content.keys() != set(names) or checksum not in (None, content_key(content)):
        raise ValueError(f"{path}: was damaged or edited: copy the recording again")
    return Manifest(**{name: content[name] for name in names})


class TapeStore(Store):
    """A store whose tensors take half the room where nothing is lost: in the model's own dtype."""

    def read(self, key: str) -> Any:
        """See `Store.read`; floats are float32."""
        value = super().read(key)
        half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if half else value

    def write(self, key: str, value: Any) -> Any:
        """See `Store.write`."""
        super().write(key, compact(value) if isinstance(value, Tensor) else value)
        return value


def compact(values: Tensor) -> Tensor:
    """Float32 in a smaller type if that holds every number; anything else as it is."""
    if values.dtype == torch.float32:
        for smaller in (torch.bfloat16, torch.float16):
            if torch.equal(values.to(smaller).float(), values):
                return values.to(smaller)
    return values


# While a recording is made


class Tape(Results):
    """Results of a model that is being recorded: all go into the recording's folder.

    Notes beside them say what was asked for, at which settings of the dials, and what pushes did.
    """

    def __init__(self, folder: Path, lalm: LALM) -> None:
        self.lalm = lalm
        self._results = TapeStore(folder / "results")
        self._work = folder / "work"
        self._fingerprints: set[str] = set()

    def store(self, store: Store) -> Store:
        """The recording's, whichever it would be."""
        return self._results

    def missing(self, what: str, prompt: Encoded, settings: Mapping[str, Any]) -> None:
        """Note that this is asked for, and the fingerprint if the dials have not stood here yet."""
        plain = json.loads(json.dumps(settings, default=repr))
        self._note("asked", [what, plain], {"what": what, "settings": plain})
        self.note_fingerprint()

    def note_fingerprint(self) -> None:
        """Note the model's fingerprint at this setting of its dials, once."""
        stand = setting(self.lalm.dials)
        if stand not in self._fingerprints:
            self._fingerprints.add(stand)
            self._note("fingerprints", stand, [stand, self.lalm.fingerprint()])

    def push_key(self, effect: Mapping[str, Any] | None) -> str:
        """See `Results.push_key`; a sketch of the push is noted."""
        key = content_key(effect)
        if effect is not None:
            self._note("pushes", key, [key, sketched(effect)])
        return key

    def _note(self, kind: str, name: Any, value: Any) -> None:
        store, key = Store(self._work / kind), content_key(name)
        if store.read(key) is None:
            store.write(key, value)


class Taped(LALM):
    """A model whose plain answers and logits are kept as well, in its `results`.

    Under hooks they are the model's business: what is computed then is not kept.
    """

    def generate(self, prompts: Sequence[Prompt | str | Encoded], **options: Any) -> list[str]:
        """See `LALM.generate`."""
        return self._plainly(LALM.generate, prompts, options)

    def next_token_logits(
        self, prompts: Sequence[Prompt | str | Encoded], **options: Any
    ) -> Float[Tensor, "prompt vocab"]:
        """See `LALM.next_token_logits`."""
        logits = self._plainly(LALM.next_token_logits, prompts, options)
        return logits if isinstance(logits, Tensor) else torch.stack(logits)

    def _plainly(
        self, method: PerPrompt, prompts: Sequence[Prompt | str | Encoded], options: dict[str, Any]
    ) -> Any:
        if foreign_hooks(self.model):
            return method(self, prompts, **options)
        return kept(method)(self, prompts, **options)


def setting(dials: Mapping[str, float]) -> str:
    """Where dials stand, as it is written down: "safety 1.0, understanding 0.0"."""
    return ", ".join(f"{name} {float(scale)}" for name, scale in dials.items()) or "no dials"


def begin(lalm: LALM, model: str, folder: Path) -> None:
    """Keep in `folder` what is no weight of the model `model`, and what the recording is of.

    Raises ValueError for a model of a class of its own.
    """
    kind, dtype = type(lalm.model).__name__, str(lalm.dtype).removeprefix("torch.")
    if not hasattr(hf, kind):
        reason = f"its class {kind} is not one of transformers' own"
        raise ValueError(f"{model} cannot be recorded: {reason}")
    generation = lalm.core.generation_config
    for part in (lalm.model.config, generation, lalm.processor):
        if part is not None:
            part.save_pretrained(folder / "model")
    name, family, device = f"recorded {lalm.name}", lalm.family.name, lalm.device.type
    day = lalm.day.isoformat()
    manifest = Manifest(model, name, kind, family, dtype, device, lalm.dials, day)
    Tape(folder, lalm).note_fingerprint()
    manifest.write(folder / "work" / "begun.json")


def being_recorded(folder: Path) -> Manifest:
    """What an unfinished recording in `folder` is of. Raises FileNotFoundError without one."""
    begun = folder / "work" / "begun.json"
    if not begun.is_file():
        raise FileNotFoundError(f"{folder}: no recording is being made here (sarsteer-lab record)")
    return read_manifest(begun)


def record_on(folder: Path, manifest: Manifest, lalm: LALM) -> Taped:
    """The same model, with all that is kept of it going into the recording in `folder`."""
    name, family = manifest.name, manifest.family
    dials, turn = lalm.dials, lalm.turn
    taped = Taped(lalm.model, lalm.processor, name=name, dials=dials, turn=turn, family=family)
    taped.day = date.fromisoformat(manifest.day)
    taped.results = Tape(folder, taped)
    return taped


def finish(folder: Path) -> Manifest:
    """Write the manifest of a recording in which all is kept, but what is in `work`."""
    manifest = being_recorded(folder)
    manifest.fingerprints = dict(_notes(folder, "fingerprints"))
    manifest.pushes = dict(_notes(folder, "pushes"))
    for note in _notes(folder, "asked"):
        manifest.asked.setdefault(note["what"], []).append(note["settings"])
    for settings in manifest.asked.values():
        settings.sort(key=json.dumps)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != "work" and path.suffix != ".tmp":
            entry = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            manifest.files[inside.as_posix()] = entry
    manifest.write(folder / "manifest.json")
    return manifest


def _notes(folder: Path, kind: str) -> Iterator[Any]:
    store = Store(folder / "work" / kind)
    for path in sorted(store.folder.glob("??/*.json")):
        yield store.read(path.stem)


# Pushes, known again where rounding differs


Sketch = dict[str, list[float]]
"""The numbers of a push, by the place in it where they stand; with all that is no number."""


def sketched(part: Any, place: str = "") -> Sketch:
    """A push, flat, as JSON has it: of a tensor its shape and sixteen weighted sums.

    The distance of two such sums tells how far two tensors are apart.
    """
    if isinstance(part, Tensor):
        return {f"{place} {list(part.shape)}": _sums(part).tolist()}
    if isinstance(part, float):
        return {place: [part]}
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if not isinstance(part, Mapping):
        return {f"{place} {part!r}": []}
    sketch: Sketch = {}
    for name, inner in part.items():
        sketch |= sketched(inner, f"{place}/{name}")
    return sketch


def _sums(values: Float[Tensor, "..."]) -> Float[Tensor, "16"]:
    flat = values.detach().double().cpu().flatten()
    places = torch.arange(len(flat)).double()
    frequencies = torch.arange(2, 18).double().sqrt()
    return torch.stack([flat @ (places * frequency).cos() for frequency in frequencies])


def apart(one: Sketch, other: Sketch) -> float:
    """How far two sketched pushes are apart, as a share of their tensors' length; inf: not alike.

    All but tensors has to be the same, up to rounding.
    """
    if one.keys() != other.keys():
        return math.inf
    farthest = 0.0
    for place, sums in one.items():
        others = other[place]
        if len(sums) > 1:
            length = max(math.hypot(*others), 1e-30)
            farthest = max(farthest, math.dist(sums, others) / length)
        elif sums and not math.isclose(*sums, *others, rel_tol=1e-4, abs_tol=1e-6):
            return math.inf
    return farthest
