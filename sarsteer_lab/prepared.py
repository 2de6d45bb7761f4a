"""Several prompts kept ready, so that a sweep over steering reads every clip once.

Steering acts on the prompt's last position and on generated tokens (arXiv 2510.17633). What stands before is
the same under every steering: it runs once per batch, its keys and values stay, and each setting costs
decoding steps alone. `live.LivePrompt` does the same for one prompt, with probabilities.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sarsteer_lab.lalm import LALM, Prompt
from sarsteer_lab.steering import PROMPT_END, ROWS

FULL_ENOUGH = 0.75
"""Rows that have ended leave the batch once no more than this share of it is still running."""

LOOK_EVERY = 3
"""Steps between two looks at what the answers say so far."""


class PreparedBatch:
    """Prompts whose positions but the last have run. Make it outside of every `with steer(...)`.

    Its methods answer under whatever steering holds when they are called: `steer` with positions="last" (one
    strength, or one per prompt) and `gates.steer_gated`. After a change of weights make a new one. The
    prompts run as one batch; where that cannot be (`LALM.keeps_plain_cache`, clips that may not share a
    batch), they are read anew each time, with the same answers.
    """

    @torch.no_grad()
    def __init__(self, lalm: LALM, prompts: Sequence[Prompt]) -> None:
        self.lalm = lalm
        self.prompts = list(prompts)
        self._cache: Any = None
        if not lalm.keeps_plain_cache or not lalm.fit_together(self.prompts):
            return
        inputs = lalm.batch(self.prompts)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        self._last, self._mask = ids[:, -1:], mask
        ready = lalm.trunk(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **inputs)
        self._cache = ready.past_key_values
        self._length = int(self._cache.get_seq_length())

    @torch.no_grad()
    def next_token_logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits of the answers' first tokens, float32: those of `lalm.next_token_logits`, up to rounding."""
        if self._cache is None:
            return self.lalm.next_token_logits(self.prompts, batch_size=len(self.prompts))
        self._rewind()
        return self._first().float()

    @torch.no_grad()
    def generate(self, max_new_tokens: int, settled: Callable[[str], bool] | None = None) -> list[str]:
        """Greedy answers in the prompts' order: those of `lalm.generate`, up to rounding of the last digits.

        A row that has ended leaves the batch. With `settled`, a row also ends, a few tokens late, once this
        says of its text that enough is known (`refusals.refusal_is_settled`), so that the text is cut short.
        """
        if self._cache is None:
            return self.lalm.generate(
                self.prompts, max_new_tokens=max_new_tokens, batch_size=len(self.prompts)
            )
        self._rewind()
        ends = self.lalm.core.generation_config.eos_token_id
        stops = torch.tensor(ends if isinstance(ends, Sequence) else [ends], device=self._last.device)
        pad = self.lalm.tokenizer.pad_token_id
        chosen = self._last.new_full((len(self._last), max_new_tokens), pad)
        # Of the rows still in the batch: where each stands among all, and whether it goes on.
        rows = torch.arange(len(chosen), device=chosen.device)
        running = torch.ones_like(rows, dtype=torch.bool)
        cache, mask = self._cache, self._mask
        logits = self._first()
        for at in range(max_new_tokens):
            tokens = logits.argmax(-1)
            chosen[rows[running], at] = tokens[running]
            running = running & ~torch.isin(tokens, stops)
            if settled is not None and at % LOOK_EVERY == LOOK_EVERY - 1:
                said = self.lalm.tokenizer.batch_decode(chosen[rows, : at + 1], skip_special_tokens=True)
                running &= running.new_tensor([not settled(text) for text in said])
            if at + 1 == max_new_tokens or not running.any():
                break
            if running.sum() <= FULL_ENOUGH * len(rows):
                cache = _some_rows(cache, running, rows)
                rows, mask, tokens = rows[running], mask[running], tokens[running]
                running = running[running]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(tokens[:, None], mask, cache)
        texts = self.lalm.tokenizer.batch_decode(chosen, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _rewind(self) -> None:
        """Forget what the call before has decoded."""
        if surplus := int(self._cache.get_seq_length()) - self._length:
            self._cache.crop(-surplus)

    def _first(self) -> Float[Tensor, "prompt vocab"]:
        """Run the prompts' last position, the one that steering takes for the prompt's end."""
        setattr(self._cache, PROMPT_END, True)
        try:
            return self._step(self._last, self._mask, self._cache)
        finally:
            setattr(self._cache, PROMPT_END, False)

    def _step(
        self, ids: Int[Tensor, "row 1"], mask: Int[Tensor, "row seen"], cache: Any
    ) -> Float[Tensor, "row vocab"]:
        out = self.lalm.core(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        return out.logits[:, -1]


def _some_rows(cache: Any, kept: Bool[Tensor, "row"], rows: Int[Tensor, "row"]) -> Any:
    """A cache of some rows; the one that it is taken from stays whole, for the next call.

    `rows` says which prompts the rows are; steering by row reads that off the cache.
    """
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    part.batch_select_indices(kept.nonzero()[:, 0])
    setattr(part, ROWS, rows[kept])
    return part
