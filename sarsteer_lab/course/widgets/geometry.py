"""The geometry playground: the method's vectors on two clouds of points, without a model."""

import math

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import playground_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.separation import best_benign_rate
from sarsteer_lab.safe_space import ablate, projection, share_in_space
from sarsteer_lab.vectors import SteeringVectors

REQUESTS, LENGTH, LINE = 60, 1.5, 1.6
"""Points of each cloud, the length of the refusal direction, and the readiness beyond which is
refused."""

SPREADS, TILT = (1.3, 0.9, 0.35), math.radians(30)
"""How far both clouds spread along their own axes, the first of which leans towards refusal by
`TILT`."""

HARMFUL = (1.0, 0.3, 0.2)
"""Where the harmful cloud lies, seen from the harmless one: readier to refuse, and about something
else."""


class Playground(panels.Panel):
    """Chapters 02 to 04 without a model: turn a refusal direction, ablate it, push, and see who is
    refused.

    A state has three numbers, of which the first is the readiness to refuse. `angle` (degrees)
    turns the direction away from it, into what harmless requests vary in; `k`, `lam` and `alpha`
    are the method's. `moved` picks the push that moves the points: the direction d, its ablated
    form v, or the control, d as short as v.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sine, cosine = math.sin(TILT), math.cos(TILT)
        axes = torch.tensor([[sine, cosine, 0.0], [0.0, 0.0, 1.0], [cosine, -sine, 0.0]])
        points = torch.randn(2, REQUESTS, 3, generator=generator) * torch.tensor(SPREADS) @ axes
        self.clouds = {"harmful": points[0] + torch.tensor(HARMFUL), "harmless": points[1]}
        self.space, self.lam, self.k = panels.ablation_controls(points[1][:, None], 2)
        self.k.max = 3
        self.angle = panels.slider(ipywidgets.IntSlider, "angle", value=20, min=-90, max=90, step=5)
        self.alpha = panels.slider(
            ipywidgets.FloatSlider, "alpha", value=1.0, min=0, max=3, step=0.1
        )
        names = [("direction d", "d"), ("ablated v", "v"), ("control", "control")]
        self.moved = ipywidgets.ToggleButtons(options=names, value="v", description="moved by")
        self.view = ipywidgets.HTML()
        controls = (self.angle, self.k, self.lam, self.alpha)
        self.children = [panels.row(*controls), self.moved, self.view, self.runner.message]
        self.add_class("sarsteer-playground")
        self.runner.listen("view", self._show, *controls, self.moved)
        self._show()

    def static(self) -> str:
        """The figure and what it says in numbers."""
        return self.view.value

    def vectors(self) -> dict[str, Float[Tensor, "1 3"]]:
        """The refusal direction at the slider's angle, its ablated form, and the equal-norm
        control."""
        turn, depth = math.radians(self.angle.value), math.radians(35)
        sine = math.sin(turn)
        d = LENGTH * torch.tensor(
            [[math.cos(turn), sine * math.cos(depth), sine * math.sin(depth)]]
        )
        v = ablate(d, self.space.first(self.k.value), self.lam.value)
        return {
            "d": d,
            "v": v,
            "control": SteeringVectors(d).rescaled_to(SteeringVectors(v)).values,
        }

    def over(self) -> dict[str, dict[str, int]]:
        """How many of each cloud lie beyond the line: without a push, and under each of the
        vectors."""
        pushes = {"no push": torch.zeros(1, 3), **self.vectors()}
        return {
            name: {
                label: int(((states + self.alpha.value * push)[:, 0] > LINE).sum())
                for label, states in self.clouds.items()
            }
            for name, push in pushes.items()
        }

    def _show(self) -> None:
        vectors, over, moved = self.vectors(), self.over(), self.moved.value
        space = self.space.first(self.k.value)
        arrows = {**vectors, "inside": projection(vectors["d"], space)}
        pushes = {name: self.alpha.value * vector[0] for name, vector in arrows.items()}
        fig = playground_figure(self.clouds, space, pushes, over, moved=moved, line=LINE)
        harmful, harmless = (states[:, 0].numpy() for states in self.clouds.values())
        refused = over[moved]["harmful"]
        along = round(REQUESTS * (1 - best_benign_rate(harmful, harmless, refused / REQUESTS)))
        inside, length = (
            float(share_in_space(vectors["d"], space)),
            float(vectors["v"].norm()) / LENGTH,
        )
        self.view.value = panels.picture(fig, 1250) + (
            f"{panels.PARAGRAPH}{inside:.0%} of d (of its squared length) lies in the safe space; v is "
            f"{length:.0%} as long as d. Whichever way it points, a push that gets {refused} of {REQUESTS} "
            f"harmful requests refused takes at least {along} of {REQUESTS} harmless ones along: it moves "
            "all alike, and refusal is read from one number here.</p>"
        )
