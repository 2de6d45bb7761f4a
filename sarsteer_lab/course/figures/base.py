"""What all figures of the course share: one look, how they are saved, what they are drawn from.

Functions in this folder take plain tensors and tables and return a matplotlib `Figure` that belongs
to nobody's global state; `save_figure` writes it as PNG. Colours are Okabe and Ito's, which
colour-blind people can tell apart, and no meaning hangs on colour alone: marker, line style, fill
or hatching says it again. Letters are large enough for a projector. A figure's title says what
there is to see in it, with the numbers that it was given; names stand at what they name.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike
from torch import Tensor

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C"

LOOK = matplotlib.rc_params_from_file(
    Path(__file__).with_name("look.mplstyle"), use_default_template=False
)

drawn = matplotlib.rc_context(LOOK)
"""Decorator of a function that draws: in the one look, without a trace in matplotlib's settings."""

drawn_without_grid = matplotlib.rc_context(LOOK | {"axes.grid": False})
"""The same for pictures and tables."""

Style = tuple[str, str, Any]
Values = Tensor | Sequence[float] | np.ndarray

MODALITIES = {"typed": (BLUE, "o"), "spoken": (VERMILION, "^")}
"""Colour and marker of the two ways in which a request reaches the model."""

OUTCOMES = {
    "refused": (BLUE, "", "s", "-"),
    "answered": (ORANGE, "//", "o", "--"),
    "broken": (GREY, "xx", "X", ":"),
}
"""Colour, hatching, marker and line style of what becomes of a request."""

SERIES: tuple[Style, ...] = (
    (BLUE, "o", "-"),
    (VERMILION, "^", "-"),
    (GREEN, "s", "--"),
    (PURPLE, "D", "-."),
    (ORANGE, "v", (0, (5, 1))),
    (GREY, "x", ":"),
    (SKY, "P", (0, (3, 1, 1, 1))),
)
"""Colour, marker and line style of a figure's series, in their order."""


def save_figure(fig: Figure, folder: Path | str, name: str) -> Path:
    """Write `name`.png (150 dots per inch) into `folder`, made if missing; returns its path.

    The file depends on the figure and the versions of matplotlib and its fonts, not on the date.
    """
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        fig.savefig(path, dpi=150, metadata={"Software": None})
    return path


def write_index(folder: Path) -> Path:
    """Write `folder`/README.md, which shows every PNG by subfolder; returns its path."""
    lines = ["# Figures", "", "Drawn by the notebooks."]
    chapter = ""
    for picture in sorted(folder.glob("*/*.png")):
        if picture.parent.name != chapter:
            chapter = picture.parent.name
            lines += ["", f"## {chapter}", ""]
        lines.append(f"![{picture.stem}]({chapter}/{picture.name})")
    index = folder / "README.md"
    index.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return index


def panels(
    number: int, size: tuple[float, float], title: str = "", *, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches with `number` panels side by side in each of `rows`, under a
    title.

    `options` as for `Figure.subplots`.
    """
    fig = Figure(figsize=size, layout="constrained")
    if title:
        fig.suptitle(title, x=0.01, ha="left", wrap=True)
    return fig, list(fig.subplots(rows, number, squeeze=False, **options).flat)


def numbers(values: Values) -> np.ndarray:
    """Values of any kind as matplotlib takes them."""
    return (
        values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    )


def curves(
    ax: Axes,
    lines: Mapping[str, Values],
    x: Sequence[float] | np.ndarray | None = None,
    looks: Sequence[Style] = SERIES,
) -> None:
    """A line per name, over `x` or 0, 1, ..., in the looks' order."""
    for (name, values), (colour, marker, style) in zip(lines.items(), cycle(looks), strict=False):
        across = range(len(values)) if x is None else x
        ax.plot(across, numbers(values), color=colour, marker=marker, linestyle=style, label=name)


def middle_half(
    ax: Axes,
    x: Sequence[float],
    values: Float[np.ndarray, "x request"],
    name: str,
    look: Style,
    *,
    mean: bool = False,
) -> Float[np.ndarray, "quantile x"]:
    """Median (or mean) over requests as a line, and the band of their middle half; the three
    quartiles."""
    colour, marker, style = look
    low, middle, high = quartiles = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
    line = values.mean(1) if mean else middle
    ax.plot(x, line, color=colour, marker=marker, linestyle=style, label=name)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    return quartiles


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Values and the ends of their intervals as `errorbar` takes them: (2, value), none below 0.

    Rounding can put an end past its own value by a hair, which `errorbar` refuses.
    """
    return np.clip(np.atleast_2d([np.subtract(value, low), np.subtract(high, value)]), 0, None)


def level(ax: Axes, value: float, name: str | None = None) -> None:
    """A dotted line across, for comparison."""
    ax.axhline(value, color=BLACK, linewidth=1.2, linestyle=":", label=name)


def percent(*axes: Axis) -> None:
    """Shares as percentages."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0))


def layer_axis(*axes: Axes, label: str = "decoder layer") -> None:
    """What all panels over layers share."""
    for ax in axes:
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def name_lines(*axes: Axes, gap: float = 0.08) -> None:
    """Each line's name at its right end, in its colour; names that would touch are moved apart.

    `gap` is the height of a name as a share of the panel's. Limits and scales have to be set
    before.
    """
    for ax in axes:
        ax.autoscale_view()
        ends = []
        for line in ax.get_lines():
            if not str(line.get_label()).startswith("_"):
                end = np.asarray(line.get_xydata())[-1]
                x, y = (ax.transScale + ax.transLimits).transform(end)
                ends.append((y, 1.0 if line.get_transform() != ax.transData else x, line))
        ends.sort(key=lambda end: end[0])
        places = np.array([y for y, *_ in ends])
        steps = gap * np.arange(len(ends))
        places = np.maximum.accumulate(places - steps) + steps
        places = np.minimum(places, 1.02 - steps[::-1])
        for place, (y, x, line) in zip(places, ends, strict=True):
            colour = line.get_color()
            look = {
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "shrinkA": 0,
                "shrinkB": 2,
            }
            where = {
                "xycoords": "axes fraction",
                "xytext": (1.03, place),
                "textcoords": "axes fraction",
            }
            ax.annotate(
                line.get_label(), (x, y), color=colour, va="center", arrowprops=look, **where
            )


def name_points(
    ax: Axes, names: Sequence[str], places: Float[np.ndarray, "point 2"], colours: Sequence[str]
) -> None:
    """Each place's name, or names ("this = that"), where it hides least; further off, with a line
    to it."""

    def shared(a: Bbox, b: Bbox) -> float:
        both = Bbox.intersection(a, b)
        return 0.0 if both is None else both.width * both.height

    ax.figure.draw_without_rendering()
    points = ax.transData.transform(places)
    taken = [Bbox.from_extents(*(point - 8), *(point + 8)) for point in points]
    around = [(np.cos(turn), np.sin(turn)) for turn in np.arange(16) * np.pi / 8]
    together: dict[tuple[float, ...], list[str]] = {}
    for name, place in zip(names, places, strict=True):
        together.setdefault(tuple(place), []).append(name)
    for place, point, colour in zip(places, points, colours, strict=True):
        if not (alike := together.pop(tuple(place), [])):
            continue
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4}
        look = {"textcoords": "offset pixels", "color": colour, "fontsize": 12, "arrowprops": line}
        text = ax.annotate(" = ".join(alike), place, (0, 0), **look)
        size = Text.get_window_extent(text).size
        best = (np.inf, 0, point, taken[0])
        for far in range(12, 140, 12):
            for way in np.round(around, 6):
                # What stands this far off is the name's nearest side.
                corner = point + far * way - size * (1 - np.sign(way)) / 2
                box = Bbox.from_bounds(*corner, *size)
                cost = (
                    far
                    + size.prod()
                    - shared(box, ax.bbox)
                    + 10 * sum(shared(box, one) for one in taken)
                )
                best = min(best, (cost, far, corner - point, box), key=lambda one: one[0])
        _, far, offset, box = best
        taken.append(box)
        text.anncoords, text.xyann = "offset points", offset * 72 / ax.figure.dpi
        text.arrow_patch.set_visible(far > 24)


def common_legend(fig: Figure, place: str = "outside lower center", **options: Any) -> None:
    """One legend for all panels, which show the same series."""
    handles, names = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc=place, **options)


def cells(ax: Axes, texts: Sequence[Sequence[str]], dark: np.ndarray) -> None:
    """Words in the cells of a picture, white where it is dark; empty ones are left out."""
    for row, (line, inks) in enumerate(zip(texts, dark, strict=True)):
        for column, (text, white) in enumerate(zip(line, inks, strict=True)):
            if text:
                colour = "white" if white else BLACK
                ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)


def ticks(
    ax: Axes, x: Sequence[str] | None = None, y: Sequence[str] | None = None, *, turned: int = 0
) -> None:
    """Names at 0, 1, ... on one axis or both; those of x may be `turned` by some degrees."""
    if x is not None:
        ax.set_xticks(range(len(x)), x, **({"rotation": turned, "ha": "right"} if turned else {}))
    if y is not None:
        ax.set_yticks(range(len(y)), y)


def arrow(ax: Axes, end: tuple[float, float], colour: str, style: str = "-") -> None:
    """An arrow from the origin, at true length."""
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.5, "linestyle": style}
    ax.annotate("", xy=end, xytext=(0, 0), arrowprops=look | {"shrinkA": 0, "shrinkB": 0})
