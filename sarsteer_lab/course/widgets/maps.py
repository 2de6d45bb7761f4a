"""The panels on hidden states: a map of typed and spoken requests, and what ablation removes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.figures import maps_figure, project_2d, removal_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.safe_space import principal_space, projection

RECORDED_K = (1, 2, 5, 10, 20, 40)
"""Sizes of the safe space whose tokens are kept for a page without a kernel."""


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
    raise are listed too (logit lens). The reader chooses `k`, `lam` (in tenths) and the `layer`,
    which here says where it starts.
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
        self.lalm, self.direction = lalm, direction
        most = min(panels.MOST_K, len(harmless) - 1)
        self.space = principal_space(harmless, most)
        inside = []
        for size in range(most + 1):
            part = projection(direction, self.space.first(size))
            inside.append(part.norm(dim=-1).double().round(decimals=5).tolist())
        lengths = direction.norm(dim=-1).double().round(decimals=5).tolist()
        state = {"inside": inside, "lengths": lengths, "width": direction.shape[1], "tokens": {}}
        super().__init__("explorer", state, k=min(k, most), lam=10, layer=layer)
        self.follow()

    def static(self) -> str:
        """The figure."""
        chosen = self.chosen
        inside = projection(self.direction, self.space.first(chosen["k"]))
        shown = {"layer": chosen["layer"], "k": chosen["k"]}
        fig = removal_figure(self.direction, inside, chosen["lam"] / 10, **shown)
        return panels.picture(fig, 900)

    def removed(self) -> Float[Tensor, "layer d_model"]:
        """What is taken off the refusal direction at the chosen k and lambda."""
        inside = projection(self.direction, self.space.first(self.chosen["k"]))
        return self.chosen["lam"] / 10 * inside

    def follow(self) -> None:
        """Find the tokens that the removed and the kept part raise in the chosen layer."""
        layer = self.chosen["layer"]
        key = f"{self.chosen['k']},{self.chosen['lam']},{layer}"
        tokens = self.view.state["tokens"]
        if key not in tokens:
            removed = self.removed()[layer]
            parts = {"removed": removed, "kept": self.direction[layer] - removed}
            tokens[key] = {name: self._raised(part) for name, part in parts.items()}
            self.view.send_state("state")

    def complete(self) -> None:
        """Find the tokens at a few settings, in every layer."""
        begins = self.chosen
        for k in RECORDED_K:
            for lam in (5, 10):
                for layer in range(len(self.direction)):
                    self.pick(k=k, lam=lam, layer=layer)
        self.pick(**begins)

    @torch.no_grad()
    def _raised(self, vector: Float[Tensor, "d_model"]) -> list[str]:
        """The tokens that a vector raises most when the head reads it directly (logit lens)."""
        if not vector.any():
            return []
        scores = logit_lens(self.lalm, vector.to(self.lalm.device))
        top = scores.topk(12).indices.tolist()
        return [self.lalm.tokenizer.decode([token]) for token in top]
