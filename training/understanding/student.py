"""The pocket model's language model as it is trained here: rows of embeddings in, states out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.lalm import LALM
from training.teacher import Frame, PrefixCache, chat_frame
from training.tokens import plain_tokens


class LanguageModel(nn.Module):
    """Decoder and vocabulary head under the names that `Teacher`, `PrefixCache` and `adapter` know.

    The modules are those of the assembled model, not copies.
    """

    def __init__(self, lalm: LALM) -> None:
        super().__init__()
        self.model: Any = lalm.decoder
        self.lm_head: Any = lalm.core.get_output_embeddings()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.lm_head.weight.device

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of token ids."""
        return self.model.get_input_embeddings()


class Student:
    """Runs requests, spoken or typed, through the language model behind their chat's fixed
    beginning.

    The beginnings are computed once (`refresh` after weights have changed) and carry no gradient.
    """

    def __init__(self, lalm: LALM) -> None:
        self.lm = LanguageModel(lalm)
        self.tokenizer = lalm.tokenizer
        self.frame: Frame = chat_frame(lalm.processor)
        self.refresh()

    def refresh(self) -> None:
        """Compute the fixed beginnings anew."""
        self.before_clip = PrefixCache(self.lm, self.frame.before)
        self.before_text = PrefixCache(self.lm, self.frame.typed_before)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text alone."""
        return plain_tokens(self.tokenizer, text)

    def embed(self, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
        """Embeddings of tokens."""
        return self.lm.get_input_embeddings()(torch.tensor(list(tokens), device=self.lm.device))

    def spoken_rows(
        self, outputs: Sequence[Float[Tensor, "token d_model"]]
    ) -> list[Float[Tensor, "position d_model"]]:
        """What stands behind the fixed beginning: projector outputs, the instruction's end."""
        after = self.embed(self.frame.answer)
        return [torch.cat([clip.float(), after]) for clip in outputs]

    def typed_rows(self, texts: Sequence[str]) -> list[Float[Tensor, "position d_model"]]:
        """The same of typed requests: their tokens, and the turn's end."""
        return [self.embed([*self.tokens(text), *self.frame.typed_after]) for text in texts]

    def first_token(
        self, rows: Sequence[Float[Tensor, "position d_model"]], before: PrefixCache
    ) -> Float[Tensor, "row vocab"]:
        """Log-probabilities of the first token of the answer behind each of `rows`."""
        lasts = torch.tensor([len(row) - 1 for row in rows])
        output = _through(self.lm.model, rows, before).last_hidden_state
        last = output[torch.arange(len(rows)), lasts]
        return self.lm.lm_head(last).log_softmax(-1)

    def spoken(
        self, outputs: Sequence[Float[Tensor, "token d_model"]]
    ) -> Float[Tensor, "row vocab"]:
        """Log-probabilities of the first tokens of the answers to clips."""
        return self.first_token(self.spoken_rows(outputs), self.before_clip)

    def typed(self, texts: Sequence[str]) -> Float[Tensor, "row vocab"]:
        """Log-probabilities of the first tokens of the answers to typed requests."""
        return self.first_token(self.typed_rows(texts), self.before_text)

    def states(
        self,
        rows: Sequence[Float[Tensor, "position d_model"]],
        before: PrefixCache,
        layers: Sequence[int],
    ) -> list[Float[Tensor, "layer position d_model"]]:
        """What rows of embeddings are behind each of `layers`; nothing runs above the last one."""
        decoder = lower_part(self.lm.model, layers[-1] + 1)
        with outputs_of([decoder.layers[layer] for layer in layers[:-1]]) as outputs:
            outputs.append(_through(decoder, rows, before).last_hidden_state)
        return [
            torch.stack([output[number, : len(row)] for output in outputs])
            for number, row in enumerate(rows)
        ]

    def answer(self, states: Float[Tensor, "layer position d_model"]) -> Float[Tensor, "vocab"]:
        """Log-probabilities of the answer's first token, from a request's `states`."""
        return self.lm.lm_head(states[-1, -1]).log_softmax(-1)


TOGETHER = 12
"""Requests that are asked in one batch."""


@torch.no_grad()
def in_batches(
    ask: Callable[[list[Any]], Float[Tensor, "row vocab"]], requests: Sequence[Any]
) -> Float[Tensor, "request vocab"]:
    """What `Student.spoken` or `Student.typed` gives for many requests, those of similar length
    together.
    """
    order = sorted(range(len(requests)), key=lambda number: len(requests[number]))
    parts = []
    for start in range(0, len(order), TOGETHER):
        parts.append(ask([requests[number] for number in order[start : start + TOGETHER]]))
    return torch.cat(parts)[torch.tensor(order).argsort()]


def lower_part(decoder: Any, stop: int) -> Any:
    """A decoder that has only the layers below `stop` (shared, not copied).

    Without the last layer it has no final norm either.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = stop
    part.layers = nn.ModuleList(decoder.layers[:stop])
    if stop < len(decoder.layers):
        part.norm = nn.Identity()
    return part


@contextmanager
def outputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that holds the output of each of `layers` once they have run.

    (transformers' own `output_hidden_states` would count twice the layers that two decoders share.)
    """
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _args, out: found.append(out))
        for layer in layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _through(
    decoder: Any, rows: Sequence[Float[Tensor, "position d_model"]], before: PrefixCache
) -> Any:
    """`decoder` over rows behind a fixed beginning, padded at their ends."""
    width = max(map(len, rows))
    padded = torch.zeros(len(rows), width, rows[0].shape[-1], device=rows[0].device)
    mask = torch.zeros(len(rows), before.length + width, dtype=torch.long, device=rows[0].device)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
        mask[number, : before.length + len(row)] = 1
    positions = torch.arange(width, device=rows[0].device) + before.length
    return decoder(
        inputs_embeds=padded,
        attention_mask=mask,
        position_ids=positions.expand(len(rows), -1),
        past_key_values=before.repeat(len(rows)),
        use_cache=True,
    )


def refusing_tokens(tokenizer: Any) -> list[int]:
    """The first tokens of refusals. (The openings themselves are longer; these all but decide
    them.)
    """
    starts = ("I'm", "I", "Sorry", "As", "Unfortunately")
    return sorted({tokenizer(text, add_special_tokens=False).input_ids[0] for text in starts})


def readiness(log_probs: Float[Tensor, "row vocab"], tokens: Sequence[int]) -> Float[Tensor, "row"]:
    """Log-odds of a refusing first token."""
    refusing = log_probs[:, list(tokens)].logsumexp(-1).clamp(max=-1e-5)
    return refusing - torch.log(-torch.expm1(refusing))
