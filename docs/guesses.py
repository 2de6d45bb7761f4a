"""Predict before reveal: what readers guess on the site, and what it came out as.

A chapter's `course.guess` and `course.came_out` have left questions and truths in its outputs, so
nothing of them is made up here. A guess stays in the reader's browser.
"""

from collections.abc import Sequence
from typing import Any

from nbformat import NotebookNode
from panels import shown

from sarsteer_lab.course.guesses import GUESS_MIME

Question = dict[str, Any]
"""`key`, `words` and `most`; once it came out, `truth`."""


def truths(cells: Sequence[NotebookNode]) -> list[Question]:
    """The questions among the outputs of cells that have come out."""
    found = []
    for cell in cells:
        for output in cell.get("outputs", []):
            question = output.get("data", {}).get(GUESS_MIME, {})
            if "truth" in question:
                found.append(dict(question))
    return found


def asked(question: Question, still: str) -> str:
    """A question as HTML; the still is seen where no scripts run."""
    state = {"questions": [question], "score": False}
    return shown(f"guess-{question['key']}", "guess", {"state": state}, still)


def scored(name: str, questions: Sequence[Question], caption: str) -> str:
    """Guesses beside what came out, as HTML."""
    state = {"questions": list(questions), "score": True, "caption": caption}
    return shown(f"score-{name}", "guess", {"state": state})
