"""One prompt kept ready, so that a slider move costs a few decoding steps and no second reading of
the clip.

Steering acts on the prompt's last position and on generated tokens. Whatever stands before is
therefore the same at every setting: it runs once, its keys and values stay, and an answer under new
steering starts from the last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import shipped_table
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors, steer

NEGLIGIBLE = 0.002
"""A beginning that is less likely than this is not followed further."""


def refusing_openings() -> tuple[str, ...]:
    """How refusals open: `LivePrompt.refusal_probability` adds up the probabilities of these
    beginnings."""
    return tuple(shipped_table("judges/openings.toml")["openings"])


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its tokens as text, and the probability each had when it was chosen (0 to
    1)."""

    text: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    first: tuple[tuple[str, float], ...]
    """The likeliest first tokens, chosen or not, with their probabilities."""


class LivePrompt:
    """A prompt whose positions but the last have run.

    Its methods answer under whatever steering holds when they are called, and refuse what
    `PreparedBatch` refuses. They raise ValueError for a model whose cache does not allow it
    (`key_values.keeps_plain_cache`).
    """

    def __init__(self, lalm: LALM, prompt: Prompt) -> None:
        self.lalm = lalm
        self.prompt = prompt
        self._ready = PreparedBatch(lalm, [prompt])

    def answer(self, max_new_tokens: int = 14) -> Answer:
        """The greedy answer: the text that `lalm.generate` gives, up to rounding of the last
        digits."""
        return _greedy(self._ready, max_new_tokens, self._ready.after(()).softmax(-1))[0]

    def answers(
        self, vectors: SteeringVectors, alphas: Sequence[float], max_new_tokens: int = 14
    ) -> list[tuple[Answer, float]]:
        """`answer` and `refusal_probability` under each of several strengths, all in one batch.

        Nine take little longer than two, since each step reads all weights once.
        """
        with steer(self.lalm, vectors, torch.tensor(alphas)):
            return answers(self._ready.repeated(len(alphas)), max_new_tokens)

    def next_token(self) -> Float[Tensor, "vocab"]:
        """Probabilities of the answer's first token, float32."""
        return self._ready.after(())[0].softmax(-1)

    def refusal_probability(
        self, openings: Sequence[str] | None = None, *, negligible: float = NEGLIGIBLE
    ) -> float:
        """`PreparedBatch.opening_probabilities` (0 to 1) of `openings`, by default
        `refusing_openings`."""
        some = refusing_openings() if openings is None else openings
        return float(self._ready.opening_probabilities(some, negligible=negligible)[0])


def answers(ready: PreparedBatch, max_new_tokens: int = 14) -> list[tuple[Answer, float]]:
    """Each prompt's greedy answer, and the probability that one that is sampled opens as a
    refusal."""
    first = ready.after(()).softmax(-1)  # once for both: each time all weights are looked at
    said = _greedy(ready, max_new_tokens, first)
    refusals = ready.opening_probabilities(refusing_openings(), negligible=NEGLIGIBLE, first=first)
    return list(zip(said, refusals.tolist(), strict=True))


@torch.no_grad()
def _greedy(
    ready: PreparedBatch, max_new_tokens: int, first: Float[Tensor, "prompt vocab"]
) -> list[Answer]:
    """The greedy answer to each of the prompts, from the probabilities of its first token."""
    stops, decode = set(ready.lalm.ends.tolist()), ready.lalm.tokenizer.decode
    begun: list[Int[Tensor, "prompt"]] = []
    said: list[list[tuple[int, float]]] = [[] for _ in ready.prompts]
    running, top = [True] * len(said), first.topk(min(5, first.shape[1]))
    for _ in range(max_new_tokens):
        chances, tokens = (ready.after(begun).softmax(-1) if begun else first).max(-1)
        for row, found in enumerate(zip(tokens.tolist(), chances.tolist(), strict=True)):
            running[row] &= found[0] not in stops
            said[row] += [found] * running[row]
        if not any(running):
            break
        begun.append(tokens)
    return [
        Answer(
            decode([token for token, _ in found], skip_special_tokens=True).strip(),
            tuple(decode([token]) for token, _ in found),
            tuple(chance for _, chance in found),
            tuple(
                (decode([token]), chance) for token, chance in zip(likeliest, likely, strict=True)
            ),
        )
        for found, likeliest, likely in zip(
            said, top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]
