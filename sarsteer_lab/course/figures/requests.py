"""Figures of what goes in and what comes out: a clip, answers token by token, outcomes, costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sarsteer_lab.course.figures import base
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.evaluation.curves import pareto_front
from sarsteer_lab.evaluation.defences import PROMPTING, STEERING_NAMES
from sarsteer_lab.evaluation.intervals import wilson
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
    """One clip as the model gets it: pressure, log-mel spectrogram, and the vectors of its audio
    tokens.

    All three share the time axis; `log_mel` and `tokens` are those of the clip's own length,
    without the window's padding. The lowest panel shows every token's numbers in units of their
    standard deviation.
    """
    seconds = len(waveform) / SAMPLE_RATE
    size = f"{len(tokens)} vectors of {tokens.shape[1]} numbers"
    title = f"\u201c{words}\u201d: {seconds:.1f} s of sound become {size}"
    fig, (top, middle, low) = base.panels(1, (12, 8.5), title, rows=3, sharex=True)
    top.plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, color=base.BLACK, linewidth=0.6)
    top.set(ylabel="pressure\n(full scale 1)", title=f"Waveform: {len(waveform):,} numbers")
    options = {"origin": "lower", "aspect": "auto"}
    place = (0, seconds, 0, len(log_mel))
    image = middle.imshow(log_mel.float().cpu(), cmap="viridis", extent=place, **options)
    middle.set(
        ylabel="mel band", title=f"Log-mel spectrogram: {log_mel.shape[1]} frames of {len(log_mel)}"
    )
    fig.colorbar(image, ax=middle, label="log energy\n(scaled)")
    values = tokens.float().cpu()
    values = (values - values.mean()) / values.std()
    place = (0, seconds, 0, values.shape[1])
    image = low.imshow(values.T, cmap="PuOr", vmin=-3, vmax=3, extent=place, **options)
    low.set(
        ylabel="dimension",
        xlabel="time (s)",
        title=f"Audio tokens, what the language model gets: {len(values)} vectors of {values.shape[1]}",
    )
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
    """Share of requests refused against the safety dial's setting (95% Wilson intervals), by
    label."""
    ends = [
        f"{label} {counts[0]} \u2192 {counts[-1]} of {n[label]}"
        for label, counts in refused.items()
    ]
    title = f"Refused, {form}, dial {scales[0]:g} \u2192 {scales[-1]:g}: {', '.join(ends)}"
    fig, [ax] = base.panels(1, (10, 5.4), title)
    for (label, counts), (colour, marker, style) in zip(refused.items(), base.SERIES, strict=False):
        shares = np.array(counts) / n[label]
        bars = base.whiskers(shares, *np.transpose([wilson(count, n[label]) for count in counts]))
        look = {
            "color": colour,
            "marker": marker,
            "linestyle": style,
            "capsize": 4,
            "elinewidth": 1.4,
        }
        ax.errorbar(scales, shares, yerr=bars, **look)
        ax.lines[-1].set_label(label)
    ax.set(
        xlabel="safety dial (scale of the low-rank change)", ylabel="refused", ylim=(-0.03, 1.03)
    )
    base.percent(ax.yaxis)
    base.name_lines(ax)
    return fig


@base.drawn
def outcomes_figure(labels: Sequence[str], outcomes: Mapping[str, Sequence[str]]) -> Figure:
    """What became of the requests: a panel per label, a group of bars per condition, a bar per
    outcome.

    `outcomes` has for each condition the outcome of every request, whose `labels` are given. Bars
    are shares, whiskers their 95% Wilson intervals, numbers at the bars the counts.
    """
    kinds = list(dict.fromkeys(labels))
    columns = min(2, len(kinds))
    rows, height = -(-len(kinds) // columns), 0.26
    n = list(labels).count(kinds[0])
    refused = {
        name: sum(pair == (kinds[0], "refused") for pair in zip(labels, found, strict=True))
        for name, found in outcomes.items()
    }
    title = f"Of {n} {kinds[0]} requests refused: " + ", ".join(
        f"{name} {k}" for name, k in refused.items()
    )
    size = (6.2 * columns, 1.6 + 4.0 * rows)
    fig, axes = base.panels(columns, size, title, rows=rows, sharex=True, sharey=True)
    for ax, kind in zip(axes, kinds, strict=False):
        for row, found in enumerate(outcomes.values()):
            own = [outcome for label, outcome in zip(labels, found, strict=True) if label == kind]
            for step, (outcome, (colour, hatch, _, _)) in enumerate(base.OUTCOMES.items()):
                count, y = own.count(outcome), row + (step - 1) * height
                share, (low, high) = count / len(own), wilson(count, len(own))
                look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
                ax.barh(y, share, height, label=None if row else outcome, **look)
                bars = base.whiskers([share], low, high)
                ax.errorbar(
                    share, y, xerr=bars, fmt="none", ecolor=base.BLACK, elinewidth=1.4, capsize=3
                )
                place = {
                    "xytext": (5, 0),
                    "textcoords": "offset points",
                    "va": "center",
                    "fontsize": 12,
                }
                ax.annotate(f"{count}", (high, y), **place)
        base.ticks(ax, y=list(outcomes))
        ax.set(
            title=f"{kind} requests (n = {list(labels).count(kind)})",
            xlim=(0, 1.08),
            ylim=(len(outcomes) - 0.5, -0.5),
            xticks=[0, 0.25, 0.5, 0.75, 1.0],
        )
        base.percent(ax.xaxis)
        ax.grid(visible=False, axis="y")
    for ax in axes[len(kinds) :]:
        ax.set_axis_off()
    # The lowest panel of each column, which is not in the last row if their number is odd.
    for ax in axes[max(0, len(kinds) - columns) : len(kinds)]:
        ax.set_xlabel("share of requests")
        ax.tick_params(labelbottom=True)
    base.common_legend(fig, ncols=len(base.OUTCOMES))
    return fig


@base.drawn
def sweep_figure(counts: pd.DataFrame, x: str, xlabel: str) -> Figure:
    """What happens to requests along one setting: a panel per label, a curve per outcome.

    `counts` has a row per label, value of the column `x` and outcome, with `count` of `n` requests. Bands are
    95% Wilson intervals. A setting that is not a number is drawn in the order of the rows.
    """
    labels = list(dict.fromkeys(counts["label"]))
    across = len(labels) if len(labels) < 4 else 2  # on a page four in a row are too small to read
    down = -(-len(labels) // across)
    fig, axes = base.panels(across, (5.4 * across + 1.8, 4.2 * down + 0.4), rows=down, sharey=True)
    for ax, label in zip(axes, labels, strict=False):
        part = counts[counts["label"] == label]
        own = part[part["outcome"] == "refused"]
        top = own.loc[own["count"].idxmax()]
        told = f"{label}: refused {own['count'].iloc[0]} \u2192 {top['count']} of {top['n']} at {top[x]:g}"
        for outcome, (colour, _, marker, style) in base.OUTCOMES.items():
            rows = part[part["outcome"] == outcome]
            ends = np.array(
                [wilson(int(c), int(n)) for c, n in zip(rows["count"], rows["n"], strict=True)]
            )
            values, share = rows[x].tolist(), (rows["count"] / rows["n"]).to_numpy()
            ax.plot(values, share, style, marker=marker, color=colour, label=outcome)
            ax.fill_between(values, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
        ax.set(title=told, xlabel=xlabel, ylim=(-0.02, 1.02))
        base.percent(ax.yaxis)
    for first in axes[::across]:
        first.set_ylabel("share of requests")
    base.name_lines(*axes[across - 1 :: across])
    return fig


@base.drawn
def answers_figure(answers: Mapping[str, Answer], request: str) -> Figure:
    """Answers side by side, token by token: how likely each token was when it was chosen."""
    longest = max(1, *(len(answer.tokens) for answer in answers.values()))
    # A dollar sign would start mathematics.
    title = f"\u201c{request}\u201d"
    if len(answers) == 2:
        pairs = enumerate(
            zip(*(answer.tokens for answer in answers.values()), strict=False), start=1
        )
        turn = next((f"token {at}" for at, (a, b) in pairs if a != b), "no token shown")
        title += f" The answers part at {turn}"
    title = title.replace("$", r"\$")
    size = (max(9.0, 0.85 * longest), 2.9 * len(answers) + 0.6)
    fig, axes = base.panels(1, size, title, rows=len(answers))
    for i, (ax, (name, answer)) in enumerate(zip(axes, answers.items(), strict=True)):
        look = {"color": base.GREEN, "hatch": "//"} if i else {"color": base.GREY, "hatch": ""}
        ax.bar(
            range(len(answer.tokens)), answer.probabilities, edgecolor="white", linewidth=0, **look
        )
        names = [token.strip() or repr(token) for token in answer.tokens]
        base.ticks(ax, [text.replace("$", r"\$") for text in names], turned=35)
        ax.set(title=name, ylabel="probability", ylim=(0, 1.02), xlim=(-0.6, longest - 0.4))
        ax.grid(visible=False, axis="x")
    return fig


@base.drawn
def live_figure(found: Mapping[str, Sequence[tuple[float, float, str]]], xlabel: str) -> Figure:
    """Refusal probability of one request along a setting: (value, probability, outcome) triples per
    curve.

    The marker of a point is filled if the greedy answer is a refusal, hollow if not, and a cross if
    it is broken.
    """
    name, points = next(iter(found.items()))
    top = max(points, key=lambda point: point[1])
    title = f"{name}: {points[0][1]:.0%} at {points[0][0]:g}, at most {top[1]:.0%} at {top[0]:g}"
    fig, [ax] = base.panels(1, (8, 3.9), title)
    for name, points in found.items():
        colour, marker = {**base.MODALITIES, "steered": (base.GREEN, "D")}[name]
        ax.plot(
            *np.transpose([point[:2] for point in points]), color=colour, label=name, linewidth=1.6
        )
        for value, chance, outcome in points:
            own = {
                "refused": {},
                "broken": {"marker": "X"},
                "answered": {"markerfacecolor": "white"},
            }
            ax.plot(
                value,
                chance,
                **({"marker": marker, "color": colour, "markersize": 9} | own[outcome]),
            )
    ax.set(
        xlabel=f"{xlabel} (filled: refused, hollow: answered, X: broken)",
        ylabel="refusing opening",
        ylim=(-0.04, 1.04),
    )
    if len(found) > 1:
        ax.legend(loc="best")
    return fig


GROUPS = {
    "prompts": (base.ORANGE, "s"),
    "uniform pushes": (base.BLUE, "o"),
    "conditional pushes": (base.GREEN, "D"),
    "others": (base.PURPLE, "v"),
}
"""Colour and marker of the groups of defences in the trade-off plane."""


def group_of(defence: str) -> str:
    """The group that a defence of the course belongs to, by its name; "others" for names of your
    own."""
    name = defence.split(",")[0]
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
    counts = {}
    for defence, part in table.groupby("defence", sort=False):
        harmful, benign = part[part["label"] == "harmful"], part[part["label"] != "harmful"]
        if harmful.empty or benign.empty:
            raise ValueError(
                f"needs harmful and benign requests; labels: {sorted(set(table['label']))}"
            )
        sums = [benign["answered"], benign["n"], harmful["refused"], harmful["n"]]
        counts[str(defence)] = [int(column.sum()) for column in sums]
    places = np.array([(answered / m, refused / n) for answered, m, refused, n in counts.values()])
    title = f"{int(pareto_front(places).sum())} of {len(counts)} are beaten by no other in both respects"
    if bound is not None:
        reach = [max((y for x, y in bound if x >= place[0]), default=0.0) for place in places]
        title = f"{int((places[:, 1] > reach).sum())} of {len(counts)} lie beyond the bound of a uniform push"
    fig, [ax] = base.panels(1, (11, 6.8), title)
    if bound is not None:
        ax.plot(
            *bound.T,
            color=base.BLACK,
            linewidth=1.6,
            linestyle=":",
            zorder=2,
            label="bound of a uniform push",
        )
    looks = {name: GROUPS[group_of(name)] for name in counts} | {BASELINE: (base.BLACK, "*")}
    named: dict[str, Line2D] = {}
    for (name, (answered, m, refused, n)), (x, y) in zip(counts.items(), places, strict=True):
        colour, marker = looks[name]
        xerr, yerr = (
            base.whiskers([x], *wilson(answered, m)),
            base.whiskers([y], *wilson(refused, n)),
        )
        ax.errorbar(x, y, yerr, xerr, fmt="none", ecolor=colour, elinewidth=1, alpha=0.35)
        look = (
            {"markersize": 17, "zorder": 4} if name == BASELINE else {"markersize": 11, "zorder": 3}
        )
        [point] = ax.plot(x, y, marker, color=colour, markeredgecolor="white", linestyle="", **look)
        named.setdefault(group_of(name) if name != BASELINE else "no defence", point)
    ax.set(
        xlabel="benign requests answered (more is better)",
        ylabel="harmful requests refused (more is better)",
        xlim=(-0.03, 1.05),
        ylim=(-0.03, 1.05),
    )
    base.percent(ax.xaxis, ax.yaxis)
    lines = [line for line in ax.lines if line.get_label() == "bound of a uniform push"]
    names = [*named, *(line.get_label() for line in lines)]
    fig.legend([*named.values(), *lines], names, loc="outside lower center", ncols=len(names))
    base.name_points(ax, list(counts), places, [looks[name][0] for name in counts])
    return fig


@base.drawn
def topics_figure(counts: pd.DataFrame, title: str) -> Figure:
    """A heat map of refusals: a row per topic, a column per defence, in each cell the count.

    `counts` has the columns topic, defence, refused and n. Darker is a larger share refused.
    """
    topics, defences = (list(dict.fromkeys(counts[name])) for name in ("topic", "defence"))
    found = counts.set_index(["topic", "defence"])
    fig, [ax] = base.panels(1, (4.2 + 0.95 * len(defences), 2.8 + 0.5 * len(topics)), title)
    share = np.full((len(topics), len(defences)), np.nan)
    texts = [[""] * len(defences) for _ in topics]
    for (topic, defence), (refused, n) in found[["refused", "n"]].iterrows():
        place = topics.index(topic), defences.index(defence)
        share[place], texts[place[0]][place[1]] = refused / n, f"{refused}/{n}"
    base.cells(ax, texts, share > 0.55)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    base.ticks(ax, defences, topics, turned=40)
    ax.grid(visible=False)
    bar = fig.colorbar(image, ax=ax, format="{x:.0%}", pad=0.02)
    bar.set_label("share refused")
    return fig
