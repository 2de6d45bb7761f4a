"""Chapter 8: what changes with what a model knows, and what a push reaches there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sarsteer_lab.course.figures.base import (
    DOTTED,
    TRADEOFF,
    common_legend,
    drawn,
    level,
    name_lines,
    panels,
    percent,
    ticks,
    whiskers,
    wilson_whiskers,
)
from sarsteer_lab.course.figures.defences import BOUND
from sarsteer_lab.course.palette import DEFENCES, FORMS, MEANINGS, PAPER, Look, look_of

MARKER_SIZES = {"*": 15}
"""Of markers that look smaller than the others at the usual size."""


@drawn
def understanding_figure(forms: pd.DataFrame, best: pd.DataFrame) -> Figure:
    """Areas and undefended refusals at each setting of the dials, and what defences reach.

    `forms` has a row for each setting of the dials, in their order, and each form (typed, spoken):
    setting (a short name), form, area with its ends `low` and `high`, and `refused` of `n` harmful
    requests without a defence. A name with a comma is a setting of a second dial, which stands
    apart from the first one's line. `best` has a row for each setting and defence: setting,
    defence, its `group` (of `palette.DEFENCES`), shares `refused` (of harmful requests) and
    `answered` (of benign ones). A defence's path through the plane begins hollow, at the first
    setting.
    """
    settings = list(forms["setting"].unique())
    fig, [areas, refusals, plane] = panels(3, (17, 5.8), _areas_told(forms))
    dials = "understanding dial"
    for form in FORMS:
        rows = forms[forms["form"] == form].reset_index(drop=True)
        parts = list(_by_dial(rows))
        for part in parts:
            is_last = part is parts[-1]
            look = MEANINGS[form] | {"label": form if is_last else None}
            bars = {"fmt": "none", "ecolor": look["color"], "capsize": 4, "elinewidth": 1.4}
            areas.plot(part.index, part["area"], **look)
            lengths = whiskers(part["area"], part["low"], part["high"])
            areas.errorbar(part.index, part["area"], lengths, **bars)
            share = part["refused"] / part["n"]
            refusals.plot(part.index, share, **look)
            lengths = wilson_whiskers(part["refused"], part["n"])
            refusals.errorbar(part.index, share, lengths, **bars)
        if len(parts) > 1:
            dials = "understanding dial (right: and safety training on speech)"
    level(areas, 0.5, "chance")
    areas.set(ylabel="ROC area, harmful against harmless", ylim=(0.4, 1.02))
    refusals.set(ylabel="harmful requests refused, undefended", ylim=(-0.03, 1.03))
    percent(refusals.yaxis)
    for ax in (areas, refusals):
        ticks(ax, settings, turned=30)
        ax.set_xlabel(dials)
    name_lines(areas, refusals)
    _paths(plane, best)
    return fig


def _areas_told(forms: pd.DataFrame) -> str:
    """The spoken area at the first setting, at the best one, and at the last one."""
    spoken = forms[forms["form"] == "spoken"]
    first, last = spoken.iloc[0], spoken.iloc[-1]
    best = spoken.loc[spoken["area"].idxmax()]
    told = [f"{first.area:.2f} at first ({first.setting})"]
    if best.setting not in (first.setting, last.setting):
        told.append(f"{best.area:.2f} at best ({best.setting})")
    if len(spoken) > 1:
        told.append(f"{last.area:.2f} at last ({last.setting})")
    return f"The area under the ROC curve of spoken requests is {', '.join(told)}"


def _by_dial(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of the first dial's settings, and those at which the second one is turned, too."""
    is_second = rows["setting"].str.contains(",", regex=False)
    for part in (rows[~is_second], rows[is_second]):
        if len(part):
            yield part


def _look_of_group(group: str) -> Look:
    """A group of defences as it looks in every plane of the course."""
    colour, marker = DEFENCES[group]
    return look_of(colour, marker, "-") | {"markersize": MARKER_SIZES.get(marker, 9)}


def _plane(ax: Axes) -> None:
    """What all panels of the trade-off plane share."""
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), **TRADEOFF)
    percent(ax.xaxis, ax.yaxis)


def _paths(ax: Axes, best: pd.DataFrame) -> None:
    """Each defence's way through the plane as the model comes to know more."""
    for (name, group), rows in best.groupby(["defence", "group"], sort=False):
        look = _look_of_group(group)
        ax.plot(rows["answered"], rows["refused"], label=name, **look)
        start = rows.iloc[[0]]
        hollow = look | {"linestyle": "none", "markerfacecolor": PAPER, "zorder": 4}
        ax.plot(start["answered"], start["refused"], **hollow)
    _plane(ax)
    ax.set_title("each path begins hollow, at dial 0")
    ax.legend(loc="lower left")


@drawn
def reach_figure(
    reached: pd.DataFrame,
    bounds: Mapping[str, Float[np.ndarray, "threshold 2"]],
    along: Mapping[str, Sequence[tuple[float, float]]],
) -> Figure:
    """What a push reaches where a model knows and where it does not, in a plane for each place.

    `bounds` holds by place `separation.uniform_bound` of the undefended readings: what a push that
    moves all requests alike could do at best. `reached` has two rows for each of these places, no
    defence and the push: place, defence, its `group` (of `palette.DEFENCES`), shares `refused` (of
    harmful requests) and `answered` (of benign ones). `along` holds for some of the places what the
    push reaches at other strengths (answered, refused), from none on.
    """
    told = []
    for place in bounds:
        pushed = reached[reached["place"] == place].iloc[-1]
        told.append(f"{pushed.refused:.0%} and {pushed.answered:.0%} ({place})")
    title = (
        f"Under the push the model refuses harmful and answers benign requests: {', '.join(told)}"
    )
    fig, axes = panels(len(bounds), (5.4 * len(bounds), 5.8), title, sharey=True)
    for ax, (place, bound) in zip(axes, bounds.items(), strict=True):
        rows = reached[reached["place"] == place]
        ax.plot(*bound.T, label=BOUND, **DOTTED)
        if place in along:
            look = _look_of_group(rows["group"].iloc[-1]) | {"markersize": 4, "linewidth": 1}
            ax.plot(*np.transpose(along[place]), label="at other strengths", **look)
        for row in rows.itertuples():
            look = _look_of_group(row.group) | {"linestyle": "none", "zorder": 3}
            ax.plot([row.answered], [row.refused], label=row.defence, **look)
        start, end = rows[["answered", "refused"]].to_numpy()
        arrow = {"arrowstyle": "-|>", "shrinkA": 8, "shrinkB": 8}
        arrow["color"] = DEFENCES[rows["group"].iloc[-1]][0]
        ax.annotate("", end, start, arrowprops=arrow)
        _plane(ax)
        ax.set_title(place)
        ax.label_outer()
    common_legend(fig, ncols=4)
    return fig
