"""The over-refusal board: defences and sets picked, their trade-off drawn, their responses read."""

from collections.abc import Sequence
from html import escape

import ipywidgets
import pandas as pd

from sarsteer_lab.course.figures import tradeoff_figure
from sarsteer_lab.course.widgets.panels import Panel, Runner, opening_words, picture
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import tabulate

MARKS = {"refused": "\u2298", "answered": "\u2192", "broken": "\u2248", "not heard": "?", "unparsed": "?"}
"""Signs of the outcomes in lists of responses."""


class OverRefusalBoard(Panel):
    """See `widgets.over_refusal_board`. `defences` and `sets` choose, `cells` are the buttons."""

    def __init__(self, responses: Sequence[Response], outcomes: pd.DataFrame) -> None:
        judges = list(dict.fromkeys(outcomes["judge"]))
        if len(judges) != 1:
            raise ValueError(
                f"the board shows the outcomes of one judge; there are {', '.join(judges) or 'none'}"
            )
        names = ["defence", "set", "id", "outcome"]
        found = {(d, s, i): o for d, s, i, o in outcomes[names].itertuples(index=False)}
        keys = [(r.defence, r.set, r.id) for r in responses]
        if missing := [key for key in keys if key not in found]:
            raise ValueError(f"no outcome for the response to {missing[0][2]!r} under {missing[0][0]!r}")
        self.responses, self.outcomes, self._found = list(responses), outcomes, found
        self.runner = Runner()
        self.defences = self._choice("defences", [r.defence for r in responses])
        self.sets = self._choice("sets", [r.set for r in responses])
        self.plane, self.grid = ipywidgets.HTML(), ipywidgets.VBox()
        self.reading = ipywidgets.HTML("<p>Click a cell to read its responses.</p>")
        self.reading.add_class("sarsteer-reading")
        self.reading.layout = ipywidgets.Layout(max_height="420px", overflow="auto", width="100%")
        self.cells: dict[tuple[str, str], ipywidgets.Button] = {}
        super().__init__(
            [
                ipywidgets.HBox([self.defences, self.sets], layout={"flex_flow": "row wrap"}),
                self.grid,
                self.reading,
                self.plane,
                self.runner.message,
            ]
        )
        for control in (self.defences, self.sets):
            control.observe(lambda _: self.runner.soon("board", self._show), "value")
        self._show()

    def static(self) -> str:
        """The counts as a table, and the trade-off plane."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.sets.value)
        rows = "".join(
            f"<tr><th>{escape(defence)}</th>"
            + "".join(f"<td>{self.counts(defence, name)}</td>" for name in self.sets.value)
            + "</tr>"
            for defence in self.defences.value
        )
        return f"<table><tr><th></th>{head}</tr>{rows}</table>{self.plane.value}"

    def counts(self, defence: str, name: str) -> str:
        """What became of a cell's requests, in words."""
        outcomes = [self._found[r.defence, r.set, r.id] for r in self._in_cell(defence, name)]
        parts = [f"{outcomes.count(o)} {o}" for o in MARKS if o in outcomes]
        return f"{', '.join(parts)} of {len(outcomes)}"

    def read(self, defence: str, name: str) -> None:
        """Show the responses of a cell: refused ones first, of harmful requests the openings alone."""
        items = []
        order = list(MARKS)
        cell = self._in_cell(defence, name)
        for r in sorted(cell, key=lambda r: order.index(self._found[r.defence, r.set, r.id])):
            outcome = self._found[r.defence, r.set, r.id]
            said = escape(opening_words(r.response)) or "<i>(nothing)</i>"
            items.append(
                f'<li style="margin-bottom:6px">{MARKS[outcome]} <b>{outcome}</b> \u2014 '
                f"{escape(r.request)}<br><i>{said}</i></li>"
            )
        title = f"<b>{escape(defence)}</b> on <b>{escape(name)}</b>: {self.counts(defence, name)}"
        self.reading.value = f"<p>{title}</p><ul>{''.join(items)}</ul>"

    def _in_cell(self, defence: str, name: str) -> list[Response]:
        return [r for r in self.responses if (r.defence, r.set) == (defence, name)]

    def _choice(self, what: str, values: Sequence[str]) -> ipywidgets.SelectMultiple:
        options = list(dict.fromkeys(values))
        return ipywidgets.SelectMultiple(
            options=options,
            value=options,
            description=what,
            rows=min(11, len(options)),
            layout={"width": "380px"},
        )

    def _show(self) -> None:
        self.cells = {}
        first = ipywidgets.Layout(width="190px")
        wide = ipywidgets.Layout(width="210px")
        rows = [
            ipywidgets.HBox(
                [ipywidgets.Label("", layout=first)]
                + [ipywidgets.Label(name, layout=wide) for name in self.sets.value]
            )
        ]
        for defence in self.defences.value:
            row: list[ipywidgets.Widget] = [ipywidgets.Label(defence, layout=first)]
            for name in self.sets.value:
                row.append(self._cell(defence, name, wide))
            rows.append(ipywidgets.HBox(row))
        self.grid.children = rows
        self.plane.value = self._picture()

    def _cell(self, defence: str, name: str, layout: ipywidgets.Layout) -> ipywidgets.Button:
        button = ipywidgets.Button(description=self.counts(defence, name), layout=layout)
        button.add_class("sarsteer-cell")
        button.tooltip = f"{defence} on {name}"
        button.on_click(lambda _: self.runner.soon("read", lambda: self.read(defence, name)))
        self.cells[defence, name] = button
        return button

    def _picture(self) -> str:
        chosen = self.outcomes[
            self.outcomes["defence"].isin(self.defences.value) & self.outcomes["set"].isin(self.sets.value)
        ]
        labels = set(chosen["label"])
        if "harmful" not in labels or len(labels) < 2:
            return "<p>The trade-off plane needs a set of harmful requests and one of others.</p>"
        return picture(tradeoff_figure(tabulate(chosen)), 820)
