"""Figures of hidden states: curves over layers, maps, the logit lens, models side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    BLACK,
    BLUE,
    GREEN,
    MODALITIES,
    SKY,
    VERMILION,
    cells,
    common_legend,
    curves,
    drawn,
    drawn_without_grid,
    layer_axis,
    legend_beside,
    level,
    middle_half,
    numbers,
    panels,
    percent,
    ticks,
)


@drawn
def layer_curves_figure(
    lines: Mapping[str, Float[Tensor, "layer"]],
    *,
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
    layers: Sequence[int] | None = None,
    as_percent: bool = False,
) -> Figure:
    """Something measured at every decoder layer (or at `layers`), a line per name.

    `reference` is a level to compare with, and its name.
    """
    fig, [ax] = panels(1, (10.5, 5.2))
    curves(ax, lines, layers)
    if reference is not None:
        level(ax, *reference)
    ax.set(ylabel=ylabel, title=title)
    layer_axis(ax)
    if as_percent:
        percent(ax.yaxis)
    legend_beside(ax)
    return fig


@drawn
def depth_figure(
    measures: Mapping[str, Mapping[str, Float[Tensor, "layer"]]], *, ylabels: Mapping[str, str], title: str
) -> Figure:
    """One panel per measure, in it one line per model, over relative depth (first layer 0%, last 100%).

    `measures` maps a panel's title to a curve per model, `ylabels` the same titles to what is measured, with
    its unit. Panels have their own scales.
    """
    looks = ((BLUE, "o", "-"), (VERMILION, "^", "--"), (GREEN, "s", ":"))
    fig, axes = panels(len(measures), (4.5 * len(measures), 4.8))
    for ax, (name, lines) in zip(axes, measures.items(), strict=True):
        for i, (model, values) in enumerate(lines.items()):
            depth = [layer / max(len(values) - 1, 1) for layer in range(len(values))]
            curves(ax, {model: values}, depth, looks[i % len(looks) :])
        ax.set(title=name, xlabel="depth", ylabel=ylabels[name])
        percent(ax.xaxis)
        ax.set_ylim(bottom=0)
    common_legend(fig, ncols=len(axes[0].lines))
    fig.suptitle(title, x=0.01, ha="left")
    return fig


@drawn
def gap_figure(
    cosine: Float[Tensor, "prompt layer"],
    centred_cosine: Float[Tensor, "prompt layer"],
    modality_distance: Float[Tensor, "layer"],
    harm_distance: Float[Tensor, "layer"],
    probe_accuracy: Float[Tensor, "layer seed"],
) -> Figure:
    """How far typed and spoken last-token states of the same requests lie apart, layer by layer.

    Left: cosine of each request's two states, as they are and after each modality's mean is taken off
    (`geometry.pair_cosine`; median and middle half). Middle: distance of the two modalities' centroids, and
    for scale that of typed harmful and harmless requests, in units of spread (`geometry.centroid_distance`).
    Right: accuracy of a linear probe that tells typed from spoken (`measures.measure_gap`; mean and range
    over seeds); 0.5 is chance.
    """
    fig, (left, middle, right) = panels(3, (15.5, 5))
    fig.get_layout_engine().set(w_pad=0.15)
    layers = range(cosine.shape[1])
    looks = {"as they are": (SKY, "s", "--"), "each modality's mean off": (BLUE, "o", "-")}
    lowest = -0.25
    for values, (name, look) in zip((cosine, centred_cosine), looks.items(), strict=True):
        quartiles = middle_half(left, layers, numbers(values).T, name, look)
        lowest = min(lowest, 1.1 * quartiles.min())
    left.set(title="Same request: how alike?", ylabel="cosine (typed, spoken)", ylim=(lowest, 1.05))
    left.axhline(0, color=BLACK, linewidth=1)

    curves(middle, {"typed \u2013 spoken": modality_distance}, looks=[(VERMILION, "^", "-")])
    curves(middle, {"harmful \u2013 harmless, typed": harm_distance}, looks=[(BLACK, "o", "--")])
    middle.lines[-1].set_markerfacecolor("white")
    middle.set(title="Distance of the mean states", ylabel="distance (rms spread of a set)")
    middle.set_ylim(bottom=0)

    accuracy = numbers(probe_accuracy)
    curves(right, {"cross-validated probe": accuracy.mean(1)}, looks=[(GREEN, "D", "-")])
    right.fill_between(layers, accuracy.min(1), accuracy.max(1), color=GREEN, alpha=0.25, linewidth=0)
    level(right, 0.5, "chance")
    right.set(title="Typed or spoken? A linear probe", ylabel="accuracy", ylim=(0.4, 1.03))
    layer_axis(left, middle, right)
    for ax in (left, middle, right):
        ax.legend(loc="best")
    fig.suptitle(
        f"Gap between typed and spoken last-token states ({len(cosine)} requests, each in both forms)"
    )
    return fig


def _clouds(
    ax: Axes, points: Float[np.ndarray, "state 2"], forms: Sequence[str], labels: Sequence[str], *, means: bool
) -> None:
    """States by form (colour and marker) and label (filled: harmful), with large markers at the `means`.

    Raises ValueError unless there is one form ("typed", "spoken") and one label per point.
    """
    if not len(points) == len(forms) == len(labels):
        raise ValueError(f"{len(forms)} forms and {len(labels)} labels do not fit {len(points)} points")
    for form, (colour, marker) in MODALITIES.items():
        for label in dict.fromkeys(labels):
            chosen = points[[pair == (form, label) for pair in zip(forms, labels, strict=True)]]
            filled = label == "harmful"
            look = {"s": 45, "linewidths": 1.4, "alpha": 0.75, "facecolors": colour if filled else "none"}
            name = f"{form}, {label} ({len(chosen)})"
            ax.scatter(*chosen.T, marker=marker, edgecolors=colour, label=name, **look)
            if means:
                # A light rim sets the mean off from the cloud around it.
                inner, rim = (colour, "white") if filled else ("white", colour)
                look = {"s": 400, "linewidths": 2.5, "zorder": 3, "facecolors": inner, "edgecolors": rim}
                ax.scatter(*chosen.mean(0), marker=marker, **look)
    # The same scale on both axes: otherwise distances in the picture would mean nothing.
    ax.set_aspect("equal", adjustable="datalim")


@drawn
def map_figure(
    points: Float[np.ndarray, "state 2"],
    forms: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
    explained: Sequence[float],
) -> Figure:
    """Last-token states of one layer on their first two principal axes.

    Colour and marker tell typed from spoken, filled markers are harmful requests, hollow ones harmless; large
    markers are the four means. `explained` is each axis's share of the variance (0 to 1). Raises ValueError
    unless there is one form ("typed", "spoken") and one label ("harmful" or another) per point.
    """
    fig, [ax] = panels(1, (9.5, 6.5))
    _clouds(ax, points, forms, labels, means=True)
    ax.set(
        xlabel=f"first principal axis ({explained[0]:.0%} of the variance)",
        ylabel=f"second principal axis ({explained[1]:.0%})",
        title=f"Typed and spoken requests, output of layer {layer} (large: means)",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.3)
    return fig


@drawn
def maps_figure(
    maps: Mapping[str, Float[np.ndarray, "state 2"]],
    forms: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
) -> Figure:
    """The same states in several 2-D maps, side by side, drawn as in `map_figure`, without numbers on axes.

    Raises ValueError unless there is one form ("typed", "spoken") and one label per state.
    """
    fig, axes = panels(len(maps), (6.6 * len(maps), 6.6))
    for ax, (name, points) in zip(axes, maps.items(), strict=True):
        _clouds(ax, points, forms, labels, means=False)
        ax.set(title=name, xticks=[], yticks=[])
    common_legend(fig, ncols=2, markerscale=1.3)
    fig.suptitle(f"Last-token states at layer {layer}, two kinds of map", x=0.01, ha="left")
    return fig


@drawn_without_grid
def lens_figure(
    words: Sequence[Sequence[str]],
    probabilities: Float[Tensor, "layer column"],
    *,
    columns: Sequence[str],
    layers: Sequence[int],
    title: str,
) -> Figure:
    """The logit lens as a table: each layer's likeliest next token per column, darker where it is surer."""
    fig, [ax] = panels(1, (2.9 * len(columns) + 2.6, 0.42 * len(layers) + 1.9))
    chances = numbers(probabilities)
    image = ax.imshow(chances, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1)
    cells(ax, words, chances > 0.6)
    ticks(ax, columns, [str(layer) for layer in layers])
    ax.set(ylabel="decoder layer", title=title)
    fig.colorbar(image, ax=ax, label="probability")
    return fig
