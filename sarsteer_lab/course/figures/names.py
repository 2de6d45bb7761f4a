"""Names written beside points, each where it hides least and is not taken for another's."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sarsteer_lab.course.figures.base import leader_look
from sarsteer_lab.course.palette import PAPER

OVER_A_NAME = 1e7
"""What it costs to write a name over another, or over a point, in pixels of way: never, if there
is room."""

BESIDE_ANOTHER = 1e5
"""What it costs to write it beside another point than its own: more than to hide a line."""

AT_THEIR_HEIGHT = 300
"""What it costs to write it at another point's height, where one looks for that point's name."""


def name_points(
    ax: Axes,
    names: Sequence[str],
    places: Float[np.ndarray, "point 2"],
    colours: Sequence[str],
    keep_clear: Float[np.ndarray, "spot 2"] | None = None,
) -> None:
    """Each place's name where it hides least, nearest to its own; further off, with a line to it.

    Those at one place share theirs ("this = that"). What lies at `keep_clear` is not to be hidden.
    """
    ax.figure.draw_without_rendering()
    points = ax.transData.transform(places)
    solid = [Bbox([point - 8, point + 8]) for point in points]
    spots = [] if keep_clear is None else ax.transData.transform(keep_clear)
    line = [Bbox([spot - 4, spot + 4]) for spot in spots]
    together: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for name, place in zip(names, places, strict=True):
        together[tuple(place)].append(name)
    for place, point, colour in zip(places, points, colours, strict=True):
        alike = together.pop(tuple(place), None)
        if alike is None:  # named already
            continue
        name = " = ".join(alike)
        look = {"color": colour, "fontsize": 12, "arrowprops": leader_look(colour, shrink=4)}
        look["path_effects"] = [withStroke(linewidth=3, foreground=PAPER)]  # over lines
        text = ax.annotate(name, place, (0, 0), textcoords="offset points", **look)
        size = Text.get_window_extent(text).size
        strangers = points[(places != place).any(1)]
        far, box = _least_hiding(point, strangers, size, solid, line, ax.bbox)
        solid.append(box)
        text.xyann = (box.min - point) * 72 / ax.figure.dpi
        text.arrow_patch.set_visible(far > 24)


def _least_hiding(
    point: Float[np.ndarray, "2"],
    strangers: Float[np.ndarray, "stranger 2"],
    size: Float[np.ndarray, "2"],
    solid: Sequence[Bbox],
    line: Sequence[Bbox],
    panel: Bbox,
) -> tuple[int, Bbox]:
    """How far from a point, and where, a name of this size hides least, in pixels.

    It is not written over what is `solid`, points and other names. A place that lies about as near
    to one of the `strangers`, the other points, is a last resort: the name would be read as theirs.
    One at the height of a stranger beside it is avoided, and so is hiding the `line`.
    """
    turns = np.arange(16) * np.pi / 8
    ways = np.round([np.cos(turns), np.sin(turns)], 6).T
    best = (np.inf, 0, panel)
    for far in range(12, 140, 12):
        for way in ways:
            # What stands this far off is the name's nearest side.
            nearest_side = size * (1 - np.sign(way)) / 2
            corner = point + far * way - nearest_side
            box = Bbox.from_bounds(*corner, *size)
            outside = size.prod() - _shared(box, panel)
            line_hidden = sum(_shared(box, spot) for spot in line)
            is_over = any(_shared(box, other) > 0 for other in solid)
            apart = _distances(strangers, box)
            from_its_own = _distances(point[None], box)[0]
            is_theirs = apart.min(initial=np.inf) < 1.5 * from_its_own
            near = strangers[apart < 3 * size[1]]
            middle = (box.y0 + box.y1) / 2
            off_level = np.abs(near[:, 1] - middle).min(initial=np.inf)
            is_at_their_height = off_level < min(size[1] / 2, abs(point[1] - middle))
            cost = far + outside + 10 * line_hidden + OVER_A_NAME * is_over
            cost += BESIDE_ANOTHER * is_theirs + AT_THEIR_HEIGHT * is_at_their_height
            if cost < best[0]:
                best = (cost, far, box)
    return best[1:]


def _distances(points: Float[np.ndarray, "point 2"], box: Bbox) -> Float[np.ndarray, "point"]:
    """How far points lie from the nearest place in a box."""
    return np.linalg.norm(points - np.clip(points, box.min, box.max), axis=-1)


def _shared(first: Bbox, second: Bbox) -> float:
    """The area that two boxes share."""
    both = Bbox.intersection(first, second)
    return 0.0 if both is None else both.width * both.height
