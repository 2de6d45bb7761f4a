"""Chapter 8: what changes while the pocket model's understanding dial is turned."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sarsteer_lab.course.figures.base import (
    TRADEOFF,
    band,
    drawn,
    in_series,
    level,
    name_lines,
    panels,
    percent,
    ticks,
    wilson_whiskers,
)
from sarsteer_lab.course.palette import FORMS, MEANINGS, PAPER


@drawn
def understanding_figure(forms: pd.DataFrame, best: pd.DataFrame) -> Figure:
    """What the model knows against areas, the gap and undefended refusal, and what defences reach.

    `forms` has a row for each setting of the dials, in their order, and each form (typed, spoken):
    setting (a short name), form, area with its ends `low` and `high`, and `refused` of `n` harmful
    requests without a defence. `best` has a row for each setting and defence: setting, defence,
    shares `refused` (of harmful requests) and `answered` (of benign ones). A defence's path through
    the plane begins hollow, at the first setting.
    """
    settings = list(forms["setting"].unique())
    spoken = forms[forms["form"] == "spoken"]
    first, last = spoken.iloc[0], spoken.iloc[-1]
    title = (
        f"Spoken harm is told apart with an area of {first.area:.2f} at first and of "
        f"{last.area:.2f} at last"
    )
    fig, [areas, refusals, plane] = panels(3, (17, 5.8), title)
    for form in FORMS:
        rows = forms[forms["form"] == form]
        look = MEANINGS[form]
        across = range(len(rows))
        areas.plot(across, rows["area"], label=form, **look)
        band(areas, across, rows["low"], rows["high"], look["color"])
        bars = wilson_whiskers(rows["refused"], rows["n"])
        share = rows["refused"] / rows["n"]
        refusals.errorbar(across, share, bars, capsize=4, elinewidth=1.4, **look)
        refusals.lines[-1].set_label(form)
    level(areas, 0.5, "chance")
    areas.set(ylabel="ROC area, harmful against harmless", ylim=(0.4, 1.02))
    refusals.set(ylabel="harmful requests refused, undefended", ylim=(-0.03, 1.03))
    percent(refusals.yaxis)
    for ax in (areas, refusals):
        ticks(ax, settings, turned=30)
        ax.set_xlabel("understanding dial")
    name_lines(areas, refusals)
    _paths(plane, best)
    return fig


def _paths(ax: Axes, best: pd.DataFrame) -> None:
    """Each defence's way through the plane as the model comes to know more."""
    for name, rows, look in in_series(dict(list(best.groupby("defence", sort=False)))):
        ax.plot(rows["answered"], rows["refused"], label=name, **look)
        start = rows.iloc[[0]]
        hollow = look | {"linestyle": "none", "markerfacecolor": PAPER, "zorder": 4}
        ax.plot(start["answered"], start["refused"], **hollow)
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), **TRADEOFF)
    ax.set_title("each path begins hollow, at dial 0")
    percent(ax.xaxis, ax.yaxis)
    ax.legend(loc="lower left")
