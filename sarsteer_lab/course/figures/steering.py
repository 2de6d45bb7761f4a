"""Figures of directions, the safe space, and what a push does and costs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures import base


@base.drawn
def push_figure(
    alphas: Sequence[float], kinds: Mapping[str, Mapping[str, Float[Tensor, "alpha"]]], *, n: int
) -> Figure:
    """Mean refusal probability against the strength of a push: a panel per kind of request.

    The title says for each kind which line rises most.
    """
    told = []
    for kind, lines in kinds.items():
        name, line = max(lines.items(), key=lambda one: float(one[1].max() - one[1][0]))
        told.append(f"{kind}: {name}, {float(line[0]):.0%} \u2192 {float(line.max()):.0%}")
    title = f"The largest rise (n = {n}). " + "; ".join(told)
    fig, axes = base.panels(len(kinds), (5.0 * len(kinds) + 2.5, 5.4), title, sharey=True)
    for ax, (kind, lines) in zip(axes, kinds.items(), strict=True):
        base.curves(ax, lines, alphas)
        ax.set(title=kind, xlabel="alpha", ylim=(-0.03, 1.03))
        base.percent(ax.yaxis)
    axes[0].set_ylabel("refusal probability, mean")
    base.name_lines(axes[-1])
    return fig


@base.drawn
def scree_figure(
    ratios: Mapping[str, Float[Tensor, "component"]], *, k: int, n: int, layer: int
) -> Figure:
    """Share of the variance of each principal direction (left) and of the first ones together
    (right)."""
    name, first = next(iter(ratios.items()))
    share = float(first[:k].sum())
    title = (
        f"Layer {layer}: {k} directions hold {share:.0%} of what {name} states vary in (n = {n})"
    )
    fig, (left, right) = base.panels(2, (13, 5), title)
    order = range(1, 1 + max(map(len, ratios.values())))
    base.curves(left, ratios, order)
    base.curves(right, {name: shares.cumsum(0) for name, shares in ratios.items()}, order)
    for ax in (left, right):
        ax.axvline(k, color=base.BLACK, linewidth=1.2, linestyle=":")
        ax.annotate(
            f"k = {k}",
            (k, 1),
            (4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
        base.percent(ax.yaxis)
        ax.set_ylim(bottom=0)
    base.layer_axis(left, right, label="principal direction")
    left.set(ylabel="share of variance", title="Each direction")
    right.set(
        ylabel="share of variance, cumulative", title="The first ones together", ylim=(0, 1.03)
    )
    base.name_lines(right)
    return fig


@base.drawn_without_grid
def share_figure(
    shares: Float[Tensor, "k layer"], ks: Sequence[int], control: Float[Tensor, "k"], *, layer: int
) -> Figure:
    """How much of the refusal direction lies in the safe space: per layer and k, and against
    chance.

    Left: `shares` (of squared length). Right: its column `layer`, and `control`, the same share for
    random spaces of k dimensions.
    """
    title = f"Of the refusal direction, {float(shares[-1, layer]):.0%} lies in {ks[-1]} harmless directions, "
    title += f"{float(control[-1]):.0%} in as many random ones (layer {layer})"
    fig, (left, right) = base.panels(2, (13, 5), title, width_ratios=(1.3, 1))
    image = left.imshow(
        base.numbers(shares), aspect="auto", origin="lower", cmap="viridis", vmin=0, vmax=1
    )
    base.ticks(left, y=[str(k) for k in ks])
    left.set(ylabel="k", title="Share inside, every layer")
    base.layer_axis(left)
    bar = fig.colorbar(image, ax=left, label="share of squared length")
    looks = ((base.PURPLE, "s", "-"), (base.GREY, "x", ":"))
    base.curves(right, {"harmless space": shares[:, layer], "random space": control}, ks, looks)
    right.set(xlabel="k", ylabel="share of squared length", title=f"Layer {layer}", ylim=(0, 1.03))
    base.percent(bar.ax.yaxis, right.yaxis)
    right.grid(visible=True)
    base.name_lines(right)
    return fig


@base.drawn
def removal_figure(
    direction: Float[Tensor, "layer d_model"],
    inside: Float[Tensor, "layer d_model"],
    lam: float,
    *,
    layer: int,
    k: int,
) -> Figure:
    """What ablation removes from a refusal direction, and the triangle of it in one layer.

    `inside` is the part in the safe space of `k` dimensions. Left: the share of squared length that
    lies inside, per layer. Right: the plane of the part inside and the part outside in layer
    `layer`, the direction and what ablation with `lam` leaves of it, at true lengths.
    """
    share = base.numbers(
        inside.float().square().sum(-1) / direction.float().square().sum(-1).clamp_min(1e-30)
    )
    across = float(inside[layer].float().norm())
    up = float((direction[layer].float() - inside[layer].float()).norm())
    kept = (1 - lam) * across
    rest = np.hypot(kept, up) / max(np.hypot(across, up), 1e-30)
    title = f"Layer {layer}: ablation (k = {k}, lambda = {lam:g}) leaves {rest:.0%} of the direction's length"
    fig, (left, right) = base.panels(2, (13, 5), title, width_ratios=(1.25, 1))
    left.bar(range(len(share)), share, color=base.PURPLE, width=0.8)
    left.bar(
        [layer],
        share[layer],
        color=base.PURPLE,
        width=0.8,
        edgecolor=base.BLACK,
        linewidth=2,
        hatch="//",
    )
    base.level(left, k / direction.shape[1], "in a random space this size")
    left.set(
        title=f"Inside the safe space of k = {k}", ylabel="share of squared length", ylim=(0, 1.03)
    )
    base.percent(left.yaxis)
    base.layer_axis(left)
    left.legend(loc="best")
    for x, colour, name in (
        (across, base.PURPLE, "refusal direction"),
        (kept, base.GREEN, f"after ablation, lambda = {lam:g}"),
    ):
        base.arrow(right, (x, up), colour)
        right.plot([], [], color=colour, linewidth=2.5, label=name)
    right.plot([across, kept], [up, up], ":", color=base.BLACK, label="removed")
    reach = 1.15 * max(across, up, abs(kept))
    right.axhline(0, color=base.GREY, linewidth=1)
    right.axvline(0, color=base.GREY, linewidth=1)
    right.set(
        title=f"Layer {layer}",
        xlabel="along its part inside the safe space",
        ylabel="along its part outside",
        xlim=(-0.6 * reach, reach),
        ylim=(-0.1 * reach, 1.25 * reach),
        aspect="equal",
    )
    right.legend(loc="upper left")
    return fig


def _from_one_start(
    ax: Axes,
    lines: Mapping[str, tuple[base.Values, base.Values]],
    alphas: Sequence[float],
    more: str = "",
) -> None:
    """A curve per variant, (x, y) at each of `alphas`, and a star where all begin, without
    steering."""
    for (name, (x, y)), look in zip(lines.items(), cycle(base.SERIES), strict=False):
        base.curves(ax, {name: y}, base.numbers(x), [look])
    x, y = next(iter(lines.values()))
    ax.plot(float(x[0]), float(y[0]), "*", color=base.BLACK, markersize=16, label="unsteered")
    ax.set_title(
        f"alpha = {', '.join(f'{alpha:g}' for alpha in alphas)} along each curve{more}", fontsize=13
    )
    base.percent(ax.xaxis, ax.yaxis)


@base.drawn
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
    fig, [ax] = base.panels(1, (11, 6.4), title)
    _from_one_start(ax, lines, alphas, f"; n = {n} spoken requests each")
    ax.set(
        xlabel="harmless requests: refusal probability, mean",
        ylabel="harmful requests: refusal probability, mean",
    )
    base.name_lines(ax)
    return fig


@base.drawn
def curves_figure(
    points: pd.DataFrame, differences: Mapping[str, tuple[float, float, float]]
) -> Figure:
    """Whole trade-off curves in the plane of the defences, and by how much the areas under them
    differ.

    `points` are those of `curves.tradeoff`; each curve joins the strengths of one variant, from the
    common unsteered start. `differences` has for each comparison the difference and the ends of its
    interval.
    """
    fig, [plane, beside] = base.panels(2, (13, 7), width_ratios=[3, 2])
    lines = {
        str(name): (rows["benign_answered"].to_numpy(), rows["harmful_refused"].to_numpy())
        for name, rows in points.sort_values("alpha", kind="stable").groupby("variant", sort=False)
    }
    _from_one_start(plane, lines, sorted(set(points["alpha"])))
    plane.set(
        xlabel="benign requests answered (more is better)",
        ylabel="harmful requests refused (more is better)",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    for row, (value, low, high) in enumerate(differences.values()):
        xerr = base.whiskers([value], low, high)
        beside.errorbar(value, row, xerr=xerr, fmt="o", color=base.BLACK, capsize=4)
    beside.axvline(0, color=base.BLACK, linewidth=1.2, linestyle=":")
    base.ticks(beside, y=list(differences))
    beside.set(
        xlabel="difference of areas\n(above 0: the first is better)",
        title="Areas, 95% intervals",
        ylim=(len(differences) - 0.5, -0.5),
    )
    beside.locator_params(axis="x", nbins=4)
    base.common_legend(fig, ncols=3)
    return fig


@base.drawn
def divergence_figure(
    alphas: Sequence[float], divergences: Mapping[str, Float[np.ndarray, "alpha prompt"]]
) -> Figure:
    """KL(unsteered || steered) of the answer's first token along alpha: median and middle half of
    requests.

    `divergences` are in nats, by the name of the vectors. Strength 0 is left out: it is 0 there.
    """
    looks = ((base.PURPLE, "s", "--"), (base.GREEN, "o", "-"), (base.BLACK, "D", ":"))
    medians = ", ".join(
        f"{name} {np.median(values[0]):.2g}" for name, values in divergences.items()
    )
    fig, [ax] = base.panels(1, (11, 5.2), f"Nats at alpha {alphas[0]:g}, median: {medians}")
    for (name, values), look in zip(divergences.items(), looks, strict=False):
        base.middle_half(ax, alphas, values, f"{name}\n(n = {values.shape[1]})", look)
    ax.set(
        xlabel="strength alpha",
        ylabel="KL(unsteered || steered) of the first token (nats)",
        yscale="log",
    )
    base.name_lines(ax, gap=0.16)
    return fig
