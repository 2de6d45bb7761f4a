"""The panels on hidden states: a map of typed and spoken requests, and what ablation removes."""

from collections.abc import Sequence

import torch
from ipywidgets import HTML
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import maps_figure, project_2d, removal_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.safe_space import projection


class GapExplorer(panels.Panel):
    """Chapter 01: typed and spoken last-token states of the same requests on a map, layer by layer.

    Row i of both inputs is `prompts[i]`. At most `limit` requests are drawn, evenly picked; `layer`
    is where it starts. The reader chooses a layer, and a point to read and hear. Raises ValueError
    if the numbers of states and prompts differ.
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
        rows = panels.spread(range(len(prompts)), limit)
        self.prompts = [prompts[row] for row in rows]
        self.states = torch.cat([typed[rows], spoken[rows]])
        requests = [panels.request_state(prompt) for prompt in self.prompts]
        layers = [map_places(states) for states in self.states.unbind(1)]
        super().__init__("gap", {"requests": requests, "layers": layers}, layer=layer, point=0)
        self.follow()

    def static(self) -> str:
        """The map as a figure."""
        layer, n = self.chosen["layer"], len(self.prompts)
        maps = {"PCA": project_2d(self.states[:, layer])}
        forms = ["typed"] * n + ["spoken"] * n
        labels = [prompt.label for prompt in self.prompts] * 2
        fig = maps_figure(maps, forms, labels, layer=layer)
        fig.suptitle(f"Typed and spoken requests, output of layer {layer}", x=0.01, ha="left")
        return panels.picture(fig)

    def follow(self) -> None:
        """Have the chosen request's clip ready."""
        self.play(self.prompts[self.chosen["point"] % len(self.prompts)])


def map_places(states: Float[Tensor, "state d_model"]) -> list[list[float]]:
    """Places on a map (PCA): both axes of one scale, the map's longer side 1, its middle at 0."""
    places = project_2d(states)
    low, high = places.min(0), places.max(0)
    longest = max(float((high - low).max()), 1e-9)
    scaled: list[list[float]] = ((places - (low + high) / 2) / longest).round(4).tolist()
    return scaled


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
