"""The figure of the geometry playground: two clouds, a safe space, and whom a push takes over."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from sarsteer_lab.course.figures import base
from sarsteer_lab.course.figures.refusal import LABELS
from sarsteer_lab.safe_space import SafeSpace

ARROWS = {
    "inside": (base.ORANGE, ":", (-54, 4)),
    "d": (base.PURPLE, "-", (6, 3)),
    "v": (base.GREEN, "-", (6, -8)),
    "control": (base.BLACK, "--", (-34, -20)),
}
"""Colour, line style and place of the name: of the direction, its part in the safe space, what
ablation leaves of it, and the direction shortened to that length."""


@base.drawn
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
    fig, (side, top, bars) = base.panels(3, (16, 5.6), width_ratios=(1, 1, 0.9))
    directions = space.directions[0]
    variances = space.explained_variance_ratio[0] * clouds["harmless"].var(0).sum()
    axes = directions * 2 * variances.sqrt()[:, None]
    shown = {name: pushes[name] for name in ARROWS if pushes[name].norm() >= 0.05}
    for ax, up in ((side, 1), (top, 2)):
        for x, y in base.numbers(axes[:, [0, up]]):
            look = {"color": base.SKY, "linewidth": 11, "alpha": 0.45}
            ax.plot([-x, x], [-y, y], solid_capstyle="round", **look)
        for label, states in clouds.items():
            before, after = states[:, [0, up]], (states + pushes[moved])[:, [0, up]]
            _cloud(ax, base.numbers(before), base.numbers(after), line, *LABELS[label])
        for name, push in shown.items():
            x, y = push[[0, up]].tolist()
            _arrow(ax, (x, y), name, named=ax is side)
        ax.axvline(line, color=base.BLACK, linewidth=2)
        ax.set(xlim=(-3.2, 4.6), ylim=(-3.6, 3.6), aspect="equal", xlabel="readiness to refuse")
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
    ax.plot(*before.T, ".", color=colour, alpha=0.25, markersize=4)
    beyond = after[:, 0] > line
    ax.plot(*after[beyond].T, marker, color=colour, markersize=6)
    ax.plot(*after[~beyond].T, marker, color=colour, markersize=6, markerfacecolor="none")


def _arrow(ax: Axes, end: tuple[float, float], name: str, *, named: bool) -> None:
    colour, style, offset = ARROWS[name]
    base.arrow(ax, end, colour, style)
    if named:
        look = {"color": colour, "fontsize": 14, "fontweight": "bold", "zorder": 5}
        halo = [withStroke(linewidth=4, foreground="white")]
        ax.annotate(name, end, offset, textcoords="offset points", path_effects=halo, **look)


def _counts(ax: Axes, over: Mapping[str, Mapping[str, int]], n: int) -> None:
    """How many of each label lie beyond the line under each push, of `n` each."""
    rows = np.arange(len(over))
    looks = {"harmful": (-0.2, ""), "harmless": (0.2, "//")}
    for label, (shift, hatch) in looks.items():
        colour = LABELS[label][0]
        counts = [by_label[label] for by_label in over.values()]
        look = {"color": colour, "hatch": hatch, **base.HATCHED}
        bars = ax.barh(rows + shift, counts, 0.36, label=label, **look)
        ax.bar_label(bars, padding=3, color=colour, fontsize=13)
    base.ticks(ax, y=list(over))
    ax.set(title=f"Refused, of {n} each", xlim=(0, 1.15 * n), ylim=(len(over) - 0.5, -0.5))
    ax.grid(visible=False, axis="y")
    ax.legend(loc="lower right", frameon=True)
