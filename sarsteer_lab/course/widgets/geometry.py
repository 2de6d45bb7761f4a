"""The geometry playground: the method's vectors on two clouds of points, without a model."""

import math

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.widgets import panels
from sarsteer_lab.safe_space import ablate, principal_space, share_in_space

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

    A state has three numbers, of which the first is the readiness to refuse. The reader chooses the
    `angle` (degrees) that turns the direction away from it, into what harmless requests vary in,
    the method's `k`, `lam` and `alpha` (both in tenths), and which push has `moved` the points: the
    direction d, its ablated form v, or the control, d as short as v. The view computes.
    """

    def __init__(self, seed: int = 0) -> None:
        sine, cosine = math.sin(TILT), math.cos(TILT)
        axes = torch.tensor([[sine, cosine, 0.0], [0.0, 0.0, 1.0], [cosine, -sine, 0.0]])
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2, REQUESTS, 3, generator=generator)
        harmful, harmless = noise * torch.tensor(SPREADS) @ axes
        self.clouds = {"harmful": harmful + torch.tensor(HARMFUL), "harmless": harmless}
        self.space = principal_space(harmless[:, None], 3)
        spread = self.space.explained_variance_ratio[0] * harmless.var(0).sum()
        points = {label: cloud.tolist() for label, cloud in self.clouds.items()}
        state = {
            "clouds": points,
            "directions": self.space.directions[0].tolist(),
            "spreads": spread.sqrt().tolist(),
            "length": LENGTH,
            "line": LINE,
            "depth": DEPTH,
        }
        begins = {"angle": 20, "k": 2, "lam": 10, "alpha": 10, "moved": "v"}
        super().__init__("playground", state, **begins)

    def direction(self) -> Float[Tensor, "1 3"]:
        """The direction at the chosen angle."""
        turn = math.radians(self.chosen["angle"])
        across = math.sin(turn)
        y, z = across * math.cos(DEPTH), across * math.sin(DEPTH)
        return LENGTH * torch.tensor([[math.cos(turn), y, z]])

    def static(self) -> str:
        """What ablation takes of the direction, by the size of the safe space."""
        d = self.direction()
        rows = []
        for k in range(self.space.k + 1):
            space = self.space.first(k)
            left = float(ablate(d, space).norm()) / LENGTH
            rows.append((k, float(share_in_space(d, space)), left))
        columns = ["k", "share of d inside", "length of v, in d's"]
        table = pd.DataFrame(rows, columns=columns)
        return table.to_html(index=False, float_format="{:.2f}".format)
