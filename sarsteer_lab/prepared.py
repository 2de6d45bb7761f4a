"""Several prompts kept ready, so that a sweep over steering reads every clip once.

Steering acts on the prompt's last position and on generated tokens (arXiv 2510.17633). What stands before is
the same under every steering: it runs once per batch, its keys and values stay, and each setting costs
decoding steps alone. `live.LivePrompt` does the same for one prompt, with probabilities.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab.lalm import LALM, Prompt
from sarsteer_lab.steering import PROMPT_END


class PreparedBatch:
    """Prompts whose positions but the last have run. Make it outside of every `with steer(...)`.

    `generate` answers under whatever steering holds when it is called: `steer` with positions="last" (one
    strength, or one per prompt) and `gates.steer_gated`. After a change of weights make a new one. For models
    that decode left to right with a dynamic cache. The prompts run as one batch.
    """

    @torch.no_grad()
    def __init__(self, lalm: LALM, prompts: Sequence[Prompt]) -> None:
        self.lalm = lalm
        self.prompts = list(prompts)
        inputs = lalm.batch(self.prompts)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        self._last, self._mask = ids[:, -1:], mask
        ready = lalm.trunk(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **inputs)
        self._cache: Any = ready.past_key_values
        self._length = int(self._cache.get_seq_length())

    @torch.no_grad()
    def generate(self, max_new_tokens: int) -> list[str]:
        """Greedy answers in the prompts' order: those of `lalm.generate`, up to rounding of the last digits.

        Decoding ends as soon as every answer has ended.
        """
        if surplus := int(self._cache.get_seq_length()) - self._length:
            self._cache.crop(-surplus)  # what the call before has decoded
        ends = self.lalm.core.generation_config.eos_token_id
        stops = torch.tensor(ends if isinstance(ends, Sequence) else [ends], device=self._last.device)
        mask, step = self._mask, self._last
        running = torch.ones(len(step), dtype=torch.bool, device=step.device)
        chosen: list[Tensor] = []
        setattr(self._cache, PROMPT_END, True)
        try:
            while len(chosen) < max_new_tokens and running.any():
                out = self.lalm.core(
                    input_ids=step, attention_mask=mask, past_key_values=self._cache, use_cache=True
                )
                setattr(self._cache, PROMPT_END, False)
                tokens = out.logits[:, -1].argmax(-1)
                chosen.append(tokens.where(running, self.lalm.tokenizer.pad_token_id))
                running &= ~torch.isin(tokens, stops)
                step = tokens[:, None]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        finally:
            setattr(self._cache, PROMPT_END, False)
        texts = self.lalm.tokenizer.batch_decode(torch.stack(chosen, dim=1), skip_special_tokens=True)
        return [text.strip() for text in texts]
