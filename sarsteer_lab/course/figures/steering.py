"""Figures of directions, the safe space, and what a push does and costs."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    TRADEOFF,
    WHOLE_PICTURE,
    Values,
    arrow,
    common_legend,
    curves,
    drawn,
    drawn_without_grid,
    in_series,
    layer_axis,
    level,
    middle_half,
    name_lines,
    numbers,
    panels,
    percent,
    shade_layers,
    ticks,
)
from sarsteer_lab.course.palette import (
    BUILT_IN,
    CONTROL,
    DIRECTION,
    GREY,
    INK,
    METHOD,
    SCORES,
    VECTORS,
    look_of,
)


@drawn
def push_figure(
    alphas: Sequence[float],
    kinds: Mapping[str, Mapping[str, Float[Tensor, "alpha"]]],
    *,
    n: int,
    title: str = "",
) -> Figure:
    """Mean refusal probability against the strength of a push: a panel per kind of request.

    Without a title of its own it says for each kind which line rises most.
    """
    n_panels = len(kinds)
    size = (5.0 * n_panels + 2.5, 5.4)
    fig, axes = panels(n_panels, size, title or _rises_most(kinds, n), sharey=True)
    for ax, (kind, lines) in zip(axes, kinds.items(), strict=True):
        curves(ax, lines, alphas)
        ax.set(title=textwrap.fill(kind, 48), xlabel="alpha", ylim=(-0.03, 1.03))
        percent(ax.yaxis)
    axes[0].set_ylabel("refusal probability, mean" if n > 1 else "refusal probability")
    name_lines(axes[-1])
    return fig


def _rises_most(kinds: Mapping[str, Mapping[str, Float[Tensor, "alpha"]]], n: int) -> str:
    """In a sentence: which line rises most, for each kind of request."""
    rises = []
    for kind, lines in kinds.items():
        name = max(lines, key=lambda name: _rise(lines[name]))
        line = lines[name]
        start, top = line[0], line.max()
        short = kind.partition(":")[0]  # behind it may stand a request
        rises.append(f"'{name}' for {short} requests ({start:.0%} \u2192 {top:.0%})")
    return f"The largest rise of refusal (n = {n}) comes from {', from '.join(rises)}"


def _rise(line: Float[Tensor, "alpha"]) -> float:
    return float(line.max() - line[0])


@drawn_without_grid
def share_figure(
    shares: Float[Tensor, "k layer"],
    ks: Sequence[int],
    control: Float[Tensor, "k"],
    *,
    layer: int,
    built_in: Sequence[int] = (),
) -> Figure:
    """How much of the refusal direction lies in the safe space: per layer and k, and by chance.

    Left: `shares` (of squared length). Right: its column `layer`, and `control`, the same share for
    random spaces of k dimensions. Above the left picture the layers `built_in` are shaded.
    """
    inside = f"{shares[-1, layer]:.0%} lies in {ks[-1]} harmless directions"
    title = f"Of the refusal direction, {inside}, {control[-1]:.0%} in as many random ones"
    fig, axes = panels(2, (13, 5), f"{title} (layer {layer})", width_ratios=(1.3, 1))
    left, right = axes
    scale = {"cmap": SCORES, "vmin": 0, "vmax": 1}
    image = left.imshow(numbers(shares), **WHOLE_PICTURE, **scale)
    ticks(left, y=list(map(str, ks)))
    left.set(ylabel="k", title="Share inside, every layer")
    layer_axis(left)
    _shade_above(left, built_in)
    bar = fig.colorbar(image, ax=left, label="share of squared length")
    looks = look_of(METHOD["inside"], "s", "-"), CONTROL
    curves(right, {"harmless space": shares[:, layer], "random space": control}, ks, looks)
    right.set(xlabel="k", ylabel="share of squared length", title=f"Layer {layer}", ylim=(0, 1.03))
    percent(bar.ax.yaxis, right.yaxis)
    right.grid(visible=True)
    name_lines(right)
    return fig


def _shade_above(ax: Axes, layers: Sequence[int]) -> None:
    """Shade layers that were built to refuse, in a strip above a picture that hides its ground."""
    if not layers:
        return
    top = ax.get_ylim()[1]
    strip = 0.7
    ax.set_ylim(top=top + strip)
    place = (min(layers) - 0.5, top)
    ax.add_patch(Rectangle(place, len(layers), strip, color=BUILT_IN, linewidth=0))
    name = {"va": "center", "fontsize": 12}
    ax.text(min(layers), top + strip / 2, "safety adapter", **name)


@drawn
def removal_figure(
    direction: Float[Tensor, "layer d_model"],
    inside: Float[Tensor, "layer d_model"],
    lam: float,
    *,
    layer: int,
    k: int,
    built_in: Sequence[int] = (),
) -> Figure:
    """What ablation removes from a refusal direction, and the triangle of it in one layer.

    `inside` is the part in the safe space of `k` dimensions. Left: the share of squared length that
    lies inside, per layer. Right: the plane of the part inside and the part outside in layer
    `layer`, the direction and what ablation with `lam` leaves of it, at true lengths. Layers
    `built_in` are shaded.
    """
    squared_length = direction.float().square().sum(-1).clamp_min(1e-30)
    share = numbers(inside.float().square().sum(-1) / squared_length)
    part = inside[layer].float()
    across = float(part.norm())
    up = float((direction[layer].float() - part).norm())
    kept = (1 - lam) * across
    rest = np.hypot(kept, up) / max(np.hypot(across, up), 1e-30)
    ablation = f"ablation (k = {k}, lambda = {lam:g})"
    title = f"Layer {layer}: {ablation} leaves {rest:.0%} of the direction's length"
    fig, (left, right) = panels(2, (13, 5), title, width_ratios=(1.25, 1))
    left.bar(range(len(share)), share, color=METHOD["inside"])
    chosen = {"edgecolor": INK, "linewidth": 2, "hatch": "//"}
    left.bar([layer], share[layer], color=METHOD["inside"], **chosen)
    level(left, k / direction.shape[1], "in a random space this size")
    left.set(title=f"Inside the safe space of k = {k}", ylabel="share of squared length")
    left.set_ylim(0, 1.03)
    percent(left.yaxis)
    layer_axis(left)
    shade_layers(built_in, left)
    left.legend(loc="best")
    _triangle(right, across, up, kept, f"after ablation, lambda = {lam:g}")
    right.set_title(f"Layer {layer}")
    return fig


def _triangle(ax: Axes, across: float, up: float, kept: float, name: str) -> None:
    """A direction, `across` inside the space and `up` outside, and what is `kept` of `across`."""
    arrows = {"refusal direction": (across, METHOD["direction"]), name: (kept, METHOD["vectors"])}
    for label, (x, colour) in arrows.items():
        arrow(ax, (x, up), colour)
        ax.plot([], [], color=colour, linewidth=2.5, label=label)
    ax.plot([across, kept], [up, up], ":", color=INK, label="removed")
    ax.axhline(0, color=GREY, linewidth=1)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set(xlabel="along its part inside the safe space", ylabel="along its part outside")
    reach = 1.15 * max(across, up, abs(kept))
    ax.set_xlim(-0.6 * reach, reach)
    ax.set_ylim(-0.1 * reach, 1.25 * reach)
    ax.set_aspect("equal")
    ax.legend(loc="upper left")


def _from_one_start(
    ax: Axes,
    lines: Mapping[str, tuple[Values, Values]],
    alphas: Sequence[float],
    more: str = "",
) -> None:
    """A curve per variant, (x, y) at each of `alphas`, and a star where all begin, unsteered."""
    for number, (name, (x, y), look) in enumerate(in_series(lines)):
        on_top = {"zorder": 3 - 0.01 * number}  # the first ones
        curves(ax, {name: y}, numbers(x), [look | on_top])
    x, y = next(iter(lines.values()))
    star = {"marker": "*", "markersize": 16, "linestyle": "", "label": "unsteered", "zorder": 4}
    ax.plot(float(x[0]), float(y[0]), color=INK, **star)
    listed = ", ".join(f"{alpha:g}" for alpha in alphas)
    ax.set_title(f"alpha = {listed} along each curve{more}", fontsize=13)
    percent(ax.xaxis, ax.yaxis)


@drawn
def controls_figure(
    lines: Mapping[str, tuple[Float[Tensor, "alpha"], Float[Tensor, "alpha"]]],
    alphas: Sequence[float],
    *,
    n: int,
    title: str,
) -> Figure:
    """Trade-off curves: refusal probability of harmless requests (right: worse) and harmful ones.

    Each curve joins the strengths of one variant, from the common unsteered start.
    """
    fig, [ax] = panels(1, (11, 6.4), title)
    _from_one_start(ax, lines, alphas, f"; n = {n} spoken requests each")
    ax.set_xlabel("harmless requests: refusal probability, mean")
    ax.set_ylabel("harmful requests: refusal probability, mean")
    name_lines(ax)
    return fig


@drawn
def curves_figure(settings: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Whole trade-off curves of one direction, ablated in different ways: a panel per setting.

    The tables are those of `curves.tradeoff`; each curve joins the strengths of one variant, from
    the common unsteered start, and a panel's title lists them below the setting's name.
    """
    sides = {"sharex": True, "sharey": True}
    fig, axes = panels(len(settings), (13, 6), title, **sides)
    for ax, (name, points) in zip(axes, settings.items(), strict=True):
        _ablations(ax, name, points.sort_values("alpha", kind="stable"))
        ax.set_xlabel("benign requests answered")
    axes[0].set_ylabel(TRADEOFF["ylabel"])
    common_legend(fig, ncols=3)
    return fig


def _ablations(ax: Axes, setting: str, points: pd.DataFrame) -> None:
    """The curves of one setting, by strength, and a star where all begin."""
    lines = {}
    for variant, line in points.groupby("variant", sort=False):
        lines[str(variant)] = line[["benign_answered", "harmful_refused"]].to_numpy()
    for variant, line, look in in_series(lines):
        ax.plot(*line.T, label=variant, **look)
    start = next(iter(lines.values()))[0]
    ax.plot(*start, "*", color=INK, markersize=16, label="no push")
    listed = ", ".join(f"{alpha:g}" for alpha in points["alpha"].unique())
    ax.set_title(f"{setting}\nalpha {listed}", fontsize=13)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    percent(ax.xaxis, ax.yaxis)


@drawn
def divergence_figure(
    alphas: Sequence[float],
    divergences: Mapping[str, Float[np.ndarray, "alpha prompt"]],
    told: float,
) -> Figure:
    """KL(unsteered || steered) of the first token along alpha: median and middle half of requests.

    `divergences` are in nats, by the name of the vectors. Strength 0 is left out: it is 0 there.
    The first is the refusal direction, then come SARSteer's vectors, then a control. The title says
    which moves the token furthest, and which least, at the strength `told`, one of `alphas`.
    """
    medians = {}
    for name, values in divergences.items():
        medians[name] = np.median(values[alphas.index(told)])
    furthest = max(medians, key=lambda name: medians[name])
    least = min(medians, key=lambda name: medians[name])
    title = f"At alpha {told:g} the first token moves furthest under {furthest!r} "
    title += f"({medians[furthest]:.2g} nats, median), least under {least!r} ({medians[least]:.2g})"
    fig, [ax] = panels(1, (11, 5.2), title)
    for name, values, look in in_series(divergences, (DIRECTION, VECTORS, CONTROL)):
        middle_half(ax, alphas, values, f"{name}\n(n = {values.shape[1]})", look)
    ax.set(xlabel="strength alpha", ylabel="KL(unsteered || steered) of the first token (nats)")
    ax.set_yscale("log")
    name_lines(ax, gap=0.16)
    return fig
