"""A projector that says token embeddings: what two of the pocket model's dials turn on.

A linear head, trained with the CTC loss beside the ears, reads nearly the right tokens out of what
the projector says. The language model does not: these vectors lie far from the embeddings that they
stand for. With `understanding` the head's probabilities are put back as the mixture of token
embeddings that they expect, at every audio position. (The same idea for larger models, with a
language model adapted to it: Ma et al. 2025, LegoSLM, arXiv 2505.11352.)

`spoken_safety` adds what a small convolution over these mixtures has learnt: to have the language
model answer a spoken request as it does a typed one, harmful requests among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH, REACH = 96, 5
"""Channels of `Context`, and the positions that each of its two convolutions sees."""


class TokenHead(nn.Module):
    """Reads tokens out of a projector's outputs, and says them as a mixture of embeddings."""

    embeddings: Tensor
    mean: Tensor
    bias: Tensor
    temperature: Tensor
    silence: Tensor
    blank_weight: Tensor
    blank_bias: Tensor

    def __init__(
        self, head: Mapping[str, Tensor], embeddings: Float[Tensor, "vocab d_model"]
    ) -> None:
        """`head` holds what `SoftTokens` names. All tensors are buffers that are not saved."""
        super().__init__()
        mean = embeddings.float().mean(0)
        tokens = embeddings[head["ids"]].float()
        silence = embeddings[head["silence"]].float()
        made = {
            "mean": mean,
            "embeddings": tokens - mean,
            "silence": silence - mean,
            "bias": head["bias"].float(),
            "temperature": head["temperature"].float().exp(),
            "blank_weight": head["blank.weight"].float(),
            "blank_bias": head["blank.bias"].float(),
        }
        for name, tensor in made.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(
        self, outputs: Float[Tensor, "*clip position d_model"]
    ) -> tuple[Float[Tensor, "*clip position d_model"], Float[Tensor, "*clip position 1"]]:
        """The mixture that is expected at each position, a blank as a space; how likely a blank
        is.
        """
        centred = outputs - self.mean
        blank = centred @ self.blank_weight.T + self.blank_bias
        tokens = centred @ self.embeddings.T * self.temperature + self.bias
        logits = torch.cat([blank, tokens], -1)
        chances = logits.float().softmax(-1).to(outputs.dtype)
        of_blank, of_tokens = chances[..., :1], chances[..., 1:]
        mixture = of_tokens @ self.embeddings + of_blank * self.silence
        return mixture + self.mean, of_blank


class Context(nn.Module):
    """What a position's neighbours make of it: two convolutions over mixtures, and back.

    Fresh, it adds nothing.
    """

    def __init__(self, d_model: int, width: int = WIDTH) -> None:
        super().__init__()
        self.first = nn.Linear(d_model + 1, width)
        around: dict[str, Any] = {"kernel_size": REACH, "padding": REACH // 2}
        self.near = nn.Conv1d(width, width, **around)
        self.far = nn.Conv1d(width, width, **around)
        self.last = nn.Linear(width, d_model)
        self.silence = nn.Parameter(torch.zeros(d_model))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self,
        mixture: Float[Tensor, "clip position d_model"],
        blank: Float[Tensor, "clip position 1"],
    ) -> Float[Tensor, "clip position d_model"]:
        """What is added to the mixtures. Embeddings are small numbers: they come in eight times as
        large, and what goes out is a tenth.
        """
        hidden = self.first(torch.cat([8 * mixture, blank], -1)).transpose(1, 2)
        hidden = hidden + nn.functional.gelu(self.near(hidden))
        hidden = hidden + nn.functional.gelu(self.far(hidden))
        added: Tensor = self.last(hidden.transpose(1, 2)) + blank * self.silence
        return 0.1 * added


class SoftTokenProjector(nn.Module):
    """A projector whose outputs are moved towards the token embeddings that they stand for.

    `understanding` 1 moves them all the way, 0.5 half of it; `spoken_safety` scales what `context`
    adds to those embeddings.
    """

    understanding: Tensor
    spoken_safety: Tensor

    def __init__(
        self,
        linear: nn.Linear,
        head: TokenHead,
        context: Context,
        *,
        understanding: float,
        spoken_safety: float,
    ) -> None:
        """`linear` is the projector's own, shared, not copied."""
        super().__init__()
        self.linear, self.head, self.context = linear, head, context
        self.register_buffer("understanding", torch.tensor(understanding), persistent=False)
        self.register_buffer("spoken_safety", torch.tensor(spoken_safety), persistent=False)
        self.to(linear.weight.device, linear.weight.dtype)

    def forward(
        self, audio_features: Float[Tensor, "clip position audio_width"]
    ) -> Float[Tensor, "clip position d_model"]:
        """What the language model is given in the clips' places."""
        outputs = self.linear(audio_features)
        meant, blank = self.head(outputs)
        meant = meant + self.spoken_safety * self.context(meant, blank)
        return torch.lerp(outputs, meant, self.understanding)


@dataclass(frozen=True)
class SoftTokens:
    """The pocket model's two projectors: its own, and the one that says token embeddings.

    `head` holds the CTC head: "ids" of its tokens, "bias" of each, "temperature" (its logarithm),
    "blank.weight" (1, d_model) and "blank.bias", and "silence", the id of the token that stands for
    a blank. `context` is the state of a `Context`.
    """

    own: Any
    head: Mapping[str, Tensor]
    context: Mapping[str, Tensor]

    def turn(self, model: Any, understanding: float, spoken_safety: float) -> None:
        """Put the projector for these dials in place.

        With `understanding` at 0 that is the model's own, so nothing is left of either.
        """
        model.model.multi_modal_projector = self.own
        if understanding != 0:
            embeddings = model.get_input_embeddings().weight.detach()
            with torch.random.fork_rng([]):  # its first weights are drawn, and replaced at once
                context = Context(embeddings.shape[1])
            context.load_state_dict(self.context)
            context.requires_grad_(False)
            projector = SoftTokenProjector(
                self.own.linear,
                TokenHead(self.head, embeddings),
                context,
                understanding=understanding,
                spoken_safety=spoken_safety,
            )
            model.model.multi_modal_projector = projector.eval()
