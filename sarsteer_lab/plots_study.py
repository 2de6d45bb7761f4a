"""Figures of the study: defences on the test split, settings tried, trade-off curves, differences."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sarsteer_lab.intervals import wilson
from sarsteer_lab.plots import BLACK, BLUE, GREEN, GREY, LOOK, ORANGE, PURPLE, SKY, VERMILION

MARKS = (
    (GREEN, "o", "-"),
    (PURPLE, "s", "--"),
    (VERMILION, "^", "-."),
    (BLUE, "D", ":"),
    (ORANGE, "v", "-"),
    (SKY, "P", "--"),
    (BLACK, "X", "-."),
    (GREY, "<", ":"),
)
"""Colour, marker and line of the curves of one panel, in their order."""


def defences_figure(table: pd.DataFrame, limits: Mapping[str, float]) -> Figure:
    """Every defence on the test split: a panel per set with its measure, its interval and what is broken.

    `table` is that of `evaluation.tabulate`, one judge. Dots are rates with 95% Wilson intervals, numbers are
    counts, crosses the share broken; a dotted line is the limit of the measure in `limits` (0 to 1).
    """
    defences = list(dict.fromkeys(table["defence"]))
    sets = list(dict.fromkeys(zip(table["set"], table["measure"], strict=True)))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(4.6 + 3.4 * len(sets), 1.9 + 0.42 * len(defences)), layout="constrained")
        axes = list(np.atleast_1d(fig.subplots(1, len(sets), sharey=True)))
        for ax, (name, measure) in zip(axes, sets, strict=True):
            part = table[table["set"] == name].set_index("defence").loc[defences]
            y = np.arange(len(defences))
            rate = part["rate"].to_numpy()
            spans = np.clip([rate - part["low"], part["high"] - rate], 0, None)
            ax.errorbar(
                rate,
                y,
                xerr=spans,
                fmt="o",
                color=BLUE,
                capsize=3,
                elinewidth=1.5,
                markersize=8,
                label="rate",
            )
            ax.plot(part["broken"] / part["n"], y, "x", color=VERMILION, markersize=8, label="share broken")
            if measure in limits:
                ax.axvline(limits[measure], color=BLACK, linestyle=":", linewidth=1.5, label="target")
            counts = (rate * part["n"]).round().astype(int)
            for row, count, n in zip(y, counts, part["n"], strict=True):
                ax.text(1.07, row, f"{count}/{n}", va="center", fontsize=11)
            ax.set(title=f"{name}: {measure}", xlim=(-0.04, 1.32), xlabel="share of requests (right: count)")
            ax.xaxis.set_major_formatter(PercentFormatter(1.0))
            ax.set_xticks([0, 0.5, 1])
        axes[0].set_yticks(range(len(defences)), defences)
        axes[0].set_ylim(len(defences) - 0.4, -0.7)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower right", ncols=3)
        fig.suptitle("Defences on the test split, with 95% Wilson intervals", x=0.01, ha="left")
    return fig


def choice_figure(choice: pd.DataFrame, n: int) -> Figure:
    """Every setting tried on the validation split (`n` requests): score over strength, a curve per method.

    `choice` is that of `study.choose`. Filled markers keep both limits of the rule; a ring is what was
    chosen. Left SARSteer by space, right the other steering defences.
    """
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(15, 5.8), layout="constrained")
        axes = fig.subplots(1, 2, sharey=True)
        none = choice.loc[choice["method"] == "none", "score"].iloc[0]
        ours = choice["method"] == "SARSteer"
        for ax, rows, column, title in (
            (axes[0], choice[ours], "space", "SARSteer, by lambda and k"),
            (axes[1], choice[~ours & (choice["method"] != "none")], "method", "Other steering defences"),
        ):
            for (name, part), mark in zip(rows.groupby(column, sort=False), MARKS, strict=False):
                _score_curve(ax, part.sort_values("alpha"), str(name), mark)
            ax.axhline(none, color=BLACK, linewidth=1.2, linestyle=":", label="no steering")
            ax.set(title=title, xlabel="strength alpha", xscale="log")
            # Only the round strengths: others, scaled to lengths of vectors, would crowd the axis.
            ticks = sorted(set(choice.loc[ours, "alpha"]))
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
            ax.legend(loc="best", fontsize=11)
        axes[0].set_ylabel("score (sum of three shares, 0 to 3)")
        fig.suptitle(
            f"Settings tried on {n} validation requests (filled: within the limits; ring: chosen)",
            x=0.01,
            ha="left",
        )
    return fig


def _score_curve(ax: Axes, part: pd.DataFrame, name: str, mark: tuple[str, str, str]) -> None:
    colour, marker, style = mark
    ax.plot(
        part["alpha"],
        part["score"],
        style,
        color=colour,
        marker=marker,
        markerfacecolor="white",
        markeredgewidth=1.6,
        label=name,
    )
    within, chosen = part[part["within"]], part[part["chosen"]]
    ax.plot(within["alpha"], within["score"], linestyle="none", color=colour, marker=marker)
    ax.plot(
        chosen["alpha"],
        chosen["score"],
        linestyle="none",
        marker="o",
        markersize=16,
        markerfacecolor="none",
        markeredgecolor=BLACK,
        markeredgewidth=1.5,
    )


def curves_figure(curves: pd.DataFrame) -> Figure:
    """Trade-off curves of `ablation_study.ablation`: a row per dial, a column per kind of benign request.

    Along a curve the strength grows from 0 (black star); what lies past the strength that refuses most is
    faint, as are the bars, 95% Wilson intervals of the shares. Up and right is better.
    """
    dials = list(dict.fromkeys(curves["dial"].fillna(-1)))
    benign = ("harmless", "pseudo-harmful")
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(14, 1.4 + 4.9 * len(dials)), layout="constrained")
        axes = fig.subplots(len(dials), 2, squeeze=False)
        for row, dial in zip(axes, dials, strict=True):
            rows = curves[curves["dial"].fillna(-1) == dial]
            for ax, label in zip(row, benign, strict=True):
                for (name, part), mark in zip(rows.groupby("variant", sort=False), MARKS, strict=False):
                    _tradeoff_curve(ax, part.sort_values("alpha"), label, str(name), mark)
                where = "" if dial < 0 else f", safety dial at {dial:g}"
                ax.set(
                    title=f"{label} requests{where}",
                    xlabel=f"{label} requests answered",
                    ylabel="harmful requests refused",
                    xlim=(-0.03, 1.04),
                    ylim=(-0.03, 1.04),
                )
                for axis in (ax.xaxis, ax.yaxis):
                    axis.set_major_formatter(PercentFormatter(1.0))
        handles, names = axes[0][0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=3)
        n = int(curves[[f"harmful {o}" for o in ("refused", "answered", "broken")]].iloc[0].sum())
        fig.suptitle(
            f"Refusal against answers as strength grows from 0 (star); {n} harmful requests, 95% intervals",
            x=0.01,
            ha="left",
        )
    return fig


def _tradeoff_curve(ax: Axes, part: pd.DataFrame, label: str, name: str, mark: tuple[str, str, str]) -> None:
    colour, marker, style = mark
    places, spans = [], []
    for kind, outcome in ((label, "answered"), ("harmful", "refused")):
        counts = part[f"{kind} {outcome}"].to_numpy()
        totals = part[[f"{kind} {o}" for o in ("refused", "answered", "broken")]].sum(axis=1).to_numpy()
        ends = np.array([wilson(int(c), int(t)) for c, t in zip(counts, totals, strict=True)])
        places.append(counts / totals)
        spans.append(np.clip([places[-1] - ends[:, 0], ends[:, 1] - places[-1]], 0, None))
    ax.errorbar(*places, xerr=spans[0], yerr=spans[1], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.25)
    # Past the strength that refuses most the text falls apart or leaves refusal again: drawn, but faintly.
    top = int(np.argmax(places[1])) + 1
    ax.plot(*(place[:top] for place in places), style, color=colour, marker=marker, label=name)
    beyond = [place[top - 1 :] for place in places]
    ax.plot(*beyond, style, color=colour, marker=marker, markersize=5, linewidth=1, alpha=0.35)
    ax.plot(places[0][:1], places[1][:1], "*", color=BLACK, markersize=15, zorder=4)


def differences_figure(compared: pd.DataFrame) -> Figure:
    """Differences of trade-off curves with paired bootstrap 95% intervals, a panel per statistic.

    `compared` is that of `ablation_study.compare` with the column dial. Rows are pairs of curves; marker and
    colour tell the dials apart. What could not be compared has no marker.
    """
    statistics = list(dict.fromkeys(compared["statistic"]))
    pairs = list(dict.fromkeys(zip(compared["first"], compared["second"], strict=True)))
    dials = list(dict.fromkeys(compared["dial"].fillna(-1)))
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(6 + 3.6 * len(statistics), 2.4 + 0.75 * len(pairs)), layout="constrained")
        axes = list(np.atleast_1d(fig.subplots(1, len(statistics), sharey=True)))
        for ax, statistic in zip(axes, statistics, strict=True):
            ax.axvline(0, color=BLACK, linewidth=1)
            for step, dial in enumerate(dials):
                colour, marker, _ = MARKS[step]
                part = compared[(compared["statistic"] == statistic) & (compared["dial"].fillna(-1) == dial)]
                part = part.set_index(["first", "second"]).loc[pairs]
                y = np.arange(len(pairs)) + 0.3 * (step - (len(dials) - 1) / 2)
                middle = part["difference"].to_numpy()
                spans = np.clip([middle - part["low"], part["high"] - middle], 0, None)
                label = "all requests" if dial < 0 else f"safety dial at {dial:g}"
                ax.errorbar(
                    middle, y, xerr=spans, fmt=marker, color=colour, capsize=3, markersize=8, label=label
                )
            ax.set_title(statistic.replace(", ", ",\n"), fontsize=12)
            better = "right" if statistic.startswith("area") else "left"
            ax.set_xlabel(f"difference ({better}: first is better)")
            ax.xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_yticks(range(len(pairs)), [f"{first}\nminus {second}" for first, second in pairs])
        axes[0].set_ylim(len(pairs) - 0.4, -0.6)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower right", ncols=len(names))
        fig.suptitle("Differences of curves, paired bootstrap 95% intervals", x=0.01, ha="left")
    return fig


def cosines_figure(cosines: pd.DataFrame) -> Figure:
    """Cosines between directions, layer by layer: a column of `cosines` (but "layer") is a curve."""
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(12.5, 5.2), layout="constrained")
        ax = fig.subplots()
        names: Sequence[str] = [name for name in cosines if name != "layer"]
        for name, (colour, marker, style) in zip(names, MARKS, strict=False):
            ax.plot(cosines["layer"], cosines[name], style, color=colour, marker=marker, label=name)
        ax.axhline(0, color=BLACK, linewidth=1)
        ax.set(
            title="How alike are the directions?",
            xlabel="decoder layer",
            ylabel="cosine",
            ylim=(min(-0.25, 1.1 * float(cosines[names].min().min())), 1.05),
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=11)
    return fig
