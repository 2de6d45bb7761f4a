"""The over-refusal board: defences and sets picked, their trade-off drawn, their responses read."""

from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets
import pandas as pd

from sarsteer_lab.course.figures import tradeoff_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import tabulate
from sarsteer_lab.prompts import Request
from sarsteer_lab.speech import read_clip

STYLE = """<style>.sarsteer-cell {white-space: normal; height: auto; min-height: 34px; line-height: 1.3;
  font-size: 14px;} .sarsteer-name, .sarsteer-reading {font-size: 14px; line-height: 1.3;}</style>"""


class OverRefusalBoard(panels.Panel):
    """Chapter 05: pick defences and sets, see what they refuse, click a cell to read and hear its
    requests.

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
            raise ValueError(
                f"the board shows the outcomes of one judge; there are {', '.join(judges) or 'none'}"
            )
        super().__init__()
        self.responses, self.outcomes = list(responses), outcomes
        found = outcomes.set_index(["defence", "set", "id"])["outcome"].to_dict()
        self._judged: dict[tuple[str, str], list[tuple[Response, str]]] = {}
        for r in responses:
            if (r.defence, r.set, r.id) not in found:
                raise ValueError(f"no outcome for the response to {r.id!r} under {r.defence!r}")
            self._judged.setdefault((r.defence, r.set), []).append(
                (r, found[r.defence, r.set, r.id])
            )
        self.defences = self._choice("defences", [r.defence for r in responses])
        self.sets = self._choice("sets", [r.set for r in responses])
        self.heard = heard or {}
        self._clips = {prompt.id: prompt.clip for prompt in prompts if prompt.clip is not None}
        self.request = ipywidgets.Dropdown(description="play", layout={"width": "min(640px, 95%)"})
        self.player = panels.player()
        self._heard = panels.row(self.request, self.player)
        self._heard.layout.display = "none"
        self.plane, self.grid = ipywidgets.HTML(), ipywidgets.GridBox()
        self.reading = ipywidgets.HTML("<p>Click a cell to read its responses.</p>")
        self.reading.add_class("sarsteer-reading")
        self.reading.layout = ipywidgets.Layout(max_height="420px", overflow="auto", width="100%")
        self.cells: dict[tuple[str, str], ipywidgets.Button] = {}
        choices = panels.row(self.defences, self.sets)
        self.children = [
            choices,
            self.grid,
            self._heard,
            self.reading,
            self.plane,
            self.runner.message,
        ]
        self.add_class("sarsteer-board")
        self.runner.listen("board", self._show, self.defences, self.sets)
        self.runner.listen("clip", self._load, self.request)
        self._show()

    def static(self) -> str:
        """The counts as a table, and the trade-off plane."""
        counts = {
            name: {d: self.counts(d, name) for d in self.defences.value} for name in self.sets.value
        }
        with pd.option_context("display.max_colwidth", None):
            return pd.DataFrame(counts).to_html() + self.plane.value

    def counts(self, defence: str, name: str) -> str:
        """What became of a cell's requests, in words."""
        outcomes = [outcome for _, outcome in self._judged.get((defence, name), [])]
        parts = [f"{outcomes.count(o)} {o}" for o in panels.MARKS if o in outcomes]
        return f"{', '.join(parts)} of {len(outcomes)}"

    def read(self, defence: str, name: str) -> None:
        """Show the responses of a cell: refused ones first, of harmful requests the openings
        alone."""
        order = list(panels.MARKS)
        found = sorted(self._judged.get((defence, name), []), key=lambda pair: order.index(pair[1]))
        items = []
        for r, outcome in found:
            listened = (
                f"<br>{panels.heard_line(r.request, self.heard[r.id])}"
                if r.id in self.heard
                else ""
            )
            items.append(
                f'<li style="margin-bottom:8px">{panels.MARKS[outcome]} <b>{outcome}</b> \u2014 '
                f"{escape(r.request)}{listened}<br>"
                f"answered: <i>{escape(opening_words(r.response)) or '(nothing)'}</i></li>"
            )
        title = f"<b>{escape(defence)}</b> on <b>{escape(name)}</b>: {self.counts(defence, name)}"
        self.reading.value = f"<p>{title}</p><ul>{''.join(items)}</ul>"
        playable = [
            (f"{panels.MARKS[outcome]} {r.request}", r.id)
            for r, outcome in found
            if r.id in self._clips
        ]
        self.request.options = playable  # which chooses the first
        self._heard.layout.display = "" if playable else "none"

    def _load(self) -> None:
        if self.request.value is not None:
            self.player.value = panels.wav_bytes(read_clip(self._clips[self.request.value]))

    def _choice(self, what: str, values: Sequence[str]) -> ipywidgets.SelectMultiple:
        options = list(dict.fromkeys(values))
        rows = min(11, len(options))
        look = {"description": what, "rows": rows, "layout": {"width": "min(560px, 95%)"}}
        return ipywidgets.SelectMultiple(options=options, value=options, **look)

    def _show(self) -> None:
        sets = self.sets.value
        self.cells = {
            (defence, name): self._cell(defence, name)
            for defence in self.defences.value
            for name in sets
        }
        table = [ipywidgets.HTML(STYLE), *(self._name(name) for name in sets)]
        for defence in self.defences.value:
            table += [self._name(defence), *(self.cells[defence, name] for name in sets)]
        self.grid.layout.grid_template_columns = (
            f"minmax(170px, 320px) repeat({len(sets)}, minmax(130px, 1fr))"
        )
        self.grid.children = table
        self.plane.value = self._picture()

    def _name(self, text: str) -> ipywidgets.HTML:
        return ipywidgets.HTML(f'<div class="sarsteer-name"><b>{escape(text)}</b></div>')

    def _cell(self, defence: str, name: str) -> ipywidgets.Button:
        look = {"tooltip": f"{defence} on {name}", "layout": {"width": "auto"}}
        button = ipywidgets.Button(description=self.counts(defence, name), **look)
        button.add_class("sarsteer-cell")
        button.on_click(lambda _: self.runner.soon("read", lambda: self.read(defence, name)))
        return button

    def _picture(self) -> str:
        chosen = self.outcomes[
            self.outcomes["defence"].isin(self.defences.value)
            & self.outcomes["set"].isin(self.sets.value)
        ]
        labels = set(chosen["label"])
        if "harmful" not in labels or len(labels) < 2:
            return "<p>The trade-off plane needs a set of harmful requests and one of others.</p>"
        return panels.picture(tradeoff_figure(tabulate(chosen)), 820)
