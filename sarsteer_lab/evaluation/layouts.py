"""Layouts of published data sets, and of one's own: where each keeps what a request is made of.

The table of all of them is `data/prompts/layouts.toml`.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

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
from sarsteer_lab.paths import shipped_table

SPLIT_NAMES = {"train": "derive", "validation": "validation", "test": "test"}
SPLIT_NAMES |= {"dev": "validation", "valid": "validation", "val": "validation"}
"""What a file or folder whose name begins so is for, in other people's sets ("train.clean.100")."""

TABLES = (".csv", ".json", ".jsonl", ".parquet")
"""Endings of tables that are read whatever a layout's own."""

EDGES = "!?.,;:'\"()[]{}\u00bf\u00a1\u2026\u3002\uff01\uff1f\u0964"
"""Punctuation around the words of a file's name."""


@dataclass(frozen=True)
class Layout:
    """Where a set keeps what a prompt is made of.

    A field is told by columns, of which the first that holds anything counts ("text
    original_text"), or by a text with columns in braces ("{dataset}_{task_id}", "{turns[0]}" of a
    list of one), which an entry has to have; "{row}" is its number and "{stem}" the name of its
    file.

    `files` are patterns of the files' names (of several groups the first of which there are any);
    with ** in them they lie anywhere. `label` is that of all prompts, or goes by what stands in the
    column `kind` (without one: by the name of the file's folder). Clips lie in `folder` (the first
    that there is), seen from where the file's pattern begins. A topic that no column says is
    `about`, or else the folder's name. `typed` is what is typed beside the clip, and `reference`
    its authors' answer. In sets of one's own (`own`) requests without a clip are spoken, and
    columns that are not read are named; `split` may be one. Where a set is laid out as the
    `shipped` one, requests may have no clip, and ids are as they stand.
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
    split: str = ""
    voice: str = ""
    twin: str = ""
    own: bool = False
    shipped: bool = False

    @property
    def patterns(self) -> list[str]:
        """The patterns of all groups of files."""
        return " ".join(self.files).split()

    @property
    def is_of_clips(self) -> bool:
        """Whether its files are clips, and their names the requests."""
        return _suffix(self.patterns[0]) == ".wav"

    @property
    def forms(self) -> str:
        """All that is said about columns, in one text."""
        return " ".join(value for value in vars(self).values() if isinstance(value, str))


@dataclass(frozen=True)
class Table:
    """A file of a set, what is in it, and what its place says."""

    file: Path
    layout: Layout
    entries: list[Entry]

    @property
    def folder(self) -> str:
        """The name of the file's folder."""
        return self.file.parent.name

    @property
    def stem(self) -> str:
        """The file's name without its ending; a dataset's split has none, whatever its points."""
        has_ending = any(map(_suffix, self.layout.patterns))
        name = self.file.stem if has_ending else self.file.name
        return unicodedata.normalize("NFC", name)

    @property
    def is_foreign(self) -> bool:
        """Whether a published set says nothing of the file's folder ("mtbench" of VoiceBench)."""
        labels = self.layout.label
        goes_by_folder = not isinstance(labels, str) and not self.layout.kind
        return goes_by_folder and not self.layout.own and self.folder not in labels

    @property
    def may_leave_clips(self) -> bool:
        """Whether clips may lie beside this table of one's own that it does not name."""
        return self.layout.own and not self.layout.is_of_clips and self.file.is_file()

    @property
    def root(self) -> Path:
        """The folder in which the layout's pattern begins."""
        folders = self.layout.patterns[0].removeprefix("**/").count("/")
        return self.file.parents[folders]

    @property
    def clips(self) -> Path:
        """The folder of its clips."""
        names = self.layout.folder.format(stem=self.file.stem)
        folders = [self.root / name for name in names.split()]
        return next(filter(Path.is_dir, folders), folders[0])

    @property
    def split(self) -> str:
        """What is in train, a file or folder, is for deriving; likewise validation.

        A clip's own name is a request ("train-a-dog.wav").
        """
        names = []
        if not self.layout.is_of_clips:
            names.append(self.stem)
        if self.root.name not in ("dev", "val"):  # ~/dev is where people keep their work
            names.append(self.root.name)
        for name in names:
            start = re.split(r"[_.-]", name, maxsplit=1)[0]
            if start in SPLIT_NAMES:
                return SPLIT_NAMES[start]
        return "test"

    @property
    def unread(self) -> list[str]:
        """Columns of a table of one's own that are not read."""
        if not self.layout.own:
            return []
        read = re.findall(r"\w+", self.layout.forms)
        return sorted(set(self.entries[0].fields) - set(read))

    def parts_below(self, path: Path) -> tuple[str, ...]:
        """The folders from the one that the user gave down to `root`."""
        given = path.absolute()
        return self.root.relative_to(given).parts if given.is_dir() else ()


@cache
def layouts() -> dict[str, list[Layout]]:
    """By the name of a set its layouts. Raises TypeError for a field that there is not."""
    table = shipped_table("prompts/layouts.toml")
    sets = {}
    for name, rows in table.items():
        changes = dict(rows[0])
        model = changes.pop("like", None)
        if model is not None:
            rows = [{**row, **changes} for row in table[model]]
        sets[name] = [Layout(**row) for row in rows]
    return sets


def tables(name: str, path: Path) -> Iterator[Table]:
    """The tables of a set, file by file.

    A dataset's splits are tables of these names in its folder. Raises PromptFileError.
    """
    if name.startswith("dataset"):
        [layout] = layouts()[name]
        for split, clip_column, entries in read_dataset(str(path)):
            with_clips = replace(layout, clip=clip_column)
            yield Table(path.absolute() / split, settled(with_clips, entries), entries)
        return
    layout, files = _fitting(name, path.absolute())
    for file in files:
        entries = _read(file, layout)
        yield Table(file, settled(layout, entries), entries)


def settled(layout: Layout, entries: Sequence[Entry]) -> Layout:
    """The layout of a table of one's own, with the one column that holds the requests.

    `request` goes before all others. Raises PromptFileError where two others hold different things.
    """
    if not layout.own:
        return layout
    filled = []
    for column in layout.request.split():
        if any(entry.fields.get(column) not in (None, "") for entry in entries):
            filled.append(column)
    if len(filled) < 2:
        return layout
    first, second = filled[:2]
    same = all(entry.fields.get(first) == entry.fields.get(second) for entry in entries)
    if first != "request" and not same:
        both = f"the columns {first!r} and {second!r} could both be the requests"
        entries[0].fail(f"{both}; name the one that is 'request'")
    return replace(layout, request=first)


def _fitting(name: str, path: Path) -> tuple[Layout, list[Path]]:
    """The first layout of which the path is a file, or holds any; and these files."""
    choices = layouts()[name]
    if not path.is_dir():
        known = [_suffix(pattern) for layout in choices for pattern in layout.patterns]
        for layout in choices:
            if path.suffix.lower() in map(_suffix, layout.patterns):
                return layout, [path]
        if path.suffix not in (*TABLES, ""):
            needed = f"a file for the set {name!r} is {', '.join(dict.fromkeys([*known, *TABLES]))}"
            raise PromptFileError(f"{path}: {needed}; save it as one of these")
        return choices[0], [path]
    wanted: list[str] = []
    for layout in choices:
        for group in layout.files:
            files = _matching(path, group.split())
            if files and layout.is_of_clips:
                for file in files:
                    whole = Entry(path, "a clip", {})
                    whole.inside(path, str(file.relative_to(path)))
            if files:
                return layout, files
            wanted += [pattern.removeprefix("**/") for pattern in group.split()]
    names = sorted(file.name for file in path.iterdir())
    examples = ", ".join(names[:5]) or "nothing"
    needed = f"a folder for the set {name!r} has to hold {' or '.join(wanted)}"
    raise PromptFileError(f"{path}: {needed} (found: {examples})")


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of these patterns, in their order; those that lie anywhere by their names.

    Without what systems and editors put there: "._x.wav" and "__MACOSX", ".ipynb_checkpoints".
    """
    files: list[Path] = []
    for pattern in patterns:
        if not pattern.startswith("**/*."):
            files += folder.glob(pattern)
            continue
        # Recorders write .WAV and .Wav too, which only some file systems find as .wav.
        suffix = pattern.removeprefix("**/*")
        files += [file for file in folder.rglob("*.*") if file.suffix.lower() == suffix]
    shown = []
    for file in files:
        parts = file.relative_to(folder).parts
        if not any(part.startswith((".", "__MACOSX")) for part in parts):
            shown.append(file)
    return sorted(set(shown)) if "**" in patterns[0] else shown


def clips_in(folder: Path, *, below: bool) -> list[Path]:
    """All clips that lie in a folder, or also `below` it, in one of its folders."""
    [patterns] = [layout.patterns for layout in layouts()["folder"] if layout.is_of_clips]
    if not below:
        patterns = [pattern.removeprefix("**/") for pattern in patterns]
    return _matching(folder, patterns)


def words_of(name: str) -> str:
    """The request that a file's name says: hyphens, underscores and spaces part its words.

    Letters keep their marks, and words what stands within them ("don't", "3.5"); as macOS writes
    accents (decomposed) and as others do is the same.
    """
    words = re.split(r"[\s_\u2010-\u2015-]+", unicodedata.normalize("NFC", name))
    return " ".join(filter(None, [word.strip(EDGES) for word in words]))


def _suffix(pattern: str) -> str:
    return Path(pattern).suffix


def _read(file: Path, layout: Layout) -> list[Entry]:
    """The entries of a file; its ending, or else the layout's first pattern, says of which kind."""
    usual = _suffix(layout.patterns[0])
    if not file.is_file():  # opening a named pipe would wait for ever
        reason = "is not a regular file (but a pipe, a device or a folder)"
        raise PromptFileError(f"{file}: {reason}; save it as a file first")
    if layout.is_of_clips:
        return [Entry(file, "clip", {"clip": file, "words": words_of(file.stem)})]
    suffix = file.suffix if file.suffix in (".csv", *READERS) else usual
    if suffix in READERS:
        return READERS[suffix](file)
    needed = set(re.findall(r"{(\w+)", layout.forms)) - {"row", "stem"}
    return read_csv(file, sorted(needed))


def _read_file_list(path: Path) -> list[Entry]:
    """FigStep's `audio_files.txt`; a scenario is a file's name up to its last underscore."""
    entries = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        entry = Entry(path, f"line {number}", {})
        form = r"(?P<audio_file>(?P<scenario>[^ ]*)_[^ _]*) (?P<question>.+)"
        fields = re.fullmatch(form, line.strip())
        if fields is None:
            wanted = "<scenario>_<number>.wav <question-with-hyphens>"
            entry.fail(f"has to be `{wanted}`, but is {line.strip()!r}")
        entry.fields.update(fields.groupdict())
        entry.fields["question"] = fields["question"].replace("-", " ")
        entries.append(entry)
    return entries


READERS = {
    ".json": read_json_list,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
    ".txt": _read_file_list,
}
