"""Figures that set models of different depth side by side."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from sarsteer_lab.course.figures.base import BLUE, GREEN, LOOK, VERMILION

LINES = ((BLUE, "o", "-"), (VERMILION, "^", "--"), (GREEN, "s", ":"))


def depth_figure(
    panels: Mapping[str, Mapping[str, Float[Tensor, "layer"]]], *, ylabels: Mapping[str, str], title: str
) -> Figure:
    """One panel per measure, in it one line per model, over relative depth (first layer 0%, last 100%).

    `panels` maps a panel's title to a curve per model, `ylabels` the same titles to what is measured, with
    its unit. Panels have their own scales."""
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(4.5 * len(panels), 4.8), layout="constrained")
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, curves) in zip(axes, panels.items(), strict=True):
            for (model, values), (colour, marker, style) in zip(curves.items(), cycle(LINES), strict=False):
                depth = [layer / max(len(values) - 1, 1) for layer in range(len(values))]
                ax.plot(
                    depth, values.float().cpu(), color=colour, marker=marker, linestyle=style, label=model
                )
            ax.set(title=name, xlabel="depth", ylabel=ylabels[name])
            ax.xaxis.set_major_formatter(PercentFormatter(1.0))
            ax.set_ylim(bottom=0)
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        fig.suptitle(title, x=0.01, ha="left")
    return fig
