"""What the site's panels show: settings of a panel computed once with a model, kept as JSON.

`python -m sarsteer_lab.course.recordings FOLDER [NAME ...]` (`make recordings`) computes them from
the pocket model. Answers are cut where a panel cuts them, after 14 tokens, so none is longer than
20 words.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sarsteer_lab.activations import capture
from sarsteer_lab.course import session
from sarsteer_lab.course.hearing import read_out
from sarsteer_lab.course.widgets.panels import Panel
from sarsteer_lab.course.widgets.threshold import Threshold
from sarsteer_lab.course.widgets.web import answer_state
from sarsteer_lab.derivation import derive
from sarsteer_lab.engine.live import LINE_TOKENS, LivePrompt
from sarsteer_lab.evaluation.defences import PromptDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.separation import PROBABILITY, refusal_probability_rows
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import LABELS, REFUSALS, Prompt, Request
from sarsteer_lab.vectors import SteeringVectors

ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
"""Strengths that can be chosen; those of chapter 4."""

SHOWN = 2
"""Requests of each kind that are shown: the first ones of the test split, whatever they give."""

COUNTED = 40
"""Requests of each kind whose outcomes are counted, as in chapter 4."""


def chapter_vectors(lalm: LALM, text: str) -> SteeringVectors:
    """SARSteer's vectors of a refusal text, by its name, as in chapter 4."""
    asked = session.requests("derive")
    base = kept(capture)(lalm, [request.spoken() for request in asked["harmful"]])
    harmless = kept(capture)(lalm, [request.spoken() for request in asked["harmless"]])
    states = session.states_under(lalm, asked["harmful"], {text: REFUSALS[text]})
    return derive(base, states[text], harmless, lam=1.0, k=10).vectors


def steering(lalm: LALM) -> dict[str, Any]:
    """The steering panel: answers to a few requests, typed and spoken, at each strength.

    Beside them, how many of 40 spoken requests of each kind are refused at each strength.
    """
    text = session.working_text(lalm)  # that makes this model refuse
    vectors = chapter_vectors(lalm, text)
    shown = []
    for asked in session.requests("test", SHOWN, LABELS).values():
        for request in asked:
            shown.append(recorded_request(lalm, request, vectors))
    return {
        "model": lalm.name,
        "text": text,
        "tokens": LINE_TOKENS,
        "alphas": list(ALPHAS),
        "requests": shown,
        "counts": outcome_counts(lalm, text, vectors),
    }


def recorded_request(lalm: LALM, request: Request, vectors: SteeringVectors) -> dict[str, Any]:
    """A request with what the model hears, and its answers by form, in the order of `ALPHAS`."""
    spoken = request.spoken()
    waveform = lalm.waveform(spoken)
    assert request.clip is not None and waveform is not None
    answers = {}
    for form, prompt in (("typed", request.typed()), ("spoken", spoken)):
        answers[form] = recorded_answers(lalm, request.request, prompt, vectors)
    return {
        "id": request.id,
        "label": request.label,
        "words": request.request,
        "clip": request.clip.name,
        "heard": read_out(lalm, waveform),
        "answers": answers,
    }


def recorded_answers(
    lalm: LALM,
    words: str,
    prompt: Prompt,
    vectors: SteeringVectors,
    alphas: Sequence[float] = ALPHAS,
) -> list[dict[str, Any]]:
    """The answer to a prompt at each strength: tokens, probabilities, outcome."""
    live = LivePrompt(lalm, prompt)
    recorded = []
    for answer, refusal_probability in live.answers(vectors, alphas):
        outcome = PhraseJudge().judge(words, answer.text)
        recorded.append(answer_state(answer, refusal_probability, outcome, LINE_TOKENS))
    return recorded


def outcome_counts(lalm: LALM, text: str, vectors: SteeringVectors) -> dict[str, dict[str, Any]]:
    """How many spoken requests of each kind had which outcome, in the order of `ALPHAS`.

    Chapter 4's sweep: where it has run, nothing is computed again.
    """
    asked = session.requests("test", COUNTED, LABELS)
    variants = {f"SARSteer, {text}": vectors}
    options = {"max_new_tokens": LINE_TOKENS, "batch_size": COUNTED}
    outcomes = session.sweep(lalm, "04_steering", variants, ALPHAS, asked, **options)
    counts = {}
    for label in LABELS:
        of_label = outcomes[outcomes["label"] == label]
        counts[label] = counts_of(of_label)
    return counts


def counts_of(outcomes: pd.DataFrame) -> dict[str, Any]:
    """The number of requests, and of each outcome at every strength."""
    by_alpha = outcomes.groupby("alpha")["outcome"]
    counts: dict[str, Any] = {"n": int(by_alpha.size().iloc[0])}
    for outcome in ("refused", "answered", "broken"):
        counts[outcome] = []
        for alpha in ALPHAS:
            found = by_alpha.get_group(alpha)
            counts[outcome].append(int((found == outcome).sum()))
    return counts


def threshold(lalm: LALM) -> dict[str, Any]:
    """The threshold on readiness: that of each request, typed and spoken, and SARSteer's points."""
    asked = session.requests("test", COUNTED, ("harmful", "harmless", "pseudo-harmful"))
    readings = {}
    for form in ("spoken", "typed"):
        rows = refusal_probability_rows(lalm, [PromptDefence("none")], asked, form)
        by_label = rows.groupby("label", sort=False)[PROBABILITY]
        readings[form] = {label: scores.to_numpy() for label, scores in by_label}
    text = session.working_text(lalm)
    counts = outcome_counts(lalm, text, chapter_vectors(lalm, text))
    points = []
    for place, alpha in enumerate(ALPHAS):
        answered = sum(counts[label]["answered"][place] for label in asked if label != "harmful")
        refused = counts["harmful"]["refused"][place] / COUNTED
        points.append((f"SARSteer, alpha {alpha:g}", refused, answered / (2 * COUNTED)))
    return as_recorded(Threshold(readings, points))


def as_recorded(panel: Panel) -> dict[str, Any]:
    """What a panel's view draws and has chosen, for a page without a kernel."""
    return {"state": panel.view.state, "chosen": panel.view.chosen}


RECORDED = {"steering": steering, "threshold": threshold}
"""What makes each recording, by its name."""


def write(folder: Path, names: Sequence[str] = ()) -> None:
    """Record panels (by their names; else all) with the pocket model into a folder."""
    lalm = session.load_model("pocket")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or RECORDED:
        indent = 1 if name == "steering" else None
        text = json.dumps(RECORDED[name](lalm), ensure_ascii=False, indent=indent)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
