"""The paper's four claims side by side: what it says, what was seen here, what could kill it.

Nothing is typed in but the paper's sentences and what to do about them: numbers, intervals and
verdicts are read from the tables that end the chapters, and what became of a claim is counted from
the verdicts. A row belongs to a claim if its text says so: "(paper, claim 2)", or "(control of
claim 2: fresh weights)". "(paper, claim 4: hardly)" marks what hardly happens, as the paper says,
and "(the question)" what answers the question of the course.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from IPython.display import Markdown

from sarsteer_lab.course.executed import rows_of, tables_in, verdict_word
from sarsteer_lab.course.tables import table

TITLE = "## The four claims of the paper"

QUESTION = "(the question)"
"""The mark of a row that answers the question of the course: does the model know?"""

OF_COURSE = 0
"""In place of a claim's number: a row that answers that question."""

ASKED = (
    "**Does the model know?** Ask this before you steer. The area under the ROC curve says how "
    "often a harmful request stands nearer to refusal than a harmless one, and 0.5 is a coin. "
    "Where it is small no push that keeps the order of the requests can be selective, whatever "
    "its vector. `sarsteer-lab doctor MODEL` prints it for your model."
)

BEGIN = "<!-- the four claims: written by `make notebooks` -->"
END = "<!-- end of the four claims -->"
"""Between these marks the README holds `short`."""


@dataclass(frozen=True)
class PaperClaim:
    """What the paper says, what follows for a large model, and the commands that test it there."""

    number: int
    says: str
    follows: str
    commands: tuple[str, ...]

    @property
    def command(self) -> str:
        """The commands in one line of Markdown."""
        return ", then ".join(f"`{command}`" for command in self.commands)


_WALKTHROUGH = "sarsteer-lab walkthrough --model MODEL --notebooks notebooks"

CLAIMS = (
    PaperClaim(
        1,
        "A model answers a harmful request more often when it is spoken than when it is typed.",
        "Ask both forms, and count only clips that the model repeats right. Type the instruction, "
        "too.",
        (
            "sarsteer-lab evaluate --model MODEL --defence none --form typed --folder typed",
            "sarsteer-lab evaluate --model MODEL --defence none --form spoken --folder spoken",
            f"{_WALKTHROUGH}/00_meet_the_model.ipynb --folder both-forms",
        ),
    ),
    PaperClaim(
        2,
        "Spoken and typed states of the same request lie far apart, layer by layer, so a typed "
        "steering vector does not transfer.",
        "A distance says nothing until fresh weights show a smaller one. Whether a typed vector "
        "acts has to be tried.",
        (
            f"{_WALKTHROUGH}/01_audio_text_gap.ipynb --folder distances",
            f"{_WALKTHROUGH}/02_refusal_directions.ipynb --folder typed-vector",
            f"{_WALKTHROUGH}/09_probe_your_own_lalm.ipynb --folder fresh-weights",
        ),
    ),
    PaperClaim(
        3,
        "With defences that only change the prompt, a model refuses harmless spoken requests.",
        "That is no argument for steering until steering leaves more harmless requests answered "
        "while it refuses as many harmful ones. Compare there.",
        (f"{_WALKTHROUGH}/07_compare_defences.ipynb --folder equal-refusal",),
    ),
    PaperClaim(
        4,
        "A refusal direction taken from a text makes the model refuse spoken harmful requests, and "
        "without its part in the safe space harmless ones stay answered.",
        "Look first at the area under the ROC curve of the undefended model. No push that keeps "
        "the order of the requests can be selective where that area is small.",
        (
            "sarsteer-lab doctor MODEL",
            f"{_WALKTHROUGH}/06_measure_one_defence.ipynb --folder one-defence",
        ),
    ),
)

_MARK = re.compile(r"\((paper, claim|control of claim) (\d)(?:: ([^)]*))?\)")

_HARDLY = "hardly"
"""Behind the mark of a row: the paper says that this hardly happens."""

Side = Literal["for", "against", "open"]

_SIDES: dict[Side, str] = {"for": "for it", "against": "against it", "open": "cannot tell"}

Tables = Mapping[str, Sequence[str]]
"""Closing tables by their chapters' titles."""


@dataclass(frozen=True)
class Found:
    """A row of a chapter's closing table that bears on a claim of the paper, or on the question.

    `control` says what it rules out; None for a row that tests the claim itself. `hardly` says that
    the paper denies what the row claims.
    """

    number: int
    control: str | None
    hardly: bool
    chapter: str
    claim: str
    measured: str
    interval: str
    verdict: str

    @property
    def side(self) -> Side:
        """Whether the row speaks for the paper, against it, or leaves it open.

        "No difference" of what the paper says differs speaks against it.
        """
        word = verdict_word(self.verdict)
        if word == "cannot tell":
            return "open"
        return "against" if (word == "seen") == self.hardly else "for"

    @property
    def number_of_chapter(self) -> str:
        """The chapter's number, with which its title begins."""
        return self.chapter.split(" ")[0]

    @property
    def says(self) -> str:
        """The claim, what was measured, and its interval without the border that was claimed."""
        ends = self.interval.split(", claimed")[0]
        return f"{self.claim}: {self.measured} {ends}"

    @property
    def remark(self) -> str:
        """What stands behind the verdict of a row that speaks against the paper."""
        is_paper = self.number != OF_COURSE
        return ", against the paper" if is_paper and self.side == "against" else ""

    def told(self) -> str:
        """The row in one line of Markdown."""
        return f"({self.number_of_chapter}) {self.says}: {self.verdict}{self.remark}"


_SURE = {"seen": 0, "opposite": 0, "no difference": 1, "cannot tell": 2}
"""Of rows on one side, what moves the reader further stands first."""


@dataclass(frozen=True)
class Fate:
    """A claim of the paper, and all rows that bear on it, the decisive ones first.

    Of the tests first what speaks against the paper, then what speaks for it; of the controls first
    what speaks against it, then what leaves it open. Rows alike stay in the order of the chapters.
    """

    claim: PaperClaim
    tests: list[Found]
    controls: list[Found]

    def first(self, side: Side) -> Found | None:
        """The first test on a side."""
        return next((row for row in self.tests if row.side == side), None)

    def objection(self) -> Found | None:
        """The control that the claim has most to fear from: the first, unless it passes all."""
        return next((row for row in self.controls if row.side != "for"), None)

    def word(self) -> str:
        """What became of it, in a few words."""
        sides = {row.side for row in self.tests}
        if {"for", "against"} <= sides:
            return "Holds in part"
        if "against" in sides:
            return "Does not hold here"
        if "for" not in sides:
            return "Cannot be told" if sides else "Not asked yet"
        objection = self.objection()
        if objection is None:
            return "Holds here"
        if objection.side == "open":
            return "Holds here, with a control open"
        return "Holds here, but not against its controls"

    def counted(self) -> str:
        """How many tests and controls speak for it and against it."""
        return f"{_counted('test', self.tests)}; {_counted('control', self.controls)}"


def _counted(name: str, rows: Sequence[Found]) -> str:
    counts = Counter(row.side for row in rows)
    sides = [f"{counts[side]} {said}" for side, said in _SIDES.items() if counts[side]]
    plural = "" if len(rows) == 1 else "s"
    return f"{len(rows) or 'no'} {name}{plural}" + (f": {', '.join(sides)}" if sides else "")


def _rows(closing_tables: Tables) -> Iterator[tuple[str, list[str]]]:
    """Each row of closing tables as its cells, with its chapter, in the order of the chapters."""
    for chapter, tables in closing_tables.items():
        for text in tables:
            for cells in rows_of(text):
                yield chapter, cells


def rows_found(closing_tables: Tables) -> list[Found]:
    """The marked rows of closing tables, in the order of the chapters."""
    found = []
    for chapter, cells in _rows(closing_tables):
        mark = _MARK.search(cells[0])
        if mark is None:
            continue
        kind, number, remark = mark.groups()
        claim = _unmarked(cells[0])
        is_control = kind.startswith("control")
        ruled_out = (remark or claim) if is_control else None
        hardly = remark == _HARDLY and not is_control
        found.append(Found(int(number), ruled_out, hardly, chapter, claim, *cells[1:]))
    return found


def _unmarked(claim: str) -> str:
    """A claim without its marks."""
    return " ".join(_MARK.sub("", claim).replace(QUESTION, "").split())


def answers(closing_tables: Tables) -> list[Found]:
    """The rows that answer the question of the course, in the order of the chapters."""
    found = []
    for chapter, cells in _rows(closing_tables):
        if QUESTION in cells[0]:
            claim = _unmarked(cells[0])
            found.append(Found(OF_COURSE, None, False, chapter, claim, *cells[1:]))
    return found


def question(closing_tables: Tables) -> list[str]:
    """The question of the course and what answers it, as lines of Markdown; [] if nothing does."""
    lines = [f"- {row.told()}" for row in answers(closing_tables)]
    return [ASKED, "", *lines, ""] if lines else []


def marked(claim: str) -> int | None:
    """The number of the paper's claim that a row of a closing table bears on, by its text."""
    mark = _MARK.search(claim)
    return int(mark[2]) if mark else None


def fates(closing_tables: Tables) -> list[Fate]:
    """What became of each claim."""
    found = rows_found(closing_tables)
    all_fates = []
    for claim in CLAIMS:
        of_claim = [row for row in found if row.number == claim.number]
        tests = [row for row in of_claim if row.control is None]
        controls = [row for row in of_claim if row.control is not None]
        tests = _decisive_first(tests, ("against", "for", "open"))
        controls = _decisive_first(controls, ("against", "open", "for"))
        all_fates.append(Fate(claim, tests, controls))
    return all_fates


def _decisive_first(rows: Sequence[Found], sides: Sequence[Side]) -> list[Found]:
    def place(row: Found) -> tuple[int, int]:
        return sides.index(row.side), _SURE[verdict_word(row.verdict)]

    return sorted(rows, key=place)


def page(closing_tables: Tables) -> str:
    """The page of the four claims as Markdown."""
    rows = []
    for fate in fates(closing_tables):
        claim = fate.claim
        seen = [f"**{fate.word()}** ({fate.counted()})", *(row.told() for row in fate.tests)]
        controls = [row.told() for row in fate.controls]
        cells = {"the paper says": f"**{claim.number}.** {claim.says}"}
        cells["what was seen here"] = "<br>".join(seen)
        cells["the control that could kill it"] = "<br>".join(controls) or "none yet"
        cells["what follows for a large model"] = claim.follows
        cells["the command that tests it there"] = claim.command
        rows.append({heading: Markdown(cell) for heading, cell in cells.items()})
    note = (
        "Each line: the chapter, what was claimed, what was measured, its interval, and the "
        "verdict; what decides comes first. The intervals of a chapter hold together at 95%; the "
        "rule stands below each chapter's table."
    )
    lines = [TITLE, "", *question(closing_tables), table(rows, note=note).data]
    return "\n".join(lines)


def short(closing_tables: Tables) -> str:
    """The same for a reader in a hurry: the question, and each claim's fate and what decides it."""
    lines = question(closing_tables)
    for fate in fates(closing_tables):
        claim = fate.claim
        lines.append(f"{claim.number}. **{claim.says}** *{fate.word()}* ({fate.counted()}).")
        told = [row.told() for row in decisive(fate)]
        told += [
            f"What follows for a large model: {claim.follows}",
            f"Test it there: {claim.command}",
        ]
        lines += [f"   - {line}" for line in told]
    return "\n".join(lines)


def told_shortly(summary: str) -> str:
    """A summary's question and claims as `short` tells them; all of one that tests no claim."""
    tables = tables_in(summary)
    return short(tables) if rows_found(tables) else summary


def decisive(fate: Fate) -> list[Found]:
    """The rows that decide a claim's fate: a test against it, one for it, the worst control."""
    sides = [fate.first("against"), fate.first("for")]
    told = [row for row in sides if row is not None] or fate.tests[:1]
    objection = fate.objection()
    return told if objection is None else [*told, objection]
