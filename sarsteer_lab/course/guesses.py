"""Guesses before the reveal: kept, told beside what came out, and scored over the whole course.

Below a prediction that asks for a number a chapter shows a small panel, and its debrief says what
came out:

    course.guess("04-harmful", "Spoken harmful requests refused at alpha 0.1", 40)
    course.came_out("04-harmful", refused)

A question and its guess lie in a JSON file of the user's cache. What `came_out` shows also holds
question and truth as data, of which the site makes its own questions.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from html import escape
from statistics import fmean
from typing import Any

from IPython.display import display

from sarsteer_lab.course.folders import guesses_folder
from sarsteer_lab.course.folding import GUESS_MIME
from sarsteer_lab.course.tables import table
from sarsteer_lab.course.widgets.panels import Panel
from sarsteer_lab.store import atomic_write

SCORE_MIME = "application/vnd.sarsteer-lab.score+json"
"""What shows all guesses of the course is of this type, too."""


@dataclass(frozen=True)
class Question:
    """What is asked for, a whole number from 0 to `most`; the guess, and what came out."""

    key: str
    words: str
    most: int
    guess: int | None = None
    truth: int | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The question without its guess, as data."""
        data = {"key": self.key, "words": self.words, "most": self.most}
        return data if self.truth is None else data | {"truth": self.truth}

    def told(self) -> str:
        """What came out, beside the guess if there is one, in a sentence of Markdown."""
        scale = f"*{self.words} (0 to {self.most}).*"
        if self.guess is None or self.truth is None:
            return f"{scale} It came out as **{self.truth}**."
        off = self.guess - self.truth
        missed = f"your guess was {abs(off)} too {'high' if off > 0 else 'low'}"
        if off == 0:
            missed = "your guess was right"
        return f"{scale} You guessed {self.guess}, it came out as **{self.truth}**: {missed}."


def kept_questions() -> list[Question]:
    """All questions that have been asked, in the order of their keys, which is the chapters'."""
    found = []
    for path in sorted(guesses_folder().glob("*.json")):
        found.append(Question(**json.loads(path.read_text(encoding="utf-8"))))
    return found


def _kept(key: str) -> Question | None:
    path = guesses_folder() / f"{key}.json"
    if not path.is_file():
        return None
    return Question(**json.loads(path.read_text(encoding="utf-8")))


def _keep(question: Question) -> None:
    with atomic_write(guesses_folder() / f"{question.key}.json") as scratch:
        scratch.write_text(json.dumps(asdict(question)), encoding="utf-8")


class Guess(Panel):
    """A question whose answer is to be guessed; what is chosen is kept at once."""

    def __init__(self, question: Question) -> None:
        self.question = question
        chosen = {} if question.guess is None else {question.key: question.guess}
        super().__init__("guess", {"questions": [question.asked], "score": False}, **chosen)

    def follow(self) -> None:
        """Keep the guess."""
        known = _kept(self.question.key) or self.question
        _keep(replace(known, guess=int(self.chosen[self.question.key])))

    def static(self) -> str:
        """The question, to be answered on paper."""
        words = escape(f"{self.question.words} (0 to {self.question.most}):")
        return f"<p><b>Your guess.</b> {words} ______</p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return super()._repr_mimebundle_(**kwargs) | {GUESS_MIME: self.question.asked}


def guess(key: str, words: str, most: int) -> Guess:
    """A panel that asks for a whole number from 0 to `most`, as the last value of a cell.

    `key` begins with the chapter's number, and no other question has it. A guess from before is
    shown, unless the question was another one.
    """
    known = _kept(key)
    if known is None or (known.words, known.most) != (words, most):
        known = Question(key, words, most)
        _keep(known)
    return Guess(replace(known, truth=None))  # the panel is not to tell it


@dataclass(frozen=True)
class Told:
    """A sentence with data beside it, as an output."""

    sentence: str
    mime: str
    data: dict[str, Any]

    def __repr__(self) -> str:
        return self.sentence

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        told = {"text/plain": self.sentence, "text/markdown": self.sentence}
        return told | {self.mime: self.data}


def came_out(key: str, truth: float) -> None:
    """Say what a guessed number came out as, rounded, beside the reader's guess if there is one.

    Says nothing of what is not a number, as of too few requests. Raises LookupError if `guess` has
    not asked for it.
    """
    number = float(truth)
    if math.isnan(number):
        return
    asked = _kept(key)
    if asked is None:
        raise LookupError(f"nobody has asked for {key!r}: run the cell with course.guess first")
    question = replace(asked, truth=round(number))
    _keep(question)
    display(Told(question.told(), GUESS_MIME, question.asked))


def calibration() -> None:
    """Show all guesses of the course beside what came out, and say how well they were made."""
    all_questions = kept_questions()
    guessed = [question for question in all_questions if question.guess is not None]
    rows = []
    for question in guessed:
        row = {"question": question.words, "from 0 to": question.most}
        rows.append(row | {"your guess": question.guess, "what came out": question.truth})
    if rows:
        display(table(rows))
    display(Told(calibrated(all_questions), SCORE_MIME, {}))


def calibrated(all_questions: list[Question]) -> str:
    """How well guesses were made, beside a reader who always names the middle, in Markdown."""
    misses, shares, shares_of_middle = [], [], []
    for question in all_questions:
        if question.guess is None or question.truth is None:
            continue
        miss = question.guess - question.truth
        misses.append(miss)
        shares.append(abs(miss) / question.most)
        shares_of_middle.append(abs(question.most / 2 - question.truth) / question.most)
    if not misses:
        return (
            "**Your guesses.** None is kept so far beside what came out. The panels below the "
            "predictions keep them, and this cell scores them once the chapters have run."
        )
    n_high = sum(miss > 0 for miss in misses)
    n_low = sum(miss < 0 for miss in misses)
    n_right = len(misses) - n_high - n_low
    return (
        f"**Your guesses.** Of {len(misses)} guesses {n_high} were too high, {n_low} too low and "
        f"{n_right} right. They missed by {fmean(shares):.0%} of the range on average. "
        f"The middle of each range would have missed by {fmean(shares_of_middle):.0%}."
    )
