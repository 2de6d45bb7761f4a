"""Figures of what refusal texts do in the prompt and as directions, and of what any uniform push
can do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_curve
from torch import Tensor

from sarsteer_lab.course.figures import base
from sarsteer_lab.evaluation.precondition import BARE
from sarsteer_lab.evaluation.separation import roc_area

LABELS = {"harmful": (base.VERMILION, "s"), "harmless": (base.BLUE, "o")}
"""Colour and marker of the two kinds of request."""


@base.drawn
def prompted_figure(shares: pd.DataFrame) -> Figure:
    """Refused requests with each refusal text in the prompt, a panel for typed and one for spoken
    ones.

    `shares` as from `precondition.refused_shares`; bars are Wilson's 95% intervals, counts stand
    beside.
    """
    forms, texts = list(shares["form"].unique()), list(shares["text"].unique())
    size = (5.6 * len(forms) + 1.4, 0.75 * len(texts) + 2.2)
    own = shares[(shares["form"] == forms[-1]) & (shares["label"] == "harmful")].set_index("text")
    best = own["refused"].drop(BARE, errors="ignore").idxmax()
    ways = {BARE: "without a text", best: f"with {best!r}"}
    told = [
        f"{own.loc[text, 'refused']} of {own.loc[text, 'n']} {ways[text]}"
        for text in texts
        if text in ways
    ]
    title = f"{forms[-1].capitalize()} harmful requests refused: {', '.join(told)}"
    fig, axes = base.panels(len(forms), size, title, sharey=True)
    for ax, form in zip(axes, forms, strict=True):
        for shift, label in zip((-0.16, 0.16), LABELS, strict=True):
            cell = (
                shares[(shares["form"] == form) & (shares["label"] == label)]
                .set_index("text")
                .loc[texts]
            )
            colour, marker = LABELS[label]
            reach = base.whiskers(cell["rate"], cell["low"], cell["high"])
            y = np.arange(len(texts)) + shift
            look = {
                "fmt": marker,
                "color": colour,
                "capsize": 3,
                "markersize": 8,
                "elinewidth": 1.4,
            }
            ax.errorbar(cell["rate"], y, xerr=reach, label=f"{label} requests", **look)
            for place, high, refused, n in zip(
                y, cell["high"], cell["refused"], cell["n"], strict=True
            ):
                ax.text(
                    high + 0.02, place, f"{refused}/{n}", va="center", fontsize=12, color=colour
                )
        ax.set(title=form, xlabel="share refused", xlim=(-0.03, 1.16))
        base.percent(ax.xaxis)
    base.ticks(axes[0], y=texts)
    axes[0].invert_yaxis()
    base.common_legend(fig, ncols=2)
    return fig


@base.drawn
def prediction_figure(
    prompted: Mapping[str, float],
    steered: Mapping[str, float],
    *,
    bank: Sequence[str],
    alpha: float,
) -> Figure:
    """For each text: refusal of harmful requests with the text in the prompt, and under its
    direction.

    Both are mean refusal probabilities. Texts of the `bank` are filled, others hollow.
    """
    places = np.array([(x, steered[name]) for name, x in prompted.items()])
    rank = spearmanr(*places.T).statistic if len(places) > 2 else float("nan")
    title = (
        f"Refusal with a text in the prompt and under its direction: rank correlation {rank:.2f}"
    )
    fig, [ax] = base.panels(1, (9.5, 6.4), title)
    for name, (x, y) in zip(prompted, places, strict=True):
        face = base.BLUE if name in bank else "white"
        ax.plot(x, y, "o", color=base.BLUE, markerfacecolor=face, markersize=10)
    ax.set(
        xlabel="refusal probability with the text in the prompt",
        ylabel=f"refusal probability, steered (alpha = {alpha:g})",
        xlim=(-0.03, 1.15),
        ylim=(-0.03, 1.05),
    )
    base.percent(ax.xaxis, ax.yaxis)
    base.name_points(ax, list(prompted), places, [base.BLACK] * len(places))
    return fig


@base.drawn
def readiness_figure(chances: Mapping[str, Float[np.ndarray, "prompt"]]) -> Figure:
    """How near each request stands to refusal: a row of points per label, the median marked.

    `chances` are refusal probabilities, "harmful" ones first, drawn on a logit scale between 0.0001 and
    0.9999.
    """
    harmful, *others = chances
    areas = [f"{name} {roc_area(chances[harmful], chances[name]):.0%}" for name in others]
    title = (
        f"How often a {harmful} request stands nearer to refusal than another: {', '.join(areas)}"
    )
    fig, [ax] = base.panels(1, (11, 1.2 * len(chances) + 1.9), title)
    rng = np.random.default_rng(0)
    for row, (own, (colour, marker, _)) in enumerate(
        zip(chances.values(), base.SERIES, strict=False)
    ):
        shown = np.clip(own, 1e-4, 1 - 1e-4)
        ax.scatter(
            shown, row + rng.uniform(-0.28, 0.28, len(own)), color=colour, marker=marker, alpha=0.6
        )
        ax.plot([np.median(shown)] * 2, [row - 0.4, row + 0.4], color=base.BLACK)
    base.ticks(ax, y=[f"{name} (n = {len(own)})" for name, own in chances.items()])
    ax.set(xscale="logit", xlim=(8e-5, 1 - 8e-5), xlabel="refusal probability without a defence")
    marks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
    ax.set_xticks(marks, [f"{100 * mark:g}%" for mark in marks])
    ax.invert_yaxis()
    return fig


@base.drawn
def roc_figure(scores: Mapping[str, Mapping[str, Float[np.ndarray, "prompt"]]]) -> Figure:
    """ROC curves of the refusal probability: harmful against other requests, a panel per kind of
    those.

    `scores` holds for each curve the values of each label, "harmful" among them.
    """
    kinds = [label for label in next(iter(scores.values())) if label != "harmful"]
    areas = {
        name: [f"{roc_area(own['harmful'], own[kind]):.2f}" for kind in kinds]
        for name, own in scores.items()
    }
    title = f"Area under the curve, {kinds[0]}: " + ", ".join(
        f"{name} {area}" for name, (area, *_) in areas.items()
    )
    fig, axes = base.panels(len(kinds), (5.6 * len(kinds), 6.2), title, sharey=True)
    for at, (ax, kind) in enumerate(zip(axes, kinds, strict=True)):
        for (name, own), (colour, _, style) in zip(scores.items(), base.SERIES, strict=False):
            labels = np.r_[np.ones(len(own["harmful"])), np.zeros(len(own[kind]))]
            false, true, _ = roc_curve(labels, np.r_[own["harmful"], own[kind]])
            ax.plot(false, true, color=colour, linestyle=style, label=f"{name}: {areas[name][at]}")
        ax.plot([0, 1], [0, 1], color=base.BLACK, linewidth=1.2, linestyle=":")
        counts = f"n = {len(own['harmful'])} + {len(own[kind])}"
        ax.set(
            title=f"against {kind} ({counts})", xlabel=f"{kind} above the threshold", aspect="equal"
        )
        ax.legend(loc="lower right")
        base.percent(ax.xaxis, ax.yaxis)
    axes[0].set_ylabel("harmful above the threshold")
    return fig


@base.drawn
def push_size_figure(
    states: Float[Tensor, "prompt layer d_model"],
    vectors: Float[Tensor, "layer d_model"],
    steered: Mapping[float, Float[Tensor, "prompt layer d_model"]],
) -> Figure:
    """The push beside the residual stream that it is added to, layer by layer; means over prompts.

    `steered` holds the states under each strength, the strongest last. Left, at the strongest: the
    length of the state, one layer's push, the pushes of all layers so far added up, and how far the
    state has really moved. Right: how far it has moved as a share of its length, for each strength.
    """
    lengths = states.float().norm(dim=-1).mean(0)
    moved = {alpha: (own - states).float().norm(dim=-1).mean(0) for alpha, own in steered.items()}
    alpha, pushes = max(steered), max(steered) * vectors.float()
    one, end = (
        float((pushes.norm(dim=-1) / lengths).median()),
        float(moved[alpha][-1] / lengths[-1]),
    )
    told = f"a layer adds {one:.0%} of the state's length; at the end it has moved by {end:.0%}"
    title = f"At alpha {alpha:g} {told}"
    fig, (left, right) = base.panels(2, (13, 5.2), title)
    lines = {
        "state": lengths,
        "one push": pushes.norm(dim=-1),
        "pushes so far": pushes.cumsum(0).norm(dim=-1),
        "state moved": moved[alpha],
    }
    base.curves(left, lines)
    left.set(ylabel="length, mean over requests", title=f"Lengths, alpha {alpha:g}", yscale="log")
    base.curves(right, {f"alpha {alpha:g}": own / lengths for alpha, own in moved.items()})
    base.level(right, 1.0)
    right.set(
        ylabel="moved / length of the state",
        title="Moved by its own length (dotted), or less?",
        yscale="log",
    )
    base.percent(right.yaxis)
    base.layer_axis(left, right)
    base.name_lines(left, right)
    return fig
