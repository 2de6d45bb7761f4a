"""Answers and refusal probabilities that are asked once, and then read from the user's cache.

Questions that are asked together share their clips, row by row: what they begin with is read once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.engine.memory import rows_that_fit
from sarsteer_lab.evaluation.answering import Asked
from sarsteer_lab.evaluation.asking import Question, ask, plan
from sarsteer_lab.lalm import ANSWER_TOKENS, LALM
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import CacheStore

OPENING_TOKENS = 8
"""Positions that an answer's opening takes: it has a handful of tokens."""


def answers(
    lalm: LALM, questions: Sequence[Question], *, max_new_tokens: int = ANSWER_TOKENS
) -> list[list[str]]:
    """Greedy answers, a list for each question (prompts, and the defence they are asked under).

    Raises HookedModelError inside `with steer(...)` and with hooks of your own on the model: what
    is answered then could not be told from the plain model's answers.
    """
    return _ask(lalm, questions, Asked(max_new_tokens), "text")


def refusal_probability(lalm: LALM, questions: Sequence[Question]) -> list[Float[Tensor, "prompt"]]:
    """How likely each answer is to open as a refusal (0 to 1), a tensor for each question.

    See `openings.refusal_probability`. Finer than counting refused answers: a push shows before it
    tips the answer over. Raises HookedModelError as `answers` does, and ValueError for a model that
    cannot go on from a prompt that has run (`key_values.keeps_plain_cache`).
    """
    by_question = _ask(lalm, questions, Asked(refusal_probability=True), "refusal_probability")
    return [torch.tensor(values, dtype=torch.float32) for values in by_question]


def _ask(lalm: LALM, questions: Sequence[Question], asked: Asked, field: str) -> list[list[Any]]:
    """A field of what is said to each prompt of each question; as many at once as memory allows."""
    sheet = plan(lalm, questions, asked, asked.key(lalm))
    new_tokens = max(asked.max_new_tokens, OPENING_TOKENS)
    longest = max((row.length for row in sheet.rows), default=0.0)
    batch_size = rows_that_fit(lalm, longest, new_tokens)
    said = ask(lalm, [sheet], CacheStore(cache_folder() / "course"), batch_size)
    by_question = []
    for keys in sheet.keys:
        by_question.append([said[key][field] for key in keys])
    return by_question
