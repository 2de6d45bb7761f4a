"""Figures of chapters 00 to 03: a clip and its tokens, the dial, the gap, directions and the safe space.

They follow `plots`: plain tensors in, a `Figure` out, its colours and markers; `plots.save_figure` keeps it.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.course.figures.base import BLACK, BLUE, GREEN, GREY, LOOK, MODALITIES, ORANGE, PURPLE, SKY, VERMILION
from sarsteer_lab.speech import SAMPLE_RATE

SERIES = (
    (BLUE, "o", "-"),
    (VERMILION, "^", "-"),
    (GREEN, "s", "--"),
    (PURPLE, "D", "-."),
    (ORANGE, "v", (0, (5, 1))),
    (GREY, "x", ":"),
    (SKY, "P", (0, (3, 1, 1, 1))),
)
"""Colour, marker and line style of a figure's series, in their order."""


def clip_figure(
    waveform: Float[np.ndarray, "samples"],
    log_mel: Float[Tensor, "mel frame"],
    tokens: Float[Tensor, "token d_model"],
    *,
    words: str,
) -> Figure:
    """One clip as the model gets it: pressure, log-mel spectrogram, and the vectors of its audio tokens.

    All three share the time axis; `log_mel` and `tokens` are those of the clip's own length, without the
    window's padding. The lowest panel shows every token's numbers in units of their standard deviation.
    """
    seconds = len(waveform) / SAMPLE_RATE
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        fig = Figure(figsize=(12, 8.5), layout="constrained")
        top, middle, low = fig.subplots(3, 1, sharex=True)
        top.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, color=BLACK, linewidth=0.6)
        top.set(ylabel="pressure\n(full scale 1)", title=f"Waveform: {len(waveform):,} numbers")
        image = middle.imshow(
            log_mel.float().cpu(),
            origin="lower",
            aspect="auto",
            cmap="viridis",
            extent=(0, seconds, 0, len(log_mel)),
        )
        middle.set(
            ylabel="mel band", title=f"Log-mel spectrogram: {log_mel.shape[1]} frames of {len(log_mel)}"
        )
        fig.colorbar(image, ax=middle, label="log energy\n(scaled)")
        values = tokens.float().cpu()
        values = (values - values.mean()) / values.std()
        image = low.imshow(
            values.T,
            origin="lower",
            aspect="auto",
            cmap="PuOr",
            vmin=-3,
            vmax=3,
            extent=(0, seconds, 0, values.shape[1]),
        )
        low.set(
            ylabel="dimension",
            xlabel="time (s)",
            title=f"Audio tokens, what the language model gets: {len(values)} vectors of {values.shape[1]}",
        )
        fig.colorbar(image, ax=low, label="value\n(standard deviations)")
        fig.suptitle(f"\u201c{words}\u201d", x=0.01, ha="left")
    return fig


def dial_figure(
    scales: Sequence[float], refused: Mapping[str, Sequence[int]], n: Mapping[str, int], *, form: str
) -> Figure:
    """Share of requests refused against the safety dial's setting (95% Wilson intervals), by label."""
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(9, 5.2), layout="constrained")
        ax = fig.subplots()
        for (label, counts), (colour, marker, style) in zip(refused.items(), SERIES, strict=False):
            shares = np.array(counts) / n[label]
            ends = np.array([wilson(count, n[label]) for count in counts]).T
            whiskers = np.abs(ends - shares)
            ax.errorbar(
                scales,
                shares,
                yerr=whiskers,
                color=colour,
                marker=marker,
                linestyle=style,
                capsize=4,
                elinewidth=1.4,
                label=f"{label} (n = {n[label]})",
            )
        ax.set(
            xlabel="safety dial (scale of the low-rank change)",
            ylabel="refused",
            ylim=(-0.03, 1.03),
            title=f"Where refusals come from: {form} requests, 95% Wilson intervals",
        )
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def layer_curves_figure(
    curves: Mapping[str, Float[Tensor, "layer"]],
    *,
    ylabel: str,
    title: str,
    reference: tuple[float, str] | None = None,
    layers: Sequence[int] | None = None,
    percent: bool = False,
) -> Figure:
    """Something measured at every decoder layer (or at `layers`), a line per name.

    `reference` is a level to compare with, and its name.
    """
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(10.5, 5.2), layout="constrained")
        ax = fig.subplots()
        for (name, values), (colour, marker, style) in zip(curves.items(), cycle(SERIES), strict=False):
            ax.plot(
                layers if layers is not None else range(len(values)),
                values.float().cpu(),
                color=colour,
                marker=marker,
                linestyle=style,
                label=name,
            )
        if reference is not None:
            ax.axhline(reference[0], color=BLACK, linewidth=1.2, linestyle=":", label=reference[1])
        ax.set(xlabel="decoder layer", ylabel=ylabel, title=title)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def maps_figure(
    maps: Mapping[str, Float[np.ndarray, "state 2"]],
    modalities: Sequence[str],
    labels: Sequence[str],
    *,
    layer: int,
) -> Figure:
    """The same states in several 2-D maps, side by side: colour and marker are the form, filled is harmful.

    Axes carry no numbers but for maps whose name says that they are principal axes. Raises ValueError unless
    there is one modality ("typed", "spoken") and one label per state.
    """
    if any(not len(points) == len(modalities) == len(labels) for points in maps.values()):
        raise ValueError(
            f"{len(modalities)} modalities and {len(labels)} labels do not fit every map's points"
        )
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(6.6 * len(maps), 6.6), layout="constrained")
        axes = fig.subplots(1, len(maps), squeeze=False)[0]
        for ax, (name, points) in zip(axes, maps.items(), strict=True):
            for modality, (colour, marker) in MODALITIES.items():
                for label in dict.fromkeys(labels):
                    pairs = zip(modalities, labels, strict=True)
                    rows = [i for i, pair in enumerate(pairs) if pair == (modality, label)]
                    ax.scatter(
                        *points[rows].T,
                        s=45,
                        marker=marker,
                        linewidths=1.4,
                        alpha=0.75,
                        facecolors=colour if label == "harmful" else "none",
                        edgecolors=colour,
                        label=f"{modality}, {label} ({len(rows)})",
                    )
            ax.set(title=name, xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=2, markerscale=1.3)
        fig.suptitle(f"Last-token states at layer {layer}, two kinds of map", x=0.01, ha="left")
    return fig


def lens_figure(
    words: Sequence[Sequence[str]],
    probabilities: Float[Tensor, "layer column"],
    *,
    columns: Sequence[str],
    layers: Sequence[int],
    title: str,
) -> Figure:
    """The logit lens as a table: each layer's likeliest next token per column, darker where it is surer."""
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        fig = Figure(figsize=(2.9 * len(columns) + 2.6, 0.42 * len(layers) + 1.9), layout="constrained")
        ax = fig.subplots()
        image = ax.imshow(
            probabilities.float().cpu(), aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1
        )
        for row, line in enumerate(words):
            for column, word in enumerate(line):
                dark = float(probabilities[row, column]) > 0.6
                ax.text(
                    column, row, word, ha="center", va="center", color="white" if dark else BLACK, fontsize=12
                )
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        ax.set(ylabel="decoder layer", title=title)
        fig.colorbar(image, ax=ax, label="probability")
    return fig


def cosine_matrix_figure(
    matrices: Mapping[int, Float[Tensor, "direction direction"]], names: Sequence[str]
) -> Figure:
    """Cosines between directions of different origin, a panel per layer, the numbers written in the cells."""
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        size = 0.95 * len(names)
        fig = Figure(figsize=(size * len(matrices) + 4, size + 2.6), layout="constrained")
        axes = fig.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
        for ax, (layer, matrix) in zip(axes, matrices.items(), strict=True):
            image = ax.imshow(matrix.float().cpu(), cmap="PuOr", vmin=-1, vmax=1)
            for i, row in enumerate(matrix.tolist()):
                for j, value in enumerate(row):
                    ink = "white" if abs(value) > 0.6 else BLACK
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=11, color=ink)
            ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
            ax.set_yticks(range(len(names)), names)
            ax.set_title(f"layer {layer}")
        fig.colorbar(image, ax=list(axes), label="cosine")
        fig.suptitle("Directions of different origin: how alike?", x=0.01, ha="left")
    return fig


def push_figure(
    alphas: Sequence[float],
    panels: Mapping[str, Mapping[str, Float[Tensor, "alpha"]]],
    *,
    n: int,
) -> Figure:
    """Mean refusal probability against the strength of a push: a panel per kind of request."""
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(5.2 * len(panels) + 1.5, 5.2), layout="constrained")
        axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, (panel, lines) in zip(axes, panels.items(), strict=True):
            for (name, values), (colour, marker, style) in zip(lines.items(), cycle(SERIES), strict=False):
                ax.plot(
                    alphas, values.float().cpu(), color=colour, marker=marker, linestyle=style, label=name
                )
            ax.set(title=panel, xlabel="alpha", ylim=(-0.03, 1.03))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[0].set_ylabel("refusal probability, mean")
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
        fig.suptitle(f"Pushing along a direction at all layers (n = {n} requests a panel)", x=0.01, ha="left")
    return fig


def scree_figure(ratios: Mapping[str, Float[Tensor, "component"]], *, k: int, n: int, layer: int) -> Figure:
    """Share of the variance of each principal direction (left) and of the first ones together (right)."""
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(13, 5), layout="constrained")
        left, right = fig.subplots(1, 2)
        for (name, ratio), (colour, marker, style) in zip(ratios.items(), SERIES, strict=False):
            shares = ratio.float().cpu()
            numbers = range(1, len(shares) + 1)
            left.plot(numbers, shares, color=colour, marker=marker, linestyle=style, label=name)
            right.plot(numbers, shares.cumsum(0), color=colour, marker=marker, linestyle=style, label=name)
        for ax in (left, right):
            ax.axvline(k, color=BLACK, linewidth=1.2, linestyle=":", label=f"k = {k}")
            ax.set_xlabel("principal direction")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            ax.set_ylim(bottom=0)
        left.set(ylabel="share of variance", title="Each direction")
        right.set(ylabel="share of variance, cumulative", title="The first ones together", ylim=(0, 1.03))
        right.legend(loc="lower right")
        fig.suptitle(f"What the states vary in, layer {layer} (n = {n} states each)", x=0.01, ha="left")
    return fig


def share_figure(
    shares: Float[Tensor, "k layer"], ks: Sequence[int], control: Float[Tensor, "k"], *, layer: int
) -> Figure:
    """How much of the refusal direction lies in the safe space: per layer and k, and against chance.

    Left: `shares` (of squared length). Right: its column `layer`, and `control`, the same share for random
    spaces of k dimensions.
    """
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        fig = Figure(figsize=(14, 5), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1.4, 1))
        image = left.imshow(
            shares.float().cpu(), aspect="auto", origin="lower", cmap="viridis", vmin=0, vmax=1
        )
        left.set_yticks(range(len(ks)), [str(k) for k in ks])
        left.set(xlabel="decoder layer", ylabel="k", title="Share inside, every layer")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        bar = fig.colorbar(image, ax=left, label="share of squared length")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        right.plot(ks, shares[:, layer].float().cpu(), color=PURPLE, marker="s", label="harmless space")
        right.plot(ks, control.float().cpu(), color=GREY, marker="x", linestyle=":", label="random space")
        right.set(xlabel="k", ylabel="share of squared length", title=f"Layer {layer}", ylim=(0, 1.03))
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        right.grid(visible=True)
        right.legend(loc="best")
        fig.suptitle("How much of the refusal direction lies in the safe space", x=0.01, ha="left")
    return fig


def ablation_geometry_figure(
    inside: Float[Tensor, "layer"], outside: Float[Tensor, "layer"], *, layers: Sequence[int], k: int
) -> Figure:
    """Ablation as a right triangle, to scale, a panel per layer.

    The refusal direction d is the hypotenuse; its part inside the safe space (length `inside`) goes, the part
    outside (length `outside`) is SARSteer's vector v. Each panel is drawn in units of the length of d.
    """
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        fig = Figure(figsize=(4.3 * len(layers), 4.9), layout="constrained")
        axes = fig.subplots(1, len(layers), squeeze=False, sharex=True, sharey=True)[0]
        for ax, layer in zip(axes, layers, strict=True):
            length = float(torch.hypot(inside[layer], outside[layer]))
            x, y = float(inside[layer]) / length, float(outside[layer]) / length
            _arrow(ax, (0, 0), (x, y), PURPLE, "-", "d")
            _arrow(ax, (0, 0), (x, 0), ORANGE, "--", "inside")
            _arrow(ax, (0, 0), (0, y), GREEN, "-", "v")
            ax.plot([x, x, 0], [0, y, y], color=GREY, linestyle=":", linewidth=1.2)
            ax.set(
                title=f"layer {layer}: v is {y:.0%} of d",
                aspect="equal",
                xlim=(-0.2, 1.15),
                ylim=(-0.2, 1.15),
            )
            ax.set_xlabel("in the safe space")
        axes[0].set_ylabel("outside of it")
        fig.suptitle(f"Safe-space ablation, k = {k}, in units of the length of d", x=0.01, ha="left")
    return fig


def controls_figure(
    curves: Mapping[str, tuple[Float[Tensor, "alpha"], Float[Tensor, "alpha"]]],
    alphas: Sequence[float],
    *,
    n: int,
) -> Figure:
    """Trade-off curves: refusal probability of harmless requests (right: worse) and harmful ones.

    Each curve joins the strengths of one variant, from the common unsteered start.
    """
    steps = ", ".join(f"{alpha:g}" for alpha in alphas)
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(11, 6.2), layout="constrained")
        ax = fig.subplots()
        for (name, (harmless, harmful)), (colour, marker, style) in zip(
            curves.items(), cycle(SERIES), strict=False
        ):
            ax.plot(harmless.cpu(), harmful.cpu(), color=colour, marker=marker, linestyle=style, label=name)
        ax.plot(
            *(values[0].item() for values in next(iter(curves.values()))),
            "*",
            color=BLACK,
            markersize=16,
            label="unsteered",
        )
        ax.set(
            xlabel="harmless requests: refusal probability, mean",
            ylabel="harmful requests: refusal probability, mean",
            title=f"alpha = {steps} along each curve; n = {n} spoken requests each",
        )
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str, name: str
) -> None:
    ax.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 2.6,
            "linestyle": style,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    ax.annotate(
        name,
        ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2),
        color=colour,
        xytext=(5, 6),
        textcoords="offset points",
    )
