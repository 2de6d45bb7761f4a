"""The pocket model's language model as it is trained here: rows of embeddings in, states out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from training.teacher import Frame, PrefixCache, chat_frame

FIRST_LAYER = 9
"""States of the layers below are not compared: they are about words, and differ for good reasons.
"""
READ = 2
"""Positions whose states and next tokens are compared: the prompt's last one and the answer's
first.
"""


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


@dataclass(frozen=True)
class Heard:
    """What the model makes of a batch of requests, at the last prompt position and the ones after
    it.
    """

    log_probs: Float[Tensor, "row read vocab"]
    states: Float[Tensor, "row layer read d_model"]


@dataclass(frozen=True)
class Memory:
    """Keys and values of a batch of requests, by layer: those below the student's first, and the
    others.
    """

    below: list[tuple[Tensor, Tensor]]
    above: list[tuple[Tensor, Tensor]]

    @property
    def width(self) -> int:
        """Positions remembered, padding among them."""
        return self.above[0][0].shape[2]

    def cache(self) -> DynamicCache:
        """A cache to go on with. The lower layers, which are not run, only count positions."""
        cache = DynamicCache()
        blank = self.above[0]
        for index in range(len(self.below)):
            cache.update(*blank, index)
        for index, (keys, values) in enumerate(self.above, start=len(self.below)):
            cache.update(keys, values, index)
        return cache


class Student:
    """Runs requests, spoken or typed, through the language model behind their chat's fixed
    beginning.

    The beginnings are computed once (`refresh` after weights have changed) and carry no gradient.
    Layers below `first` never change, so what they make of a request is computed once (`begun`) and
    kept.
    """

    def __init__(self, lalm: LALM, first: int = 0) -> None:
        self.lm = LanguageModel(lalm)
        self.tokenizer = lalm.tokenizer
        self.frame: Frame = chat_frame(lalm.processor)
        self.first = first
        self._below = part_of(self.lm.model, 0, first)
        self._above = part_of(self.lm.model, first, lalm.n_layers)
        self.refresh()

    def refresh(self) -> None:
        """Compute the fixed beginnings anew."""
        self.before_clip = PrefixCache(self.lm, self.frame.before)
        self.before_text = PrefixCache(self.lm, self.frame.typed_before)

    def embed(self, tokens: Sequence[int]) -> Float[Tensor, "token d_model"]:
        """Embeddings of tokens."""
        return self.lm.get_input_embeddings()(torch.tensor(list(tokens), device=self.lm.device))

    def begun_spoken(
        self, outputs: Sequence[Float[Tensor, "token d_model"]], answers: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "position d_model"]]:
        """Clips (the projector's outputs) under the instruction, each followed by its answer's
        tokens but the last: the states that enter layer `first`.
        """
        after = self.embed(self.frame.answer)
        rows = [torch.cat([clip.float(), after]) for clip in outputs]
        return self._begin(rows, answers, self.before_clip)

    def begun_typed(
        self, texts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "position d_model"]]:
        """The same of typed requests."""
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        rows = [self.embed([*own, *self.frame.typed_after]) for own in ids]
        return self._begin(rows, answers, self.before_text)

    @torch.no_grad()
    def _begin(
        self,
        rows: Sequence[Float[Tensor, "token d_model"]],
        answers: Sequence[Sequence[int]],
        before: PrefixCache,
    ) -> list[Float[Tensor, "position d_model"]]:
        full = [
            torch.cat([row, self.embed(answer[:-1])]) if len(answer) > 1 else row
            for row, answer in zip(rows, answers, strict=True)
        ]
        if not self.first:
            return full
        hidden = _through(self._below, full, before).last_hidden_state
        return [own[: len(row)].clone() for own, row in zip(hidden, full, strict=True)]

    def go_on(
        self,
        begun: Sequence[Float[Tensor, "position d_model"]],
        before: PrefixCache,
        read: int = READ,
    ) -> Heard:
        """What the model makes of requests that have `begun`, at their last `read` positions."""
        lasts = torch.tensor([len(row) for row in begun])
        with outputs_of(self._above.layers[max(0, FIRST_LAYER - 1 - self.first) : -1]) as compared:
            output = _through(self._above, begun, before)
        self._last = output.past_key_values
        places: Int[Tensor, "row read"] = lasts[:, None] - read + torch.arange(read)
        chosen = torch.arange(len(begun))[:, None]
        last = output.last_hidden_state[chosen, places]
        layers = [*(state[chosen, places] for state in compared), last]
        logits = self.lm.lm_head(last)
        return Heard(logits.log_softmax(-1), torch.stack(layers, 1))

    def remembered(self) -> Memory:
        """What the last `go_on` left behind of its requests, without gradient."""
        layers = [(layer.keys.detach(), layer.values.detach()) for layer in self._last.layers]
        return Memory(layers[: self.first], layers[self.first :])

    def end_again(
        self,
        begun: Sequence[Float[Tensor, "position d_model"]],
        memory: Memory,
        before: PrefixCache,
        read: int = READ,
    ) -> Heard:
        """`go_on` for requests whose clips are remembered: only what is behind a clip runs, and
        learns.

        Keys and values of the clip are those of a few steps ago. It costs a fifth.
        """
        behind = len(self.frame.answer) + read - 1
        ends = torch.stack([row[-behind:] for row in begun])
        past = memory.width
        mask = torch.zeros(len(begun), past + behind, dtype=torch.long, device=ends.device)
        lengths = [before.length + len(row) - behind for row in begun]
        for number, length in enumerate(lengths):
            mask[number, :length] = 1
            mask[number, past:] = 1
        positions = torch.tensor(lengths, device=ends.device)[:, None] + torch.arange(behind)
        with outputs_of(self._above.layers[max(0, FIRST_LAYER - 1 - self.first) : -1]) as compared:
            output = self._above(
                inputs_embeds=ends,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=memory.cache(),
                use_cache=True,
            )
        last = output.last_hidden_state[:, -read:]
        layers = [*(state[:, -read:] for state in compared), last]
        return Heard(self.lm.lm_head(last).log_softmax(-1), torch.stack(layers, 1))

    def spoken(
        self, outputs: Sequence[Float[Tensor, "token d_model"]], answers: Sequence[Sequence[int]]
    ) -> Heard:
        """All layers over clips and the first tokens of their answers."""
        return self.go_on(self.begun_spoken(outputs, answers), self.before_clip, len(answers[0]))

    def typed(self, texts: Sequence[str], answers: Sequence[Sequence[int]]) -> Heard:
        """All layers over typed requests and the first tokens of their answers."""
        return self.go_on(self.begun_typed(texts, answers), self.before_text, len(answers[0]))


def part_of(decoder: Any, start: int, stop: int) -> Any:
    """A decoder that has only the layers from `start` to before `stop` (shared, not copied).

    Without the last layer it has no final norm either.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = stop - start
    part.layers = nn.ModuleList(decoder.layers[start:stop])
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


def untrained_model() -> LALM:
    """The pocket model with its safety dial at 1 and without the delta that is trained here."""
    return load_lalm("pocket", safety=1.0)


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
