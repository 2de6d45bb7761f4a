"""The figure of the refusal X-ray: layers against positions, below the clip's spectrogram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.mlab import specgram
from matplotlib.patches import Rectangle

from sarsteer_lab.course.figures.base import (
    WHOLE_PICTURE,
    drawn_without_grid,
    panels,
    plain,
)
from sarsteer_lab.course.palette import CHANGE, INK, PAPER, SCORES, SOUND
from sarsteer_lab.speech import SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Film:
    """One heat map: a value for every layer and column, and the columns' names.

    `clip` is the waveform whose positions are the columns from `heard[0]` to `heard[1]`; the answer
    begins at column `answer`.
    """

    values: Float[np.ndarray, "layer column"]
    names: Sequence[str]
    answer: int
    clip: Float[np.ndarray, "samples"] | None = None
    heard: tuple[int, int] = (0, 0)


@drawn_without_grid
def xray_figure(
    films: Mapping[str, Film],
    layers: Sequence[int],
    *,
    title: str,
    label: str,
    top: float | None,
    chosen: tuple[str, int, int] | None = None,
) -> tuple[Figure, dict[str, Axes]]:
    """Heat maps side by side, with the axes of each by its name.

    The scale goes from -`top` to `top`; without it, values are probabilities, on a logarithmic
    scale. `chosen` frames a cell (film, row, column).
    """
    widths = [len(film.names) + 1.0 for film in films.values()]
    ratios = {"width_ratios": widths, "height_ratios": (1, 4.2)}
    size = (0.175 * sum(widths) + 2.2, 7.4)
    fig, axes = panels(len(films), size, plain(title), rows=2, **ratios)
    above, below = axes[: len(films)], axes[len(films) :]
    scale = LogNorm(1e-4, 1) if top is None else Normalize(-top, top)
    for spectrogram, ax, (name, film) in zip(above, below, films.items(), strict=True):
        spectrogram.set_title(name)
        _spectrogram(spectrogram, film)
        values, look = film.values, {"cmap": f"{CHANGE}_r", "norm": scale}
        if top is None:
            values, look = values.clip(1e-4), {"cmap": SCORES, "norm": scale}
        image = ax.imshow(values, interpolation="nearest", **WHOLE_PICTURE, **look)
        ax.axvline(film.answer - 0.5, color=INK, linewidth=2)
        ax.set_xticks([])
        upright = {"rotation": 90, "ha": "center", "va": "top", "fontsize": 11}
        for column, text in enumerate(film.names):  # ticks take three times as long to draw
            ax.text(column, -0.8, plain(text), **upright)
        step = -(-len(layers) // 10)
        names = list(map(str, layers[::step]))
        ax.set_yticks(range(0, len(layers), step), names)
        if chosen and chosen[0] == name:
            _frame(ax, *chosen[1:])
    below[0].set_ylabel("decoder layer")
    fig.colorbar(image, ax=axes, label=label, pad=0.01, fraction=0.03)
    return fig, dict(zip(films, below, strict=True))


def _spectrogram(ax: Axes, film: Film) -> None:
    if film.clip is None:
        ax.set_axis_off()
        return
    energy = specgram(film.clip, NFFT=512, Fs=SAMPLE_RATE, noverlap=384)[0]
    power = 10 * np.log10(energy + 1e-12)
    first, last = film.heard
    extent = (first - 0.5, last + 0.5, 0, SAMPLE_RATE / 2000)
    scale = {"vmax": power.max(), "vmin": power.max() - 60, "cmap": SOUND}
    ax.imshow(power, extent=extent, **WHOLE_PICTURE, **scale)
    ax.set(ylabel="kHz", xticks=[], xlim=(-0.5, len(film.names) - 0.5))


def _frame(ax: Axes, row: int, column: int) -> None:
    """A frame around a cell, visible on light and dark ones."""
    for colour, width in ((PAPER, 5), (INK, 2.5)):
        look = {"fill": False, "edgecolor": colour, "linewidth": width, "zorder": 5}
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
