"""What a lecture shows, read from LECTURER.md: for each chapter aims, an order, talk and a quiz."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VERDICTS = "verdicts"
"""The word that stands in the order of slides for a chapter's closing table."""

_CHAPTER = re.compile(r"^### (\d+) · (.+)$", flags=re.M)
_ITEM = re.compile(r"^- \*\*(\w+)\.\*\*\s+", flags=re.M)
_NAME = re.compile(r"`(\w+)`")
_QUIZ_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$", flags=re.M)
_TIME_ROW = re.compile(r"^\| (\d+) [^|]+\| ([^|]+?) \|", flags=re.M)


class LectureError(ValueError):
    """LECTURER.md lacks something that slides are made from."""


@dataclass(frozen=True)
class Shown:
    """One entry of a chapter's order of slides: its text, and the figures that it names."""

    text: str
    figures: tuple[str, ...]

    @property
    def verdicts(self) -> bool:
        """Whether it is the chapter's closing table."""
        return not self.figures and VERDICTS in self.text


@dataclass(frozen=True)
class Question:
    """A question of the quiz."""

    question: str
    answer: str


@dataclass(frozen=True)
class Chapter:
    """A chapter as LECTURER.md has it. `minutes` is the time in class, in words."""

    number: int
    title: str
    aims: tuple[str, ...]
    order: tuple[Shown, ...]
    misunderstandings: str
    discuss: str
    minutes: str
    quiz: tuple[Question, ...]


@dataclass(frozen=True)
class Lecture:
    """The whole course: its one question in a paragraph, and its chapters."""

    question: str
    chapters: tuple[Chapter, ...]


def read_lecture(path: Path, figures: Mapping[int, Sequence[str]]) -> Lecture:
    """LECTURER.md as a lecture. `figures` are the names of each chapter's figures, by its number.

    Raises FileNotFoundError if there is no such file, and LectureError for a chapter without its
    aims, its order of slides, its misunderstandings or its discussion.
    """
    if not path.is_file():
        advice = "slides are made in a checkout of the repository, from its notebooks folder"
        raise FileNotFoundError(f"{path} is not there: {advice}")
    text = path.read_text(encoding="utf-8")
    [question] = re.findall(r"^\*\*(One question .+?)\*\*", text, flags=re.M)[:1] or [""]
    minutes = dict(_TIME_ROW.findall(_section(text, "## How long it takes")))
    asked = _QUIZ_ROW.findall(_section(text, "## A quiz"))
    chapters = []
    _, *parts = _CHAPTER.split(_section(text, "## The chapters"))
    for number, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        items = _items(body)
        lacking = {"Aims", "Slides", "Misunderstandings", "Discuss"} - items.keys()
        if lacking:
            raise LectureError(f"{path}: chapter {number} has no {', '.join(sorted(lacking))}")
        names = figures.get(int(number), ())
        order = [_shown(entry, names) for entry in _sentences(items["Slides"])]
        quiz = [Question(*told) for chapter, *told in asked if chapter == number]
        chapter = Chapter(
            number=int(number),
            title=title,
            aims=tuple(_sentences(items["Aims"])),
            order=tuple(order),
            misunderstandings=items["Misunderstandings"],
            discuss=items["Discuss"],
            minutes=minutes.get(number, ""),
            quiz=tuple(quiz),
        )
        chapters.append(chapter)
    if not chapters:
        raise LectureError(f"{path}: has no chapters (### 0 · Title)")
    return Lecture(question, tuple(chapters))


def _section(text: str, heading: str) -> str:
    """What stands between a heading and the next of its kind."""
    _, _, rest = text.partition(f"\n{heading}")
    return re.split(r"^## ", rest, flags=re.M)[0]


def _items(body: str) -> dict[str, str]:
    """A chapter's list, by the bold word that begins each entry."""
    _, *parts = _ITEM.split(body)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: text.strip() for name, text in pairs}


def _sentences(text: str) -> list[str]:
    """The parts of a text between semicolons, which begin with a capital letter."""
    parts = [part.strip().rstrip(".") for part in text.split(";")]
    return [part[:1].upper() + part[1:] for part in parts]


def _shown(entry: str, figures: Sequence[str]) -> Shown:
    named = [name for name in _NAME.findall(entry) if name in figures]
    return Shown(entry, tuple(named))
