"""The geometry playground: the method's vectors on two clouds of points, without a model."""

import math

import torch
from ipywidgets import HTML, ToggleButtons
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import playground_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.separation import best_benign_rate
from sarsteer_lab.safe_space import ablate, projection, share_in_space
from sarsteer_lab.vectors import SteeringVectors

REQUESTS = 60
"""Points of each cloud."""

LENGTH = 1.5
"""The length of the refusal direction."""

LINE = 1.6
"""The readiness beyond which is refused."""

SPREADS = (1.3, 0.9, 0.35)
"""How far both clouds spread along their own axes."""

TILT = math.radians(30)
"""How far the first of these axes leans towards refusal."""

DEPTH = math.radians(35)
"""Where the direction turns to, in the plane of what harmless requests vary in."""

HARMFUL = (1.0, 0.3, 0.2)
"""The harmful cloud, seen from the harmless: readier to refuse, and about something else."""


class Playground(panels.Panel):
    """Chapters 02 to 04 without a model: turn a refusal direction, ablate it, push.

    A state has three numbers, of which the first is the readiness to refuse. `angle` (degrees)
    turns the direction away from it, into what harmless requests vary in; `k`, `lam` and `alpha`
    are the method's. `moved` picks the push that moves the points: the direction d, its ablated
    form v, or the control, d as short as v.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        sine, cosine = math.sin(TILT), math.cos(TILT)
        axes = torch.tensor([[sine, cosine, 0.0], [0.0, 0.0, 1.0], [cosine, -sine, 0.0]])
        noise = torch.randn(2, REQUESTS, 3, generator=torch.Generator().manual_seed(seed))
        harmful, harmless = noise * torch.tensor(SPREADS) @ axes
        self.clouds = {"harmful": harmful + torch.tensor(HARMFUL), "harmless": harmless}
        self.space, self.lam, self.k = panels.ablation_controls(harmless[:, None], 2)
        self.k.max = 3
        self.angle = panels.slider("angle", 20, -90, 90, step=5)
        self.alpha = panels.slider("alpha", 1, 0, 3, step=0.1)
        names = [("direction d", "d"), ("ablated v", "v"), ("control", "control")]
        self.moved = ToggleButtons(options=names, value="v", description="moved by")
        self.view = HTML()
        controls = (self.angle, self.k, self.lam, self.alpha)
        self.children = [panels.row(*controls), self.moved, self.view, self.runner.message]
        self.add_class("sarsteer-playground")
        self.runner.listen("view", self._show, *controls, self.moved)
        self._show()

    def static(self) -> str:
        """The figure and what it says in numbers."""
        return self.view.value

    def vectors(self) -> dict[str, Float[Tensor, "1 3"]]:
        """The direction at the slider's angle, its ablated form, and the equal-norm control."""
        turn = math.radians(self.angle.value)
        across = math.sin(turn)
        y, z = across * math.cos(DEPTH), across * math.sin(DEPTH)
        direction = LENGTH * torch.tensor([[math.cos(turn), y, z]])
        ablated = ablate(direction, self.space.first(self.k.value), self.lam.value)
        control = SteeringVectors(direction).rescaled_to(SteeringVectors(ablated))
        return {"d": direction, "v": ablated, "control": control.values}

    def over(self) -> dict[str, dict[str, int]]:
        """How many of each cloud lie beyond the line: without a push, and under each vector."""
        counts: dict[str, dict[str, int]] = {}
        pushes = {"no push": torch.zeros(1, 3), **self.vectors()}
        for name, push in pushes.items():
            counts[name] = {}
            for label, states in self.clouds.items():
                readiness = states[:, 0] + self.alpha.value * push[0, 0]
                counts[name][label] = int((readiness > LINE).sum())
        return counts

    def _show(self) -> None:
        vectors, over, moved = self.vectors(), self.over(), self.moved.value
        space, alpha = self.space.first(self.k.value), self.alpha.value
        arrows = {**vectors, "inside": projection(vectors["d"], space)}
        pushes = {name: alpha * vector[0] for name, vector in arrows.items()}
        fig = playground_figure(self.clouds, space, pushes, over, moved=moved, line=LINE)
        refused = over[moved]["harmful"]
        harmful, harmless = (states[:, 0].numpy() for states in self.clouds.values())
        answered = best_benign_rate(harmful, harmless, refused / REQUESTS)
        counts = {"n": REQUESTS, "refused": refused, "along": round(REQUESTS * (1 - answered))}
        inside = float(share_in_space(vectors["d"], space))
        length = float(vectors["v"].norm()) / LENGTH
        told = panels.piece("playground", inside=inside, length=length, **counts)
        self.view.value = panels.picture(fig, 1250) + told
