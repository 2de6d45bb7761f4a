"""Readers of published sets of requests, which users bring: `read_set("figstep:FOLDER")`.

Each is read as its authors lay it out (`layouts.Layout`).
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tqdm.auto import tqdm

from sarsteer_lab.evaluation.data_files import Entry, PromptFileError
from sarsteer_lab.evaluation.layouts import Table, clips_in, layouts, tables
from sarsteer_lab.paths import data_folder
from sarsteer_lab.prompts import SPLITS, Form, Request
from sarsteer_lab.speech import ClipError, read_clip
from sarsteer_lab.voice import VOICE, spoken_clip, unspeakable

Missing = Literal["error", "skip"]
"""For a record whose clip is not on disk: stop, or leave it out and count it."""

_WORDS = (".txt", ".lab", ".csv", ".tsv", ".json", ".jsonl", ".scp", ".textgrid")
"""Endings of files in which people write down what clips say."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and one line for each record left out because its clip cannot be used."""

    prompts: list[Request]
    skipped: list[str]


def read_set(spec: str, *, missing: Missing = "error") -> PromptSet:
    """Read a set, named "NAME:PATH": NAME one of `layouts`, PATH a file or its folder.

    "prompts", "folder", "dataset" and "audiofolder" (and these with a label behind them:
    "folder-harmful") are formats for sets of one's own. Of all but the first, requests without a
    clip are spoken by `voice`, and kept. "dataset:ID" (or ID:CONFIG) is a Hugging Face dataset in
    the cache of `datasets`, or a folder that it saved. All formats are in docs/own_prompts.md.

    Raises ValueError for an unknown name or `missing`, and PromptFileError, naming file and record,
    for anything in the files that does not fit their format: encoding, syntax, keys, types, ids
    that occur twice, file names that leave their folder. Clips that are not on disk are an error
    too, unless `missing` is "skip": then these records, and those whose clip `read_clip` refuses
    (an empty one), are left out, listed in `skipped` and named on standard error.
    """
    name, path = _location(spec)
    if missing not in get_args(Missing):
        choices = ", ".join(get_args(Missing))
        raise ValueError(f"missing is {missing!r}, but has to be one of {choices}")
    requests: list[Request] = []
    absent: list[str] = []
    entries: dict[str, Entry] = {}
    source = _requests(name, path)
    progress = tqdm(source, desc=f"reading {name}", unit="request", delay=2, leave=False)
    for entry, request, needs_clip in progress:
        first = entries.setdefault(request.id, entry)
        if first is not entry:
            place = f"{first.place} of {first.path}"
            entry.fail(f"the id {request.id!r} occurs twice, first in {place}")
        flaw = _flaw(request, entry, needs_clip, missing)
        if flaw is None:
            requests.append(request)
        else:
            absent.append(f"{entry.where}: {flaw}")
    for request in requests:
        _check_twin(request, entries)
    if absent and missing == "error":
        count = f"{len(absent)} of {len(entries)} clips are missing"
        examples = "; ".join(absent[:3])
        advice = 'Put them there, or pass missing="skip" to leave them out'
        raise PromptFileError(f"{count}: {examples}. {advice}")
    if not requests:
        count = f"none of the {len(absent)} clips is there"
        raise PromptFileError(f"{path}: {count}, so nothing is left")
    if absent:
        count = f"{len(absent)} of {len(entries)} records are left out"
        print(f"{spec}: {count}: {'; '.join(absent[:5])}", file=sys.stderr)
    n_voiced = sum(request.voice == VOICE for request in requests)
    if n_voiced and layouts()[name][0].own:
        count = f"{n_voiced} of {len(requests)} requests have no clip"
        print(f"{spec}: {count}: {VOICE} speaks them", file=sys.stderr)
    return PromptSet(requests, absent)


def _location(spec: str) -> tuple[str, Path]:
    """A set's name and its path, which is there (an id on the hub may be elsewhere)."""
    name, _, location = spec.partition(":")
    if name not in layouts() or not location:
        choices = ", ".join(layouts())
        raise ValueError(
            f"{spec!r} names no set of prompts; write NAME:PATH, NAME one of {choices}"
        )
    path = Path(location).expanduser()
    if not name.startswith("dataset") and not path.exists():
        advice = f"check the path of the set {name!r}"
        raise PromptFileError(f"{path}: there is no such file or folder; {advice}")
    return name, path


def _check_twin(request: Request, entries: Mapping[str, Entry]) -> None:
    if request.twin is None:
        return
    entry, twin = entries[request.id], entries.get(request.twin)
    if twin is None:
        entry.fail(f"the twin {request.twin!r} is not in the file")
    if twin.fields.get("split") != entry.fields.get("split"):
        entry.fail(f"the twin {request.twin!r} is in another split")


def _flaw(request: Request, entry: Entry, needs_clip: bool, missing: Missing) -> str | None:
    """Why a record's clip cannot be used, in words; where it would be skipped, it is read."""
    if request.clip is None:
        return f"no clip is named {entry.columns()}" if needs_clip else None
    # Not Path.is_file: a name that the file system cannot hold is no file there, not an error.
    if not os.path.isfile(request.clip):
        return f"no clip {request.clip}"
    if missing == "skip" and needs_clip:
        try:
            read_clip(request.clip)
        except ClipError as error:
            return str(error)
    return None


def _requests(name: str, path: Path) -> Iterator[tuple[Entry, Request, bool]]:
    """The requests of a set, each with its entry and whether it has to have a clip."""
    foreign = []
    named: dict[Path, set[Path]] = {}
    asked_by_name: list[Path] = []
    n_tables = 0
    for table in tables(name, path):
        n_tables += 1
        if table.is_foreign:
            foreign.append(table)
            continue
        _tell_unread(table)
        if table.layout.own:
            _check_speakable(table)
        needs_clip = bool(table.layout.clip) and not table.layout.shipped
        for row, entry in enumerate(table.entries, start=1):
            request = _request(f"{name}:{path}", table, row, entry)
            if table.layout.is_of_clips and request.clip is not None:
                asked_by_name.append(request.clip)
            if table.may_leave_clips and request.clip is not None:
                named.setdefault(table.clips, set()).add(request.clip)
            yield entry, request, needs_clip
    for folder, clips in named.items():
        # Beside a single table, which may lie in somebody's home, nobody looks further down.
        _tell_unnamed(clips_in(folder, below=path.is_dir()), folder, clips)
    _tell_nameless(asked_by_name)
    _tell_unread_words(path, asked_by_name)
    for table in foreign:
        known = ", ".join(table.layout.label)
        reason = f"lies in the folder {table.folder!r}, which is none of {known}"
        if len(foreign) == n_tables:
            table.entries[0].fail(reason)
        print(f"{table.file}: left out, because it {reason}", file=sys.stderr)


def _tell_unnamed(clips: Sequence[Path], folder: Path, named: set[Path]) -> None:
    """Say which of the clips that lie in a folder stand in none of its tables."""
    unnamed = [clip for clip in clips if clip not in named]
    if unnamed:
        names = [str(clip.relative_to(folder)) for clip in unnamed[:3]]
        if len(unnamed) > 3:
            names.append("...")
        told = f"clips in no table, which are not asked: {len(unnamed)} ({', '.join(names)})"
        print(f"{folder}: {told}", file=sys.stderr)


def _tell_unread(table: Table) -> None:
    if table.unread:
        columns = ", ".join(table.unread)
        print(f"{table.file}: columns that are not read: {columns}", file=sys.stderr)


def _tell_nameless(clips: Sequence[Path]) -> None:
    """Say which clips, whose requests are their names, have names without a word."""
    nameless = [clip.name for clip in clips if not any(map(str.isalpha, clip.stem))]
    if nameless:
        advice = "a table beside them (request, label, clip) can say what is asked"
        told = f"{len(nameless)} of {len(clips)} clips have names without a word ({nameless[0]})"
        print(f"{told}, which stand for their requests; {advice}", file=sys.stderr)


def _tell_unread_words(folder: Path, clips: Sequence[Path]) -> None:
    """Say which files beside clips may hold their words, and are not read for their requests."""
    folders = {clip.parent for clip in clips}
    if folder.is_dir() and clips:
        folders.add(folder)
    beside = [file for place in folders for file in place.iterdir()]
    unread = sorted(str(file) for file in beside if file.suffix.lower() in _WORDS)
    if unread:
        reason = "for requests are the names of clips here; a table called prompts.csv is read"
        told = f"{len(unread)} files beside the clips are not read ({unread[0]})"
        print(f"{told}, {reason}", file=sys.stderr)


def _check_speakable(table: Table) -> None:
    """Before anything is spoken: whether the voice can say every request without a clip."""
    for entry in table.entries:
        words = entry.told(table.layout.request, whole=False)
        silent = [] if entry.fields.get(table.layout.clip) else unspeakable(words)
        if silent:
            dropped = ", ".join(map(repr, silent[:10]))
            entry.fail(f"the English voice cannot say {dropped}; write it out, or give a clip")


def _request(spec: str, table: Table, row: int, entry: Entry) -> Request:
    name, _, path = spec.partition(":")
    layout = table.layout
    stem = table.stem
    label = _label(spec, table, entry)
    topic = entry.told(layout.topic, layout.about or table.folder)
    number = entry.told(layout.number, f"{stem}/{row}", row=row, stem=stem)
    folders = table.parts_below(Path(path))
    key = number if layout.shipped else "/".join([name, *folders, number])
    words = entry.told(layout.request, whole=False)
    split = table.split
    if entry.fields.get(layout.split):
        split = entry.choice(layout.split, SPLITS)
    clip = entry.clip(layout.clip, table.clips)
    voice = entry.told(layout.voice, "") or None
    if layout.own and clip is None:
        clip = _spoken(entry, words)
        voice = VOICE
    typed = entry.told(layout.typed, "")
    reference = entry.told(layout.reference, "")
    twin = entry.told(layout.twin, "") or None
    return Request(key, words, label, topic, split, clip, voice, twin, typed, reference)


def _label(spec: str, table: Table, entry: Entry) -> str:
    """The label that the layout, the entry's column or the file's folder says."""
    layout = table.layout
    labels = layout.label
    if isinstance(labels, str):
        return labels
    column = layout.kind.strip("{}")
    is_empty = entry.fields.get(column) in (None, "")
    if column and not (layout.own and is_empty):
        return labels[entry.choice(column, list(labels))]
    if table.folder in labels:
        return labels[table.folder]
    reason = f"lies in the folder {table.folder!r}, which is none of {', '.join(labels)}"
    if layout.own:
        labelled = spec.replace(":", "-harmful:", 1)
        reason += f"; say it in a column 'label' {entry.columns()}, or write {labelled}"
    entry.fail(reason)


def _spoken(entry: Entry, words: str) -> Path:
    try:
        return spoken_clip(words)
    except ValueError as error:
        entry.fail(str(error))


def read_sets(
    specs: Sequence[str] | None,
    *,
    split: str,
    missing: Missing = "error",
    limit: int | None = None,
    form: Form = "spoken",
) -> tuple[dict[str, list[Request]], dict[str, int]]:
    """Requests of a split ("all": every) by set and label, and how many records each left out.

    A set with several labels is taken apart ("xstest harmful", ...), since each label has its own
    measure; `specs` None means the shipped prompts. Raises ValueError as `read_set` does, if
    nothing is left, if two sets have the same name, or for requests without this form.
    """
    sets: dict[str, list[Request]] = {}
    skipped: dict[str, int] = {}
    for spec in specs or [f"prompts:{data_folder() / 'prompts'}"]:
        read = read_set(spec, missing=missing)
        by_label: dict[str, list[Request]] = {}
        for request in read.prompts:
            if split in ("all", request.split):
                by_label.setdefault(request.label, []).append(request)
        if not by_label:
            splits = ", ".join(sorted({request.split for request in read.prompts}))
            raise ValueError(f"{spec} has no requests in the split {split!r}; it has: {splits}")
        name = _short_name(spec)
        for label, requests in by_label.items():
            key = name if len(by_label) == 1 else f"{name} {label}"
            if key in sets:
                raise ValueError(f"the set {name!r} is given twice; evaluate one after the other")
            _refuse_without(form, spec, requests)
            sets[key] = requests[:limit]
            # Of a record that was left out only its place is known: it counts for the whole set.
            skipped[key] = len(read.skipped)
    return sets, skipped


def _short_name(spec: str) -> str:
    """The name of a set, or of the file or folder of a set of one's own: there may be several."""
    name, _, path = spec.partition(":")
    return Path(path).resolve().stem if layouts()[name][0].own else name


def _refuse_without(form: Form, spec: str, requests: Sequence[Request]) -> None:
    """Raise ValueError for requests that have not this form."""
    if form == "typed":
        lacking = [request.id for request in requests if request.text]
        reason = "ask about their clip, so they cannot be typed"
    else:
        lacking = [request.id for request in requests if request.clip is None]
        reason = (
            "have no clip: record them, write them as a set of your own, which is spoken "
            "(docs/own_prompts.md), or ask them typed (--form typed)"
        )
    if lacking:
        raise ValueError(f"{len(lacking)} requests of {spec} ({lacking[0]}, ...) {reason}")
