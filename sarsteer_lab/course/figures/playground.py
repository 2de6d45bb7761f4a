"""The figure of the geometry playground: two clouds, a safe space, a push, and who it takes over
the line."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
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
    """Clouds in three dimensions from two sides, every point moved by the push `moved`; counts of
    all pushes.

    Axis 0 is the readiness to refuse: what lies beyond `line` (filled) is refused; `over` counts
    that, by push and label. `space` has one layer; its directions are drawn two spreads long.
    `pushes`: the `ARROWS`.
    """
    fig, (side, top, bars) = base.panels(3, (16, 5.6), width_ratios=(1, 1, 0.9))
    reach = 2 * (space.explained_variance_ratio[0] * clouds["harmless"].var(0).sum()).sqrt()
    for ax, up in ((side, 1), (top, 2)):
        for direction, length in zip(space.directions[0], reach, strict=True):
            x, y = base.numbers(direction[[0, up]] * length)
            ax.plot(
                [-x, x], [-y, y], color=base.SKY, linewidth=11, alpha=0.45, solid_capstyle="round"
            )
        for label, states in clouds.items():
            colour, marker = LABELS[label]
            before, after = base.numbers(states), base.numbers(states + pushes[moved])
            ax.plot(before[:, 0], before[:, up], ".", color=colour, alpha=0.25, markersize=4)
            for beyond, face in ((True, colour), (False, "none")):
                own = after[(after[:, 0] > line) == beyond]
                look = {"color": colour, "markerfacecolor": face, "markersize": 6}
                ax.plot(own[:, 0], own[:, up], marker, **look)
        for name, (colour, style, place) in ARROWS.items():
            x, y = base.numbers(pushes[name][[0, up]]).tolist()
            if pushes[name].norm() < 0.05:
                continue
            base.arrow(ax, (x, y), colour, style)
            look = {"color": colour, "fontsize": 14, "fontweight": "bold", "zorder": 5}
            halo = [withStroke(linewidth=4, foreground="white")]
            ax.annotate(
                name if ax is side else "",
                (x, y),
                place,
                textcoords="offset points",
                path_effects=halo,
                **look,
            )
        ax.axvline(line, color=base.BLACK, linewidth=2)
        ax.set(xlim=(-3.2, 4.6), ylim=(-3.6, 3.6), aspect="equal", xlabel="readiness to refuse")
        ax.text(line, -3.5, " refused", fontsize=13, fontweight="bold")
    k = int((space.directions[0].norm(dim=-1) > 0).sum())
    side.set(title=f"From the side, moved by {moved}", ylabel="what harmless requests vary in (1)")
    top.set(
        title=f"From above; blue bars: safe space, k = {k}",
        ylabel="what harmless requests vary in (2)",
    )
    rows = np.arange(len(over))
    for shift, (label, (colour, _)) in zip((-0.2, 0.2), LABELS.items(), strict=True):
        counts = [found[label] for found in over.values()]
        hatch = "" if label == "harmful" else "//"
        bars.barh(
            rows + shift, counts, 0.36, color=colour, hatch=hatch, edgecolor="white", label=label
        )
        for row, count in zip(rows, counts, strict=True):
            bars.text(count + 0.8, row + shift, f"{count}", va="center", color=colour, fontsize=13)
    base.ticks(bars, y=list(over))
    n = len(clouds["harmless"])
    bars.set(title=f"Refused, of {n} each", xlim=(0, 1.15 * n), ylim=(len(over) - 0.5, -0.5))
    bars.grid(visible=False, axis="y")
    bars.legend(loc="lower right", frameon=True)
    return fig
