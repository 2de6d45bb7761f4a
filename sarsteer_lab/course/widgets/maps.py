"""The panels on hidden states: a map of typed and spoken requests, and what the safe space removes."""

import threading
from collections.abc import Generator, Sequence
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import map_figure, removal_figure
from sarsteer_lab.course.figures.base import BLUE, VERMILION
from sarsteer_lab.course.widgets.panels import LABEL_WIDTH, Panel, Runner, picture, wav_bytes
from sarsteer_lab.geometry import logit_lens, project_2d
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.safe_space import SafeSpace, principal_space, projection
from sarsteer_lab.speech import read_clip
from sarsteer_lab.steering import SteeringVectors

PLANE = (640, 420)
"""Width and height of the map in pixels."""

STYLE = f"""<style>
.sarsteer-plane {{position: relative; width: {PLANE[0]}px; height: {PLANE[1]}px; overflow: hidden;
  border: 1px solid #8c8c8c;}}
.sarsteer-plane .sarsteer-point {{position: absolute; width: 14px; height: 14px; min-width: 0; padding: 0;
  margin: 0; line-height: 1; box-sizing: border-box; border-radius: 50%; opacity: 0.85;}}
.sarsteer-point.typed {{border: 2px solid {BLUE}; background: transparent;}}
.sarsteer-point.typed.harmful {{background: {BLUE};}}
.sarsteer-point.spoken {{border: 2px solid {VERMILION}; border-radius: 0; transform: rotate(45deg);
  background: transparent;}}
.sarsteer-point.spoken.harmful {{background: {VERMILION};}}
.sarsteer-point.chosen {{outline: 3px solid #000; opacity: 1; z-index: 2;}}
</style>"""


class GapExplorer(Panel):
    """See `widgets.gap_explorer`. `layer` and `method` are its controls, `points` its clickable points."""

    def __init__(
        self,
        typed: Float[Tensor, "prompt layer d_model"],
        spoken: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[SpokenPrompt],
        *,
        layer: int,
        limit: int,
    ) -> None:
        if not len(typed) == len(spoken) == len(prompts) or typed.shape != spoken.shape:
            raise ValueError(
                f"{len(prompts)} prompts need as many typed and spoken states; got {tuple(typed.shape)} and "
                f"{tuple(spoken.shape)}"
            )
        count = min(limit, len(prompts))
        rows = np.unique(np.linspace(0, len(prompts) - 1, count).round().astype(int)).tolist()
        self.prompts = [prompts[row] for row in rows]
        self.states = torch.cat([typed[rows], spoken[rows]])
        self.forms = ["typed"] * len(rows) + ["spoken"] * len(rows)
        self.labels = [prompt.label for prompt in self.prompts] * 2
        self._places: dict[tuple[int, str], Float[np.ndarray, "point 2"]] = {}
        self._chosen: int | None = None
        self.runner = Runner()
        self.layer = ipywidgets.IntSlider(
            description="layer",
            value=layer,
            min=0,
            max=typed.shape[1] - 1,
            continuous_update=False,
            style=LABEL_WIDTH,
            layout={"width": "min(460px, 95%)"},
        )
        self.method = ipywidgets.ToggleButtons(options=[("PCA", "pca"), ("UMAP", "umap")])
        self.points = [self._point(i) for i in range(len(self.forms))]
        plane = ipywidgets.Box(self.points)
        plane.add_class("sarsteer-plane")
        self.words = ipywidgets.HTML("<p>Click a point to see and hear its request.</p>")
        self.player = ipywidgets.Audio(value=b"", format="wav", autoplay=False, controls=True, loop=False)
        legend = ipywidgets.HTML(
            STYLE + f'<small><span style="color:{BLUE}">\u25cf typed</span>, '
            f'<span style="color:{VERMILION}">\u25c6 spoken</span>; filled: harmful, hollow: others</small>'
        )
        super().__init__(
            [
                ipywidgets.HBox([self.layer, self.method], layout={"flex_flow": "row wrap"}),
                legend,
                plane,
                ipywidgets.HBox([self.player, self.words], layout={"flex_flow": "row wrap"}),
                ipywidgets.HBox([self.runner.progress, self.runner.message]),
            ]
        )
        for control in (self.layer, self.method):
            control.observe(lambda _: self.runner.soon("map", self._show), "value")
        self._show()

    def static(self) -> str:
        """The map as a figure."""
        points, explained = self._pca(self.layer.value)
        fig = map_figure(points, self.forms, self.labels, layer=self.layer.value, explained=explained)
        return picture(fig)

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
            self.player.value = wav_bytes(read_clip(prompt.clip))

    def _point(self, index: int) -> ipywidgets.Button:
        prompt = self.prompts[index % len(self.prompts)]
        button = ipywidgets.Button(tooltip=f"{self.forms[index]}: {prompt.request}")
        for name in ("sarsteer-point", self.forms[index], self.labels[index]):
            button.add_class(name)
        button.on_click(lambda _: self.runner.soon("choose", lambda: self.choose(index)))
        return button

    def _pca(self, layer: int) -> tuple[Float[np.ndarray, "point 2"], list[float]]:
        states = self.states[:, layer]
        points = project_2d(states)
        total = float((states.double() - states.double().mean(0)).square().sum())
        return points, [float(np.square(column).sum() / total) for column in points.T]

    def _show(self) -> None:
        self.runner.cancel()
        place = (self.layer.value, self.method.value)
        if place not in self._places and self.method.value == "umap":
            # Seconds, the first time half a minute (it is compiled): aside, so that it can be given up.
            self.runner.steps(self._umap(self.layer.value), total=300)
            return
        if place not in self._places:
            self._places[place] = self._pca(self.layer.value)[0]
        self._move(self._places[place])

    def _umap(self, layer: int) -> Generator[None, None, None]:
        found: list[Any] = []

        def lay_out() -> None:
            try:
                found.append(project_2d(self.states[:, layer], method="umap"))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=lay_out, daemon=True)
        thread.start()
        self.runner.say("UMAP is laying out the map (the first time it is compiled, which takes a while)")
        while thread.is_alive():
            thread.join(0.1)
            yield
        if isinstance(found[0], Exception):
            raise found[0]
        self._places[layer, "umap"] = found[0]
        self._move(found[0])
        self.runner.say("UMAP keeps neighbourhoods; its distances mean little")

    def _move(self, places: Float[np.ndarray, "point 2"]) -> None:
        """Put every button where its state lies; both axes have the same scale with PCA, as in the figure."""
        low, high = places.min(0), places.max(0)
        span = np.where(high > low, high - low, 1.0)
        room = np.array(PLANE) - 30
        scale = room / span if self.method.value == "umap" else np.full(2, (room / span).min())
        centred = (places - (low + high) / 2) * scale
        for button, (x, y) in zip(self.points, centred, strict=True):
            with button.layout.hold_sync():
                button.layout.left = f"{PLANE[0] / 2 + x - 7:.0f}px"
                button.layout.top = f"{PLANE[1] / 2 - y - 7:.0f}px"


class SafeSpaceExplorer(Panel):
    """See `widgets.safe_space_explorer`. `k`, `lam` and `layer` are its sliders."""

    def __init__(
        self,
        direction: SteeringVectors,
        harmless: Float[Tensor, "prompt layer d_model"],
        lalm: LALM | None,
        *,
        layer: int,
        k: int,
        lam: float,
    ) -> None:
        self.direction, self.lalm = direction, lalm
        most = min(40, len(harmless) - 1)
        self.space: SafeSpace = principal_space(harmless[:, list(direction.layers)], most)
        self.runner = Runner()

        def slider(kind: type, name: str, **options: Any) -> Any:
            wide = {"width": "min(460px, 95%)"}
            return kind(description=name, continuous_update=False, style=LABEL_WIDTH, layout=wide, **options)

        self.k = slider(ipywidgets.IntSlider, "k", value=min(k, most), min=0, max=most)
        self.lam = slider(
            ipywidgets.FloatSlider, "lambda", value=lam, min=0, max=1.5, step=0.1, readout_format=".1f"
        )
        self.layer = slider(ipywidgets.SelectionSlider, "layer", options=list(direction.layers), value=layer)
        self.view = ipywidgets.HTML()
        sliders = [self.k, self.lam, self.layer]
        super().__init__(
            [
                ipywidgets.HBox(sliders, layout={"flex_flow": "row wrap"}),
                self.view,
                self.runner.message,
            ]
        )
        for control in sliders:
            control.observe(lambda _: self.runner.soon("view", self._show), "value")
        self._show()

    def static(self) -> str:
        """The figure and the tokens."""
        return self.view.value

    def removed(self) -> Float[Tensor, "layer d_model"]:
        """What is taken off the refusal direction at the sliders' k and lambda."""
        return self.lam.value * projection(self.direction.values, self.space.first(self.k.value))

    def _show(self) -> None:
        removed = self.removed()
        fig = removal_figure(
            self.direction.values,
            projection(self.direction.values, self.space.first(self.k.value)),
            self.lam.value,
            layers=self.direction.layers,
            layer=self.layer.value,
            k=self.k.value,
        )
        row = self.direction.layers.index(self.layer.value)
        left = self.direction.values[row] - removed[row]
        self.view.value = (
            picture(fig, 900) + self._tokens("removed", removed[row]) + self._tokens("kept", left)
        )

    @torch.no_grad()
    def _tokens(self, name: str, vector: Float[Tensor, "d_model"]) -> str:
        """The tokens that a vector raises most when the vocabulary head reads it directly (logit lens)."""
        if self.lalm is None or not vector.any():
            return ""
        scores = logit_lens(self.lalm, vector.to(self.lalm.device))
        words = [self.lalm.tokenizer.decode([int(token)]) for token in scores.topk(12).indices]
        listed = " ".join(f"<code>{escape(repr(word))}</code>" for word in words)
        return f"<p>What is <b>{name}</b> in layer {self.layer.value} raises: {listed}</p>"
