"""The over-refusal board: defences and sets picked, their trade-off drawn, their responses read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sarsteer_lab.course.figures import tradeoff_figure
from sarsteer_lab.course.hearing import differs
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import tabulate
from sarsteer_lab.prompts import Request

DIGITS = 6
"""With which scores are kept."""

Cells = dict[str, dict[str, list[list[str]]]]
"""By defence and set: each response as request, outcome and opening."""


class OverRefusalBoard(panels.Panel):
    """Chapter 07: pick defences and sets, see what they refuse, read and hear the requests.

    `responses` from `run.run`, `outcomes` one judge's from `table.judge_responses`. Clips are those
    of the `prompts` with the responses' ids; `heard` is what the model heard
    (`hearing.transcript`), by id. Of a response 20 words at most are shown.

    `scores` is what a condition can go by, by name and the requests' ids; the first is the model's
    own readiness to refuse. With it the reader makes a condition of the weighted scores, and sees
    it beside the defences and the bound of uniform pushes; sets without scores are not shown at
    first. Raises ValueError if there are outcomes of several judges, a response has none, or scores
    are of different requests.
    """

    def __init__(
        self,
        responses: Sequence[Response],
        outcomes: pd.DataFrame,
        prompts: Sequence[Request] = (),
        heard: Mapping[str, str] | None = None,
        scores: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        judges = list(dict.fromkeys(outcomes["judge"]))
        if len(judges) != 1:
            there = ", ".join(judges) or "none"
            raise ValueError(f"the board shows the outcomes of one judge; there are {there}")
        self.outcomes = outcomes
        self.prompts = {prompt.id: prompt for prompt in prompts}
        requests: dict[str, dict[str, Any]] = {}
        for response in responses:
            requests[response.id] = self._request(response, heard or {})
        cells = judged_cells(responses, outcomes)
        names: dict[str, Any]
        names = {"defences": [*cells], "sets": [*dict.fromkeys(r.set for r in responses)]}
        state = {"cells": cells, "requests": requests, **names}
        chosen = {"cell": ["", ""], "clip": "", **names}
        if scores:
            add_scores(requests, scores)
            state["scores"] = [*scores]
            scored = [response for response in responses if "scores" in requests[response.id]]
            chosen["sets"] = [*dict.fromkeys(response.set for response in scored)]
            chosen["weights"] = [10, *[0] * (len(scores) - 1)]
            chosen["refusing"] = len({r.id for r in scored if r.label == "harmful"})
        super().__init__("board", state, **chosen)

    def _request(self, response: Response, heard: Mapping[str, str]) -> dict[str, Any]:
        """What is shown of a request."""
        shown: dict[str, Any] = {"words": response.request, "label": response.label}
        prompt = self.prompts.get(response.id)
        if prompt is not None and prompt.clip is not None:
            shown["clip"] = prompt.clip.name
        if response.id in heard:
            shown["heard"] = opening_words(heard[response.id])
            shown["differs"] = differs(response.request, heard[response.id])
        return shown

    def static(self) -> str:
        """The counts as a table, and the trade-off plane."""
        counts = pd.DataFrame(index=self.chosen["defences"])
        for name in self.view.state["sets"]:
            counts[name] = [self.counts(defence, name) for defence in self.chosen["defences"]]
        with pd.option_context("display.max_colwidth", None):
            return counts.to_html() + self._plane()

    def counts(self, defence: str, name: str) -> str:
        """What became of a cell's requests, in words."""
        judged = self.view.state["cells"][defence].get(name, [])
        counts = Counter(outcome for _, outcome, _ in judged)
        parts = [f"{n} {outcome}" for outcome, n in counts.items()]
        return f"{', '.join(parts)} of {len(judged)}"

    def follow(self) -> None:
        """Have the chosen clip ready."""
        if self.chosen["clip"]:
            self.play(self.prompts[self.chosen["clip"]])

    def _plane(self) -> str:
        labels = set(self.outcomes["label"])
        if "harmful" not in labels or len(labels) < 2:
            return ""
        return panels.picture(tradeoff_figure(tabulate(self.outcomes)), 820)


def add_scores(
    requests: Mapping[str, dict[str, Any]], scores: Mapping[str, Mapping[str, float]]
) -> None:
    """Give each request its scores, in the order of their names.

    Raises ValueError for scores of different requests, and of one that has no response.
    """
    first, *others = scores.values()
    if any(other.keys() != first.keys() for other in others):
        raise ValueError("scores are of different requests")
    unanswered = first.keys() - requests.keys()
    if unanswered:
        raise ValueError(f"there are scores of {min(unanswered)!r}, which has no response")
    for request in first:
        values = [by_id[request] for by_id in scores.values()]
        requests[request]["scores"] = [round(float(value), DIGITS) for value in values]


def judged_cells(responses: Sequence[Response], outcomes: pd.DataFrame) -> Cells:
    """The responses of each defence to each set with their outcomes, refused ones first."""
    outcome_of = outcomes.set_index(["defence", "set", "id"])["outcome"].to_dict()
    cells: Cells = {}
    for response in responses:
        outcome = outcome_of.get((response.defence, response.set, response.id))
        if outcome is None:
            raise ValueError(
                f"no outcome for the response to {response.id!r} under {response.defence!r}"
            )
        cell = cells.setdefault(response.defence, {}).setdefault(response.set, [])
        cell.append([response.id, outcome, opening_words(response.response)])
    order = list(panels.MARKS)
    for by_set in cells.values():
        for cell in by_set.values():
            cell.sort(key=lambda row: order.index(row[1]))
    return cells
