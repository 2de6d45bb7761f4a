"""Figures of hidden states: curves over layers, the gap between the forms, maps, models beside
each other."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    band,
    common_legend,
    curves,
    drawn,
    in_series,
    layer_axis,
    level,
    middle_half,
    name_lines,
    numbers,
    panels,
    percent,
    shade_layers,
)
from sarsteer_lab.course.palette import BUILT_IN, FORMS, GREEN, INK, PAPER, PURPLE, SKY, look_of
from sarsteer_lab.safe_space import exact


@drawn
def layer_curves_figure(
    lines: Mapping[str, Float[Tensor, "layer"]],
    *,
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
    layers: Sequence[int] | None = None,
    as_percent: bool = False,
    built_in: Sequence[int] = (),
) -> Figure:
    """Something measured at every decoder layer (or at `layers`), a line per name.

    `reference` is a level to compare with, and its name. Layers `built_in` are shaded.
    """
    fig, [ax] = panels(1, (10.5, 5.2), title)
    curves(ax, lines, layers)
    if reference is not None:
        level(ax, *reference)
    ax.set_ylabel(ylabel)
    layer_axis(ax)
    if as_percent:
        percent(ax.yaxis)
    shade_layers(built_in, ax)
    name_lines(ax)
    return fig


@drawn
def depth_figure(
    measures: Mapping[str, Mapping[str, Float[Tensor, "layer"]]],
    *,
    ylabels: Mapping[str, str],
    title: str,
    taught: Mapping[str, Collection[int]] | None = None,
) -> Figure:
    """A panel per measure, in it a line per model, over relative depth (last layer 100%).

    `measures` maps a panel's title to a curve per model, `ylabels` the same titles to what is
    measured, with its unit. Panels have their own scales. The layers in which a model was `taught`
    to refuse are shaded, as the stretch of its depth that they take.
    """
    fig, axes = panels(len(measures), (4.2 * len(measures), 4.8), title)
    for ax, (name, lines) in zip(axes, measures.items(), strict=True):
        for model, layers in (taught or {}).items():
            if layers:
                last = max(len(lines[model]) - 1, 1)
                ends = min(layers) / last, max(layers) / last
                label = f"{model}: safety adapter"
                ax.axvspan(*ends, color=BUILT_IN, linewidth=0, zorder=0, label=label)
        for model, values, look in in_series(lines):
            last = max(len(values) - 1, 1)
            depth = np.arange(len(values)) / last
            ax.plot(depth, numbers(values), label=model, **look)
        ax.set(title=name, xlabel="depth", ylabel=ylabels[name])
        percent(ax.xaxis)
        ax.set_ylim(bottom=0)
    common_legend(fig, ncols=3)
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

    Left: cosine of each request's two states, as they are and after each modality's mean is taken
    off (`geometry.pair_cosine`; median and middle half). Middle: distance of the two modalities'
    centroids, and for scale that of typed harmful and harmless requests, in units of spread
    (`geometry.centroid_distance`). Right: accuracy of a linear probe that tells typed from spoken
    (`geometry.measure_gap`; mean and range over seeds); 0.5 is chance.
    """
    ratio = float((modality_distance / harm_distance).log().mean().exp())
    forms = f"the means of typed and spoken states lie {ratio:.1f} times as far apart"
    title = f"Over all layers, {forms} as those of harmful and harmless ones"
    n_requests, n_layers = cosine.shape
    layers = range(n_layers)
    fig, axes = panels(3, (13, 5), f"{title} ({n_requests} requests)")
    left, middle, right = axes

    look = look_of(SKY, "s", "--")
    as_they_are = middle_half(left, layers, numbers(cosine).T, "as they are", look)
    look = look_of(GREEN, "o", "-")
    values, name = numbers(centred_cosine).T, "each form's mean off"
    centred = middle_half(left, layers, values, name, look)
    lowest = min(-0.25, 1.1 * as_they_are.min(), 1.1 * centred.min())
    left.set(title="Same request: how alike?", ylabel="cosine (typed, spoken)", ylim=(lowest, 1.05))
    left.axhline(0, color=INK, linewidth=1)

    distances = {
        "typed \u2013 spoken": modality_distance,
        "harmful \u2013 harmless, typed": harm_distance,
    }
    form = look_of(PURPLE, "^", "-")
    harm = look_of(INK, "o", "--")
    curves(middle, distances, looks=[form, harm])
    middle.lines[-1].set_markerfacecolor(PAPER)
    middle.set(title="Distance of the mean states", ylabel="distance (rms spread of a set)")
    middle.set_ylim(bottom=0)

    accuracy = numbers(probe_accuracy)
    look = look_of(GREEN, "D", "-")
    curves(right, {"cross-validated probe": accuracy.mean(1)}, looks=[look])
    band(right, layers, accuracy.min(1), accuracy.max(1), GREEN, alpha=0.25)
    level(right, 0.5, "chance")
    right.set(title="Typed or spoken? A linear probe", ylabel="accuracy", ylim=(0.4, 1.03))
    layer_axis(*axes)
    for ax in axes:
        ax.legend(loc="best")
    return fig


@drawn
def maps_figure(
    maps: Mapping[str, Float[np.ndarray, "state 2"]],
    forms: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
) -> Figure:
    """The same states in 2-D maps, side by side, without numbers on axes.

    States differ by form ("typed", "spoken": colour and marker) and label (filled: "harmful"). The
    titles say how often a state's nearest neighbour on a map has the same form, and the same label.
    Raises ValueError unless there is one form and one label per state.
    """
    fig, axes = panels(len(maps), (6.2 * len(maps), 6.6))
    alike = []
    for ax, (name, points) in zip(axes, maps.items(), strict=True):
        if not len(points) == len(forms) == len(labels):
            raise ValueError(
                f"{len(forms)} forms and {len(labels)} labels do not fit {len(points)} points"
            )
        _scatter(ax, points, np.array(forms), np.array(labels))
        neighbours = NearestNeighbors(n_neighbors=1).fit(points)
        nearest = neighbours.kneighbors(return_distance=False)[:, 0]
        same_form = np.mean(np.array(forms)[nearest] == forms)
        same_label = np.mean(np.array(labels)[nearest] == labels)
        told = f"{name}: {same_form:.0%} same form, {same_label:.0%} same label"
        ax.set(title=told, xticks=[], yticks=[])
        alike.append(f"{same_form:.0%} ({name.partition(':')[0]})")
    shares = " and ".join(alike)
    title = f"At layer {layer}, {shares} of the states lie nearest to one of their own form"
    fig.suptitle(title, x=0.01, ha="left", wrap=True)
    common_legend(fig, ncols=2, markerscale=1.3)
    return fig


def _scatter(ax: Axes, points: np.ndarray, forms: np.ndarray, labels: np.ndarray) -> None:
    """States as points, those of each form and label alike."""
    look = {"s": 45, "linewidths": 1.4, "alpha": 0.75}
    for form, (colour, marker, _) in FORMS.items():
        for label in dict.fromkeys(labels):
            chosen = points[(forms == form) & (labels == label)]
            name = f"{form}, {label} ({len(chosen)})"
            inner = colour if label == "harmful" else "none"
            colours = {"facecolors": inner, "edgecolors": colour}
            ax.scatter(*chosen.T, marker=marker, label=name, **colours, **look)
    # The same scale on both axes: otherwise distances in the picture would mean nothing.
    ax.set_aspect("equal", adjustable="datalim")


def project_2d(
    states: Float[Tensor, "prompt d_model"], *, method: Literal["pca", "umap"] = "pca"
) -> Float[np.ndarray, "prompt 2"]:
    """The states of one layer as points in the plane, for plotting.

    "pca" keeps distances as well as a plane can; "umap" keeps neighbourhoods, and its distances
    mean little. Raises ValueError for another method or states of several layers.
    """
    if states.ndim != 2:
        raise ValueError(
            f"give the states of one layer (prompt d_model), not {tuple(states.shape)}"
        )
    points = exact(states).cpu().numpy()
    if method == "pca":
        return PCA(n_components=2, svd_solver="full").fit_transform(points)
    if method == "umap":
        # numba compiles umap for several seconds on import; only those who plot with it wait.
        from umap import UMAP

        neighbours = min(15, len(points) - 1)
        return UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(points)
    raise ValueError(f"method={method!r}: choose 'pca' or 'umap'")
