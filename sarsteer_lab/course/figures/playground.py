"""The figure of the geometry playground: two clouds, a safe space, and whom a push takes over."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    HATCHED,
    arrow,
    drawn,
    numbers,
    panels,
    rows,
)
from sarsteer_lab.course.palette import INK, LABELS, METHOD, PAPER
from sarsteer_lab.safe_space import SafeSpace

ARROWS = {
    "inside": (METHOD["inside"], ":", (-54, 4)),
    "d": (METHOD["direction"], "-", (6, 3)),
    "v": (METHOD["vectors"], "-", (6, -8)),
    "control": (METHOD["control"], "--", (-34, -20)),
}
"""Colour, line style and place of the name: of the direction, its part in the safe space, what
ablation leaves of it, and the direction shortened to that length."""


BAR = {"linewidth": 11, "alpha": 0.45, "solid_capstyle": "round"}
"""How the safe space's directions are drawn, but for the colour."""

BOLD = {"fontsize": 14, "fontweight": "bold", "zorder": 5}
"""How arrows are named."""


@drawn
def playground_figure(
    clouds: Mapping[str, Float[Tensor, "request 3"]],
    space: SafeSpace,
    pushes: Mapping[str, Float[Tensor, "3"]],
    over: Mapping[str, Mapping[str, int]],
    *,
    moved: str,
    line: float,
) -> Figure:
    """Clouds in three dimensions from two sides, moved by the push `moved`; counts of all pushes.

    Axis 0 is the readiness to refuse: what lies beyond `line` (filled) is refused; `over` counts
    that, by push and label. `space` has one layer; its directions are drawn two spreads long.
    `pushes`: the `ARROWS`.
    """
    fig, axes = panels(3, (16, 5.6), width_ratios=(1, 1, 0.9))
    side, top, bars = axes
    directions = space.directions[0]
    variances = space.explained_variance_ratio[0] * clouds["harmless"].var(0).sum()
    bars_of_space = directions * 2 * variances.sqrt()[:, None]
    shown = {name: pushes[name] for name in ARROWS if pushes[name].norm() >= 0.05}
    for ax, up in ((side, 1), (top, 2)):
        seen = [0, up]
        for x, y in numbers(bars_of_space[:, seen]):
            ax.plot([-x, x], [-y, y], color=METHOD["inside"], **BAR)
        for label, states in clouds.items():
            before = numbers(states[:, seen])
            after = before + numbers(pushes[moved][seen])
            _cloud(ax, before, after, line, *LABELS[label][:2])
        for name, push in shown.items():
            x, y = push[seen].tolist()
            _arrow(ax, (x, y), name, named=ax is side)
        ax.axvline(line, color=INK, linewidth=2)
        ax.set(xlim=(-3.2, 4.6), ylim=(-3.6, 3.6), aspect="equal")
        ax.set_xlabel("readiness to refuse")
        ax.set_ylabel(f"what harmless requests vary in ({up})")
        ax.text(line, -3.5, " refused", fontsize=13, fontweight="bold")
    side.set_title(f"From the side, moved by {moved}")
    k = int((directions.norm(dim=-1) > 0).sum())
    top.set_title(f"From above; blue bars: safe space, k = {k}")
    _counts(bars, over, len(clouds["harmless"]))
    return fig


def _cloud(
    ax: Axes, before: np.ndarray, after: np.ndarray, line: float, colour: str, marker: str
) -> None:
    """Points before and after a push, the latter filled beyond the line."""
    faint = {"alpha": 0.25, "markersize": 4}
    ax.plot(*before.T, ".", color=colour, **faint)
    beyond = after[:, 0] > line
    ax.plot(*after[beyond].T, marker, color=colour)
    ax.plot(*after[~beyond].T, marker, color=colour, markerfacecolor="none")


def _arrow(ax: Axes, end: tuple[float, float], name: str, *, named: bool) -> None:
    colour, style, offset = ARROWS[name]
    arrow(ax, end, colour, style)
    if named:
        halo = [withStroke(linewidth=4, foreground=PAPER)]
        look = {"color": colour, "path_effects": halo, **BOLD}
        ax.annotate(name, end, offset, textcoords="offset points", **look)


def _counts(ax: Axes, over: Mapping[str, Mapping[str, int]], n: int) -> None:
    """How many of each label lie beyond the line under each push, of `n` each."""
    places = np.arange(len(over))
    looks = {"harmful": (-0.2, ""), "harmless": (0.2, "//")}
    for label, (shift, hatch) in looks.items():
        colour = LABELS[label][0]
        counts = [by_label[label] for by_label in over.values()]
        look = {"color": colour, "hatch": hatch, **HATCHED}
        bars = ax.barh(places + shift, counts, 0.36, label=label, **look)
        ax.bar_label(bars, padding=3, color=colour, fontsize=13)
    rows(ax, list(over))
    ax.set_title(f"Refused, of {n} each")
    ax.set_xlim(0, 1.15 * n)
    ax.grid(visible=False, axis="y")
    ax.legend(loc="lower right", frameon=True)
