"""Figures of defences: the trade-off plane, beside the bound of uniform pushes."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from sarsteer_lab.course.figures.base import (
    DOTTED,
    TRADEOFF,
    common_legend,
    drawn,
    panels,
    percent,
    wilson_whiskers,
)
from sarsteer_lab.course.figures.names import name_points
from sarsteer_lab.course.palette import DEFENCES, INK, PAPER
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.defences import PROMPTING, STEERING_NAMES
from sarsteer_lab.evaluation.table import BASELINE

BOUND = "bound of a uniform push"


def group_of(defence: str) -> str:
    """The group of one of the course's defences, by its name; "others" for names of your own."""
    name = defence.split(",")[0]
    if name == BASELINE:
        return "no defence"
    if name in PROMPTING:
        return "prompts"
    if name.startswith(("conditional", "null-space")):
        return "conditional pushes"
    return "uniform pushes" if name in STEERING_NAMES else "others"


@drawn
def tradeoff_figure(
    table: pd.DataFrame, bound: Float[np.ndarray, "threshold 2"] | None = None
) -> Figure:
    """Defences in the trade-off plane: harmful requests refused against other requests answered.

    `table` has the columns defence, label, n, refused and answered of `table.tabulate`, one judge.
    Bars are 95% Wilson intervals; colour and marker say which group of `palette.DEFENCES` a defence
    belongs to. All labels but "harmful" count as benign. `bound` holds points (benign answered,
    harmful refused), threshold by threshold, of what a uniform push could do at best; the title
    counts the defences beyond it. Raises ValueError if either kind of request is missing.
    """
    names = list(table["defence"].unique())
    kinds = ["defence", table["label"] == "harmful"]
    sums = table.groupby(kinds)[["answered", "refused", "n"]].sum()
    if len(sums) < 2 * len(names):
        raise ValueError(
            f"needs harmful and benign requests; labels: {sorted(set(table['label']))}"
        )
    benign = sums.xs(False, level=1).loc[names]
    harmful = sums.xs(True, level=1).loc[names]
    x = benign["answered"] / benign["n"]
    y = harmful["refused"] / harmful["n"]
    places = np.column_stack([x, y])
    told = f"{pareto_front(places).sum()} of {len(names)} are beaten by no other in both respects"
    if bound is not None:
        bound_x, bound_y = bound.T
        reach = [bound_y[bound_x >= answered].max(initial=0.0) for answered in x]
        n_beyond = int((y > reach).sum())
        verb = "lies" if n_beyond == 1 else "lie"
        told = f"{n_beyond} of {len(names)} {verb} beyond the {BOUND}"
    fig, [ax] = panels(1, (11, 6.8), told)

    groups = list(map(group_of, names))
    colours = [DEFENCES[group][0] for group in groups]
    xerr = wilson_whiskers(benign["answered"], benign["n"])
    yerr = wilson_whiskers(harmful["refused"], harmful["n"])
    faint = {"fmt": "none", "elinewidth": 1, "alpha": 0.35}
    ax.errorbar(x, y, yerr, xerr, ecolor=colours, **faint)
    point = {"markersize": 11, "zorder": 3, "markeredgecolor": PAPER}
    star = {"markersize": 17, "zorder": 4}
    for group in dict.fromkeys(groups):
        colour, marker = DEFENCES[group]
        look = point | star if marker == "*" else point
        of_group = places[[name == group for name in groups]]
        ax.plot(*of_group.T, marker, color=colour, label=group, **look)
    if bound is not None:
        behind = {"linewidth": 1.6, "zorder": 1.9}
        ax.plot(*bound.T, label=BOUND, **DOTTED | behind)
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), **TRADEOFF)
    percent(ax.xaxis, ax.yaxis)
    common_legend(fig, ncols=len(ax.lines))
    along = None if bound is None else _along(bound)
    name_points(ax, names, places, [INK] * len(names), along)
    return fig


def _along(line: Float[np.ndarray, "vertex 2"]) -> Float[np.ndarray, "spot 2"]:
    """Spots on a line through these vertices, so near one another that no name fits between."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    travelled = np.r_[0, np.cumsum(steps)]
    spots = np.arange(0, travelled[-1], 0.015)
    return np.column_stack([np.interp(spots, travelled, column) for column in line.T])
