"""Every figure of the course, one function each, in one look.

Functions take plain tensors and tables and return a matplotlib `Figure` that belongs to nobody's global
state; `save_figure` writes it as PNG and SVG. Colours are Okabe and Ito's, which colour-blind people can
tell apart, and no meaning hangs on colour alone: marker, line style, fill or hatching says it again.
Letters are large enough for a projector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"

LOOK: dict[str, Any] = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "figure.titlesize": 15,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "lines.markersize": 6,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    # Ids in the SVG come from this and the drawing alone, so that the same figure is the same file.
    "svg.hashsalt": "sarsteer-lab",
}

MODALITIES = {"typed": (BLUE, "o"), "spoken": (VERMILION, "^")}
"""Colour and marker of the two ways in which a request reaches the model."""

OUTCOMES = {"refused": (BLUE, ""), "answered": (ORANGE, "//"), "broken": (GREY, "xx")}
"""Colour and hatching of what becomes of a request."""


def save_figure(fig: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write `name`.png (150 dots per inch) and `name`.svg into `folder`, which is made if missing.

    Returns both paths. The files depend on the figure and the versions of matplotlib and its fonts, not
    on the date.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with matplotlib.rc_context(LOOK):
        fig.savefig(paths[0], dpi=150, metadata={"Software": None})
        fig.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def write_index(folder: Path) -> Path:
    """Write `folder`/README.md: every PNG below it, by subfolder, each a link to its SVG; its path."""
    lines = ["# Figures", "", "Drawn by the notebooks; each also as SVG."]
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        pictures = sorted(place.glob("*.png"))
        if pictures:
            lines += ["", f"## {place.name}", ""]
        for picture in pictures:
            name = f"{place.name}/{picture.stem}"
            lines.append(f"[![{picture.stem}]({name}.png)]({name}.svg)")
    index = folder / "README.md"
    index.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return index


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
    Right: accuracy of a linear probe that tells typed from spoken (`geometry.probe_accuracy`; mean and range
    over seeds); 0.5 is chance.
    """
    with matplotlib.rc_context(LOOK):
        fig, left, middle, right = _three_panels()
        layers = range(cosine.shape[1])
        lowest = -0.25
        for values, name, colour, marker, style in (
            (cosine, "as they are", SKY, "s", "--"),
            (centred_cosine, "each modality's mean off", BLUE, "o", "-"),
        ):
            low, mid, high = _numpy(
                torch.quantile(values.float().cpu(), torch.tensor([0.25, 0.5, 0.75]), dim=0)
            )
            left.plot(layers, mid, style, marker=marker, color=colour, label=name)
            left.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            lowest = min(lowest, 1.1 * low.min())
        left.set(title="Same request: how alike?", ylabel="cosine (typed, spoken)", ylim=(lowest, 1.05))
        left.axhline(0, color=BLACK, linewidth=1)

        middle.plot(
            layers,
            _numpy(modality_distance),
            "-",
            marker="^",
            color=VERMILION,
            label="typed \u2013 spoken",
        )
        middle.plot(
            layers,
            _numpy(harm_distance),
            "--",
            marker="o",
            markerfacecolor="white",
            color=BLACK,
            label="harmful \u2013 harmless, typed",
        )
        middle.set(title="Distance of the mean states", ylabel="distance (rms spread of a set)")
        middle.set_ylim(bottom=0)

        accuracy = probe_accuracy.float()
        mean = _numpy(accuracy.mean(1))
        right.plot(layers, mean, "-", marker="D", color=GREEN, label="cross-validated probe")
        right.fill_between(
            layers,
            _numpy(accuracy.amin(1)),
            _numpy(accuracy.amax(1)),
            color=GREEN,
            alpha=0.25,
            linewidth=0,
        )
        right.axhline(0.5, color=BLACK, linewidth=1.2, linestyle=":", label="chance")
        right.set(title="Typed or spoken? A linear probe", ylabel="accuracy", ylim=(0.4, 1.03))
        _layer_axes(left, middle, right)
        fig.suptitle(
            f"Gap between typed and spoken last-token states ({len(cosine)} requests, each in both forms)"
        )
    return fig


def map_figure(
    points: Float[Tensor, "state 2"],
    modalities: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
    explained: Sequence[float],
) -> Figure:
    """Last-token states of one layer on their first two principal axes.

    Colour and marker tell typed from spoken, filled markers are harmful requests, hollow ones harmless; large
    markers are the four means. `explained` is each axis's share of the variance (0 to 1). Raises ValueError
    unless there is one modality ("typed", "spoken") and one label ("harmful" or another) per point.
    """
    if not len(points) == len(modalities) == len(labels):
        raise ValueError(f"{len(points)} points need as many modalities and labels")
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(9.5, 6.5), layout="constrained")
        ax = fig.subplots()
        for modality, (colour, marker) in MODALITIES.items():
            for label in dict.fromkeys(labels):
                rows = [
                    i
                    for i, pair in enumerate(zip(modalities, labels, strict=True))
                    if pair == (modality, label)
                ]
                chosen = points[rows].float().cpu()
                fill = {"facecolors": colour if label == "harmful" else "none", "edgecolors": colour}
                ax.scatter(
                    *chosen.T,
                    s=45,
                    marker=marker,
                    linewidths=1.4,
                    alpha=0.75,
                    label=f"{modality}, {label} ({len(rows)})",
                    **fill,
                )
                # A light rim sets the mean off from the cloud around it.
                mean_fill = (
                    {"facecolors": colour, "edgecolors": "white"}
                    if label == "harmful"
                    else {"facecolors": "white", "edgecolors": colour}
                )
                ax.scatter(*chosen.mean(0), s=400, marker=marker, linewidths=2.5, zorder=3, **mean_fill)
        ax.set_xlabel(f"first principal axis ({explained[0]:.0%} of the variance)")
        ax.set_ylabel(f"second principal axis ({explained[1]:.0%})")
        ax.set_title(f"Typed and spoken requests, output of layer {layer} (large: means)")
        # The same scale on both axes: otherwise distances in the picture would mean nothing.
        ax.set_aspect("equal", adjustable="datalim")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.3)
    return fig


def outcomes_figure(table: pd.DataFrame) -> Figure:
    """What became of the requests: a panel per label, a group of bars per condition, a bar per outcome.

    `table` has a row per condition, label and outcome, with `count` of `n` requests and the interval's ends
    `low` and `high` (0 to 1). Bars are shares, whiskers the intervals, numbers at the bars the counts.
    """
    labels, conditions = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["condition"]))
    with matplotlib.rc_context(LOOK):
        columns = min(2, len(labels))
        rows = -(-len(labels) // columns)
        fig = Figure(figsize=(7.5 * columns, 1.2 + 4.2 * rows), layout="constrained")
        axes = list(fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for ax, label in zip(axes, labels, strict=False):
            part = table[table["label"] == label]
            _outcome_bars(ax, part, conditions)
            ax.set_title(f"{label} requests (n = {part['n'].max()})")
        for ax in axes[len(labels) :]:
            ax.set_axis_off()
        # The lowest panel of each column, which is not in the last row if their number is odd.
        for ax in axes[max(0, len(labels) - columns) : len(labels)]:
            ax.set_xlabel("share of requests")
            ax.tick_params(labelbottom=True)
        handles, names = fig.axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper right", ncols=len(names))
        fig.suptitle("Outcomes, with 95% Wilson intervals and counts", x=0.01, ha="left")
    return fig


def _outcome_bars(ax: Axes, part: pd.DataFrame, conditions: Sequence[str]) -> None:
    """The bars of one label's panel, the first condition on top."""
    height = 0.26
    for step, (outcome, (colour, hatch)) in enumerate(OUTCOMES.items()):
        chosen = part[part["outcome"] == outcome].set_index("condition").reindex(conditions)
        share = chosen["count"] / chosen["n"]
        middle = [row + (step - 1) * height for row in range(len(conditions))]
        ax.barh(
            middle,
            share,
            height,
            label=outcome,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
        # Rounding can put an end of an interval past its own point by a hair, which matplotlib refuses.
        whiskers = [(share - chosen["low"]).clip(lower=0), (chosen["high"] - share).clip(lower=0)]
        ax.errorbar(share, middle, xerr=whiskers, fmt="none", ecolor=BLACK, elinewidth=1.4, capsize=3)
        for y, count, high in zip(middle, chosen["count"], chosen["high"], strict=True):
            ax.annotate(
                f"{count:.0f}", (high, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=11
            )
    ax.set_yticks(range(len(conditions)), conditions)
    ax.set_xlim(0, 1.08)
    ax.set_ylim(len(conditions) - 0.5, -0.5)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(visible=False, axis="y")


def _three_panels() -> tuple[Figure, Axes, Axes, Axes]:
    """A wide figure of three panels with room between them for axis labels."""
    fig = Figure(figsize=(15.5, 5), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.15)
    left, middle, right = fig.subplots(1, 3)
    return fig, left, middle, right


def _layer_axes(*axes: Axes) -> None:
    """What all panels over layers share."""
    for ax in axes:
        ax.set_xlabel("decoder layer")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best")


def _numpy(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()
