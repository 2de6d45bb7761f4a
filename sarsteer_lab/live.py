"""One prompt kept ready, so that a slider move costs a few decoding steps and no second reading of the clip.

Steering acts on the prompt's last position and on generated tokens. Whatever stands before is therefore the
same at every setting: it runs once, its keys and values stay, and an answer under new steering starts from
the last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sarsteer_lab.lalm import LALM, Prompt

OPENINGS = (
    "I'm sorry",
    "I am sorry",
    "Sorry",
    "I cannot",
    "I can't",
    "I won't",
    "I will not",
    "I'm unable",
    "I am unable",
    "I'm not able",
)
"""How refusals open: `LivePrompt.refusal_probability` adds up the probabilities of these beginnings."""

NEGLIGIBLE = 0.002
"""A beginning that is less likely than this is not followed further."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its tokens as text, and the probability each had when it was chosen (0 to 1)."""

    text: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    first: tuple[tuple[str, float], ...]
    """The likeliest first tokens, chosen or not, with their probabilities."""


class LivePrompt:
    """A prompt whose positions but the last have run. Make it outside of every `with steer(...)`.

    Its methods answer under whatever steering holds when they are called. After a change of weights
    (`LALM.set_safety`) make a new one. For models that decode left to right, with a dynamic cache.
    """

    @torch.no_grad()
    def __init__(self, lalm: LALM, prompt: Prompt) -> None:
        self.lalm = lalm
        self.prompt = prompt
        inputs = lalm.batch([prompt])
        ids = inputs.pop("input_ids")
        mask = inputs.pop("attention_mask")
        self._last = ids[:, -1:]
        self._mask = mask
        ready = lalm.trunk(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **inputs)
        self._cache: Any = ready.past_key_values
        self._length = int(self._cache.get_seq_length())

    @torch.no_grad()
    def answer(self, max_new_tokens: int = 14, *, likeliest: int = 5) -> Answer:
        """The greedy answer: the text that `lalm.generate` gives, up to rounding of the last digits."""
        ends = self.lalm.core.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, Sequence) else [ends])
        chosen: list[int] = []
        chances: list[float] = []
        first: Float[Tensor, "vocab"] = torch.empty(0)
        step = self._last
        self._rewind()
        for _ in range(max_new_tokens):
            probabilities = self._run(step)
            if not chosen:
                first = probabilities
            token = int(probabilities.argmax())
            if token in stops:
                break
            chosen.append(token)
            chances.append(float(probabilities[token]))
            step = torch.tensor([[token]], device=step.device)
        top = first.topk(min(likeliest, len(first)))
        return Answer(
            self.lalm.tokenizer.decode(chosen, skip_special_tokens=True).strip(),
            tuple(self.lalm.tokenizer.decode([token]) for token in chosen),
            tuple(chances),
            tuple(
                (self.lalm.tokenizer.decode([int(token)]), float(chance))
                for chance, token in zip(top.values, top.indices, strict=True)
            ),
        )

    @torch.no_grad()
    def next_token(self) -> Float[Tensor, "vocab"]:
        """Probabilities of the answer's first token, float32."""
        self._rewind()
        return self._run(self._last)

    @torch.no_grad()
    def refusal_probability(
        self, openings: Sequence[str] = OPENINGS, *, negligible: float = NEGLIGIBLE
    ) -> float:
        """The probability that a sampled answer begins with one of `openings` (0 to 1).

        The sum over openings of the product of their tokens' probabilities, followed as a tree, so that
        shared beginnings run once. Beginnings below `negligible` count as impossible.
        """
        tokenizer = self.lalm.tokenizer
        sequences = {tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in openings}
        return self._follow((), 1.0, sequences, negligible)

    def _follow(
        self, begun: tuple[int, ...], chance: float, sequences: set[tuple[int, ...]], negligible: float
    ) -> float:
        """Probability of the sequences that begin with `begun`, which itself has probability `chance`."""
        if begun in sequences:
            return chance  # whatever follows, the opening is complete
        following = {s[len(begun)] for s in sequences if s[: len(begun)] == begun}
        if chance < negligible or not following:
            return 0.0
        self._rewind(len(begun))
        last = begun[-1:] if begun else tuple(self._last[0].tolist())
        probabilities = self._run(torch.tensor([last], device=self._last.device))
        branches = [(token, chance * float(probabilities[token])) for token in sorted(following)]
        return sum(self._follow((*begun, token), value, sequences, negligible) for token, value in branches)

    def _rewind(self, position: int = 0) -> None:
        """Forget what was decoded from `position` tokens after the prompt's last but one on."""
        surplus = int(self._cache.get_seq_length()) - self._length - position
        if surplus:
            self._cache.crop(-surplus)

    def _run(self, ids: Int[Tensor, "1 1"]) -> Float[Tensor, "vocab"]:
        """One decoding step; probabilities of the next token."""
        seen = int(self._cache.get_seq_length()) + 1
        mask = self._mask.new_ones(1, seen)
        out = self.lalm.core(input_ids=ids, attention_mask=mask, past_key_values=self._cache, use_cache=True)
        return out.logits[0, -1].float().softmax(-1)
