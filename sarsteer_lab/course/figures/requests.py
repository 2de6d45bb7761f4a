"""Figures of what goes in and what comes out: a clip, answers token by token, outcomes, costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sarsteer_lab.course.figures import base
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.defences import PROMPTING, STEERING_NAMES
from sarsteer_lab.evaluation.table import BASELINE
from sarsteer_lab.speech import SAMPLE_RATE


@base.drawn_without_grid
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
    fig, (top, middle, low) = base.panels(1, (12, 8.5), title, rows=3, sharex=True)
    times = np.arange(len(waveform)) / SAMPLE_RATE
    top.plot(times, waveform, color=base.BLACK, linewidth=0.6)
    top.set(ylabel="pressure\n(full scale 1)", title=f"Waveform: {len(waveform):,} numbers")

    options = {"origin": "lower", "aspect": "auto"}
    extent = (0, seconds, 0, bands)
    image = middle.imshow(base.numbers(log_mel), cmap="viridis", extent=extent, **options)
    middle.set(ylabel="mel band", title=f"Log-mel spectrogram: {frames} frames of {bands}")
    fig.colorbar(image, ax=middle, label="log energy\n(scaled)")

    values = base.numbers(tokens)
    values = (values - values.mean()) / values.std(ddof=1)
    extent = (0, seconds, 0, width)
    image = low.imshow(values.T, cmap="PuOr", vmin=-3, vmax=3, extent=extent, **options)
    told = f"Audio tokens, what the language model gets: {n} vectors of {width}"
    low.set(ylabel="dimension", xlabel="time (s)", title=told)
    fig.colorbar(image, ax=low, label="value\n(standard deviations)")
    return fig


@base.drawn
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
    ends = [f"{label} {hits[0]} \u2192 {hits[-1]} of {n[label]}" for label, hits in refused.items()]
    title = f"Refused, {form}, dial {scales[0]:g} \u2192 {scales[-1]:g}: {', '.join(ends)}"
    fig, [ax] = base.panels(1, (10, 5.4), title)
    for (label, counts), look in zip(refused.items(), base.SERIES, strict=False):
        share = np.array(counts) / n[label]
        bars = base.whiskers(share, *base.wilson_limits(counts, n[label]))
        ax.errorbar(scales, share, yerr=bars, capsize=4, elinewidth=1.4, **look)
        ax.lines[-1].set_label(label)
    ax.set(xlabel="safety dial (scale of the low-rank change)", ylabel="refused")
    ax.set_ylim(-0.03, 1.03)
    base.percent(ax.yaxis)
    base.name_lines(ax)
    return fig


@base.drawn
def outcomes_figure(labels: Sequence[str], outcomes: Mapping[str, Sequence[str]]) -> Figure:
    """What became of the requests: a panel per label, a group of bars per condition.

    `outcomes` has for each condition the outcome of every request, whose `labels` are given. Bars
    are shares, whiskers their 95% Wilson intervals, numbers at the bars the counts.
    """
    n = Counter(labels)
    counts = {name: Counter(zip(labels, of, strict=True)) for name, of in outcomes.items()}
    first, columns = next(iter(n)), min(2, len(n))
    refused = [f"{name} {count[first, 'refused']}" for name, count in counts.items()]
    title = f"Of {n[first]} {first} requests refused: {', '.join(refused)}"
    rows = -(-len(n) // columns)
    size = (6.2 * columns, 1.6 + 4.0 * rows)
    fig, axes = base.panels(columns, size, title, rows=rows, sharex=True, sharey=True)
    for ax, label in zip_longest(axes, n):
        if label is None:
            ax.set_axis_off()
            continue
        for row, count in enumerate(counts.values()):
            of_label = np.array([count[label, outcome] for outcome in base.OUTCOMES])
            _outcome_bars(ax, row, of_label, n[label])
        base.ticks(ax, y=list(outcomes))
        ax.set(title=f"{label} requests (n = {n[label]})", ylim=(len(outcomes) - 0.5, -0.5))
        ax.set(xlim=(0, 1.08), xticks=np.linspace(0, 1, 5))
        base.percent(ax.xaxis)
        ax.grid(visible=False, axis="y")
    # The lowest panel of each column, which is not in the last row if their number is odd.
    for ax in axes[: len(n)][-columns:]:
        ax.set_xlabel("share of requests")
        ax.tick_params(labelbottom=True)
    base.common_legend(fig, ncols=len(base.OUTCOMES))
    return fig


def _outcome_bars(ax: Axes, row: int, counts: np.ndarray, n: int) -> None:
    """A bar per outcome around a row, with its interval and its count."""
    colours, hatches, *_ = zip(*base.OUTCOMES.values(), strict=True)
    height = 0.26
    share = counts / n
    bars = ax.barh(
        row + height * np.arange(-1, 2),
        share,
        height,
        color=colours,
        hatch=hatches,
        label=None if row else list(base.OUTCOMES),
        xerr=base.whiskers(share, *base.wilson_limits(counts, n)),
        error_kw={"elinewidth": 1.4, "capsize": 3},
        **base.HATCHED,
    )
    ax.bar_label(bars, counts, padding=5, fontsize=12)


@base.drawn
def sweep_figure(counts: pd.DataFrame, x: str, xlabel: str) -> Figure:
    """What happens to requests along one setting: a panel per label, a curve per outcome.

    `counts` has a row per label, value of the column `x` and outcome, with `count` of `n` requests.
    Bands are 95% Wilson intervals. A setting that is not a number is drawn in the order of the
    rows.
    """
    by_label = dict(list(counts.groupby("label", sort=False)))
    n = len(by_label)
    across = n if n < 4 else 2  # on a page four in a row are too small to read
    down = -(-n // across)
    fig, axes = base.panels(across, (5.4 * across + 1.8, 4.2 * down + 0.4), rows=down, sharey=True)
    for ax, (label, of_label) in zip(axes, by_label.items(), strict=False):
        for outcome, (colour, _, marker, style) in base.OUTCOMES.items():
            rows = of_label[of_label["outcome"] == outcome]
            values, share = rows[x].tolist(), rows["count"] / rows["n"]
            ax.plot(values, share, style, marker=marker, color=colour, label=outcome)
            low, high = base.wilson_limits(rows["count"], rows["n"])
            base.band(ax, values, low, high, colour)
        refused = of_label[of_label["outcome"] == "refused"]
        top = refused.loc[refused["count"].idxmax()]
        start = refused["count"].iloc[0]
        told = f"{label}: refused {start} \u2192 {top['count']} of {top['n']} at {top[x]:g}"
        ax.set(title=told, xlabel=xlabel, ylim=(-0.02, 1.02))
        base.percent(ax.yaxis)
    for ax in axes[::across]:
        ax.set_ylabel("share of requests")
    base.name_lines(*axes[across - 1 :: across])
    return fig


@base.drawn
def answers_figure(answers: Mapping[str, Answer], request: str) -> Figure:
    """Answers side by side, token by token: how likely each token was when it was chosen."""
    tokens = [answer.tokens for answer in answers.values()]
    longest = max(1, *map(len, tokens))
    title = f"\u201c{request}\u201d"
    if len(tokens) == 2:
        differ = [n for n, (a, b) in enumerate(zip(*tokens, strict=False), start=1) if a != b]
        where = f"token {differ[0]}" if differ else "no token shown"
        title += f" The answers part at {where}"
    size = (max(9.0, 0.85 * longest), 2.9 * len(answers) + 0.6)
    fig, axes = base.panels(1, size, base.plain(title), rows=len(answers))
    looks = [(base.GREY, ""), *[(base.GREEN, "//")] * len(answers)]
    for ax, (name, answer), (colour, hatch) in zip(axes, answers.items(), looks, strict=False):
        ax.bar(
            range(len(answer.tokens)),
            answer.probabilities,
            color=colour,
            hatch=hatch,
            **base.HATCHED,
        )
        names = [base.plain(token.strip() or repr(token)) for token in answer.tokens]
        base.ticks(ax, names, turned=35)
        ax.set(title=name, ylabel="probability", ylim=(0, 1.02), xlim=(-0.6, longest - 0.4))
        ax.grid(visible=False, axis="x")
    return fig


@base.drawn
def live_figure(curves: Mapping[str, Sequence[tuple[float, float, str]]], xlabel: str) -> Figure:
    """Refusal probability of one request along a setting: a curve per form.

    A curve's points are a value, the probability, and the outcome of the greedy answer: the marker
    is filled if that is a refusal, hollow if not, and a cross if it is broken.
    """
    name, points = next(iter(curves.items()))
    start, top = points[0], max(points, key=lambda point: point[1])
    told = f"{start[1]:.0%} at {start[0]:g}, at most {top[1]:.0%} at {top[0]:g}"
    fig, [ax] = base.panels(1, (8, 3.9), f"{name}: {told}")
    looks = {**base.MODALITIES, "steered": (base.GREEN, "D")}
    for name, points in curves.items():
        colour, marker = looks[name]
        values, probabilities, outcomes = zip(*points, strict=True)
        ax.plot(values, probabilities, color=colour, label=name, linewidth=1.6)
        for value, probability, outcome in points:
            shape = "X" if outcome == "broken" else marker
            inner = "white" if outcome == "answered" else colour
            ax.plot(value, probability, shape, color=colour, mfc=inner, markersize=9)
    ax.set(xlabel=f"{xlabel} (filled: refused, hollow: answered, X: broken)")
    ax.set(ylabel="refusing opening", ylim=(-0.04, 1.04))
    if len(curves) > 1:
        ax.legend(loc="best")
    return fig


GROUPS = {
    "no defence": (base.BLACK, "*"),
    "prompts": (base.ORANGE, "s"),
    "uniform pushes": (base.BLUE, "o"),
    "conditional pushes": (base.GREEN, "D"),
    "others": (base.PURPLE, "v"),
}
"""Colour and marker of the groups of defences in the trade-off plane."""

BOUND = "bound of a uniform push"


def group_of(defence: str) -> str:
    """The group of one of the course's defences, by its name; "others" for names of your own."""
    name = defence.split(",")[0]
    if name == BASELINE:
        return "no defence"
    if name in PROMPTING:
        return "prompts"
    if name.startswith(("conditional", "null-space")):
        return "conditional pushes"
    return "uniform pushes" if name in STEERING_NAMES else "others"


@base.drawn
def tradeoff_figure(
    table: pd.DataFrame, bound: Float[np.ndarray, "threshold 2"] | None = None
) -> Figure:
    """Defences in the trade-off plane: harmful requests refused against other requests answered.

    `table` has the columns defence, label, n, refused and answered of `table.tabulate`, one judge.
    Bars are 95% Wilson intervals; colour and marker say which of `GROUPS` a defence belongs to. All
    labels but "harmful" count as benign. `bound` holds points (benign answered, harmful refused),
    threshold by threshold, of what a uniform push could do at best; the title counts the defences
    beyond it. Raises ValueError if either kind of request is missing.
    """
    names = list(table["defence"].unique())
    kinds = ["defence", table["label"] == "harmful"]
    sums = table.groupby(kinds)[["answered", "refused", "n"]].sum()
    if len(sums) < 2 * len(names):
        raise ValueError(
            f"needs harmful and benign requests; labels: {sorted(set(table['label']))}"
        )
    benign, harmful = (sums.xs(kind, level=1).loc[names] for kind in (False, True))
    x = benign["answered"] / benign["n"]
    y = harmful["refused"] / harmful["n"]
    places = np.column_stack([x, y])
    told = f"{pareto_front(places).sum()} of {len(names)} are beaten by no other in both respects"
    if bound is not None:
        reach = [bound[bound[:, 0] >= answered, 1].max(initial=0.0) for answered in x]
        told = f"{(y > reach).sum()} of {len(names)} lie beyond the {BOUND}"
    fig, [ax] = base.panels(1, (11, 6.8), told)

    groups = list(map(group_of, names))
    colours = [GROUPS[group][0] for group in groups]
    xerr = base.whiskers(x, *base.wilson_limits(benign["answered"], benign["n"]))
    yerr = base.whiskers(y, *base.wilson_limits(harmful["refused"], harmful["n"]))
    ax.errorbar(x, y, yerr, xerr, fmt="none", ecolor=colours, elinewidth=1, alpha=0.35)
    handles: dict[str, Line2D] = {}
    for place, group in zip(places, groups, strict=True):
        colour, marker = GROUPS[group]
        look = {"markersize": 17, "zorder": 4} if marker == "*" else {"markersize": 11, "zorder": 3}
        [handles[group]] = ax.plot(*place, marker, color=colour, markeredgecolor="white", **look)
    if bound is not None:
        [handles[BOUND]] = ax.plot(*bound.T, **base.DOTTED | {"linewidth": 1.6, "zorder": 1.9})
    ax.set(xlabel="benign requests answered (more is better)", xlim=(-0.03, 1.05))
    ax.set(ylabel="harmful requests refused (more is better)", ylim=(-0.03, 1.05))
    base.percent(ax.xaxis, ax.yaxis)
    n_groups = len(handles)
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=n_groups)
    base.name_points(ax, names, places, colours)
    return fig


@base.drawn_without_grid
def topics_figure(counts: pd.DataFrame, title: str) -> Figure:
    """A heat map of refusals: a row per topic, a column per defence, in each cell the count.

    `counts` has the columns topic, defence, refused and n. Darker is a larger share refused.
    """
    topics, defences = (list(counts[name].unique()) for name in ("topic", "defence"))
    cells = counts.set_index(["topic", "defence"])
    text = cells["refused"].astype(str) + "/" + cells["n"].astype(str)
    share = (cells["refused"] / cells["n"]).unstack().loc[topics, defences].to_numpy()
    texts = text.unstack(fill_value="").loc[topics, defences].to_numpy()
    fig, [ax] = base.panels(1, (4.2 + 0.95 * len(defences), 2.8 + 0.5 * len(topics)), title)
    base.cells(ax, texts, share > 0.55)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    base.ticks(ax, defences, topics, turned=40)
    fig.colorbar(image, ax=ax, format="{x:.0%}", pad=0.02, label="share refused")
    return fig
