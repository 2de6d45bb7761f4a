"""A model that was recorded stands in for itself: `load_lalm("recorded:FOLDER")`.

While a course is recorded it runs twice. In the first run ("live") the model is the plain one, and what the
library keeps (states, answers, probabilities) comes into the user's cache. In the second ("calls") all of
this is read, and noted; what cells ask the model beyond it, with hooks of their own or not, is computed on
`absent` tensors with numbers behind them, and noted as well. A replay has the notes and no numbers.
`course.record` makes recordings.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from xxhash import xxh3_128

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.pocket.base import file_sha256
from sarsteer_lab.probe.absent import Absent, Behind, absent, name_of
from sarsteer_lab.store import Store, _hosted, content_key

FORMAT = "sarsteer-lab recording 1"

CLOSE = 0.005
"""Vectors that differ by no more than this share of their length are the same ones, rounded or computed on
another machine; neighbouring settings of a slider differ by more."""

LARGE = 2**16
"""Numbers from which a note is kept in half precision."""

LIKE = "like-"


class NotRecorded(RuntimeError):
    """A replay was asked for what no chapter has asked the recorded model."""


class Recording:
    """What a process records, or replays, of a model: `Store.recording`.

    `stage`: "live", "calls" or "replay" (see above). `notes` are a replay's, and `known` has kind and sketch,
    by hash, of the tensors that went into keys.
    """

    def __init__(self, folder: Path, about: dict[str, Any], stage: str) -> None:
        self.about, self.stage, self.replaying = about, stage, stage == "replay"
        self.work = Store(folder / "work")
        self.notes: dict[str, Any] = read_notes(folder) if self.replaying else {}
        begun = self.work.folder.glob(f"{LIKE[:2]}/{LIKE}*.json")  # of a recording that goes on
        found = self.notes if self.replaying else {path.stem: self.work.find(path.stem) for path in begun}
        self.known = {key.removeprefix(LIKE): found[key] for key in found if key.startswith(LIKE)}
        self._alias: dict[str, str] = {}

    def look(self, part: Tensor) -> bytes:
        """What a tensor counts as in keys: its hash; of floats that of a known one that is close."""
        return self._look(part).encode()

    def _look(self, part: Tensor) -> str:
        if isinstance(part, Absent):
            return part.behind.name
        name = xxh3_128(_hosted(part)).hexdigest()
        if part.numel() < 16 or not part.is_floating_point() or name in self.known:
            return name
        if name not in self._alias:
            own, kind = sketch(part), f"{part.dtype} {list(part.shape)}"
            close = None if self.stage == "live" else self._close(kind, own)
            if close is None and not self.replaying:
                self.known[name] = kind, own.tolist()
                self.work.write(LIKE + name, self.known[name])
            self._alias[name] = close or name
        return self._alias[name]

    def _close(self, kind: str, own: Float[Tensor, "16"]) -> str | None:
        names = [name for name, (of, _) in self.known.items() if of == kind]
        if not names or not own.isfinite().all():
            return None
        apart = (torch.tensor([self.known[name][1] for name in names]).double() - own).norm(dim=1)
        return names[int(apart.argmin())] if apart.min() <= CLOSE * own.norm() else None

    def kept(self, key: str, find: Callable[[str], Any]) -> Any:
        """What a store has under a key (`Store.read`), states as they are in a recording."""
        if self.replaying and key in self.notes:
            return whole(self.notes[key])
        found = find(key)
        asked = found is not None and self.stage == "calls"
        return self._note(key, found, always=True) if asked else found

    def rounded(self, value: Any) -> Any:
        """A tensor of the first run as later ones will find it: else all that is made of it would differ."""
        return whole(halved(value)) if self.stage == "live" and isinstance(value, Tensor) else value

    def answer(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, which is noted under a name, or what was noted. Raises NotRecorded."""
        if not self.replaying:
            return self._note(name, compute())
        if name not in self.notes:
            model = self.about["model"]
            raise NotRecorded(
                f"this is a recording of {model}, and no chapter has asked it this: choose a request and a "
                f"strength that the chapters show, or load the model itself (MODEL = {model!r})"
            )
        return whole(self.notes[name])

    def _note(self, name: str, value: Any, always: bool = False) -> Any:
        kept = value
        if isinstance(value, Tensor):
            kept = value.detach().cpu()
            kept = halved(kept) if always or kept.numel() >= LARGE else kept
        self.work.write(name, kept)
        return whole(kept).to(value.device) if isinstance(value, Tensor) else value


def halved(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Float32 in half precision, unless that would be infinite."""
    half = values.half() if values.dtype == torch.float32 else values
    return half if half.isfinite().all() else values


def whole(value: Any) -> Any:
    """A note in full precision."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def sketch(values: Float[Tensor, "..."]) -> Float[Tensor, "16"]:
    """Sixteen weighted sums, whose distance tells how far tensors are apart."""
    flat = values.detach().double().cpu().flatten()
    at = torch.arange(len(flat)).double()
    return torch.stack([flat @ (at * number**0.5).cos() for number in range(2, 18)])


def read_notes(folder: Path) -> dict[str, Any]:
    """All notes of a finished recording by their names."""
    lines = (folder / "notes.jsonl").read_text(encoding="utf-8").split("\n")
    return {**load_file(folder / "states.safetensors"), **dict(map(json.loads, filter(None, lines)))}


class Listened(LALM):
    """A model in its first run: what is kept of it stands apart from what is kept of the plain model."""

    def key(self, *parts: Any) -> str:
        """See `LALM.key`."""
        return content_key("recorded", super().key(*parts))


class Recorded(LALM):
    """A recorded model, or one that is being recorded."""

    recording: Recording
    places: list[tuple[dict[str, Any], str, Tensor, Absent]]
    """Where its weights stand: parameters or buffers of a part, their name there, real and absent."""

    @property
    def fingerprint(self) -> str:
        """The recorded model's, at this setting of its dial."""
        return self.recording.answer(name_of(["fingerprint", self.safety]), self._fingerprint)

    def _fingerprint(self) -> str:
        with self.bare():
            return super().fingerprint

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Put the real weights back while the block lasts."""
        try:
            for parts, name, real, _ in self.places:
                parts[name] = real
            yield
        finally:
            for parts, name, _, stand_in in self.places:
                parts[name] = stand_in

    def key(self, *parts: Any) -> str:
        """As the recorded model's, on the device that it was on."""
        super().key()  # or its error
        about = self.recording.about
        return content_key("recorded", content_key(self.fingerprint, about["dtype"], about["device"], *parts))


def load_recorded(folder: str, *, safety: float, **_of_checkpoints: object) -> LALM:
    """Entry point of `load_lalm("recorded:FOLDER")`; of two in one process the later one is replayed.

    Raises FileNotFoundError for a folder that holds no recording, and ValueError for a damaged one.
    """
    place = Path(folder).expanduser()
    begun, finished = place / "work" / "about.json", place / "manifest.json"
    if not begun.is_file() and not finished.is_file():
        raise FileNotFoundError(f"{place}: holds no recording (sarsteer-lab record MODEL --out {place})")
    about = json.loads((begun if begun.is_file() else finished).read_text(encoding="utf-8"))
    if begun.is_file():
        return _being_recorded(place, about, safety)
    if about["format"] != FORMAT:
        raise ValueError(f"{place}: is of the format {about['format']!r}, not {FORMAT!r}: record it again")
    for name, entry in about["files"].items():
        if not (place / name).is_file() or file_sha256(place / name) != entry["sha256"]:
            raise ValueError(f"{place / name}: is missing or damaged: copy the recording again")
    Store.recording = None
    config = hf.AutoConfig.from_pretrained(place / "model")
    with torch.device("meta"):
        model = getattr(hf, about["class"])._from_config(
            config,
            dtype=getattr(torch, about["dtype"].removeprefix("torch.")),
            attn_implementation=about["attention"],
        )
    return _standing_in(place, about, "replay", model, safety)


def _being_recorded(place: Path, about: dict[str, Any], safety: float) -> LALM:
    """The model while it is recorded."""
    Store.recording = None
    live = load_lalm(about["model"], safety=safety)
    live.name, live.__class__ = about["name"], Listened
    if about["stage"] == "live":
        Store.recording = Recording(place, about, "live")
        return live
    return _standing_in(place, about, "calls", live.model, safety, live)


def _standing_in(
    place: Path, about: dict[str, Any], stage: str, model: Any, safety: float, live: LALM | None = None
) -> LALM:
    """A model whose weights are absent, with numbers behind them if it is `live`."""
    recording = Recording(place, about, stage)
    processor = hf.AutoProcessor.from_pretrained(place / ("model" if live is None else "work/model"))
    core = getattr(model, "thinker", model)
    if live is None:
        core.generation_config = hf.GenerationConfig.from_pretrained(place / "model")
    made: dict[int, Absent] = {}  # tied weights stay one
    places = []
    for title, module in model.named_modules():
        for parts in (module._parameters, module._buffers):
            for name, part in parts.items():
                if part is not None:
                    if id(part) not in made:
                        value = None if live is None else part.detach()
                        behind = Behind(part.detach().to("meta"), value, ["weight", f"{title}.{name}"])
                        made[id(part)] = absent(behind)
                        made[id(part)]._is_param = isinstance(part, torch.nn.Parameter)
                    places.append((parts, name, part, made[id(part)]))
                    parts[name] = made[id(part)]

    def turn(model: Any, scale: float) -> None:
        if live is not None and live._turn is not None:
            with lalm.bare():
                live._turn(model, scale)
        for title, part in (*model.named_parameters(), *model.named_buffers()):
            part.behind.renamed(["weight", title, scale])

    options = {"turn": turn if about["dial"] else None, "family": about["family"]}
    lalm = Recorded(model, processor, name=about["name"], **options)
    lalm.recording, lalm.places = recording, places
    Store.recording = recording
    if about["dial"]:
        lalm.set_safety(safety)
    elif safety != 1.0:
        raise ValueError(f"safety={safety} is a dial of the pocket model; {about['name']} has none")
    return lalm
