"""One prompt kept ready, so that a slider move costs a few decoding steps and no second reading of the clip.

Steering acts on the prompt's last position and on generated tokens. Whatever stands before is therefore the
same at every setting: it runs once, its keys and values stay, and an answer under new steering starts from
the last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.store import read_late, shipped_table

NEGLIGIBLE = 0.002
"""A beginning that is less likely than this is not followed further."""


OPENINGS: tuple[str, ...]
"""How refusals open: `LivePrompt.refusal_probability` adds up the probabilities of these beginnings."""


def _openings() -> tuple[str, ...]:
    return tuple(shipped_table("judges/openings.toml")["openings"])


__getattr__ = read_late(__name__, OPENINGS=_openings)


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its tokens as text, and the probability each had when it was chosen (0 to 1)."""

    text: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    first: tuple[tuple[str, float], ...]
    """The likeliest first tokens, chosen or not, with their probabilities."""


class LivePrompt:
    """A prompt whose positions but the last have run.

    Its methods answer under whatever steering holds when they are called, and refuse what `PreparedBatch`
    refuses. They raise ValueError for a model whose cache does not allow it (`key_values.keeps_plain_cache`).
    """

    def __init__(self, lalm: LALM, prompt: Prompt) -> None:
        self.lalm = lalm
        self.prompt = prompt
        self._ready = PreparedBatch(lalm, [prompt])

    @torch.no_grad()
    def answer(self, max_new_tokens: int = 14) -> Answer:
        """The greedy answer: the text that `lalm.generate` gives, up to rounding of the last digits."""
        stops = set(self.lalm.ends.tolist())
        chosen: list[int] = []
        chances: list[float] = []
        first: Float[Tensor, "vocab"] = torch.empty(0)
        for _ in range(max_new_tokens):
            probabilities = self._ready.after(chosen)[0].softmax(-1)
            if not chosen:
                first = probabilities
            token = int(probabilities.argmax())
            if token in stops:
                break
            chosen.append(token)
            chances.append(float(probabilities[token]))
        top, decode = first.topk(min(5, len(first))), self.lalm.tokenizer.decode
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return Answer(
            decode(chosen, skip_special_tokens=True).strip(),
            tuple(decode([token]) for token in chosen),
            tuple(chances),
            tuple((decode([token]), chance) for token, chance in likeliest),
        )

    def next_token(self) -> Float[Tensor, "vocab"]:
        """Probabilities of the answer's first token, float32."""
        return self._ready.after(())[0].softmax(-1)

    def refusal_probability(
        self, openings: Sequence[str] | None = None, *, negligible: float = NEGLIGIBLE
    ) -> float:
        """The probability that a sampled answer begins with one of `openings` (0 to 1).

        They are `OPENINGS` by default. See `PreparedBatch.opening_probabilities`.
        """
        openings = _openings() if openings is None else openings
        return float(self._ready.opening_probabilities(openings, negligible=negligible)[0])
