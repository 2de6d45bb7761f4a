"""One prompt kept ready for widgets: a slider move costs a few decoding steps, no prefill.

Steering acts on the prompt's last position and on generated tokens. Whatever stands before is
therefore the same at every setting: it runs once, its keys and values stay, and an answer under new
steering starts from the last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sarsteer_lab.access import alone
from sarsteer_lab.engine.openings import NEGLIGIBLE, refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer
from sarsteer_lab.thoughts import answer_texts
from sarsteer_lab.vectors import SteeringVectors

LINE_TOKENS = 14
"""Length of an answer in tokens where it has to fit into one line of a panel."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its tokens as text, and the probability each had when it was chosen.

    `first` holds the likeliest first tokens, chosen or not, with their probabilities.
    """

    text: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    first: tuple[tuple[str, float], ...]


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

    @alone
    def answer(self, max_new_tokens: int = LINE_TOKENS) -> Answer:
        """The greedy answer: the text that `lalm.generate` gives, up to rounding."""
        return _greedy(self._ready, max_new_tokens, self._ready.chances(()))[0]

    @alone
    def answers(
        self,
        vectors: SteeringVectors,
        alphas: Sequence[float],
        max_new_tokens: int = LINE_TOKENS,
    ) -> list[tuple[Answer, float]]:
        """`answer` and `refusal_probability` under each of several strengths, all in one batch.

        Nine take little longer than two, since each step reads all weights once.
        """
        with steer(self.lalm, vectors, alphas):
            return answers(self._ready.repeated(len(alphas)), max_new_tokens)

    @alone
    def next_token(self) -> Float[Tensor, "vocab"]:
        """Probabilities of the answer's first token, float32."""
        return self._ready.chances(())[0]

    @alone
    def refusal_probability(
        self, openings: Sequence[str] | None = None, *, negligible: float = NEGLIGIBLE
    ) -> float:
        """See `openings.refusal_probability`."""
        return float(refusal_probability(self._ready, openings, negligible=negligible)[0])


@alone
def answers(ready: PreparedBatch, max_new_tokens: int = LINE_TOKENS) -> list[tuple[Answer, float]]:
    """Each prompt's greedy answer, and the probability that a sampled one opens as a refusal."""
    first = ready.chances(())  # once for both: each time all weights are looked at
    greedy = _greedy(ready, max_new_tokens, first)
    probabilities = refusal_probability(ready, first=first)
    return list(zip(greedy, probabilities.tolist(), strict=True))


@torch.no_grad()
def _greedy(
    ready: PreparedBatch, max_new_tokens: int, first: Float[Tensor, "prompt vocab"]
) -> list[Answer]:
    """The greedy answer to each of the prompts, from the probabilities of its first token."""
    ends = ready.lalm.ends
    begun: list[Int[Tensor, "prompt"]] = []  # a token of every answer
    chosen: list[Float[Tensor, "prompt"]] = []  # and their probabilities
    running = torch.ones(len(first), dtype=torch.bool, device=first.device)
    lengths = torch.zeros(len(first), dtype=torch.int, device=first.device)
    after = first
    while len(begun) < max_new_tokens:
        if begun:
            after = ready.chances(begun)
        probabilities, tokens = after.max(-1)
        running = running & ~torch.isin(tokens, ends)
        if not running.any():
            break
        lengths += running
        begun.append(tokens)
        chosen.append(probabilities)
    greedy = []
    for row, length in enumerate(lengths.tolist()):
        tokens_of_row = [int(tokens[row]) for tokens in begun[:length]]
        probabilities_of_row = [float(values[row]) for values in chosen[:length]]
        words = _words(ready.lalm, tokens_of_row)
        prompt = ready.prompts[row].text
        [text] = answer_texts(ready.lalm.tokenizer, [prompt], [tokens_of_row])
        likeliest = _likeliest(ready.lalm, first[row])
        greedy.append(Answer(text, words, tuple(probabilities_of_row), likeliest))
    return greedy


def _words(lalm: LALM, tokens: list[int]) -> tuple[str, ...]:
    """Each token as text."""
    return tuple(lalm.tokenizer.decode([token]) for token in tokens)


def _likeliest(lalm: LALM, first: Float[Tensor, "vocab"]) -> tuple[tuple[str, float], ...]:
    """The likeliest first tokens as text, with their probabilities."""
    top = first.topk(min(5, len(first)))
    words = _words(lalm, top.indices.tolist())
    return tuple(zip(words, top.values.tolist(), strict=True))
