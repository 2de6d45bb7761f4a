"""Figures that panels draw while one moves their sliders; same look as `plots`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from sarsteer_lab.course.figures.base import BLACK, GREEN, GREY, LOOK, MODALITIES, PURPLE

FORMS = {**MODALITIES, "steered": (GREEN, "D")}
"""Colour and marker of the curves in live figures."""


def live_figure(found: Mapping[str, Sequence[tuple[float, float, str]]], xlabel: str) -> Figure:
    """Refusal probability of one request along a setting: (value, probability, outcome) triples per curve.

    The marker of a point is filled if the greedy answer is a refusal, hollow if not, and a cross if it is
    broken.
    """
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(7, 3.6), layout="constrained")
        ax = fig.subplots()
        for name, points in found.items():
            colour, marker = FORMS[name]
            values = [value for value, _, _ in points]
            chances = [chance for _, chance, _ in points]
            ax.plot(values, chances, color=colour, label=name, linewidth=1.6)
            for value, chance, outcome in points:
                look: dict[str, Any] = {"marker": marker, "color": colour, "markersize": 9}
                if outcome == "broken":
                    look["marker"] = "X"
                elif outcome == "answered":
                    look["markerfacecolor"] = "white"
                ax.plot(value, chance, **look)
        ax.set(
            xlabel=f"{xlabel} (filled: refused, hollow: answered, X: broken)",
            ylabel="refusing opening",
            ylim=(-0.04, 1.04),
        )
        if len(found) > 1:
            ax.legend(loc="best")
    return fig


def removal_figure(
    direction: Float[Tensor, "layer d_model"],
    inside: Float[Tensor, "layer d_model"],
    lam: float,
    *,
    layers: Sequence[int],
    layer: int,
    k: int,
) -> Figure:
    """What ablation removes from a refusal direction, and the triangle of it in one layer.

    `inside` is the part in the safe space of `k` dimensions, `layers` are the rows' layers. Left: the share
    of squared length that lies inside, per layer. Right: the plane of the part inside and the part outside
    in layer `layer`, the direction and what ablation with `lam` leaves of it, at true lengths.
    """
    total = direction.float().square().sum(-1)
    share = (inside.float().square().sum(-1) / total.clamp_min(1e-30)).cpu().numpy()
    row = list(layers).index(layer)
    across = float(inside[row].float().norm())
    up = float((direction[row].float() - inside[row].float()).norm())
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(13.5, 5), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        left.bar(layers, share, color=PURPLE, width=0.8)
        left.bar([layer], share[row], color=PURPLE, width=0.8, edgecolor=BLACK, linewidth=2, hatch="//")
        chance = k / direction.shape[1]
        left.axhline(chance, color=BLACK, linestyle=":", label="in a random space this size")
        left.set(
            title=f"Inside the safe space of k = {k}",
            xlabel="decoder layer",
            ylabel="share of squared length",
            ylim=(0, 1.03),
        )
        left.yaxis.set_major_formatter(PercentFormatter(1.0))
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.legend(loc="best")
        _arrow(right, (0, 0), (across, up), PURPLE, "refusal direction")
        _arrow(right, (0, 0), ((1 - lam) * across, up), GREEN, f"after ablation, lambda = {lam:g}")
        right.plot([across, (1 - lam) * across], [up, up], ":", color=BLACK, label="removed")
        reach = 1.15 * max(across, up, abs(1 - lam) * across)
        right.axhline(0, color=GREY, linewidth=1)
        right.axvline(0, color=GREY, linewidth=1)
        right.set(
            title=f"Layer {layer}",
            xlabel="along its part inside the safe space",
            ylabel="along its part outside",
            xlim=(-0.6 * reach, reach),
            ylim=(-0.1 * reach, 1.25 * reach),
            aspect="equal",
        )
        right.legend(loc="upper left", fontsize=11)
    return fig


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, label: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.5, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=arrow)
    ax.plot([], [], color=colour, linewidth=2.5, label=label)
