"""How long the course's panels take to answer: `python -m benchmarks.panels` moves the controls of
every panel, each time to a value that they have not had, and writes the seconds from the move to
the new picture or answer: two at most are wanted. The curve over all values is longer work, with a
bar and a button that stops it."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.gpu import RESULTS, heading, keep_report, spread
from sarsteer_lab.course import widgets
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import judge_responses
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.prompts import LABELS, REFUSAL, load_prompts

WANTED = 2.0
"""Seconds."""

MOVES: dict[str, dict[str, Sequence[Any]]] = {
    "safety dial": {"safety dial": range(5)},
    "gap explorer": {"point": range(1, 6)},
    "safe-space explorer": {"k": range(1, 6), "lam": (2, 4, 6, 8), "layer": range(5)},
    "X-ray": {"alpha": (20, 30, 40, 50)},
    "ladder": {"alpha": (7, 12, 17, 22, 27), "form": (1,)},
    "steer panel": {
        "alpha": (20, 30, 40),
        "k": (3, 5, 7),
        "lambda": (2, 6),
        "last layer": (20, 15),
    },
    "board": {"clip": [request.id for request in load_prompts("test", "harmful")[:5]]},
}
"""The controls of panels that compute something, and the values that they get in turn."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How long panels take to answer")
    parser.add_argument("--model", default="pocket", help="what load_lalm takes")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the report goes")
    args = parser.parse_args(argv)
    lalm = load_lalm(args.model)
    lines = [
        *heading(lalm, "Panels: from a move to what it shows"),
        "",
        f"| panel | control | moves | seconds (median, range) | at most {WANTED:g} s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, make in tqdm(panels(lalm).items(), desc="panels", unit="panel"):
        lines += moved(name, make())
    print("\n".join(lines))
    keep_report(args.folder, "panels", "\n".join(lines) + "\n")


def panels(lalm: LALM) -> dict[str, Callable[[], widgets.panels.Panel]]:
    """What makes each panel, from states of a few requests: how far a push goes does not change its
    time."""
    derive = [
        prompt for label in ("harmful", "harmless") for prompt in load_prompts("derive", label)[:30]
    ]
    some = [*load_prompts("validation", "harmful")[:2], *load_prompts("validation", "harmless")[:2]]
    states = collect_states(lalm, derive, refusals={"paper": REFUSAL})
    found = states.derive()
    return {
        "safety dial": lambda: widgets.dial_panel(lalm, some),
        "gap explorer": lambda: widgets.gap_explorer(
            states.typed_harmful, states.harmful, derive[:30], layer=lalm.n_layers // 2
        ),
        "safe-space explorer": lambda: widgets.safe_space_explorer(
            found.direction.values, states.harmless, lalm=lalm, layer=lalm.n_layers // 2
        ),
        "X-ray": lambda: widgets.xray(lalm, some[0], found.vectors),
        "ladder": lambda: widgets.ladder(lalm, some[0], found.vectors),
        "steer panel": lambda: widgets.steer_panel(
            lalm, {"paper": found.direction}, states.harmless, some
        ),
        "board": board,
    }


def board(defences: int = 11, requests: int = 40) -> widgets.panels.Panel:
    """A board as large as chapter 7's; its responses are the requests themselves."""
    responses = [
        Response(str(i), label, p.id, label, p.request, p.request, tokens=1)
        for i in range(defences)
        for label in LABELS
        for p in load_prompts("test", label)[:requests]
    ]
    outcomes = judge_responses(responses, [PhraseJudge()])
    return widgets.over_refusal_board(responses, outcomes, load_prompts("test"))


def moved(name: str, panel: widgets.panels.Panel) -> Iterator[str]:
    """The table's rows of a panel: its controls, moved in turn. RuntimeError with the panel's
    message if a move fails."""
    for control, values in MOVES[name].items():
        times = []
        for value in values:
            began = time.perf_counter()
            panel.pick(**{control: value})
            times.append(time.perf_counter() - began)
            if (said := panel.runner.message.value).startswith("<b>"):
                raise RuntimeError(f"{name}, {control}: {said}")
        met = "met" if max(times) <= WANTED else "missed"
        yield f"| {name} | {control} | {len(times)} | {spread(times)} | {met} |"


if __name__ == "__main__":
    main()
