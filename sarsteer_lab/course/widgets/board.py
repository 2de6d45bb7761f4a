"""The over-refusal board: defences and sets picked, their trade-off drawn, their responses read."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
from ipywidgets import HTML, Button, Dropdown, GridBox, Layout, SelectMultiple

from sarsteer_lab.course.figures import tradeoff_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import tabulate
from sarsteer_lab.prompts import Request
from sarsteer_lab.speech import read_clip

STYLE = """<style>
.sarsteer-cell {white-space: normal; height: auto; min-height: 34px; line-height: 1.3;
  font-size: 14px;}
.sarsteer-name, .sarsteer-reading {font-size: 14px; line-height: 1.3;}
</style>"""


class OverRefusalBoard(panels.Panel):
    """Chapter 07: pick defences and sets, see what they refuse, click to read and hear requests.

    `responses` from `run.run`, `outcomes` one judge's from `table.judge_responses`. Clips are those
    of the `prompts` with the responses' ids; `heard` is what the model heard
    (`hearing.transcript`), by id. Of a response 20 words at most are shown. `defences` and `sets`
    choose, `cells` are the buttons, `request` says which of an open cell's clips `player` plays.
    Raises ValueError if there are outcomes of several judges or a response has none.
    """

    def __init__(
        self,
        responses: Sequence[Response],
        outcomes: pd.DataFrame,
        prompts: Sequence[Request] = (),
        heard: Mapping[str, str] | None = None,
    ) -> None:
        judges = list(dict.fromkeys(outcomes["judge"]))
        if len(judges) != 1:
            there = ", ".join(judges) or "none"
            raise ValueError(f"the board shows the outcomes of one judge; there are {there}")
        super().__init__()
        self.responses = list(responses)
        self.outcomes = outcomes
        self._judged = self._by_cell()
        self.defences = self._choice("defences", [r.defence for r in responses])
        self.sets = self._choice("sets", [r.set for r in responses])
        self.heard = heard or {}
        self._clips = {prompt.id: prompt.clip for prompt in prompts if prompt.clip is not None}
        self.request = Dropdown(description="play", layout={"width": "min(640px, 95%)"})
        self.player = panels.player()
        self._heard = panels.row(self.request, self.player)
        self._heard.layout.display = "none"
        self.plane, self.grid = HTML(), GridBox()
        self.reading = HTML("<p>Click a cell to read its responses.</p>")
        self.reading.add_class("sarsteer-reading")
        self.reading.layout = Layout(max_height="420px", overflow="auto", width="100%")
        self.cells: dict[tuple[str, str], Button] = {}
        choices = panels.row(self.defences, self.sets)
        read = [self._heard, self.reading]
        self.children = [choices, self.grid, *read, self.plane, self.runner.message]
        self.add_class("sarsteer-board")
        self.runner.listen("board", self._show, self.defences, self.sets)
        self.runner.listen("clip", self._load, self.request)
        self._show()

    def _by_cell(self) -> dict[tuple[str, str], list[tuple[Response, str]]]:
        """The responses of each defence to each set, with their outcomes."""
        outcome_of = self.outcomes.set_index(["defence", "set", "id"])["outcome"].to_dict()
        judged: dict[tuple[str, str], list[tuple[Response, str]]] = defaultdict(list)
        for response in self.responses:
            cell = (response.defence, response.set)
            outcome = outcome_of.get((*cell, response.id))
            if outcome is None:
                raise ValueError(
                    f"no outcome for the response to {response.id!r} under {response.defence!r}"
                )
            judged[cell].append((response, outcome))
        return judged

    def static(self) -> str:
        """The counts as a table, and the trade-off plane."""
        counts = pd.DataFrame(index=self.defences.value)
        for name in self.sets.value:
            counts[name] = [self.counts(defence, name) for defence in self.defences.value]
        with pd.option_context("display.max_colwidth", None):
            return counts.to_html() + self.plane.value

    def counts(self, defence: str, name: str) -> str:
        """What became of a cell's requests, in words."""
        judged = self._judged.get((defence, name), [])
        counts = Counter(outcome for _, outcome in judged)
        shown = [outcome for outcome in panels.MARKS if outcome in counts]
        parts = [f"{counts[outcome]} {outcome}" for outcome in shown]
        return f"{', '.join(parts)} of {len(judged)}"

    def read(self, defence: str, name: str) -> None:
        """Show the responses of a cell, refused ones first; of harmful requests the openings."""
        order = list(panels.MARKS)
        judged = self._judged.get((defence, name), [])
        shown, playable = [], []
        for response, outcome in sorted(judged, key=lambda pair: order.index(pair[1])):
            request, mark = response.request, panels.MARKS[outcome]
            heard = ""
            if response.id in self.heard:
                heard = panels.heard_line(request, self.heard[response.id])
            shown.append((mark, outcome, request, heard, opening_words(response.response)))
            if response.id in self._clips:
                playable.append((f"{mark} {request}", response.id))
        told = {"defence": defence, "set": name, "counts": self.counts(defence, name)}
        self.reading.value = panels.piece("board_reading", responses=shown, **told)
        self.request.options = playable  # which chooses the first
        self._heard.layout.display = "" if playable else "none"

    def _load(self) -> None:
        if self.request.value is not None:
            self.player.value = panels.wav_bytes(read_clip(self._clips[self.request.value]))

    def _choice(self, what: str, values: Sequence[str]) -> SelectMultiple:
        options = list(dict.fromkeys(values))
        rows = min(11, len(options))
        look = {"description": what, "rows": rows, "layout": {"width": "min(560px, 95%)"}}
        return SelectMultiple(options=options, value=options, **look)

    def _show(self) -> None:
        sets = self.sets.value
        self.cells = {}
        table = [HTML(STYLE), *map(self._name, sets)]
        for defence in self.defences.value:
            table.append(self._name(defence))
            for name in sets:
                self.cells[defence, name] = self._cell(defence, name)
                table.append(self.cells[defence, name])
        columns = f"minmax(170px, 320px) repeat({len(sets)}, minmax(130px, 1fr))"
        self.grid.layout.grid_template_columns = columns
        self.grid.children = table
        self.plane.value = self._picture()

    def _name(self, text: str) -> HTML:
        return HTML(f'<div class="sarsteer-name"><b>{escape(text)}</b></div>')

    def _cell(self, defence: str, name: str) -> Button:
        look = {"tooltip": f"{defence} on {name}", "layout": {"width": "auto"}}
        button = Button(description=self.counts(defence, name), **look)
        button.add_class("sarsteer-cell")
        button.on_click(lambda _: self.runner.soon("read", lambda: self.read(defence, name)))
        return button

    def _picture(self) -> str:
        chosen = self.outcomes["defence"].isin(self.defences.value)
        chosen &= self.outcomes["set"].isin(self.sets.value)
        outcomes = self.outcomes[chosen]
        labels = set(outcomes["label"])
        if "harmful" not in labels or len(labels) < 2:
            return "<p>The trade-off plane needs a set of harmful requests and one of others.</p>"
        return panels.picture(tradeoff_figure(tabulate(outcomes)), 820)
