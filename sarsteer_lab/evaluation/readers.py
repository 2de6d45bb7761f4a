"""Readers of published sets of requests, which users bring: `read_set("figstep:FOLDER")` and its like.

Each reads a set as its authors lay it out; the formats are described at the readers, those of tables in
`layouts`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sarsteer_lab.evaluation.layouts import LAYOUTS
from sarsteer_lab.evaluation.records import (
    PromptFileError,
    Record,
    read_csv,
    read_json_lines,
    read_json_list,
    read_table,
    read_text,
)
from sarsteer_lab.prompts import LABELS, SPLITS, SpokenPrompt
from sarsteer_lab.store import data_folder

Missing = Literal["error", "skip", "typed"]
"""For a record whose clip is not on disk: stop, leave it out and count it, or keep it as typed only."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts read from `source`, and one line for each record left out because its clip is missing."""

    prompts: list[SpokenPrompt]
    skipped: list[str]
    source: str


def read_set(spec: str, *, missing: Missing = "error") -> PromptSet:
    """Read a published set, named "NAME:PATH": NAME one of `PUBLISHED_SETS`, PATH a file or its folder.

    Raises ValueError for an unknown name or `missing`, and PromptFileError, naming file and record, for
    anything in the files that does not fit their format: encoding, syntax, keys, types, ids that occur twice,
    file names that leave their folder. Clips that are not on disk are an error too, unless `missing` is
    "skip" (the record is left out and listed in `skipped`) or "typed" (it is kept without a clip).
    """
    name, colon, location = spec.partition(":")
    if name not in PUBLISHED_SETS or not colon or not location:
        raise ValueError(
            f"{spec!r} names no set of prompts; write NAME:PATH, NAME one of {', '.join(PUBLISHED_SETS)}"
        )
    if missing not in get_args(Missing):
        raise ValueError(f"missing is {missing!r}, but has to be one of {', '.join(get_args(Missing))}")
    path = Path(location).expanduser()
    if not path.exists():
        raise PromptFileError(f"{path}: there is no such file or folder; check the path of the set {name!r}")
    collection = _Collection(name, path, missing)
    PUBLISHED_SETS[name](collection)
    return collection.finish()


@dataclass
class _Collection:
    """A set while it is being read: what its readers have in common."""

    name: str
    path: Path
    missing: Missing
    prompts: dict[str, SpokenPrompt] = field(default_factory=dict)
    places: dict[str, Record] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def find(self, *names: str) -> list[Path]:
        """The path itself if it is a file, else those of `names` that the folder holds; at least one."""
        if not self.path.is_dir():
            return [self.path]
        if found := [self.path / name for name in names if (self.path / name).is_file()]:
            return found
        raise PromptFileError(
            f"{self.path}: a folder for the set {self.name!r} has to hold {' or '.join(names)}"
        )

    def add(
        self,
        record: Record,
        number: str,
        label: str,
        topic: str,
        request: str,
        needs_clip: bool = False,
        **more: Any,
    ) -> None:
        """Take in the prompt `number` of the set, whose clip, if any, is known to lie in its folder."""
        identity = number if self.name == "prompts" else f"{self.name}/{number}"
        prompt = SpokenPrompt(identity, request, label, topic, **{"split": "test", **more})
        if (first := self.places.setdefault(identity, record)) is not record:
            where = first.place if first.path == record.path else f"{first.path}, {first.place}"
            record.fail(f"the id {identity!r} occurs twice, first in {where}")
        # os.path, not pathlib: a name that the file system cannot hold is no file there, not an error.
        if not os.path.isfile(prompt.clip) if prompt.clip is not None else needs_clip:
            named = prompt.clip or f"is named ({record.found()})"
            self.absent.append(f"{record.path}, {record.place}: no clip {named}")
            if self.missing != "typed":
                return
            prompt = replace(prompt, clip=None)
        self.prompts[identity] = prompt

    def finish(self) -> PromptSet:
        """The set, if it holds any prompt and no clip is missing against the caller's wish."""
        if self.absent and self.missing == "error":
            first = "; ".join(self.absent[:3]) + ("; ..." if len(self.absent) > 3 else "")
            raise PromptFileError(
                f"{len(self.absent)} of {len(self.places)} clips are missing: {first}. Put them there, "
                'or pass missing="skip" to leave them out, or missing="typed" to do without sound'
            )
        if not self.prompts:
            raise PromptFileError(
                f"{self.path}: none of the {len(self.absent)} clips is there, so nothing is left"
            )
        skipped = self.absent if self.missing == "skip" else []
        return PromptSet(list(self.prompts.values()), skipped, f"{self.name}:{self.path}")


def _read_own(collection: _Collection) -> None:
    """The shipped format, `prompts.jsonl`: id, label, topic, split, text; clip, voice and twin or null."""
    (path,) = collection.find("prompts.jsonl")
    for record in read_json_lines(path):
        clip = record.optional_text("clip")
        collection.add(
            record,
            record.identifier("id"),
            record.choice("label", LABELS),
            record.text("topic"),
            record.text("text"),
            split=record.choice("split", SPLITS),
            clip=record.inside(path.parent, clip) if clip else None,
            voice=record.optional_text("voice"),
            twin=record.optional_text("twin"),
        )
    for record in collection.places.values():
        if twin := record.optional_text("twin"):
            if twin not in collection.places:
                record.fail(f"the twin {twin!r} is not in the file")
            if collection.places[twin].text("split") != record.text("split"):
                record.fail(f"the twin {twin!r} is in another split")


def _read_figstep(collection: _Collection) -> None:
    """FigStep as SARSteer lays it out (harmful, or its authors' harmless rewrites).

    `train_100.json` and `test_250.json`: lists of {"scenario", "audio_file", "question"}; or, without them,
    `audio_files.txt`: "<file> <question-with-hyphens>" a line, the scenario being the file name up to its
    last underscore. Clips lie in `question/`.
    """
    paths = collection.find("train_100.json", "test_250.json", "audio_files.txt")
    label = "harmless" if collection.name.endswith("-harmless") else "harmful"
    lists = [path for path in paths if path.suffix == ".json"]
    for path in lists or paths:
        split = "derive" if path.name.startswith("train") else "test"
        for record in read_json_list(path) if lists else _audio_files(path):
            file = record.text("audio_file")
            scenario, question = record.text("scenario"), record.text("question")
            clip = record.inside(path.parent / "question", file)
            collection.add(record, file, label, scenario, question, split=split, clip=clip)


def _audio_files(path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            file, _, question = line.strip().partition(" ")
            scenario, underscore, _ = file.rpartition("_")
            fields = {"audio_file": file, "question": question.replace("-", " "), "scenario": scenario}
            record = Record(path, f"line {number}", fields)
            if not underscore or not question:
                record.fail(
                    f"has to be `<scenario>_<number>.wav <question-with-hyphens>`, but is {line.strip()!r}"
                )
            records.append(record)
    return records


def _read_safebench(collection: _Collection) -> None:
    """FigStep's own text file `safebench.csv`: dataset, category_id, task_id, category_name, question, ..."""
    (path,) = collection.find("safebench.csv")
    for record in read_csv(path, ("dataset", "category_id", "task_id", "category_name", "question")):
        number = "_".join(record.text(key) for key in ("dataset", "category_id", "task_id"))
        collection.add(record, number, "harmful", record.text("category_name"), record.text("question"))


def _read_advbench(collection: _Collection) -> None:
    """AdvBench: spoken (JSON) or its own text file (CSV); harmful, or SARSteer's authors' harmless rewrites.

    `advbench_audio.json` (harmless: `advbench_audio_safe.json`): a list of {"question_id", "audio_name",
    "question"}, clips in the folder of the same name. CSV: goal, target (which is not read).
    """
    harmless = collection.name.endswith("-harmless")
    label, topic = ("harmless", "safe_behaviors") if harmless else ("harmful", "harmful_behaviors")
    audio = "advbench_audio_safe.json" if harmless else "advbench_audio.json"
    path = collection.find(audio, *([] if harmless else ["harmful_behaviors.csv", "advbench.csv"]))[0]
    spoken = path.suffix == ".json"
    records = read_json_list(path) if spoken else read_csv(path, ("goal", "target"))
    for number, record in enumerate(records, start=1):
        clip = record.inside(path.with_suffix(""), record.text("audio_name")) if spoken else None
        identity = record.identifier("question_id") if spoken else str(number)
        collection.add(
            record, identity, label, topic, record.text("question" if spoken else "goal"), clip=clip
        )


def _read_sorry_bench(collection: _Collection) -> None:
    """SORRY-Bench: `base_question.jsonl` with {"question_id", "category", "turns": [question]} a line.

    Clips are `<question_id>.wav` in `base_question_audio/`, or beside the file where there is no such folder.
    """
    (path,) = collection.find("base_question.jsonl")
    folder = path.parent / "base_question_audio"
    folder = folder if folder.is_dir() else path.parent
    for record in read_json_lines(path):
        number, turns = record.identifier("question_id"), record.value("turns")
        if not isinstance(turns, list) or len(turns) != 1:
            record.fail(f"'turns' has to be a list of one question, but is {turns!r:.60}")
        request, clip = record.checked_text("turns", turns[0]), record.inside(folder, f"{number}.wav")
        collection.add(record, number, "harmful", record.identifier("category"), request, clip=clip)


def _read_xstest(collection: _Collection) -> None:
    """XSTest: `xstest_prompts.csv` with id, prompt, type, label, ...; its safe prompts mimic harmful ones."""
    (path,) = collection.find("xstest_prompts.csv")
    for record in read_csv(path, ("id", "prompt", "type", "label")):
        label = {"safe": "pseudo-harmful", "unsafe": "harmful"}[record.choice("label", ("safe", "unsafe"))]
        collection.add(record, record.text("id"), label, record.text("type"), record.text("prompt"))


def _read_air_bench(collection: _Collection) -> None:
    """AIR-Bench chat: `Chat_meta.json`, a list of {"path", "question", "answer_gt", "task_name", ...}.

    Clips are `<task_name>_<dataset_name>/<path>`. The question is typed and asks about the clip.
    """
    (path,) = collection.find("Chat_meta.json")
    for record in read_json_list(path):
        task = f"{record.text('task_name')}_{record.text('dataset_name')}"
        question = record.text("question")
        clip = record.inside(path.parent, f"{task}/{record.text('path')}")
        typed: dict[str, Any] = {"clip": clip, "text": question, "reference": record.text("answer_gt")}
        collection.add(record, record.identifier("uniq_id"), "everyday", task, question, **typed)


def _read_tables(collection: _Collection) -> None:
    """A set of `LAYOUTS`. A table in a folder called train is for deriving, in validation for validation."""
    layout, given = LAYOUTS[collection.name], collection.path.absolute()
    names = layout.files.split()
    tables = sorted(t for name in names for t in given.rglob(name)) if given.is_dir() else [given]
    if not tables:
        collection.find(*names)
    for table in tables:
        folder, place = [*table.parents][: names[0].count("/") + 1][-1], table.parent.name
        prefix = folder.relative_to(given).parts if given.is_dir() else ()
        for number, record in enumerate(read_table(table), start=1):
            label = layout.label or record.choice("label", LABELS)
            if isinstance(label, dict) and place not in label:
                record.fail(f"lies in the folder {place!r}, which is none of {', '.join(label)}")
            identity = record.identifier(layout.number) if layout.number else f"{table.stem}/{number}"
            collection.add(
                record,
                "/".join([*prefix, identity]),
                label[place] if isinstance(label, dict) else label,
                record.first(layout.topic, place),
                record.first(layout.request),
                needs_clip=True,
                clip=record.clip(layout.clip, folder),
                text=record.first(layout.typed, ""),
                split={"train": "derive", "validation": "validation"}.get(folder.name, "test"),
            )


PUBLISHED_SETS: dict[str, Callable[[_Collection], None]] = {
    "prompts": _read_own,
    "figstep": _read_figstep,
    "figstep-harmless": _read_figstep,
    "safebench": _read_safebench,
    "advbench": _read_advbench,
    "advbench-harmless": _read_advbench,
    "sorry-bench": _read_sorry_bench,
    "xstest": _read_xstest,
    "air-bench": _read_air_bench,
    **dict.fromkeys(LAYOUTS, _read_tables),
}
"""The names that `read_set` knows; "prompts" and "audiofolder" are formats for sets of one's own."""


def read_sets(
    specs: Sequence[str] | None, *, split: str, missing: Missing = "error", limit: int | None = None
) -> tuple[dict[str, list[SpokenPrompt]], dict[str, int]]:
    """Requests of one split ("all": every) by set and label, and how many records each set left out.

    A set with several labels is taken apart ("xstest harmful", ...), since each label has its own measure;
    `specs` None means the shipped prompts. Raises ValueError as `read_set` does, if nothing is left,
    or if two sets have the same name.
    """
    sets: dict[str, list[SpokenPrompt]] = {}
    skipped: dict[str, int] = {}
    for spec in specs or [f"prompts:{data_folder() / 'prompts'}"]:
        found = read_set(spec, missing=missing)
        name = spec.partition(":")[0]
        chosen = [prompt for prompt in found.prompts if split in ("all", prompt.split)]
        if not chosen:
            splits = ", ".join(sorted({prompt.split for prompt in found.prompts}))
            raise ValueError(f"{spec} has no requests in the split {split!r}; it has: {splits}")
        if silent := [prompt.id for prompt in chosen if prompt.clip is None]:
            raise ValueError(
                f"{len(silent)} requests of {spec} have no clip ({silent[0]}, ...): an evaluation asks "
                "spoken requests; record them, and describe the clips as data/prompts does"
            )
        labels = list(dict.fromkeys(prompt.label for prompt in chosen))
        for label in labels:
            key = name if len(labels) == 1 else f"{name} {label}"
            if key in sets:
                raise ValueError(f"the set {name!r} is given twice; evaluate one after the other")
            sets[key] = [prompt for prompt in chosen if prompt.label == label][:limit]
            # Of a record that was left out only its place is known, so it counts for the whole set.
            skipped[key] = len(found.skipped)
    return sets, skipped
