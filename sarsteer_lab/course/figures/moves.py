"""Figures of single requests: where each stands before a push and after it, beside the bound."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sarsteer_lab.course.figures.base import (
    DOTTED,
    LOWEST,
    TRADEOFF,
    drawn,
    panels,
    percent,
    readiness_axis,
)
from sarsteer_lab.course.palette import FORMS, INK, LABELS, STEERED, Look
from sarsteer_lab.evaluation.separation import roc_area, uniform_bound

Readiness = Mapping[str, Float[np.ndarray, "prompt"]]
"""Refusal probabilities, 0 to 1, by the kind of request."""


@drawn
def moves_figure(before: Readiness, after: Readiness, reached: tuple[float, float]) -> Figure:
    """Readiness to refuse before and after a push: an arrow per request, beside the bound.

    Rows of `before` and `after` are the same requests; "harmful" is among their kinds. Left, on a
    logit scale, requests are sorted by where they stood. Right, for each threshold: the share of
    harmful requests at or above it against the share of all others below it, which is what a
    uniform push could do at best, from either order; and what the push has `reached` with greedy
    answers (others answered, harmful refused).
    """
    areas = [_area(readiness) for readiness in (before, after)]
    shifts = []
    for label in before:
        shift = np.median(_log_odds(after[label]) - _log_odds(before[label]))
        shifts.append(f"{label} {shift:+.1f}")
    order = f"the ROC area against benign requests goes from {areas[0]:.2f} to {areas[1]:.2f}"
    title = f"The push moves the median log-odds of refusal: {', '.join(shifts)}. So {order}"
    fig, (left, right) = panels(2, (13, 6.6), title, width_ratios=(1.5, 1))
    _arrows(left, before, after)
    _bounds(right, before, after, reached)
    return fig


def _area(readiness: Readiness) -> float:
    return roc_area(readiness["harmful"], _others(readiness))


def _others(readiness: Readiness) -> Float[np.ndarray, "prompt"]:
    """All requests that are not harmful."""
    parts = [values for label, values in readiness.items() if label != "harmful"]
    return np.concatenate(parts)


def _log_odds(probability: Float[np.ndarray, "prompt"]) -> Float[np.ndarray, "prompt"]:
    inside = np.clip(probability, LOWEST, 1 - LOWEST)
    return np.log(inside / (1 - inside))


def _arrows(ax: Axes, before: Readiness, after: Readiness) -> None:
    """An arrow per request, each kind in a block of rows of its own."""
    row = 0
    middles = []
    for label, values in before.items():
        colour = LABELS[label][0]
        order = np.argsort(values)
        starts = np.clip(values[order], LOWEST, 1 - LOWEST)
        ends = np.clip(after[label][order], LOWEST, 1 - LOWEST)
        rows = row + np.arange(len(order))
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2}
        touching = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
        for start, end, height in zip(starts, ends, rows, strict=True):
            ax.annotate("", (end, height), (start, height), arrowprops=look | touching)
        ax.plot(starts, rows, ".", color=colour, markersize=4)
        middles.append(row + len(order) / 2)
        row += len(order) + 4
    names = [f"{label}\n(n = {len(values)})" for label, values in before.items()]
    ax.set_yticks(middles, names)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.axvline(0.5, **DOTTED)
    readiness_axis(ax)
    ax.set_ylim(row - 2, -3)
    ax.set_xlabel("refusal probability, without the push (dot) and under it (arrowhead)")
    ax.set_title("Each arrow is a request")


def _bounds(ax: Axes, before: Readiness, after: Readiness, reached: tuple[float, float]) -> None:
    """The bound from the order of requests before and after, and what was reached."""
    colour, _, _ = FORMS["spoken"]
    orders: dict[str, tuple[Readiness, Look]] = {
        "bound, from the order before": (before, {"color": colour, "linestyle": "-"}),
        "bound, from the order after": (after, {**STEERED, "marker": ""}),
    }
    for name, (readiness, look) in orders.items():
        curve = uniform_bound(readiness["harmful"], _others(readiness))
        ax.plot(*curve.T, label=name, **look)
    ax.plot([1, 0], [0, 1], label="a coin", **DOTTED)
    star = {"marker": "*", "markersize": 17, "linestyle": "", "zorder": 4}
    ax.plot(*reached, color=INK, label="the push, answers judged", **star)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", **TRADEOFF)
    percent(ax.xaxis, ax.yaxis)
    ax.set_title("What the order allows")
    ax.legend(loc="lower left", fontsize=12)


@drawn
def gates_figure(
    scores: Mapping[str, Readiness], thresholds: Mapping[str, float], areas: Mapping[str, float]
) -> Figure:
    """What conditional pushes see: a panel per condition, a row of points per kind of request.

    `scores` holds for each condition its value for each request; `thresholds` the value above which
    it fires, where it has one; `areas` the area under its ROC curve, harmful against all others.
    A name may say behind a colon what the value is: "CAST: cosine".
    """
    told = []
    for name, area in areas.items():
        told.append(f"{name.partition(': ')[0]} with {area:.2f}")
    title = f"Harmful requests are told from others by {', by '.join(told)} (ROC area)"
    n_panels = len(scores)
    fig, axes = panels(n_panels, (13, 4.9), title, sharey=True)
    rng = np.random.default_rng(0)
    for ax, (name, by_label) in zip(axes, scores.items(), strict=True):
        for row, (label, values) in enumerate(by_label.items()):
            colour, marker, _ = LABELS[label]
            heights = row + rng.uniform(-0.28, 0.28, len(values))
            ax.scatter(values, heights, color=colour, marker=marker, alpha=0.6)
            median = np.median(values)
            ax.plot([median, median], [row - 0.4, row + 0.4], color=INK)
        if name in thresholds:
            ax.axvline(thresholds[name], **DOTTED)
            beside = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
            ax.annotate("fires above", (thresholds[name], 0), (4, 3), **beside)
        whose, _, value = name.partition(": ")
        ax.set_title(f"{whose}\narea {areas[name]:.2f}")
        ax.set_xlabel(value)
    names = [
        f"{label} (n = {len(values)})" for label, values in next(iter(scores.values())).items()
    ]
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    return fig
