"""Readers of published sets of requests, which users bring: `read_set("figstep:FOLDER")` and its
like.

Each is read as its authors lay it out; the table `data/prompts/layouts.toml` says where it has
what.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from tqdm.auto import tqdm

from sarsteer_lab.evaluation.data_files import (
    Entry,
    PromptFileError,
    read_csv,
    read_dataset,
    read_json_lines,
    read_json_list,
    read_parquet,
    read_text,
)
from sarsteer_lab.paths import data_folder, shipped_table
from sarsteer_lab.prompts import LABELS, SPLITS, Request
from sarsteer_lab.voice import VOICE, spoken_clip

Missing = Literal["error", "skip"]
"""For a record whose clip is not on disk: stop, or leave it out and count it."""


@dataclass(frozen=True)
class Layout:
    """Where a set keeps what a prompt is made of.

    A field is told by columns, of which the first that holds anything counts ("text
    original_text"), or by a text with columns in braces ("{dataset}_{task_id}", "{turns[0]}" of a
    list of one), which a record has to have; "{row}" is its number and "{stem}" the name of its
    file.

    `files` are patterns of the files' names (of several groups the first of which there are any);
    with ** in them they lie anywhere. `label` is that of all prompts, or goes by what stands in the
    column `kind` (without one: by the name of the file's folder). Clips lie in `folder` (the first
    that there is), seen from where the file's pattern begins. A topic that no column says is
    `about`, or else the folder's name. `typed` is what is typed beside the clip, and `reference`
    its authors' answer. In sets of one's own (`own`) requests without a clip are spoken, and
    columns that are not read are named; `split` may be one.
    """

    files: list[str]
    request: str
    label: str | dict[str, str]
    clip: str = ""
    number: str = "{stem}/{row}"
    topic: str = "topic category type source"
    about: str = ""
    kind: str = ""
    folder: str = "."
    typed: str = ""
    reference: str = ""
    own: bool = False
    split: str = ""


@cache
def layouts() -> dict[str, list[Layout]]:
    """By the name of a set its layouts. Raises TypeError for a field that there is not."""
    sets, found = shipped_table("prompts/layouts.toml"), {}
    for name, rows in sets.items():
        own = dict(rows[0])
        if like := own.pop("like", None):
            rows = [{**row, **own} for row in sets[like]]
        found[name] = [Layout(**row) for row in rows]
    return found


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and one line for each record left out because its clip is missing."""

    prompts: list[Request]
    skipped: list[str]


def read_set(spec: str, *, missing: Missing = "error") -> PromptSet:
    """Read a set, named "NAME:PATH": NAME "prompts" or one of `layouts`, PATH a file or its folder.

    "prompts", "folder", "dataset" and "audiofolder" (and these with a label behind them:
    "folder-harmful") are formats for sets of one's own. Of all but the first, requests without a
    clip are spoken by `pocket.voice`, and kept. "dataset:ID" (or ID:CONFIG) is a Hugging Face
    dataset in the cache of `datasets`, or a folder that it saved. All formats are in
    docs/own_prompts.md.

    Raises ValueError for an unknown name or `missing`, and PromptFileError, naming file and record,
    for anything in the files that does not fit their format: encoding, syntax, keys, types, ids
    that occur twice, file names that leave their folder. Clips that are not on disk are an error
    too, unless `missing` is "skip" (the record is left out and listed in `skipped`).
    """
    name, colon, location = spec.partition(":")
    if name not in (known := ("prompts", *layouts())) or not colon or not location:
        raise ValueError(
            f"{spec!r} names no set of prompts; write NAME:PATH, NAME one of {', '.join(known)}"
        )
    if missing not in get_args(Missing):
        raise ValueError(
            f"missing is {missing!r}, but has to be one of {', '.join(get_args(Missing))}"
        )
    path = Path(location).expanduser()
    if not name.startswith("dataset") and not path.exists():
        raise PromptFileError(
            f"{path}: there is no such file or folder; check the path of the set {name!r}"
        )
    prompts: dict[str, Request] = {}
    places: dict[str, Entry] = {}
    absent: list[str] = []
    source = _own(path) if name == "prompts" else _published(name, path)
    for record, prompt, spoken in tqdm(
        source, desc=f"reading {name}", unit="request", delay=2, leave=False
    ):
        if (first := places.setdefault(prompt.id, record)) is not record:
            where = first.place if first.path == record.path else f"{first.path}, {first.place}"
            record.fail(f"the id {prompt.id!r} occurs twice, first in {where}")
        # os.path, not pathlib: a name that the file system cannot hold is no file there, not an
        # error.
        if not os.path.isfile(prompt.clip) if prompt.clip is not None else spoken:
            named = prompt.clip or f"is named ({record.found()})"
            absent.append(f"{record.path}, {record.place}: no clip {named}")
        else:
            prompts[prompt.id] = prompt
    if absent and missing == "error":
        named = "; ".join(absent[:3]) + ("; ..." if len(absent) > 3 else "")
        raise PromptFileError(
            f"{len(absent)} of {len(places)} clips are missing: {named}. Put them there, "
            'or pass missing="skip" to leave them out'
        )
    if not prompts:
        raise PromptFileError(
            f"{path}: none of the {len(absent)} clips is there, so nothing is left"
        )
    if name in layouts() and (said := sum(prompt.voice == VOICE for prompt in prompts.values())):
        print(
            f"{spec}: {said} of {len(prompts)} requests have no clip: {VOICE} speaks them",
            file=sys.stderr,
        )
    return PromptSet(list(prompts.values()), absent)


def _own(path: Path) -> Iterator[tuple[Entry, Request, bool]]:
    """The shipped format, `prompts.jsonl`: id, label, topic, split, text; clip, voice and twin or
    null.

    Each prompt comes with its record, and with whether it has to have a clip.
    """
    _, [path] = _fitting("prompts", [Layout(["prompts.jsonl"], "text", "")], path)
    found = read_json_lines(path)
    records = {record.text("id", whole=True): record for record in found}
    for record in found:
        clip, twin, split = (
            record.optional_text("clip"),
            record.optional_text("twin"),
            record.text("split"),
        )
        if twin and twin not in records:
            record.fail(f"the twin {twin!r} is not in the file")
        if twin and records[twin].text("split") != split:
            record.fail(f"the twin {twin!r} is in another split")
        prompt = Request(
            record.text("id", whole=True),
            record.text("text"),
            record.choice("label", LABELS),
            record.text("topic"),
            record.choice("split", SPLITS),
            clip=record.inside(path.parent, clip) if clip else None,
            voice=record.optional_text("voice"),
            twin=twin,
        )
        yield record, prompt, False


def _published(name: str, path: Path) -> Iterator[tuple[Entry, Request, bool]]:
    """A set of `layouts`. What is in train, a file or folder, is for deriving; likewise
    validation."""
    given, splits = path.absolute(), {"train": "derive", "validation": "validation", "test": "test"}
    for file, layout, records in _tables(name, path, given):
        depth = _names(layout)[0].removeprefix("**/").count("/")
        root, place = file.parents[depth], file.parent.name
        folders = [root / folder.format(stem=file.stem) for folder in layout.folder.split()]
        folder = next(filter(Path.is_dir, folders), folders[0])
        split = splits.get(file.stem.partition("_")[0]) or splits.get(root.name, "test")
        read = " ".join(value for value in vars(layout).values() if isinstance(value, str))
        if layout.own and (more := sorted(set(records[0].fields) - set(re.findall(r"\w+", read)))):
            print(f"{file}: columns that are not read: {', '.join(more)}", file=sys.stderr)
        for row, record in enumerate(records, start=1):
            label, kind = layout.label, layout.kind.strip("{}")
            if isinstance(label, dict):
                if kind and not (layout.own and record.fields.get(kind) in (None, "")):
                    label = label[record.choice(kind, tuple(label))]
                elif place in label:
                    label = label[place]
                else:
                    what = f"lies in the folder {place!r}, which is none of {', '.join(label)}"
                    how = f"; say it in a column 'label' ({record.found()}), or write {name}-harmful:{path}"
                    record.fail(what + how * layout.own)
            topic = record.told(layout.topic, layout.about or place)
            number = record.told(layout.number, f"{file.stem}/{row}", row=row, stem=file.stem)
            request, clip = (
                record.told(layout.request, whole=False),
                record.clip(layout.clip, folder),
            )
            if voiced := layout.own and clip is None:
                try:
                    clip = spoken_clip(request)
                except ValueError as error:
                    record.fail(str(error))
            prompt = Request(
                "/".join(
                    [name, *(root.relative_to(given).parts if given.is_dir() else ()), number]
                ),
                request,
                label,
                topic,
                record.choice(layout.split, SPLITS) if record.fields.get(layout.split) else split,
                clip=clip,
                voice=VOICE if voiced else None,
                text=record.told(layout.typed, ""),
                reference=record.told(layout.reference, ""),
            )
            yield record, prompt, bool(layout.clip)


def _tables(name: str, path: Path, given: Path) -> Iterator[tuple[Path, Layout, list[Entry]]]:
    """The tables of a set; a dataset's splits are tables of these names in its folder."""
    if name.startswith("dataset"):
        for split, column, records in read_dataset(str(path)):
            yield given / split, replace(layouts()[name][0], clip=column), records
        return
    layout, files = _fitting(name, layouts()[name], given)
    for file in files:
        yield file, layout, _records(file, layout)


def _fitting(name: str, layouts: Sequence[Layout], path: Path) -> tuple[Layout, list[Path]]:
    """The first layout of which the path is a file, or holds any; and these files."""
    if not path.is_dir():
        alike = [
            each
            for each in layouts
            if path.suffix.lower() in {Path(n).suffix for n in _names(each)}
        ]
        return [*alike, *layouts][0], [path]
    for layout in layouts:
        for group in layout.files:
            # Recorders write .WAV too, which only some file systems find as .wav.
            either = " ".join({group, group.upper()}) if group.startswith("**/*.") else group
            if files := [file for pattern in either.split() for file in path.glob(pattern)]:
                return layout, sorted(set(files)) if "**" in group else files
    names = " or ".join(file.removeprefix("**/") for layout in layouts for file in _names(layout))
    found = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
    raise PromptFileError(
        f"{path}: a folder for the set {name!r} has to hold {names} (found: {found})"
    )


def _names(layout: Layout) -> list[str]:
    return " ".join(layout.files).split()


def _records(file: Path, layout: Layout) -> list[Entry]:
    """The records of a file, of the kind that its name's ending tells, or else the layout's first
    file's."""
    kinds = {
        ".json": read_json_list,
        ".jsonl": read_json_lines,
        ".parquet": read_parquet,
        ".txt": _file_list,
    }
    usual = Path(_names(layout)[0]).suffix
    if usual == ".wav":
        return [
            Entry(
                file, "clip", {"clip": file, "words": " ".join(re.findall(r"[^\W_]+", file.stem))}
            )
        ]
    suffix = file.suffix if file.suffix in (".csv", *kinds) else usual
    if suffix == ".csv":
        forms = " ".join([layout.number, layout.topic, layout.request, layout.kind])
        needed = [key for key in re.findall(r"{(\w+)", forms) if key not in ("row", "stem")]
        return read_csv(file, list(dict.fromkeys(needed)))
    return kinds[suffix](file)


def _file_list(path: Path) -> list[Entry]:
    """FigStep's `audio_files.txt`, with the scenario being a file's name up to its last
    underscore."""
    records = []
    for number, line in enumerate(map(str.strip, read_text(path).split("\n")), start=1):
        form = re.fullmatch(r"(?P<audio_file>(?P<scenario>[^ ]*)_[^ _]*) (?P<question>.+)", line)
        records.append(record := Entry(path, f"line {number}", form.groupdict() if form else {}))
        if form:
            record.fields["question"] = form["question"].replace("-", " ")
        elif line:
            record.fail(
                f"has to be `<scenario>_<number>.wav <question-with-hyphens>`, but is {line!r}"
            )
    return [record for record in records if record.fields]


def read_sets(
    specs: Sequence[str] | None, *, split: str, missing: Missing = "error", limit: int | None = None
) -> tuple[dict[str, list[Request]], dict[str, int]]:
    """Requests of one split ("all": every) by set and label, and how many records each set left
    out.

    A set with several labels is taken apart ("xstest harmful", ...), since each label has its own
    measure; `specs` None means the shipped prompts. Raises ValueError as `read_set` does, if
    nothing is left, or if two sets have the same name.
    """
    sets: dict[str, list[Request]] = {}
    skipped: dict[str, int] = {}
    for spec in specs or [f"prompts:{data_folder() / 'prompts'}"]:
        found = read_set(spec, missing=missing)
        name, _, place = spec.partition(":")
        if name in layouts() and layouts()[name][0].own:  # there may be several
            name = Path(place).resolve().stem
        chosen = [prompt for prompt in found.prompts if split in ("all", prompt.split)]
        if not chosen:
            splits = ", ".join(sorted({prompt.split for prompt in found.prompts}))
            raise ValueError(f"{spec} has no requests in the split {split!r}; it has: {splits}")
        if silent := [prompt.id for prompt in chosen if prompt.clip is None]:
            raise ValueError(
                f"{len(silent)} requests of {spec} have no clip ({silent[0]}, ...): an evaluation asks "
                "spoken requests; record them, or write them as a set of your own, which is spoken "
                "(docs/own_prompts.md)"
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
