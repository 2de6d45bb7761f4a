"""Figures of causes: by layer at the last position, over the seconds of a clip, by head."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from sarsteer_lab.course.causal import SecondsMap
from sarsteer_lab.course.figures.base import (
    common_legend,
    curves,
    drawn,
    drawn_without_grid,
    layer_axis,
    level,
    numbers,
    panels,
    percent,
    plain,
    shade_layers,
    ticks,
)
from sarsteer_lab.course.figures.base import rows as row_names
from sarsteer_lab.course.palette import (
    CHANGE,
    FORMS,
    GREY,
    INK,
    LABELS,
    METHOD,
    PAPER,
    SERIES,
    SHADES,
    Look,
    look_of,
)
from sarsteer_lab.heads import Head
from sarsteer_lab.speech import SAMPLE_RATE


@drawn
def patched_layers_figure(
    panels_of: Mapping[str, Mapping[str, Float[Tensor, "layer"]]],
    layers: Sequence[int],
    levels: Mapping[str, float],
    title: str,
    built_in: Sequence[int] = (),
) -> Figure:
    """Mean refusal probability by the layer at which states were put in, a panel for each side.

    `panels_of` holds for each panel's title a curve per donor; `levels` the unpatched values, drawn
    across all panels. A donor's name with a comma and more behind it is of some of the requests:
    dashed, in the donor's colour. Layers `built_in` are shaded.
    """
    n_panels = len(panels_of)
    donors: dict[str, None] = {}
    for lines in panels_of.values():
        donors |= dict.fromkeys(lines)
    look_of_donor: dict[str, Look] = {}  # the same in all panels
    looks = iter(SERIES)
    for donor in donors:
        of_all, _, of_some = donor.partition(", ")
        if of_some and of_all in donors:
            look_of_donor[donor] = look_of_donor[of_all] | {"linestyle": "--", "marker": ""}
        else:
            look_of_donor[donor] = next(looks)
    fig, axes = panels(n_panels, (5.6 * n_panels + 1.0, 5.6), title, sharey=True)
    for ax, (name, lines) in zip(axes, panels_of.items(), strict=True):
        of_panel = [look_of_donor[donor] for donor in lines]
        curves(ax, lines, layers, of_panel)
        for words, value in levels.items():
            level(ax, value)
            above = {"color": GREY, "va": "bottom", "fontsize": 12}
            ax.text(layers[0], value + 0.01, words, **above)
        ax.set(title=name, ylim=(-0.03, 1.05))
        percent(ax.yaxis)
    axes[0].set_ylabel("refusal probability, mean over requests")
    shade_layers(built_in, *axes)
    layer_axis(*axes, label="layer at which the states are put in")
    common_legend(fig, ncols=2)
    return fig


@drawn_without_grid
def seconds_figure(
    found: SecondsMap, title: str, *, chosen: tuple[int, int] | None = None
) -> Figure:
    """Which seconds of a clip refusal hangs on, and down to which layer.

    Changes of the log-odds of refusal: above the waveform and its words (shaded: those that the
    harmless twin does not share), in the middle what silence in a window does, below what the
    states do that are put in after a layer. `chosen` frames a cell (row, window).
    """
    ratios = {"height_ratios": (1, 0.9, 2.4)}
    fig, (above, middle, below) = panels(1, (11, 8.2), plain(title), rows=3, sharex=True, **ratios)
    _clip(above, found)
    starts = [start for start, _ in found.windows]
    edges = np.array([*starts, found.windows[-1][1]])
    changes = numbers(found.silenced.nan_to_num())
    bars = {"align": "edge", "color": METHOD["control"], "edgecolor": PAPER}
    middle.bar(starts, changes, np.diff(edges), **bars)
    middle.axhline(0, color=INK, linewidth=1)
    middle.set_ylabel("silence\nthere")
    values = numbers(found.patched.nan_to_num())
    both = np.vstack([values, changes])
    span = max(float(np.abs(both).max()), 1e-3)
    rows = np.arange(len(found.layers) + 1) - 0.5
    scale = {"cmap": CHANGE, "vmin": -span, "vmax": span}
    image = below.pcolormesh(edges, rows, values, **scale)
    ticks(below, y=[str(layer) for layer in found.layers])
    below.set(xlabel="seconds", ylabel="put in after layer")
    below.set_xlim(edges[0], edges[-1])
    if chosen is not None:
        _frame(below, chosen, edges)
    label = "change of the log-odds of refusal"
    fig.colorbar(image, ax=[above, middle, below], label=label)
    return fig


@drawn_without_grid
def heads_figure(
    shares: Float[Tensor, "layer head"],
    chosen: Sequence[Head],
    changes: Mapping[str, tuple[float, Sequence[float]]],
    title: str,
) -> Figure:
    """How much each attention head reads of clips, and what a model does without those that read.

    `chosen` are framed on the left. `changes` holds for each row on the right the mean change of
    the log-odds of refusal without these heads, and without each draw of as many random ones. A row
    "spoken, ..." has the colour of the form.
    """
    fig, (left, right) = panels(2, (13, 5.6), title, width_ratios=(1, 1.15))
    image = left.pcolormesh(numbers(shares), cmap=SHADES, vmin=0)
    for one in chosen:
        look = {"fill": False, "edgecolor": INK, "linewidth": 1.5}
        left.add_patch(Rectangle((one.head, one.layer), 1, 1, **look))
    n_layers, n_heads = shares.shape
    every = max(1, n_heads // 8)
    left.set_xticks(np.arange(0, n_heads, every) + 0.5, range(0, n_heads, every))
    left.set_yticks(np.arange(0, n_layers, 5) + 0.5, range(0, n_layers, 5))
    left.set(title="share of attention on the clip", xlabel="head", ylabel="decoder layer")
    percent(fig.colorbar(image, ax=left).ax.yaxis)
    names = {"readers": "without the heads framed", "draws": "without as many random heads"}
    for row, (name, (without, draws)) in enumerate(changes.items()):
        colour, marker, _ = FORMS[name.partition(",")[0]]
        aside = row + np.linspace(-0.22, 0.22, len(draws))
        dots = {"marker": "o", "s": 34, "color": GREY, "linewidth": 0}
        right.scatter(draws, aside, label="" if row else names["draws"], **dots)
        look = {"marker": marker, "s": 190, "color": colour, "edgecolor": PAPER, "zorder": 3}
        right.scatter([without], [row], label="" if row else names["readers"], **look)
    row_names(right, changes)
    right.axvline(0, color=INK, linewidth=1)
    right.set(title="refusal without some heads", xlabel="mean change of the log-odds of refusal")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return fig


@drawn
def lengths_figure(
    lengths: Mapping[str, Float[Tensor, "layer"]],
    cosines: Mapping[str, Float[Tensor, "layer"]],
    title: str,
    built_in: Sequence[int] = (),
) -> Figure:
    """Two directions, typed and spoken: their lengths by layer, and the cosine of the two forms.

    Names of `lengths` are "direction, form", those of `cosines` directions. Colours say the form,
    line styles the direction. Layers `built_in` are shaded.
    """
    fig, (left, right) = panels(2, (13, 5.4), title)
    styles = dict(zip(cosines, ("-", "--"), strict=True))
    for name, values in lengths.items():
        direction, _, form = name.partition(", ")
        colour, marker, _ = FORMS[form]
        look = look_of(colour, marker, styles[direction])
        left.plot(numbers(values), label=name, markevery=3, **look)
    for name, values in cosines.items():
        right.plot(numbers(values), label=name, **look_of(INK, "", styles[name]))
    level(right, 0)
    left.set(title="length, in spreads of harmless states", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    right.set(title="cosine of typed and spoken", ylim=(None, 1.05))
    shade_layers(built_in, left, right)
    layer_axis(left, right)
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return fig


def _clip(ax: Axes, found: SecondsMap) -> None:
    """The waveform, and the words above it."""
    seconds = np.arange(len(found.clip)) / SAMPLE_RATE
    ax.plot(seconds, found.clip, color=GREY, linewidth=0.5)
    for start, end in found.apart:
        ax.axvspan(start, end, color=LABELS["harmful"][0], alpha=0.15, linewidth=0)
    top = float(np.abs(found.clip).max())
    name = {"ha": "center", "va": "bottom", "fontsize": 12}
    for word in found.words:
        middle = (word.start + word.end) / 2
        ax.text(middle, 1.15 * top, plain(word.text), **name)
    ax.set(ylim=(-1.1 * top, 1.9 * top), yticks=[], ylabel="clip")


def _frame(ax: Axes, chosen: tuple[int, int], edges: Float[np.ndarray, "edge"]) -> None:
    """A frame around a cell, visible on light and dark ones."""
    row, window = chosen
    corner = (edges[window], row - 0.5)
    wide = edges[window + 1] - edges[window]
    for colour, width in ((PAPER, 5), (INK, 2.5)):
        look = {"fill": False, "edgecolor": colour, "linewidth": width, "zorder": 5}
        frame = Rectangle(corner, wide, 1, **look)
        ax.add_patch(frame)
