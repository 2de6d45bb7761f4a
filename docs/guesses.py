"""Predict before reveal: what readers guess on the site, and what it came out as.

Each question stands below the cell that asks to predict. The truth is counted from what panels have
recorded, so nothing of it is typed in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from panels import recording, shown

from sarsteer_lab.course.recordings import ALPHAS
from sarsteer_lab.evaluation.separation import best_benign_rate, roc_area

REFUSED = 0.9
"""The share of harmful requests that lie beyond the line that chapter 6 asks to draw."""


@dataclass(frozen=True)
class Question:
    """What is guessed, as a whole number from 0 to `most`, and the truth."""

    key: str
    words: str
    most: int
    truth: int


def refused_at(cell: str, label: str, alpha: float) -> Question:
    """How many spoken requests of a kind are refused under a push."""
    counts = recording("steering")["state"]["counts"][label]
    words = f"Spoken {label} requests refused at alpha {alpha:g}:"
    refused = counts["refused"][ALPHAS.index(alpha)]
    return Question(f"{cell}-{label}", words, counts["n"], refused)


def scores(form: str) -> tuple[np.ndarray, np.ndarray]:
    """Readiness to refuse of the harmful and of the harmless requests."""
    readings = recording("threshold")["state"]["readings"][form]
    return np.array(readings["harmful"]), np.array(readings["harmless"])


def beyond(cell: str) -> Question:
    """How many harmless requests lie beyond the line that most harmful ones lie beyond."""
    harmful, harmless = scores("spoken")
    words = f"Harmless requests beyond the line when {REFUSED:.0%} of the harmful ones are:"
    taken = round(len(harmless) * (1 - best_benign_rate(harmful, harmless, REFUSED)))
    return Question(cell, words, len(harmless), taken)


def area(cell: str, form: str) -> Question:
    """The area under the ROC curve, in hundredths."""
    words = f"{form.capitalize()}: area under the ROC curve, in hundredths (50 is a coin):"
    return Question(f"{cell}-{form}", words, 100, round(100 * roc_area(*scores(form))))


def questions(cell: str) -> list[Question]:
    """The questions below a cell of a chapter."""
    if cell == "04-alpha":
        return [refused_at(cell, label, 0.1) for label in ("harmful", "harmless")]
    if cell == "06-open-readiness":
        return [beyond(cell)]
    if cell == "06-bound-text":
        return [area(cell, form) for form in ("typed", "spoken")]
    return []


def asked(name: str, found: Sequence[Question]) -> str:
    """Questions as HTML, without what they came out as."""
    state = [{"key": each.key, "words": each.words, "most": each.most} for each in found]
    return shown(f"guess-{name}", "guess", {"state": {"questions": state, "score": False}})


def scored(name: str, found: Sequence[Question]) -> str:
    """The guesses of a chapter beside what came out, as HTML."""
    state = {"questions": [asdict(each) for each in found], "score": True}
    return shown(f"score-{name}", "guess", {"state": state})
