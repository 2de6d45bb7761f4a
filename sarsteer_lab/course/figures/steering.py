"""Figures of chapters 04 and 05: what steering does to answers, what defences cost; same look as `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.course.figures.base import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOOK,
    ORANGE,
    OUTCOMES,
    PURPLE,
    SKY,
    VERMILION,
)
from sarsteer_lab.evaluation.curves import pareto_front

LINES = {"refused": "-", "answered": "--", "broken": ":"}
MARKERS = {"refused": "s", "answered": "o", "broken": "X"}
"""Line style and marker of what becomes of a request; its colour is in `plots.OUTCOMES`."""

POINTS = (
    (BLACK, "o"),
    (SKY, "s"),
    (BLUE, "^"),
    (ORANGE, "v"),
    (PURPLE, "P"),
    (GREY, "X"),
    (VERMILION, "<"),
    (GREEN, "D"),
    (BLUE, ">"),
    (ORANGE, "h"),
    (PURPLE, "*"),
    (GREEN, "p"),
)
"""Colour and marker of one defence after the other; more than these start again."""


def sweep_figure(counts: pd.DataFrame, x: str, xlabel: str) -> Figure:
    """What becomes of requests along one setting: a panel per label, a curve per outcome.

    `counts` has a row per label, value of the column `x` and outcome, with `count` of `n` requests. Bands are
    95% Wilson intervals. A setting that is not a number is drawn in the order of the rows.
    """
    labels = list(dict.fromkeys(counts["label"]))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(6.6 * len(labels) + 1.6, 4.8), layout="constrained")
        axes = list(fig.subplots(1, len(labels), squeeze=False, sharey=True).flat)
        for ax, label in zip(axes, labels, strict=True):
            part = counts[counts["label"] == label]
            for outcome, (colour, _) in OUTCOMES.items():
                rows = part[part["outcome"] == outcome]
                share = (rows["count"] / rows["n"]).to_numpy()
                ends = np.array(
                    [wilson(int(c), int(n)) for c, n in zip(rows["count"], rows["n"], strict=True)]
                )
                values = rows[x].tolist()
                ax.plot(values, share, LINES[outcome], marker=MARKERS[outcome], color=colour, label=outcome)
                ax.fill_between(values, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
            ax.set(title=f"{label} requests (n = {part['n'].max()})", xlabel=xlabel, ylim=(-0.02, 1.02))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[0].set_ylabel("share of requests")
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside right upper")
    return fig


def layers_figure(
    effects: Mapping[str, Float[np.ndarray, "window prompt"]],
    windows: Sequence[str],
    baseline: Mapping[str, float],
) -> Figure:
    """How likely an answer opens as a refusal when only one window of layers is steered.

    `effects` holds, per label, the probability for each window and request; drawn are the mean and the middle
    half. `baseline` is each label's unsteered mean (dotted).
    """
    looks = ((VERMILION, "^", "-"), (BLUE, "o", "--"), (PURPLE, "s", "-."))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(10, 5), layout="constrained")
        ax = fig.subplots()
        for (label, values), (colour, marker, style) in zip(effects.items(), looks, strict=False):
            middle = values.mean(1)
            low, high = np.quantile(values, [0.25, 0.75], axis=1)
            name = f"{label} (n = {values.shape[1]})"
            ax.plot(range(len(windows)), middle, style, marker=marker, color=colour, label=name)
            ax.fill_between(range(len(windows)), low, high, color=colour, alpha=0.15, linewidth=0)
            ax.axhline(baseline[label], color=colour, linestyle=":", linewidth=1.4)
        ax.set_xticks(range(len(windows)), windows)
        ax.set(
            title="Steering one window of layers (dotted: no steering)",
            xlabel="steered decoder layers",
            ylabel="probability of a refusing opening",
            ylim=(-0.02, 1.02),
        )
        ax.legend(loc="best")
    return fig


def answers_figure(answers: Mapping[str, Answer], request: str) -> Figure:
    """Answers side by side, token by token: how likely each token was when it was chosen."""
    looks = {0: (GREY, ""), 1: (GREEN, "//")}
    longest = max(1, *(len(answer.tokens) for answer in answers.values()))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(max(9.0, 0.85 * longest), 2.9 * len(answers) + 0.6), layout="constrained")
        axes = list(fig.subplots(len(answers), 1, squeeze=False).flat)
        for i, (ax, (name, answer)) in enumerate(zip(axes, answers.items(), strict=True)):
            colour, hatch = looks[min(i, 1)]
            places = range(len(answer.tokens))
            ax.bar(places, answer.probabilities, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            names = [token.strip() or repr(token) for token in answer.tokens]
            # A dollar sign would start mathematics.
            ax.set_xticks(places, [text.replace("$", r"\$") for text in names], rotation=35, ha="right")
            ax.set(title=name, ylabel="probability", ylim=(0, 1.02), xlim=(-0.6, longest - 0.4))
            ax.grid(visible=False, axis="x")
        fig.suptitle(f"\u201c{request}\u201d".replace("$", r"\$"), x=0.01, ha="left")
    return fig


def divergence_figure(
    alphas: Sequence[float], divergences: Mapping[str, Float[np.ndarray, "alpha prompt"]]
) -> Figure:
    """KL(unsteered || steered) of the answer's first token along alpha: median and middle half of requests.

    `divergences` are in nats, by the name of the vectors. Strength 0 is left out: it is 0 there.
    """
    looks = ((PURPLE, "s", "--"), (GREEN, "o", "-"), (BLACK, "D", ":"))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(9, 5), layout="constrained")
        ax = fig.subplots()
        for (name, values), (colour, marker, style) in zip(divergences.items(), looks, strict=False):
            low, mid, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
            label = f"{name} (n = {values.shape[1]})"
            ax.plot(alphas, mid, style, marker=marker, color=colour, label=label)
            ax.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set(
            title="How far steering moves harmless requests",
            xlabel="strength alpha",
            ylabel="KL(unsteered || steered) of the first token (nats)",
            yscale="log",
        )
        ax.legend(loc="best")
    return fig


def tradeoff_figure(table: pd.DataFrame) -> Figure:
    """Defences in the trade-off plane: harmful requests refused against other requests answered.

    `table` has the columns defence, label, n, refused and answered of `evaluation.tabulate`, one judge. Bars
    are 95% Wilson intervals; the grey line joins the defences that no other one beats in both. All labels
    but "harmful" count as benign. Raises ValueError if either kind of request is missing.
    """
    rows = []
    for defence, part in table.groupby("defence", sort=False):
        harmful, benign = part[part["label"] == "harmful"], part[part["label"] != "harmful"]
        if harmful.empty or benign.empty:
            raise ValueError(f"needs harmful and benign requests; labels: {sorted(set(table['label']))}")
        rows.append(
            (
                str(defence),
                int(harmful["refused"].sum()),
                int(harmful["n"].sum()),
                int(benign["answered"].sum()),
                int(benign["n"].sum()),
            )
        )
    places = np.array([(answered / m, refused / n) for _, refused, n, answered, m in rows])
    front = np.flatnonzero(pareto_front(places))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(11, 6.2), layout="constrained")
        ax = fig.subplots()
        line = places[front[np.argsort(places[front, 0], kind="stable")]]
        ax.plot(
            *line.T, color=GREY, linewidth=5, alpha=0.4, zorder=1, label="no other defence is better in both"
        )
        for i, (name, refused, n, answered, m) in enumerate(rows):
            colour, marker = POINTS[i % len(POINTS)]
            x, y = places[i]
            spans = [
                np.clip([[value - low], [high - value]], 0, None)
                for value, (low, high) in ((x, wilson(answered, m)), (y, wilson(refused, n)))
            ]
            ax.errorbar(
                x,
                y,
                xerr=spans[0],
                yerr=spans[1],
                fmt=marker,
                color=colour,
                markersize=11,
                markeredgecolor="white",
                elinewidth=1.2,
                capsize=2,
                label=f"{name} ({refused}/{n}, {answered}/{m})",
            )
        ax.set(
            title="Trade-off of the defences, with 95% Wilson intervals",
            xlabel="benign requests answered (more is better)",
            ylabel="harmful requests refused (more is better)",
            xlim=(-0.03, 1.05),
            ylim=(-0.03, 1.05),
        )
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            fontsize=11,
            title="defence (refused, answered)",
            alignment="left",
        )
    return fig


def topics_figure(counts: pd.DataFrame, title: str) -> Figure:
    """A heat map of refusals: a row per topic, a column per defence, in each cell the count.

    `counts` has the columns topic, defence, refused and n. Darker is a larger share refused.
    """
    topics, defences = (list(dict.fromkeys(counts[name])) for name in ("topic", "defence"))
    cells = counts.set_index(["topic", "defence"])
    share = np.full((len(topics), len(defences)), np.nan)
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(4.2 + 0.95 * len(defences), 2.8 + 0.5 * len(topics)), layout="constrained")
        ax = fig.subplots()
        for i, topic in enumerate(topics):
            for j, defence in enumerate(defences):
                if (topic, defence) in cells.index:
                    refused, n = cells.loc[(topic, defence), ["refused", "n"]]
                    share[i, j] = refused / n
                    colour = "white" if share[i, j] > 0.55 else BLACK
                    ax.text(j, i, f"{refused}/{n}", ha="center", va="center", color=colour, fontsize=11)
        image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        ax.set_xticks(range(len(defences)), defences, rotation=40, ha="right")
        ax.set_yticks(range(len(topics)), topics)
        ax.grid(visible=False)
        ax.set_title(title)
        bar = fig.colorbar(image, ax=ax, format=PercentFormatter(1.0), pad=0.02)
        bar.set_label("share refused")
    return fig
