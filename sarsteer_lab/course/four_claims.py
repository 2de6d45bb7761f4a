"""The paper's four claims side by side: what it says, what was seen here, what could kill it.

Nothing is typed in but the paper's sentences and what to do about them: numbers, intervals and
verdicts are read from the tables that end the chapters. A row belongs to a claim if its text says
so: "(paper, claim 2)", or "(control of claim 2: fresh weights)".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from IPython.display import Markdown

from sarsteer_lab.course.executed import rows_of
from sarsteer_lab.course.tables import table

TITLE = "## The four claims of the paper"


@dataclass(frozen=True)
class PaperClaim:
    """What the paper says, what follows for a large model, and the command that tests it there."""

    number: int
    says: str
    follows: str
    command: str


CLAIMS = (
    PaperClaim(
        1,
        "A model answers a harmful request more often when it is spoken than when it is typed.",
        "Ask both forms, and count only clips that the model repeats right. Type the instruction, "
        "too.",
        "sarsteer-lab evaluate --model MODEL --defence none",
    ),
    PaperClaim(
        2,
        "Spoken and typed states of the same request lie far apart, layer by layer, so a typed "
        "steering vector does not transfer.",
        "A distance says nothing until fresh weights show a smaller one. Whether a typed vector "
        "acts has to be tried: it depends on how the ears were trained.",
        'MODEL = "..." in chapters 1, 2 and 9',
    ),
    PaperClaim(
        3,
        "With defences that only change the prompt, a model refuses harmless spoken requests.",
        "Compare at equal refusal of harmful requests. Steering has the same price where the model "
        "cannot tell the two apart.",
        "sarsteer-lab evaluate --model MODEL",
    ),
    PaperClaim(
        4,
        "A refusal direction taken from a text makes the model refuse spoken harmful requests, and "
        "without its part in the safe space harmless ones stay answered.",
        "Look first at the area under the ROC curve of the undefended model. No push that moves "
        "all requests alike can be selective where that area is small.",
        "sarsteer-lab doctor MODEL, then sarsteer-lab sweep --model MODEL",
    ),
)

_MARK = re.compile(r"\((paper, claim|control of claim) (\d)(?:: ([^)]*))?\)")


@dataclass(frozen=True)
class Found:
    """A row of a chapter's closing table that bears on one of the paper's claims.

    `control` says what it rules out; None for a row that tests the claim itself.
    """

    number: int
    control: str | None
    chapter: str
    claim: str
    measured: str
    interval: str
    verdict: str


def rows_found(closing_tables: Mapping[str, Sequence[str]]) -> list[Found]:
    """The marked rows of closing tables, which are given by their chapters' titles."""
    found = []
    for chapter, tables in closing_tables.items():
        for text in tables:
            for cells in rows_of(text):
                mark = _MARK.search(cells[0])
                if mark is None:
                    continue
                kind, number, control = mark.groups()
                claim = _MARK.sub("", cells[0]).strip()
                ruled_out = (control or claim) if kind.startswith("control") else None
                found.append(Found(int(number), ruled_out, chapter, claim, *cells[1:]))
    return found


def marked(claim: str) -> int | None:
    """The number of the paper's claim that a row of a closing table bears on, by its text."""
    mark = _MARK.search(claim)
    return int(mark[2]) if mark else None


def page(closing_tables: Mapping[str, Sequence[str]]) -> str:
    """The page of the four claims as Markdown, from the chapters' closing tables by title."""
    found = rows_found(closing_tables)
    rows = []
    for claim in CLAIMS:
        of_claim = [row for row in found if row.number == claim.number]
        tests = [_told(row) for row in of_claim if row.control is None]
        controls = [_told(row) for row in of_claim if row.control is not None]
        rows.append(
            {
                "the paper says": Markdown(f"**{claim.number}.** {claim.says}"),
                "what was seen here": Markdown("<br>".join(tests) or "not asked yet"),
                "the control that could kill it": Markdown("<br>".join(controls) or "none yet"),
                "what follows for a large model": Markdown(claim.follows),
                "the command that tests it there": Markdown(f"`{claim.command}`"),
            }
        )
    note = (
        "Each line: the chapter, what was claimed, what was measured, its interval, and the "
        "verdict. The intervals of a chapter hold together at 95%; the rule stands below each "
        "chapter's table."
    )
    return f"{TITLE}\n\n{table(rows, note=note).data}"


def _told(row: Found) -> str:
    """A row in one line."""
    interval = row.interval.split(", claimed")[0]
    chapter = row.chapter.split(" ")[0]
    return f"({chapter}) {row.claim}: {row.measured} {interval}: {row.verdict}"
