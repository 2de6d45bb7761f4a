"""The figures of the course: `from sarsteer_lab.course import figures`, then
`figures.gap_figure(...)`."""

from sarsteer_lab.course.figures.base import save_figure
from sarsteer_lab.course.figures.causes import (
    heads_figure,
    lengths_figure,
    patched_layers_figure,
    seconds_figure,
)
from sarsteer_lab.course.figures.defences import group_of, tradeoff_figure
from sarsteer_lab.course.figures.idea import idea_figure
from sarsteer_lab.course.figures.moves import gates_figure, moves_figure
from sarsteer_lab.course.figures.refusal import (
    prediction_figure,
    prompted_figure,
    push_size_figure,
    readiness_figure,
    roc_figure,
)
from sarsteer_lab.course.figures.requests import (
    clip_figure,
    dial_figure,
    live_figure,
    outcomes_figure,
    sweep_figure,
)
from sarsteer_lab.course.figures.states import (
    depth_figure,
    gap_figure,
    layer_curves_figure,
    maps_figure,
    project_2d,
)
from sarsteer_lab.course.figures.steering import (
    controls_figure,
    curves_figure,
    divergence_figure,
    push_figure,
    removal_figure,
    share_figure,
)
from sarsteer_lab.course.figures.strip import architecture
from sarsteer_lab.course.figures.understanding import reach_figure, understanding_figure
