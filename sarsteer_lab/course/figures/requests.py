"""Figures of what goes in and what comes out: a clip, outcomes, and either along one setting."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from operator import itemgetter

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures.base import (
    HATCHED,
    WHOLE_PICTURE,
    band,
    common_legend,
    drawn,
    drawn_without_grid,
    in_series,
    name_lines,
    numbers,
    panels,
    percent,
    rows,
    wilson_limits,
    wilson_whiskers,
)
from sarsteer_lab.course.palette import (
    CHANGE,
    INK,
    MEANINGS,
    OUTCOMES,
    PAPER,
    SCORES,
    TOPICS,
    look_of,
)
from sarsteer_lab.speech import SAMPLE_RATE


@drawn_without_grid
def clip_figure(
    waveform: Float[np.ndarray, "samples"],
    log_mel: Float[Tensor, "mel frame"],
    tokens: Float[Tensor, "token d_model"],
    *,
    words: str,
) -> Figure:
    """One clip as the model gets it: pressure, log-mel spectrogram, and its audio tokens.

    All three share the time axis; `log_mel` and `tokens` are those of the clip's own length,
    without the window's padding. The lowest panel shows every token's numbers in units of their
    standard deviation.
    """
    seconds = len(waveform) / SAMPLE_RATE
    bands, frames = log_mel.shape
    n, width = tokens.shape
    became = f"{seconds:.1f} s of sound become {n} vectors of {width} numbers"
    title = f"\u201c{words}\u201d: {became}"
    fig, axes = panels(1, (12, 8.5), title, rows=3, sharex=True)
    top, middle, low = axes
    times = np.arange(len(waveform)) / SAMPLE_RATE
    top.plot(times, waveform, color=INK, linewidth=0.6)
    top.set(ylabel="pressure\n(full scale 1)", title=f"Waveform: {len(waveform):,} numbers")

    extent = (0, seconds, 0, bands)
    image = middle.imshow(numbers(log_mel), cmap=SCORES, extent=extent, **WHOLE_PICTURE)
    middle.set(ylabel="mel band", title=f"Log-mel spectrogram: {frames} frames of {bands}")
    fig.colorbar(image, ax=middle, label="log energy\n(scaled)")

    values = numbers(tokens)
    values = (values - values.mean()) / values.std(ddof=1)
    extent = (0, seconds, 0, width)
    scale = {"cmap": CHANGE, "vmin": -3, "vmax": 3}
    image = low.imshow(values.T, extent=extent, **scale, **WHOLE_PICTURE)
    told = f"Audio tokens, what the language model gets: {n} vectors of {width}"
    low.set(ylabel="dimension", xlabel="time (s)", title=told)
    fig.colorbar(image, ax=low, label="value\n(standard deviations)")
    return fig


@drawn
def dial_figure(
    scales: Sequence[float],
    refused: Mapping[str, Sequence[int]],
    n: Mapping[str, int],
    *,
    form: str,
) -> Figure:
    """Share of requests refused against the safety dial's setting, by label.

    Bars are 95% Wilson intervals.
    """
    ends = []
    for label, (first, *_, last) in refused.items():
        ends.append(f"{label} {first} \u2192 {last} of {n[label]}")
    turned = f"Turned from {scales[0]:g} to {scales[-1]:g}, the dial changes"
    title = f"{turned} how many {form} requests are refused: {', '.join(ends)}"
    fig, [ax] = panels(1, (10, 5.4), title)
    bars = {"capsize": 4, "elinewidth": 1.4}
    for label, counts, look in in_series(refused):
        share = np.divide(counts, n[label])
        ax.errorbar(scales, share, wilson_whiskers(counts, n[label]), **bars, **look)
        ax.lines[-1].set_label(label)
    axis = {"xlabel": "safety dial (scale of the low-rank change)", "ylabel": "refused"}
    ax.set(ylim=(-0.03, 1.03), **axis)
    percent(ax.yaxis)
    name_lines(ax)
    return fig


@drawn
def outcomes_figure(labels: Sequence[str], outcomes: Mapping[str, Sequence[str]]) -> Figure:
    """What became of the requests: a panel per label, a group of bars per condition.

    `outcomes` has for each condition the outcome of every request, whose `labels` are given. They
    are those of `palette.OUTCOMES`, or of `palette.TOPICS`, where answers on topic and off topic
    are told apart. What is neither (as a clip that was not heard) has no bar. Bars are shares,
    whiskers their 95% Wilson intervals, numbers at the bars the counts.
    """
    found = set().union(*outcomes.values())
    looks = TOPICS if found & (set(TOPICS) - set(OUTCOMES)) else OUTCOMES
    n = Counter(labels)
    first = labels[0]
    counts, refused = {}, []
    for name, outcomes_of in outcomes.items():
        counts[name] = Counter(zip(labels, outcomes_of, strict=True))
        refused.append(f"{name} {counts[name][first, 'refused']}")
    title = f"Of {n[first]} {first} requests the model refuses: {', '.join(refused)}"
    columns = min(2, len(n))
    down = -(-len(n) // columns)
    size = (6.2 * columns, 1.6 + 4.0 * down)
    fig, axes = panels(columns, size, title, rows=down, sharex=True, sharey=True)
    for ax, label in zip_longest(axes, n):
        if label is None:
            ax.set_axis_off()
            continue
        for row, count in enumerate(counts.values()):
            of_label = {outcome: count[label, outcome] for outcome in looks}
            _outcome_bars(ax, row, of_label, n[label], looks)
        rows(ax, list(outcomes))
        ax.set_title(f"{label} requests (n = {n[label]})")
        ax.set(xlim=(0, 1.08), xticks=np.linspace(0, 1, 5))
        percent(ax.xaxis)
        ax.grid(visible=False, axis="y")
    # The lowest panel of each column, which is not in the last row if their number is odd.
    for ax in axes[: len(n)][-columns:]:
        ax.set_xlabel("share of requests")
        ax.tick_params(labelbottom=True)
    common_legend(fig, ncols=len(looks))
    return fig


def _outcome_bars(
    ax: Axes,
    row: int,
    of_outcome: Mapping[str, int],
    n: int,
    looks: Mapping[str, tuple[str, str, str, str]],
) -> None:
    """A bar per outcome around a row, with its interval and its count."""
    counts = np.array(list(of_outcome.values()))
    colours, hatches, *_ = zip(*looks.values(), strict=True)
    height = 0.78 / len(looks)
    y = row + height * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    look = {"color": colours, "hatch": hatches, "label": None if row else list(looks)}
    whiskers = {"error_kw": {"elinewidth": 1.4, "capsize": 3}}
    ends = wilson_whiskers(counts, n)
    bars = ax.barh(y, counts / n, height, xerr=ends, **whiskers, **look, **HATCHED)
    ax.bar_label(bars, counts, padding=5, fontsize=12)


@drawn
def sweep_figure(counts: pd.DataFrame, x: str, xlabel: str) -> Figure:
    """What happens to requests as a push grows: a panel per label, a curve per outcome.

    `counts` has a row per label, value of the column `x` (a number) and outcome, with `count` of
    `n` requests. Bands are 95% Wilson intervals.
    """
    by_label = dict(list(counts.groupby("label", sort=False)))
    n = len(by_label)
    across = n if n < 4 else 2  # on a page four in a row are too small to read
    down = -(-n // across)
    size = (5.4 * across + 1.8, 4.2 * down + 0.8)
    fig, axes = panels(across, size, _most_refused(by_label, x), rows=down, sharey=True)
    for ax, (label, of_label) in zip(axes, by_label.items(), strict=False):
        for outcome, (colour, _, marker, style) in OUTCOMES.items():
            part = of_label[of_label["outcome"] == outcome]
            look = look_of(colour, marker, style)
            values = part[x].tolist()
            ax.plot(values, part["count"] / part["n"], label=outcome, **look)
            low, high = wilson_limits(part["count"], part["n"])
            band(ax, values, low, high, colour)
        ax.set_title(f"{label} requests")
        ax.set(xlabel=xlabel, ylim=(-0.02, 1.02))
        percent(ax.yaxis)
    for ax in axes[::across]:
        ax.set_ylabel("share of requests")
    name_lines(*axes[across - 1 :: across])
    return fig


def _most_refused(by_label: Mapping[str, pd.DataFrame], x: str) -> str:
    """In a sentence: how many requests of each kind are refused at first, and at most."""
    told = []
    for label, of_label in by_label.items():
        refused = of_label[of_label["outcome"] == "refused"]
        top = refused.loc[refused["count"].idxmax()]
        most = f"{top['count']} of {top['n']} at {top[x]:g}"
        told.append(f"{label} {refused['count'].iloc[0]} \u2192 {most}")
    return f"Refusals peak under the push: {', '.join(told)}"


@drawn
def live_figure(curves: Mapping[str, Sequence[tuple[float, float, str]]], xlabel: str) -> Figure:
    """Refusal probability of one request along a setting: a curve per form.

    A curve's points are a value, the probability, and the outcome of the greedy answer: the marker
    is filled if that is a refusal, hollow if not, and a cross if it is broken.
    """
    name, points = next(iter(curves.items()))
    start, start_probability, _ = points[0]
    top, most, _ = max(points, key=itemgetter(1))
    at_start = f"{start_probability:.0%} at {start:g}"
    title = f"{name}: {at_start}, at most {most:.0%} at {top:g}"
    fig, [ax] = panels(1, (8, 3.9), title)
    for name, points in curves.items():
        colour, marker, _ = MEANINGS[name].values()
        values, probabilities, outcomes = zip(*points, strict=True)
        ax.plot(values, probabilities, color=colour, label=name, linewidth=1.6)
        for value, probability, outcome in points:
            shape = "X" if outcome == "broken" else marker
            inner = PAPER if outcome == "answered" else colour
            ax.plot(value, probability, shape, color=colour, mfc=inner, markersize=9)
    ax.set_xlabel(f"{xlabel} (filled: refused, hollow: answered, X: broken)")
    ax.set(ylabel="refusing opening", ylim=(-0.04, 1.04))
    if len(curves) > 1:
        ax.legend(loc="best")
    return fig
