"""The figure of the refusal X-ray: layers against positions, the clip's spectrogram above, tokens
below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.mlab import specgram
from matplotlib.patches import Rectangle

from sarsteer_lab.course.figures import base
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


@base.drawn_without_grid
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
    options = {"width_ratios": widths, "height_ratios": (1, 4.2)}
    size = (0.175 * sum(widths) + 2.2, 7.4)
    fig, axes = base.panels(len(films), size, title.replace("$", r"\$"), rows=2, **options)
    maps = dict(zip(films, axes[len(films) :], strict=True))
    for (name, film), above in zip(films.items(), axes, strict=False):
        ax = maps[name]
        look = {"cmap": "viridis", "norm": LogNorm(1e-4, 1)}
        if top is not None:
            look = {"cmap": "PuOr_r", "norm": Normalize(-top, top)}
        values = film.values if top is not None else film.values.clip(1e-4)
        image = ax.imshow(values, origin="lower", aspect="auto", interpolation="nearest", **look)
        ax.axvline(film.answer - 0.5, color=base.BLACK, linewidth=2)
        ax.set_xticks([])
        for at, text in enumerate(film.names):  # ticks take three times as long to draw
            ax.text(at, -0.8, text, rotation=90, ha="center", va="top", fontsize=11)
        step = -(-len(layers) // 10)
        ax.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        above.set_title(name)
        if film.clip is None:
            above.set_axis_off()
        else:
            power = 10 * np.log10(
                specgram(film.clip, NFFT=512, Fs=SAMPLE_RATE, noverlap=384)[0] + 1e-12
            )
            place = (film.heard[0] - 0.5, film.heard[1] + 0.5, 0, SAMPLE_RATE / 2000)
            look = {"vmax": power.max(), "vmin": power.max() - 60, "cmap": "Greys", "extent": place}
            above.imshow(power, origin="lower", aspect="auto", **look)
            above.set_ylabel("kHz")
            above.set(xticks=[], xlim=(-0.5, len(film.names) - 0.5))
        if chosen and chosen[0] == name:
            for colour, width in (("white", 5), (base.BLACK, 2.5)):
                corner = (chosen[2] - 0.5, chosen[1] - 0.5)
                ax.add_patch(
                    Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=5)
                )
    axes[len(films)].set_ylabel("decoder layer")
    fig.colorbar(image, ax=axes, label=label, pad=0.01, fraction=0.03)
    return fig, maps
