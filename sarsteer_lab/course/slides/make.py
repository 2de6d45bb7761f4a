"""Make the slides: of each chapter its aims, its figures in LECTURER's order, and its verdicts."""

import hashlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from sarsteer_lab.course.executed import closing_tables, title
from sarsteer_lab.course.four_claims import CLAIMS, rows_found
from sarsteer_lab.course.replaying import read_notebook
from sarsteer_lab.course.run_notebooks import find_chapters
from sarsteer_lab.course.slides.deck import Deck
from sarsteer_lab.course.slides.lecture import Chapter, Lecture, LectureError, read_lecture
from sarsteer_lab.course.tables import cells_of
from sarsteer_lab.store import atomic_write

TITLE = "SARSteer Lab"
SUBTITLE = (
    "What happens inside an audio-language model when a request is spoken instead of typed, "
    "and how SARSteer steers it"
)
CLAIM_WIDTHS = (4.6, 3.6, 2.4, 2.0)
"""Of the columns claim, measured, interval and verdict."""

LIVE = "Live, in the notebook"


@dataclass(frozen=True)
class Material:
    """What a chapter's notebook and its folder of figures hold for slides.

    `pictures` by name; `captions` by name; `tables` as Markdown.
    """

    title: str
    pictures: dict[str, bytes]
    captions: dict[str, str]
    tables: list[str]


def make_slides(notebooks: Path, figures: Path, out: Path) -> int:
    """Write the slides of the chapters in `notebooks` to `out`; returns how many there are.

    Figures come from `figures`/CHAPTER/*.png, captions and verdicts from the notebooks as they were
    run. Raises FileNotFoundError for what is not there, `LectureError` for a chapter that
    LECTURER.md or a notebook lacks, and ValueError for an `out` that is no .pptx.
    """
    if out.suffix.lower() != ".pptx":
        raise ValueError(f"{out}: slides are a .pptx file, which LibreOffice opens, too")
    chapters = {}
    for path in find_chapters(notebooks):
        chapters[int(path.stem[:2])] = read_material(path, figures / path.stem)
    names = {number: list(material.pictures) for number, material in chapters.items()}
    lecture = read_lecture(notebooks / "LECTURER.md", names)
    deck = Deck(TITLE)
    _opening(deck, lecture)
    for chapter in lecture.chapters:
        if chapter.number not in chapters:
            raise LectureError(f"{notebooks} holds no notebook of chapter {chapter.number}")
        _chapter(deck, chapter, chapters[chapter.number])
    _claims(deck, {material.title: material.tables for material in chapters.values()})
    with atomic_write(out) as scratch:
        deck.save(scratch)
    return len(deck.file.slides)


def read_material(path: Path, figures: Path) -> Material:
    """A chapter's figures with the captions that its notebook shows them with, and its tables."""
    notebook = read_notebook(path)
    by_content = captions(notebook)
    pictures = {file.stem: file.read_bytes() for file in sorted(figures.glob("*.png"))}
    named = {}
    for name, picture in pictures.items():
        named[name] = by_content.get(_hash(picture), "")
    return Material(title(notebook), pictures, named, closing_tables(notebook))


def captions(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The alt text of each picture among a notebook's outputs, by the picture's hash."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if encoded := output.get("data", {}).get("image/png"):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                found[_hash(b64decode(encoded))] = alt
    return found


def _hash(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()


def _opening(deck: Deck, lecture: Lecture) -> None:
    deck.text(TITLE, [SUBTITLE, f"**{lecture.question}**"])
    contents = []
    for chapter in lecture.chapters:
        minutes = f" ({chapter.minutes} in class)" if chapter.minutes else ""
        contents.append(f"**{chapter.number}** · {chapter.title}{minutes}")
    deck.text("The course", contents)


def _chapter(deck: Deck, chapter: Chapter, material: Material) -> None:
    heading = f"{chapter.number} · {chapter.title}"
    talk = f"Misunderstandings:\n{chapter.misunderstandings}\n\nDiscuss: {chapter.discuss}"
    aims = [f"– {aim}" for aim in chapter.aims]
    deck.text(heading, aims, f"Time in class: {chapter.minutes}\n\n{talk}")
    for shown in chapter.order:
        for name in shown.figures:
            caption = material.captions[name] or name
            readable = name.replace("_", " ")
            notes = f"{caption}\n\nIn LECTURER.md: {shown.text}"
            deck.figure(f"{heading}: {readable}", material.pictures[name], caption, notes)
        if shown.verdicts:
            for table in material.tables:
                _verdicts(deck, f"{heading}: what came out", table)
        elif not shown.figures:
            deck.text(f"{heading}: live", [LIVE, shown.text], shown.text)
    deck.text(f"{heading}: discuss", [chapter.discuss], talk)
    if chapter.quiz:
        questions = [f"{n}. {asked.question}" for n, asked in enumerate(chapter.quiz, 1)]
        answers = [f"{n}. {asked.answer}" for n, asked in enumerate(chapter.quiz, 1)]
        deck.text(f"{heading}: a quiz", questions, "\n".join(answers))


def _verdicts(deck: Deck, heading: str, table: str) -> None:
    """A chapter's closing table; what stands below it goes into the notes."""
    lines, _, note = table.partition("\n\n")
    rows = [cells_of(line) for line in lines.splitlines()]
    del rows[1]  # the line of dashes
    deck.table(heading, rows, CLAIM_WIDTHS, note)


def _claims(deck: Deck, tables: Mapping[str, Sequence[str]]) -> None:
    """The paper's four claims, each with all that bears on it."""
    found = rows_found(tables)
    for claim in CLAIMS:
        rows = [["claim or control", "measured", "interval", "verdict"]]
        for row in found:
            if row.number == claim.number:
                chapter = row.chapter.split(" ")[0]
                control = f" *(control: {row.control})*" if row.control else ""
                told = f"({chapter}) {row.claim}{control}"
                rows.append([told, row.measured, row.interval, row.verdict])
        if len(rows) == 1:
            rows.append(["not asked yet", "", "", ""])
        notes = f"What follows for a large model: {claim.follows}\n\nTest it there: {claim.command}"
        deck.table(f"Claim {claim.number}. {claim.says}", rows, CLAIM_WIDTHS, notes)
