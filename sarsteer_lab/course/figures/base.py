"""What all figures of the course share: one look, how they are saved, what they are drawn from.

Functions in this folder take plain tensors and tables and return a matplotlib `Figure` that belongs
to nobody's global state; `save_figure` writes it as PNG. Colours are those of `course.palette`, and
none is named here. Letters are large enough for a projector. A figure's title says what
there is to see in it, with the numbers that it was given; names stand at what they name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike
from torch import Tensor

from sarsteer_lab.course.palette import BUILT_IN, INK, MEANINGS, PAPER, SERIES, Look
from sarsteer_lab.evaluation.intervals import wilson

LOOK = matplotlib.rc_params_from_file(
    Path(__file__).with_name("look.mplstyle"), use_default_template=False
)

drawn = matplotlib.rc_context(LOOK)
"""Decorator of a function that draws: in the one look, without a trace in matplotlib's settings."""

drawn_without_grid = matplotlib.rc_context(LOOK | {"axes.grid": False})
"""The same for pictures and tables."""

T = TypeVar("T")
Values = Tensor | Sequence[float] | np.ndarray

HATCHED = {"edgecolor": PAPER, "linewidth": 0}
"""A bar whose hatching is white, without an outline."""

TRADEOFF = {
    "xlabel": "benign requests answered (more is better)",
    "ylabel": "harmful requests refused (more is better)",
}
"""The axes of the plane in which defences are compared."""

LOWEST = 1e-4
"""Probabilities nearer to 0 or 1 than this are drawn there, on a logit scale."""

MARKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""The marks of that scale between its ends."""

WHOLE_PICTURE = {"origin": "lower", "aspect": "auto"}
"""A heat map that fills its panel, the first row lowest."""

DOTTED = {"color": INK, "linewidth": 1.2, "linestyle": ":"}
"""A line to compare with."""


def in_series(
    values: Mapping[str, T], looks: Iterable[Look] = SERIES
) -> Iterator[tuple[str, T, Look]]:
    """Names, their values, and the looks of a series, from the start again where they end.

    A name with a meaning of its own ("harmful", "spoken") has its look in every figure.
    """
    for (name, value), look in zip(values.items(), cycle(looks), strict=False):
        yield name, value, MEANINGS.get(name, look) if looks is SERIES else look


def save_figure(fig: Figure, folder: Path | str, name: str) -> Path:
    """Write `name`.png (150 dots per inch) into `folder`, made if missing; returns its path.

    The file depends on the figure and the versions of matplotlib and its fonts, not on the date.
    """
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        fig.savefig(path, dpi=150, metadata={"Software": None})
    return path


def panels(
    number: int, size: tuple[float, float], title: str = "", *, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches, with `number` panels side by side in each of `rows`.

    The title stands above them; `options` as for `Figure.subplots`.
    """
    fig = Figure(figsize=size, layout="constrained")
    if title:
        fig.suptitle(title, x=0.01, ha="left", wrap=True)
    return fig, list(fig.subplots(rows, number, squeeze=False, **options).flat)


def plain(text: str) -> str:
    """Text as it is drawn as it stands: a dollar sign would start mathematics."""
    return text.replace("$", r"\$")


def numbers(values: Values) -> np.ndarray:
    """Values of any kind as matplotlib takes them."""
    if isinstance(values, Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray(values)


def curves(
    ax: Axes,
    lines: Mapping[str, Values],
    x: Sequence[float] | np.ndarray | None = None,
    looks: Iterable[Look] = SERIES,
) -> None:
    """A line per name, over `x` or 0, 1, ..., in the looks' order."""
    for name, values, look in in_series(lines, looks):
        across = range(len(values)) if x is None else x
        ax.plot(across, numbers(values), label=name, **look)


def middle_half(
    ax: Axes, x: Sequence[float], values: Float[np.ndarray, "x request"], name: str, look: Look
) -> Float[np.ndarray, "quantile x"]:
    """Median over requests as a line, and the band of their middle half; the three quartiles."""
    quartiles = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
    low, median, high = quartiles
    ax.plot(x, median, label=name, **look)
    band(ax, x, low, high, look["color"])
    return quartiles


def band(
    ax: Axes, x: Any, low: ArrayLike, high: ArrayLike, color: str, alpha: float = 0.15
) -> None:
    """What lies between two curves, shaded."""
    ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def wilson_limits(counts: ArrayLike, n: ArrayLike) -> Float[np.ndarray, "2 share"]:
    """The ends of Wilson's 95% intervals of shares: `counts` of `n`, which may be one number."""
    return np.stack(np.vectorize(wilson, otypes=[float, float])(counts, n))


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> Float[np.ndarray, "2 value"]:
    """Values and the ends of their intervals as `errorbar` takes them, none below 0.

    Rounding can put an end past its own value by a hair, which `errorbar` refuses.
    """
    lengths = [np.subtract(value, low), np.subtract(high, value)]
    return np.clip(np.atleast_2d(lengths), 0, None)


def wilson_whiskers(counts: ArrayLike, n: ArrayLike) -> Float[np.ndarray, "2 share"]:
    """Wilson's 95% intervals of the shares `counts` of `n`, as `errorbar` takes them."""
    return whiskers(np.divide(counts, n), *wilson_limits(counts, n))


def level(ax: Axes, value: float, name: str | None = None) -> None:
    """A dotted line across, for comparison."""
    ax.axhline(value, label=name, **DOTTED)


def readiness_axis(ax: Axes) -> None:
    """A panel's x axis for refusal probabilities: a logit scale, both cut edges marked as such."""
    ax.set(xscale="logit", xlim=(LOWEST * 0.8, 1 - LOWEST * 0.8))
    names = [f"{100 * LOWEST:g}%\nor less"]
    names += [f"{100 * mark:g}%" for mark in MARKS]
    names.append(f"{100 * (1 - LOWEST):g}%\nor more")
    ax.set_xticks([LOWEST, *MARKS, 1 - LOWEST], names)
    ax.minorticks_off()


def percent(*axes: Axis) -> None:
    """Shares as percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0))


def layer_axis(*axes: Axes, label: str = "decoder layer") -> None:
    """What all panels over layers share."""
    for ax in axes:
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def shade_layers(layers: Collection[int], *axes: Axes) -> None:
    """The ground of layers that were built to refuse (`session.dialled_layers`), named once."""
    if not layers:
        return
    for ax in axes:
        ends = min(layers) - 0.5, max(layers) + 0.5
        ax.axvspan(*ends, color=BUILT_IN, linewidth=0, zorder=0)
    top = {"xycoords": axes[0].get_xaxis_transform(), "textcoords": "offset points"}
    where = {"va": "top", "fontsize": 12, "zorder": 1}
    axes[0].annotate("safety adapter", (min(layers), 1), (2, -2), **top, **where)


def name_lines(*axes: Axes, gap: float = 0.08) -> None:
    """Each line's name at its right end, in its colour; names that would touch are moved apart.

    `gap` is the height of a name as a share of the panel's. Limits and scales have to be set
    before.
    """
    for ax in axes:
        ax.autoscale_view()
        named = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
        ends = {line: _right_end(ax, line) for line in named}
        named.sort(key=lambda line: ends[line][1])
        least = gap * np.arange(len(named))
        heights = np.array([ends[line][1] for line in named])
        heights = np.maximum.accumulate(heights - least) + least
        heights = np.minimum(heights, 1.02 - least[::-1])
        for line, height in zip(named, heights, strict=True):
            colour = line.get_color()
            from_its_beginning = {"relpos": (0, 0.5)}
            leader = leader_look(colour, shrink=2) | from_its_beginning
            look = {"color": colour, "va": "center", "arrowprops": leader}
            where = {"xycoords": "axes fraction", "textcoords": "axes fraction"}
            ax.annotate(line.get_label(), ends[line], (1.03, height), **where, **look)


def _right_end(ax: Axes, line: Line2D) -> tuple[float, float]:
    """Where a line ends, as shares of the panel; a level goes all across."""
    shares = ax.transScale + ax.transLimits
    x, y = shares.transform(line.get_xydata()[-1])
    return (x if line.get_transform() == ax.transData else 1.0), y


def leader_look(color: str, shrink: float) -> dict[str, Any]:
    """The thin line from a name to what it names, which ends `shrink` points before that."""
    return {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 0, "shrinkB": shrink}


def common_legend(fig: Figure, **options: Any) -> None:
    """One legend for all panels, which show the same series."""
    handles, names = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", **options)


def ticks(
    ax: Axes, x: Sequence[str] | None = None, y: Sequence[str] | None = None, *, turned: int = 0
) -> None:
    """Names at 0, 1, ... on one axis or both; those of x may be `turned` by some degrees."""
    if x is not None:
        turn = {"rotation": turned, "ha": "right"} if turned else {}
        ax.set_xticks(range(len(x)), x, **turn)
    if y is not None:
        ax.set_yticks(range(len(y)), y)


def rows(ax: Axes, names: Collection[str]) -> None:
    """Names of rows at 0, 1, ..., the first on top, with room for bars around each."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def arrow(ax: Axes, end: tuple[float, float], colour: str, style: str = "-") -> None:
    """An arrow from the origin, at true length."""
    line = {"color": colour, "linewidth": 2.5, "linestyle": style}
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, (0, 0), arrowprops=arrow | line)
