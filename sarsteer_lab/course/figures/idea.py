"""A drawing of SARSteer itself: two states, their difference, what is taken off, where it goes."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sarsteer_lab.course.figures.base import drawn_without_grid, panels
from sarsteer_lab.course.palette import FORMS, GREY, INK, METHOD, PAPER, PARTS

ROUND = "round,pad=0,rounding_size=0.12"
LETTERS = 12

BOLD = {"fontsize": 17, "fontweight": "bold", "va": "center"}
"""How the parts of the method are named."""

TITLE = (
    "SARSteer adds, in every layer, the shift that a refusal text causes, "
    "less what harmless requests vary in"
)

STEPS = (
    "1 · Ask each clip twice",
    "2 · Subtract: a direction",
    "3 · Take off the safe space",
    "4 · Add it in every layer",
)


class _Place(NamedTuple):
    """A box's middle and size, in a panel of 4 by 4."""

    x: float
    y: float
    width: float = 2.6
    height: float = 0.5


@drawn_without_grid
def idea_figure(alpha: float = 0.1, n_layers: int = 6) -> Figure:
    """The method in four pictures, from the clip to the steered answer; nothing is measured.

    `alpha` is the strength written beside the pushes, `n_layers` how many layers are drawn. The
    arrows are those of an example in two dimensions, ablated as `safe_space.ablate` does it with
    lambda = 1.
    """
    fig, axes = panels(4, (13, 4.3), TITLE)
    fig.get_layout_engine().set(wspace=0.06)
    for ax, step in zip(axes, STEPS, strict=True):
        ax.set(title=step, xlim=(0, 4), ylim=(0, 4), xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
    twice, subtract, ablate, add = axes
    _asked_twice(twice)
    direction = np.array([1.9, 2.1])
    _difference(subtract, direction)
    _ablation(ablate, direction)
    _added(add, alpha, n_layers)
    return fig


def _box(ax: Axes, place: _Place, words: str, colour: str, *, filled: bool = False) -> None:
    """Words in a frame of this colour, or on a ground of it."""
    corner = (place.x - place.width / 2, place.y - place.height / 2)
    ground = colour if filled else PAPER
    look = {"boxstyle": ROUND, "edgecolor": colour, "facecolor": ground, "linewidth": 2}
    ax.add_patch(FancyBboxPatch(corner, place.width, place.height, **look))
    ink = PAPER if filled else INK
    ax.text(place.x, place.y, words, color=ink, ha="center", va="center", fontsize=LETTERS)


def _to(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 2
) -> None:
    """An arrow that touches both ends."""
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def _asked_twice(ax: Axes) -> None:
    """The same clip with the instruction, and with the refusal text behind it."""
    for x, with_text in ((1.0, False), (3.0, True)):
        seconds = np.linspace(0, 1, 60)
        loudness = 0.28 * np.sin(np.pi * seconds) * np.cos(38 * seconds)
        ax.plot(x - 0.75 + 1.5 * seconds, 3.6 + loudness, color=FORMS["spoken"][0], linewidth=1.4)
        _box(ax, _Place(x, 2.95, 1.9), "instruction", PARTS["text"])
        if with_text:
            _box(ax, _Place(x, 2.35, 1.9), "+ refusal text", METHOD["direction"])
        _to(ax, (x, 2.05), (x, 1.75), INK)
        _box(ax, _Place(x, 1.35, 1.9, 0.75), "model", GREY, filled=True)
        _to(ax, (x, 0.95), (x, 0.65), INK)
        name = "h(clip, t + r)" if with_text else "h(clip, t)"
        ax.text(x, 0.35, name, ha="center", va="center", fontsize=LETTERS)


def _difference(ax: Axes, direction: np.ndarray) -> None:
    """Two states as points, and the arrow from one to the other."""
    start = np.array([0.9, 0.9])
    end = start + direction
    _to(ax, tuple(start), tuple(end), METHOD["direction"], 3)
    ax.plot(*start, "o", color=FORMS["spoken"][0], markersize=11)
    ax.plot(*end, "o", color=METHOD["direction"], markersize=11)
    words = {"fontsize": LETTERS, "va": "center"}
    ax.text(start[0] + 0.15, start[1] - 0.35, "h(clip, t)", **words)
    ax.text(end[0] - 0.1, end[1] + 0.4, "h(clip, t + r)", ha="center", **words)
    middle = start + direction / 2
    ax.text(middle[0] + 0.25, middle[1] - 0.2, "d", color=METHOD["direction"], **BOLD)
    ax.text(2.0, 0.05, "mean over harmful clips, per layer", ha="center", fontsize=12)


def _ablation(ax: Axes, direction: np.ndarray) -> None:
    """The direction, its shadow in the space of harmless requests, and what is left."""
    origin = np.array([0.9, 0.9])
    across = np.array([1.0, 0.25]) / np.hypot(1.0, 0.25)
    inside = across * (across @ direction)
    left = direction - inside
    along = origin + np.outer([-0.75, 2.9], across)
    ground = {"color": METHOD["inside"], "linewidth": 12, "alpha": 0.35}
    ax.plot(*along.T, solid_capstyle="round", **ground)
    ax.text(2.0, 0.05, "safe space of harmless requests", ha="center", fontsize=12)
    end = origin + direction
    _to(ax, tuple(origin), tuple(end), METHOD["direction"], 3)
    _to(ax, tuple(origin), tuple(origin + inside), METHOD["inside"], 3)
    _to(ax, tuple(origin), tuple(origin + left), METHOD["vectors"], 4)
    dotted = {"linestyle": ":", "color": INK, "linewidth": 1.5}
    ax.plot(*np.array([end, origin + left]).T, **dotted)
    ax.plot(*np.array([end, origin + inside]).T, **dotted)
    ax.text(end[0] + 0.12, end[1] + 0.1, "d", color=METHOD["direction"], **BOLD)
    named = origin + inside
    ax.text(named[0] - 0.35, named[1] - 0.42, "U U\u1d40 d", color=METHOD["inside"], **BOLD)
    tip = origin + left
    ax.text(tip[0] - 0.1, tip[1] + 0.3, "v", color=METHOD["vectors"], **BOLD)


def _added(ax: Axes, alpha: float, n_layers: int) -> None:
    """A spoken request goes up through the layers, and is pushed at each."""
    heights = np.linspace(0.75, 3.0, n_layers)
    middle = 1.35
    for height in heights:
        _box(ax, _Place(middle, height, 1.6, 0.3), "", GREY, filled=True)
        _to(ax, (3.1, height + 0.2), (middle + 0.06, height + 0.2), METHOD["vectors"], 2.5)
    _to(ax, (middle, 0.3), (middle, 3.45), INK)
    ax.text(middle - 0.2, 0.12, "a new clip, t", ha="center", va="center", fontsize=LETTERS)
    ax.text(middle, 3.7, "the answer", ha="center", va="center", fontsize=LETTERS)
    ax.text(3.15, 2.1, f"+ {alpha:g} v", color=METHOD["vectors"], **BOLD)
    beside = {"fontsize": 12, "va": "center", "ha": "left"}
    ax.text(2.3, 0.2, "last position, and\nevery new token", **beside)
