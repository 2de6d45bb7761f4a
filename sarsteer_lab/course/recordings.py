"""What the site's panels show: settings of a panel computed once with a model, kept as JSON.

`python -m sarsteer_lab.course.recordings FOLDER [NAME ...]` (`make recordings`) computes them from
the pocket model. Answers are cut where a panel cuts them, after 14 tokens, so none is longer than
20 words.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell

from sarsteer_lab.activations import capture
from sarsteer_lab.course import session
from sarsteer_lab.course.hearing import read_out
from sarsteer_lab.course.widgets.panels import Panel
from sarsteer_lab.course.widgets.steering import SteerPanel
from sarsteer_lab.course.widgets.web import answer_state
from sarsteer_lab.derivation import derive
from sarsteer_lab.engine.live import LINE_TOKENS, LivePrompt
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import LABELS, REFUSALS, Prompt, Request
from sarsteer_lab.vectors import SteeringVectors

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"

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


CELLS = {
    "00-dial-live": "dial",
    "01-explorer": "gap",
    "04-steer-panel": "steer",
    "05-threshold": "threshold",
    "05-board": "board",
}
"""The panels of chapters by the cell that shows each, whichever chapter that is."""


def of_chapter(cell_id: str) -> Panel:
    """Run a chapter up to a cell, and give the panel that the cell shows.

    Raises what a cell raises, and LookupError where no chapter has the cell.
    """
    shell = InteractiveShell()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        ids = [cell.id for cell in cells]
        if cell_id not in ids:
            continue
        for cell in cells[: ids.index(cell_id) + 1]:
            if cell.cell_type == "code" and cell.id != "install":
                shown = shell.run_cell(cell.source)
                shown.raise_error()
        return shown.result
    raise LookupError(f"no chapter has a cell {cell_id!r}")


def narrowed(panel: SteerPanel) -> SteerPanel:
    """Chapter 4's panel with so few requests and values that all settings can be recorded."""
    prompts = [panel.prompts[place] for place in (0, 4)]  # a harmful one and a harmless one
    directions = dict(list(panel.directions.items())[:2])
    values: dict[str, Sequence[Any]] = {"alpha": ALPHAS, "lambda": (0.0, 1.0), "k": (10,)}
    last = panel.lalm.n_layers - 1
    values |= {"first layer": (0, last // 2 + 1), "last layer": (last // 2, last)}
    return SteerPanel(panel.lalm, directions, panel.harmless, prompts, values=values)


def chapter_panel(cell_id: str) -> dict[str, Any]:
    """A chapter's panel for a page without a kernel: its view, what that draws, what is chosen."""
    panel = of_chapter(cell_id)
    if isinstance(panel, SteerPanel):
        panel = narrowed(panel)
    panel.complete()
    return {"view": panel.module, "state": panel.view.state, "chosen": panel.view.chosen}


def write(folder: Path, names: Sequence[str] = ()) -> None:
    """Record panels (by their names; else all) with the pocket model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Callable[[], dict[str, Any]]] = {}
    made["steering"] = lambda: steering(session.load_model("pocket"))
    for cell_id, name in CELLS.items():
        made[name] = partial(chapter_panel, cell_id)
    for name in names or made:
        indent = 1 if name == "steering" else None
        text = json.dumps(made[name](), ensure_ascii=False, indent=indent)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
