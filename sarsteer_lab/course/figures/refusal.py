"""Figures of what refusal texts do in the prompt and as directions, and of what any uniform push can do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from sarsteer_lab.course.figures import base

LABELS = {"harmful": (base.VERMILION, "s"), "harmless": (base.BLUE, "o")}
"""Colour and marker of the two kinds of request."""


@base.drawn
def prompted_figure(shares: pd.DataFrame) -> Figure:
    """Refused requests with each refusal text in the prompt, a panel for typed and one for spoken ones.

    `shares` as from `precondition.refused_shares`; bars are Wilson's 95% intervals, counts stand beside.
    """
    forms, texts = list(shares["form"].unique()), list(shares["text"].unique())
    size = (6.4 * len(forms) + 1, 0.75 * len(texts) + 2.2)
    title = "Does a refusal text in the prompt make the model refuse?"
    fig, axes = base.panels(len(forms), size, title, sharey=True)
    for ax, form in zip(axes, forms, strict=True):
        for shift, label in zip((-0.16, 0.16), LABELS, strict=True):
            cell = shares[(shares["form"] == form) & (shares["label"] == label)].set_index("text").loc[texts]
            colour, marker = LABELS[label]
            reach = base.whiskers(cell["rate"], cell["low"], cell["high"])
            y = np.arange(len(texts)) + shift
            look = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 8, "elinewidth": 1.4}
            ax.errorbar(cell["rate"], y, xerr=reach, label=f"{label} requests", **look)
            for place, high, refused, n in zip(y, cell["high"], cell["refused"], cell["n"], strict=True):
                ax.text(high + 0.02, place, f"{refused}/{n}", va="center", fontsize=11, color=colour)
        ax.set(title=form, xlabel="share refused", xlim=(-0.03, 1.16))
        base.percent(ax.xaxis)
    base.ticks(axes[0], y=texts)
    axes[0].invert_yaxis()
    base.common_legend(fig, ncols=2)
    return fig


@base.drawn
def prediction_figure(
    prompted: Mapping[str, float], steered: Mapping[str, float], *, bank: Sequence[str], alpha: float
) -> Figure:
    """For each text: refusal of harmful requests with the text in the prompt, and under its direction.

    Both are mean refusal probabilities. Texts of the `bank` are filled, others hollow.
    """
    title = "Does a text that works in the prompt give a direction that acts?"
    fig, [ax] = base.panels(1, (8.6, 6), title)
    for name, x in prompted.items():
        y = steered[name]
        right = [
            prompted[other] - x for other in prompted if other != name and abs(steered[other] - y) < 0.04
        ]
        # A name stands to the right of its point, or to the left where another point does.
        place, side = ((-9, -4), "right") if any(0 < gap < 0.15 for gap in right) else ((9, -4), "left")
        face = base.BLUE if name in bank else "white"
        ax.plot(x, y, "o", color=base.BLUE, markerfacecolor=face, markersize=10)
        ax.annotate(name, (x, y), place, textcoords="offset points", fontsize=11, ha=side)
    ax.set(
        xlabel="refusal probability with the text in the prompt",
        ylabel=f"refusal probability, steered (alpha = {alpha:g})",
        xlim=(-0.03, 1.15),
        ylim=(-0.03, 1.05),
    )
    base.percent(ax.xaxis, ax.yaxis)
    return fig


@base.drawn
def roc_figure(scores: Mapping[str, Mapping[str, Float[np.ndarray, "prompt"]]]) -> Figure:
    """ROC curves of the refusal probability: harmful against other requests, a panel per kind of those.

    `scores` holds for each curve the values of each label, "harmful" among them.
    """
    kinds = [label for label in next(iter(scores.values())) if label != "harmful"]
    title = "How well does the readiness to refuse tell harmful requests apart?"
    fig, axes = base.panels(len(kinds), (5.6 * len(kinds), 5.9), title, sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        for (name, own), (colour, _, style) in zip(scores.items(), base.SERIES, strict=False):
            labels = np.r_[np.ones(len(own["harmful"])), np.zeros(len(own[kind]))]
            false, true, _ = roc_curve(labels, np.r_[own["harmful"], own[kind]])
            ax.plot(false, true, color=colour, linestyle=style, label=name)
        ax.plot([0, 1], [0, 1], color=base.BLACK, linewidth=1.2, linestyle=":", label="chance")
        counts = f"n = {len(own['harmful'])} + {len(own[kind])}"
        ax.set(title=f"against {kind} ({counts})", xlabel=f"{kind} above the threshold", aspect="equal")
        base.percent(ax.xaxis, ax.yaxis)
    axes[0].set_ylabel("harmful above the threshold")
    base.common_legend(fig, ncols=min(3, len(scores) + 1))
    return fig


@base.drawn
def push_size_figure(
    states: Float[Tensor, "prompt layer d_model"],
    vectors: Float[Tensor, "layer d_model"],
    alphas: Sequence[float],
) -> Figure:
    """How long the push is beside the state that it moves, layer by layer, for some strengths."""
    lengths = states.float().norm(dim=-1)
    ratio = {f"alpha = {alpha:g}": alpha * vectors.norm(dim=-1) / lengths.mean(0) for alpha in alphas}
    fig, (left, right) = base.panels(2, (13, 5), "The push beside the residual stream")
    base.curves(left, {"state": lengths.mean(0), "vector, alpha = 1": vectors.norm(dim=-1)})
    left.set(ylabel="length", title="Mean length at the last position", yscale="log")
    base.curves(right, ratio)
    right.set(ylabel="push / state", title="Share of the state's length, per layer")
    base.percent(right.yaxis)
    base.layer_axis(left, right)
    for ax in (left, right):
        ax.legend(loc="best")
    return fig
