"""Figures of refusal texts, in the prompt and as directions, and of what any push can do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
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
    """Refused requests with each refusal text in the prompt, a panel for typed, one for spoken.

    `shares` as from `precondition.refused_shares`; bars are Wilson's 95% intervals, counts stand
    beside.
    """
    texts = list(shares["text"].unique())
    forms = list(shares["form"].unique())
    by_kind = {kind: part.set_index("text") for kind, part in shares.groupby(["form", "label"])}
    harmful = by_kind[forms[-1], "harmful"]
    best = harmful["refused"].drop(BARE, errors="ignore").idxmax()
    told = []
    for text in texts:
        if text in (BARE, best):
            refused, n = harmful.loc[text, ["refused", "n"]]
            way = "without a text" if text == BARE else f"with {text!r}"
            told.append(f"{refused} of {n} {way}")
    title = f"{forms[-1].capitalize()} harmful requests refused: {', '.join(told)}"
    size = (5.6 * len(forms) + 1.4, 0.75 * len(texts) + 2.2)
    fig, axes = base.panels(len(forms), size, title, sharey=True)
    for ax, form in zip(axes, forms, strict=True):
        for shift, label in zip((-0.16, 0.16), LABELS, strict=True):
            _shares_in_rows(ax, by_kind[form, label].loc[texts], shift, label)
        ax.set(title=form, xlabel="share refused", xlim=(-0.03, 1.16))
        base.percent(ax.xaxis)
    base.ticks(axes[0], y=texts)
    axes[0].invert_yaxis()
    base.common_legend(fig, ncols=2)
    return fig


def _shares_in_rows(ax: Axes, shares: pd.DataFrame, shift: float, label: str) -> None:
    """The shares of one label, a row each, with their intervals and counts."""
    colour, marker = LABELS[label]
    look = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 8, "elinewidth": 1.4}
    rows = np.arange(len(shares)) + shift
    ends = base.whiskers(shares["rate"], shares["low"], shares["high"])
    ax.errorbar(shares["rate"], rows, xerr=ends, label=f"{label} requests", **look)
    for y, cell in zip(rows, shares.itertuples(), strict=True):
        count = f"{cell.refused}/{cell.n}"
        ax.text(cell.high + 0.02, y, count, va="center", fontsize=12, color=colour)


@base.drawn
def prediction_figure(
    prompted: Mapping[str, float],
    steered: Mapping[str, float],
    *,
    bank: Sequence[str],
    alpha: float,
) -> Figure:
    """For each text: refusal of harmful requests with it in the prompt, and under its direction.

    Both are mean refusal probabilities. Texts of the `bank` are filled, others hollow.
    """
    names = list(prompted)
    places = np.array([(prompted[name], steered[name]) for name in names])
    rank = spearmanr(*places.T).statistic if len(names) > 2 else float("nan")
    title = "Refusal with a text in the prompt and under its direction: rank correlation"
    fig, [ax] = base.panels(1, (9.5, 6.4), f"{title} {rank:.2f}")
    for name, place in zip(names, places, strict=True):
        inner = base.BLUE if name in bank else "white"
        ax.plot(*place, "o", color=base.BLUE, markerfacecolor=inner, markersize=10)
    ax.set(xlabel="refusal probability with the text in the prompt", xlim=(-0.03, 1.15))
    ax.set(ylabel=f"refusal probability, steered (alpha = {alpha:g})", ylim=(-0.03, 1.05))
    base.percent(ax.xaxis, ax.yaxis)
    base.name_points(ax, names, places, [base.BLACK] * len(names))
    return fig


@base.drawn
def readiness_figure(refusal_probability: Mapping[str, Float[np.ndarray, "prompt"]]) -> Figure:
    """How near each request stands to refusal: a row of points per label, the median marked.

    "Harmful" requests come first. Drawn on a logit scale between 0.0001 and 0.9999.
    """
    (first, harmful), *others = refusal_probability.items()
    areas = [f"{name} {roc_area(harmful, other):.0%}" for name, other in others]
    title = f"How often a {first} request stands nearer to refusal than another:"
    size = (11, 1.2 * len(refusal_probability) + 1.9)
    fig, [ax] = base.panels(1, size, f"{title} {', '.join(areas)}")
    rng = np.random.default_rng(0)
    for row, (values, look) in enumerate(
        zip(refusal_probability.values(), base.SERIES, strict=False)
    ):
        shown = np.clip(values, 1e-4, 1 - 1e-4)
        heights = row + rng.uniform(-0.28, 0.28, len(shown))
        ax.scatter(shown, heights, color=look["color"], marker=look["marker"], alpha=0.6)
        ax.plot([np.median(shown)] * 2, [row - 0.4, row + 0.4], color=base.BLACK)
    names = [f"{name} (n = {len(values)})" for name, values in refusal_probability.items()]
    base.ticks(ax, y=names)
    ax.set(xscale="logit", xlim=(8e-5, 1 - 8e-5), xlabel="refusal probability without a defence")
    marks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
    ax.set_xticks(marks, [f"{100 * mark:g}%" for mark in marks])
    ax.invert_yaxis()
    return fig


@base.drawn
def roc_figure(
    refusal_probability: Mapping[str, Mapping[str, Float[np.ndarray, "prompt"]]],
) -> Figure:
    """ROC curves of the refusal probability: harmful against other requests, a panel per kind.

    Each curve has the values of each label, "harmful" among them.
    """
    kinds = [label for label in next(iter(refusal_probability.values())) if label != "harmful"]
    areas = []
    for name, values in refusal_probability.items():
        areas.append(f"{name} {roc_area(values['harmful'], values[kinds[0]]):.2f}")
    title = f"Area under the curve, {kinds[0]}: {', '.join(areas)}"
    fig, axes = base.panels(len(kinds), (5.6 * len(kinds), 6.2), title, sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        for (name, values), look in zip(refusal_probability.items(), base.SERIES, strict=False):
            harmful, other = values["harmful"], values[kind]
            is_harmful = np.repeat([1, 0], [len(harmful), len(other)])
            false, true, _ = roc_curve(is_harmful, np.concatenate([harmful, other]))
            label = f"{name}: {roc_area(harmful, other):.2f}"
            ax.plot(false, true, label=label, **look | {"marker": ""})
        ax.plot([0, 1], [0, 1], **base.DOTTED)
        title = f"against {kind} (n = {len(harmful)} + {len(other)})"
        ax.set(title=title, xlabel=f"{kind} above the threshold", aspect="equal")
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
    """The push beside the residual stream that it is added to, by layer; means over prompts.

    `steered` holds the states under each strength, the strongest last. Left, at the strongest: the
    length of the state, one layer's push, the pushes of all layers so far added up, and how far the
    state has really moved. Right: how far it has moved as a share of its length, for each strength.
    """
    length = _mean_length(states)
    moved = {alpha: _mean_length(at - states) for alpha, at in steered.items()}
    shares = {f"alpha {alpha:g}": far / length for alpha, far in moved.items()}
    alpha = max(steered)
    pushes = alpha * vectors.float()
    lines = {
        "state": length,
        "one push": pushes.norm(dim=-1),
        "pushes so far": pushes.cumsum(0).norm(dim=-1),
        "state moved": moved[alpha],
    }
    one = (lines["one push"] / length).median()
    end = moved[alpha][-1] / length[-1]
    told = f"a layer adds {one:.0%} of the state's length; at the end it has moved by {end:.0%}"
    fig, (left, right) = base.panels(2, (13, 5.2), f"At alpha {alpha:g} {told}")
    base.curves(left, lines)
    left.set(ylabel="length, mean over requests", title=f"Lengths, alpha {alpha:g}", yscale="log")
    base.curves(right, shares)
    base.level(right, 1.0)
    title = "Moved by its own length (dotted), or less?"
    right.set(ylabel="moved / length of the state", title=title, yscale="log")
    base.percent(right.yaxis)
    base.layer_axis(left, right)
    base.name_lines(left, right)
    return fig


def _mean_length(states: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, "layer"]:
    return states.float().norm(dim=-1).mean(0)
