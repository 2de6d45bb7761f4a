"""What the site's panels show: settings of a panel computed once with a model, kept as JSON.

`python -m sarsteer_lab.course.recordings FOLDER [NAME ...]` (`make recordings`) computes them from
the pocket model. Answers are cut where a panel cuts them, after 14 tokens, so none is longer than
20 words.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell

from sarsteer_lab.activations import capture
from sarsteer_lab.course import session
from sarsteer_lab.course.copying import notebooks_folder
from sarsteer_lab.course.folders import GUESSES_VARIABLE
from sarsteer_lab.course.widgets.panels import Panel
from sarsteer_lab.course.widgets.steering import Ladder, Pushed, SteerPanel
from sarsteer_lab.derivation import derive
from sarsteer_lab.engine.live import LINE_TOKENS
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import LABELS, REFUSALS, Request
from sarsteer_lab.vectors import SteeringVectors

ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
"""Strengths that can be chosen; those of chapter 4."""

SHOWN = (5, 50)
"""The places in the test split of the requests of each kind that are shown, whatever they give."""

COUNTED = {"harmful": 40, "harmless": 40, "pseudo-harmful": 20, "everyday": 20}
"""Requests of each kind whose outcomes are counted, at most as many as in chapter 4."""

BATCH = 40
"""Requests that are answered together there."""


def chapter_vectors(lalm: LALM, text: str) -> SteeringVectors:
    """SARSteer's vectors of a refusal text, by its name, as in chapter 4."""
    asked = session.requests("derive")
    base = kept(capture)(lalm, [request.spoken() for request in asked["harmful"]])
    harmless = kept(capture)(lalm, [request.spoken() for request in asked["harmless"]])
    states = session.states_under(lalm, asked["harmful"], {text: REFUSALS[text]})
    return derive(base, states[text], harmless, lam=1.0, k=10).vectors


def steering() -> Panel:
    """The first page's panel: answers to a few requests, typed and spoken, at each strength.

    Beside them, how many spoken requests of each kind are refused at each strength.
    """
    lalm = session.load_model("pocket")
    text = session.working_text(lalm)  # that makes this model refuse
    vectors = chapter_vectors(lalm, text)
    shown = []
    for asked in session.requests("test", labels=LABELS).values():
        shown += [asked[place] for place in SHOWN]
    panel = Pushed(lalm, shown, vectors, ALPHAS)
    panel.view.state = {**panel.view.state, "counts": outcome_counts(lalm, text, vectors)}
    return panel


def outcome_counts(lalm: LALM, text: str, vectors: SteeringVectors) -> dict[str, dict[str, Any]]:
    """How many spoken requests of each kind had which outcome, in the order of `ALPHAS`.

    Chapter 4's sweep: where it has run, nothing is computed again.
    """
    asked: dict[str, list[Request]] = {}
    for label, number in COUNTED.items():
        asked |= session.requests("test", number, [label])
    variants = {f"SARSteer, {text}": vectors}
    options = {"max_new_tokens": LINE_TOKENS, "batch_size": BATCH}
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
    "02-xray": "xray",
    "03-explorer": "explorer",
    "03-playground": "playground",
    "04-ladder": "ladder",
    "04-steer-panel": "steer",
    "causal-14": "seconds",
    "06-threshold": "threshold",
    "07-board": "board",
}
"""The panels of chapters by the cell that shows each, whichever chapter that is."""


def of_chapter(cell_id: str) -> Panel:
    """Run a chapter up to a cell, and give the panel that the cell shows.

    Raises what a cell raises, and LookupError where no chapter has the cell.
    """
    shell = InteractiveShell()
    for path in sorted(notebooks_folder().glob("*.ipynb")):
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


def narrowed(panel: Panel) -> Panel:
    """A panel with so few requests and values that all of its settings can be recorded."""
    if isinstance(panel, Ladder):
        return Ladder(panel.lalm, panel.prompt, panel.vectors, panel.swept, more=False)
    if not isinstance(panel, SteerPanel):
        return panel
    prompts = [panel.requests[place] for place in (0, 4)]  # a harmful one and a harmless one
    directions = dict(list(panel.directions.items())[:2])
    values: dict[str, Sequence[Any]] = {"alpha": ALPHAS, "lambda": (0.0, 1.0), "k": (10,)}
    last = panel.lalm.n_layers - 1
    values |= {"first layer": (0, last // 2 + 1), "last layer": (last // 2, last)}
    return SteerPanel(panel.lalm, directions, panel.harmless, prompts, values=values)


def recorded(panel: Panel) -> dict[str, Any]:
    """A panel for a page without a kernel: its view, what that draws, what is chosen at first."""
    panel = narrowed(panel)
    panel.complete()
    return {"view": panel.module, "state": panel.view.state, "chosen": panel.view.chosen}


def write(folder: Path, names: Sequence[str] = ()) -> None:
    """Record panels (by their names; else all) with the pocket model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Callable[[], Panel]] = {"steering": steering}
    for cell_id, name in CELLS.items():
        made[name] = partial(of_chapter, cell_id)
    for name in names or made:
        text = json.dumps(recorded(made[name]()), ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as nobodys:
        # Chapters ask for guesses on the way, and nobody answers: a reader's own stay as they are.
        os.environ[GUESSES_VARIABLE] = nobodys
        write(Path(sys.argv[1]), sys.argv[2:])
