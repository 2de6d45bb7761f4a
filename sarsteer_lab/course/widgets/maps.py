"""The panels on hidden states: a map of typed and spoken requests, and what ablation removes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ipywidgets import HTML, Box, Button
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import maps_figure, project_2d, removal_figure
from sarsteer_lab.course.palette import FORMS
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.safe_space import projection
from sarsteer_lab.speech import read_clip

PLANE = (640, 420)
"""Width and height of the map in pixels."""

_CSS = Path(__file__).with_name("maps.css").read_text(encoding="utf-8")
STYLE = f"""<style>:root {{--sarsteer-width: {PLANE[0]}px; --sarsteer-height: {PLANE[1]}px;
  --sarsteer-typed: {FORMS["typed"][0]}; --sarsteer-spoken: {FORMS["spoken"][0]};}}
{_CSS}</style>"""


class GapExplorer(panels.Panel):
    """Chapter 01: typed and spoken last-token states of the same requests on a map, layer by layer.

    Row i of both inputs is `prompts[i]`. Hover over a point to read its request, click it to hear
    it. At most `limit` requests are drawn, evenly picked; `layer` is where it
    starts. `layer` is the slider, `points` are the clickable points.
    Raises ValueError if the numbers of states and prompts differ.
    """

    def __init__(
        self,
        typed: Float[Tensor, "prompt layer d_model"],
        spoken: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[Request],
        *,
        layer: int,
        limit: int = 60,
    ) -> None:
        if typed.shape != spoken.shape or len(typed) != len(prompts):
            got = f"{tuple(typed.shape)} and {tuple(spoken.shape)}"
            raise ValueError(
                f"{len(prompts)} prompts need as many typed and spoken states; got {got}"
            )
        super().__init__()
        rows = panels.spread(range(len(prompts)), limit)
        self.prompts = [prompts[row] for row in rows]
        self.states = torch.cat([typed[rows], spoken[rows]])
        self.forms = ["typed"] * len(rows) + ["spoken"] * len(rows)
        self.labels = [prompt.label for prompt in self.prompts] * 2
        n_layers = typed.shape[1]
        self.layer = panels.slider("layer", layer, 0, n_layers - 1)
        self.points = [self._point(i) for i in range(len(self.forms))]
        self._chosen = self.points[0]
        plane = Box(self.points)
        plane.add_class("sarsteer-plane")
        self.words = HTML("<p>Click a point to see and hear its request.</p>")
        self.player = panels.player()
        legend = panels.piece("map_legend", typed=FORMS["typed"][0], spoken=FORMS["spoken"][0])
        heard = panels.row(self.player, self.words)
        look = HTML(STYLE + legend)
        self.children = [self.layer, look, plane, heard, self.runner.message]
        self.runner.listen("map", self._show, self.layer)
        self._show()

    def static(self) -> str:
        """The map as a figure."""
        layer = self.layer.value
        maps = {"PCA": project_2d(self.states[:, layer])}
        fig = maps_figure(maps, self.forms, self.labels, layer=layer)
        fig.suptitle(f"Typed and spoken requests, output of layer {layer}", x=0.01, ha="left")
        return panels.picture(fig)

    def choose(self, index: int) -> None:
        """Mark a point, show its request and make its clip ready to play."""
        self._chosen.remove_class("chosen")
        self._chosen = self.points[index]
        self._chosen.add_class("chosen")
        prompt = self._prompt(index)
        self.words.value = panels.piece("map_request", prompt=prompt, form=self.forms[index])
        if prompt.clip is not None:
            self.player.value = panels.wav_bytes(read_clip(prompt.clip))

    def _prompt(self, index: int) -> Request:
        return self.prompts[index % len(self.prompts)]

    def _point(self, index: int) -> Button:
        form = self.forms[index]
        button = Button(tooltip=f"{form}: {self._prompt(index).request}")
        for name in ("sarsteer-point", form, self.labels[index]):
            button.add_class(name)
        button.on_click(lambda _: self.runner.soon("choose", lambda: self.choose(index)))
        return button

    def _show(self) -> None:
        """Put every button where its state lies; both axes have the same scale."""
        places = project_2d(self.states[:, self.layer.value])
        low, high = places.min(0), places.max(0)
        span = np.where(high > low, high - low, 1.0)
        scale = ((np.array(PLANE) - 30) / span).min()
        offsets = (places - (low + high) / 2) * scale * [1, -1]
        corners = np.array(PLANE) / 2 + offsets - 7
        for button, (left, top) in zip(self.points, corners, strict=True):
            with button.layout.hold_sync():
                button.layout.left = f"{left:.0f}px"
                button.layout.top = f"{top:.0f}px"


class SafeSpaceExplorer(panels.Panel):
    """Chapter 03: what safe-space ablation removes from a refusal direction, by k and lambda.

    `harmless` are the states that span the space. The tokens that the removed and the kept part
    raise are listed too (logit lens). `layer` is where it starts. `k`, `lam` and `layer` are the
    sliders.
    """

    def __init__(
        self,
        direction: Float[Tensor, "layer d_model"],
        harmless: Float[Tensor, "prompt layer d_model"],
        *,
        lalm: LALM,
        layer: int,
        k: int = 10,
    ) -> None:
        super().__init__()
        self.lalm, self.direction = lalm, direction
        self.space, self.lam, self.k = panels.ablation_controls(harmless, k)
        self.layer = panels.slider("layer", layer, 0, len(direction) - 1)
        self.view = HTML()
        sliders = (self.k, self.lam, self.layer)
        self.children = [panels.row(*sliders), self.view, self.runner.message]
        self.runner.listen("view", self._show, *sliders)
        self._show()

    def static(self) -> str:
        """The figure and the tokens."""
        return self.view.value

    def removed(self) -> Float[Tensor, "layer d_model"]:
        """What is taken off the refusal direction at the sliders' k and lambda."""
        return self.lam.value * projection(self.direction, self.space.first(self.k.value))

    def _show(self) -> None:
        layer, lam, k = self.layer.value, self.lam.value, self.k.value
        removed = self.removed()[layer]
        inside = projection(self.direction, self.space.first(k))
        fig = removal_figure(self.direction, inside, lam, layer=layer, k=k)
        kept = self.direction[layer] - removed
        raised = self._raised("removed", removed) + self._raised("kept", kept)
        self.view.value = panels.picture(fig, 900) + raised

    @torch.no_grad()
    def _raised(self, name: str, vector: Float[Tensor, "d_model"]) -> str:
        """The tokens that a vector raises most when the head reads it directly (logit lens)."""
        if not vector.any():
            return ""
        scores = logit_lens(self.lalm, vector.to(self.lalm.device))
        top = scores.topk(12).indices.tolist()
        tokens = [self.lalm.tokenizer.decode([token]) for token in top]
        return panels.piece("raised", name=name, layer=self.layer.value, tokens=tokens)
