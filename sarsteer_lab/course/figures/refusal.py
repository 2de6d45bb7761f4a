"""Figures of refusal texts, in the prompt and as directions, and of what any push can do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    DOTTED,
    LOWEST,
    common_legend,
    curves,
    drawn,
    in_series,
    layer_axis,
    level,
    name_lines,
    panels,
    percent,
    readiness_axis,
    shade_layers,
    ticks,
    whiskers,
)
from sarsteer_lab.course.figures.names import name_points
from sarsteer_lab.course.palette import GREEN, INK, LABELS, PAPER
from sarsteer_lab.evaluation.precondition import BARE
from sarsteer_lab.evaluation.separation import roc_area, uniform_bound


@drawn
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
    ways = {BARE: "without a text", best: f"with {best!r}"}
    told = []
    for text, refused, n in harmful[["refused", "n"]].loc[texts].itertuples():
        if text in ways:
            told.append(f"{refused} of {n} {ways[text]}")
    title = f"Of the {forms[-1]} harmful requests the model refuses {', '.join(told)}"
    size = (5.6 * len(forms) + 1.4, 0.75 * len(texts) + 2.2)
    fig, axes = panels(len(forms), size, title, sharey=True)
    for ax, form in zip(axes, forms, strict=True):
        for shift, label in ((-0.16, "harmful"), (0.16, "harmless")):
            _shares_in_rows(ax, by_kind[form, label].loc[texts], shift, label)
        ax.set(title=form, xlabel="share refused", xlim=(-0.03, 1.16))
        percent(ax.xaxis)
    ticks(axes[0], y=texts)
    axes[0].invert_yaxis()
    common_legend(fig, ncols=2)
    return fig


def _shares_in_rows(ax: Axes, shares: pd.DataFrame, shift: float, label: str) -> None:
    """The shares of one label, a row each, with their intervals and counts."""
    colour, marker, _ = LABELS[label]
    rows = np.arange(len(shares)) + shift
    ends = whiskers(shares["rate"], shares["low"], shares["high"])
    look = {"fmt": marker, "color": colour, "label": f"{label} requests"}
    bars = {"capsize": 3, "markersize": 8, "elinewidth": 1.4}
    ax.errorbar(shares["rate"], rows, xerr=ends, **look, **bars)
    beside = {"va": "center", "fontsize": 12}
    for y, cell in zip(rows, shares.itertuples(), strict=True):
        count = f"{cell.refused}/{cell.n}"
        ax.text(cell.high + 0.02, y, count, color=colour, **beside)


@drawn
def prediction_figure(
    prompted: Mapping[str, float],
    steered: Mapping[str, float],
    *,
    bank: Sequence[str],
    alpha: float,
    bare: float,
) -> Figure:
    """For each text: refusal of harmful requests with it in the prompt, and under its direction.

    Both are mean refusal probabilities. Texts of the `bank` are filled, others hollow; without a
    text and a push it is `bare`, which dotted lines show.
    """
    names = list(prompted)
    places = np.array([(prompted[name], steered[name]) for name in names])
    rank = spearmanr(places).statistic if len(names) > 2 else np.nan
    title = "The rank correlation of refusal in the prompt and under the direction is"
    fig, [ax] = panels(1, (9.5, 6.4), f"{title} {rank:.2f}")
    for name, place in zip(names, places, strict=True):
        inner = GREEN if name in bank else PAPER
        ax.plot(*place, "o", color=GREEN, markerfacecolor=inner, markersize=10)
    ax.set_xlabel("refusal probability with the text in the prompt (dotted: without)")
    ax.set_ylabel(f"refusal probability, steered (alpha = {alpha:g}; dotted: not)")
    ax.set(xlim=(-0.03, 1.15), ylim=(-0.03, 1.05))
    percent(ax.xaxis, ax.yaxis)
    ax.axvline(bare, **DOTTED)
    level(ax, bare)
    name_points(ax, names, places, [INK] * len(names))
    return fig


@drawn
def readiness_figure(refusal_probability: Mapping[str, Float[np.ndarray, "prompt"]]) -> Figure:
    """How near each request stands to refusal: a row of points per label, the median marked.

    "Harmful" requests come first. Drawn on a logit scale between 0.0001 and 0.9999.
    """
    (first, harmful), *others = refusal_probability.items()
    areas = [f"a {name} one {roc_area(harmful, other):.0%}" for name, other in others]
    title = f"A {first} request stands nearer to refusal than {', than '.join(areas)} of the time"
    size = (11, 1.2 * len(refusal_probability) + 1.9)
    fig, [ax] = panels(1, size, title)
    rng = np.random.default_rng(0)
    names: list[str] = []
    for name, values, look in in_series(refusal_probability):
        shown = np.clip(values, LOWEST, 1 - LOWEST)
        row, median = len(names), np.median(shown)
        heights = row + rng.uniform(-0.28, 0.28, len(shown))
        ax.scatter(shown, heights, color=look["color"], marker=look["marker"], alpha=0.6)
        ax.plot([median, median], [row - 0.4, row + 0.4], color=INK)
        names.append(f"{name} (n = {len(values)})")
    ticks(ax, y=names)
    readiness_axis(ax)
    ax.set_xlabel("refusal probability without a defence")
    ax.invert_yaxis()
    return fig


@drawn
def roc_figure(
    refusal_probability: Mapping[str, Mapping[str, Float[np.ndarray, "prompt"]]],
) -> Figure:
    """ROC curves of the refusal probability: harmful against other requests, a panel per kind.

    Each curve has the values of each label, "harmful" among them.
    """
    kinds = [label for label in next(iter(refusal_probability.values())) if label != "harmful"]
    areas = []
    for name, values in refusal_probability.items():
        area = roc_area(values["harmful"], values[kinds[0]])
        areas.append(f"{name} {area:.2f}")
    title = f"The area under the curve, against {kinds[0]} requests, is {', '.join(areas)}"
    n_panels = len(kinds)
    fig, axes = panels(n_panels, (5.6 * n_panels, 6.2), title, sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        for name, values, look in in_series(refusal_probability):
            harmful, other = values["harmful"], values[kind]
            answered, refused = uniform_bound(harmful, other)[::-1].T
            label = f"{name}: {roc_area(harmful, other):.2f}"
            ax.plot(1 - answered, refused, label=label, **look | {"marker": ""})
        ax.plot([0, 1], [0, 1], **DOTTED)
        title = f"against {kind} (n = {len(harmful)} + {len(other)})"
        ax.set(title=title, xlabel=f"{kind} above the threshold", aspect="equal")
        ax.legend(loc="lower right")
        percent(ax.xaxis, ax.yaxis)
    axes[0].set_ylabel("harmful above the threshold")
    return fig


@drawn
def push_size_figure(
    states: Float[Tensor, "prompt layer d_model"],
    vectors: Float[Tensor, "layer d_model"],
    steered: Mapping[float, Float[Tensor, "prompt layer d_model"]],
    built_in: Sequence[int] = (),
) -> Figure:
    """The push beside the residual stream that it is added to, by layer; means over prompts.

    `steered` holds the states under each strength, the strongest last. Left, at the strongest: the
    length of the state, one layer's push, the pushes of all layers so far added up, and how far the
    state has really moved. Right: how far it has moved as a share of its length, for each strength.
    Layers `built_in` are shaded.
    """
    length = _mean_length(states)
    moved = {}
    shares = {}
    for alpha, under in steered.items():
        moved[alpha] = _mean_length(under - states)
        shares[f"alpha {alpha:g}"] = moved[alpha] / length
    *_, strongest = steered
    pushes = strongest * vectors.float()
    one_push = pushes.norm(dim=-1)
    lines = {"state": length, "one push": one_push}
    lines["pushes so far"] = pushes.cumsum(0).norm(dim=-1)
    lines["state moved"] = moved[strongest]
    one = (one_push / length).median()
    end = moved[strongest][-1] / length[-1]
    told = f"a layer adds {one:.0%} of the state's length; at the end it has moved by {end:.0%}"
    title = f"At alpha {strongest:g} {told}"
    fig, (left, right) = panels(2, (13, 5.2), title)
    curves(left, lines)
    name = f"Lengths, alpha {strongest:g}"
    left.set(ylabel="length, mean over requests", title=name, yscale="log")
    curves(right, shares)
    level(right, 1.0)
    title = "Moved by its own length (dotted), or less?"
    right.set(ylabel="moved / length of the state", title=title, yscale="log")
    percent(right.yaxis)
    layer_axis(left, right)
    shade_layers(built_in, left, right)
    name_lines(left, right)
    return fig


def _mean_length(states: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, "layer"]:
    return states.float().norm(dim=-1).mean(0)
