"""The panels on hidden states: a map of typed and spoken requests, and what the safe space
removes."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import maps_figure, project_2d, removal_figure
from sarsteer_lab.course.figures.base import BLUE, VERMILION
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.safe_space import projection
from sarsteer_lab.speech import read_clip

PLANE = (640, 420)
"""Width and height of the map in pixels."""

_SETTINGS = {
    "width": f"{PLANE[0]}px",
    "height": f"{PLANE[1]}px",
    "typed": BLUE,
    "spoken": VERMILION,
}
STYLE = (
    "<style>:root {"
    + "".join(f"--sarsteer-{name}: {value};" for name, value in _SETTINGS.items())
    + "}"
)
STYLE += Path(__file__).with_name("maps.css").read_text(encoding="utf-8") + "</style>"


class GapExplorer(panels.Panel):
    """Chapter 01: typed and spoken last-token states of the same requests on a map, layer by layer.

    Row i of both inputs is `prompts[i]`. Hover over a point to read its request, click it to hear
    it; PCA or UMAP. At most `limit` requests are drawn, evenly picked; `layer` (default: the middle
    one) is where it starts. `layer` and `method` are the controls, `points` the clickable points.
    Raises ValueError if the numbers of states and prompts differ.
    """

    def __init__(
        self,
        typed: Float[Tensor, "prompt layer d_model"],
        spoken: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[Request],
        *,
        layer: int | None = None,
        limit: int = 60,
    ) -> None:
        if not len(typed) == len(spoken) == len(prompts) or typed.shape != spoken.shape:
            raise ValueError(
                f"{len(prompts)} prompts need as many typed and spoken states; got {tuple(typed.shape)} and "
                f"{tuple(spoken.shape)}"
            )
        super().__init__()
        count = min(limit, len(prompts))
        rows = np.unique(np.linspace(0, len(prompts) - 1, count).round().astype(int)).tolist()
        self.prompts = [prompts[row] for row in rows]
        self.states = torch.cat([typed[rows], spoken[rows]])
        self.forms = ["typed"] * len(rows) + ["spoken"] * len(rows)
        self.labels = [prompt.label for prompt in self.prompts] * 2
        self._places: dict[tuple[int, str], Float[np.ndarray, "point 2"]] = {}
        self._chosen: int | None = None
        layers = typed.shape[1]
        start = layers // 2 if layer is None else layer
        self.layer = panels.slider(
            ipywidgets.IntSlider, "layer", value=start, min=0, max=layers - 1
        )
        self.method = ipywidgets.ToggleButtons(options=[("PCA", "pca"), ("UMAP", "umap")])
        self.points = [self._point(i) for i in range(len(self.forms))]
        plane = ipywidgets.Box(self.points)
        plane.add_class("sarsteer-plane")
        self.words = ipywidgets.HTML("<p>Click a point to see and hear its request.</p>")
        self.player = panels.player()
        legend = ipywidgets.HTML(
            STYLE + f'<small><span style="color:{BLUE}">\u25cf typed</span>, '
            f'<span style="color:{VERMILION}">\u25c6 spoken</span>; filled: harmful, hollow: others</small>'
        )
        progress = panels.row(self.runner.progress, self.runner.message)
        controls, heard = panels.row(self.layer, self.method), panels.row(self.player, self.words)
        self.children = [controls, legend, plane, heard, progress]
        self.runner.listen("map", self._show, self.layer, self.method)
        self._show()

    def static(self) -> str:
        """The map as a figure."""
        layer = self.layer.value
        fig = maps_figure(
            {"PCA": project_2d(self.states[:, layer])}, self.forms, self.labels, layer=layer
        )
        fig.suptitle(f"Typed and spoken requests, output of layer {layer}", x=0.01, ha="left")
        return panels.picture(fig)

    def choose(self, index: int) -> None:
        """Mark a point, show its request and make its clip ready to play."""
        prompt = self.prompts[index % len(self.prompts)]
        if self._chosen is not None:
            self.points[self._chosen].remove_class("chosen")
        self.points[index].add_class("chosen")
        self._chosen = index
        voice = f", voice {escape(prompt.voice)}" if prompt.voice else ""
        self.words.value = (
            f"<p><b>{escape(prompt.request)}</b><br>{self.forms[index]}, {escape(prompt.label)}, "
            f"topic {escape(prompt.topic)}{voice}</p>"
        )
        if prompt.clip is not None:
            self.player.value = panels.wav_bytes(read_clip(prompt.clip))

    def _point(self, index: int) -> ipywidgets.Button:
        prompt = self.prompts[index % len(self.prompts)]
        button = ipywidgets.Button(tooltip=f"{self.forms[index]}: {prompt.request}")
        for name in ("sarsteer-point", self.forms[index], self.labels[index]):
            button.add_class(name)
        button.on_click(lambda _: self.runner.soon("choose", lambda: self.choose(index)))
        return button

    def _show(self) -> None:
        self.runner.cancel()
        place = (self.layer.value, self.method.value)
        if place not in self._places and self.method.value == "umap":
            # Seconds, the first time half a minute (it is compiled): aside, so that it can be given
            # up.
            self.runner.steps(self._umap(self.layer.value), total=300)
            return
        if place not in self._places:
            self._places[place] = project_2d(self.states[:, self.layer.value])
        self._move(self._places[place])

    def _umap(self, layer: int) -> Generator[None, None, None]:
        laid_out = ThreadPoolExecutor(1).submit(project_2d, self.states[:, layer], method="umap")
        self.runner.say(
            "UMAP is laying out the map (the first time it is compiled, which takes a while)"
        )
        while not laid_out.done():
            wait([laid_out], timeout=0.1)
            yield
        self._places[layer, "umap"] = laid_out.result()
        self._move(self._places[layer, "umap"])
        self.runner.say("UMAP keeps neighbourhoods; its distances mean little")

    def _move(self, places: Float[np.ndarray, "point 2"]) -> None:
        """Put every button where its state lies; both axes have the same scale with PCA, as in the
        figure."""
        low, high = places.min(0), places.max(0)
        span = np.where(high > low, high - low, 1.0)
        room = np.array(PLANE) - 30
        scale = room / span if self.method.value == "umap" else np.full(2, (room / span).min())
        centred = (places - (low + high) / 2) * scale
        for button, (x, y) in zip(self.points, centred, strict=True):
            with button.layout.hold_sync():
                button.layout.left = f"{PLANE[0] / 2 + x - 7:.0f}px"
                button.layout.top = f"{PLANE[1] / 2 - y - 7:.0f}px"


class SafeSpaceExplorer(panels.Panel):
    """Chapter 03: what safe-space ablation removes from a refusal direction, for every k and
    lambda.

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
        last = len(direction) - 1
        self.layer = panels.slider(ipywidgets.IntSlider, "layer", value=layer, min=0, max=last)
        self.view = ipywidgets.HTML()
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
        removed, layer = self.removed(), self.layer.value
        fig = removal_figure(
            self.direction,
            projection(self.direction, self.space.first(self.k.value)),
            self.lam.value,
            layer=layer,
            k=self.k.value,
        )
        tokens = self._tokens("removed", removed[layer])
        tokens += self._tokens("kept", self.direction[layer] - removed[layer])
        self.view.value = panels.picture(fig, 900) + tokens

    @torch.no_grad()
    def _tokens(self, name: str, vector: Float[Tensor, "d_model"]) -> str:
        """The tokens that a vector raises most when the vocabulary head reads it directly (logit
        lens)."""
        if not vector.any():
            return ""
        scores = logit_lens(self.lalm, vector.to(self.lalm.device))
        words = [self.lalm.tokenizer.decode([int(token)]) for token in scores.topk(12).indices]
        listed = " ".join(f"<code>{escape(repr(word))}</code>" for word in words)
        return f"<p>What is <b>{name}</b> in layer {self.layer.value} raises: {listed}</p>"
