"""Answers and refusal probabilities that are computed once, and then read from the user's cache.

Prompts that share clips come as variants, a list for each text; what those of a clip begin with is
read once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import Prompts
from sarsteer_lab.batch import Encoded
from sarsteer_lab.engine.memory import chunks, rows_that_fit
from sarsteer_lab.engine.openings import NEGLIGIBLE, refusal_probability, refusing_openings
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import Defence, PromptDefence, SteeringDefence
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store

ANSWER_TOKENS = 24
"""Length of an answer in tokens: whether it is a refusal shows in its first words."""


def answers(lalm: LALM, prompts: Sequence[Prompt], **options: Any) -> list[str]:
    """Greedy answers, steered by `alpha * vectors` if there are any; those given before are read,
    not made.

    Options as in `answers_to_variants`. Raises HookedModelError inside `with steer(...)` and with
    hooks of your own on the model: what is answered then could not be told from the plain model's
    answers.
    """
    return answers_to_variants(lalm, [prompts], **options)[0]


def answers_to_variants(
    lalm: LALM,
    variants: Sequence[Prompts],
    *,
    vectors: SteeringVectors | None = None,
    alpha: float = 0.1,
    max_new_tokens: int = ANSWER_TOKENS,
    description: str = "answers",
) -> list[list[str]]:
    """The same for the same clips under several texts, a list of answers for each."""
    steering = None if vectors is None else (alpha, vectors.layers, vectors.values)
    encoded = [lalm.encode(prompts) for prompts in variants]
    keys = _keys(lalm, encoded, "answer", max_new_tokens, steering)

    def said(ready: PreparedBatch, _: list[int]) -> Iterator[list[str]]:
        with nullcontext() if vectors is None else steer(lalm, vectors, alpha):
            texts = ready.generate(max_new_tokens)
        yield texts

    return _kept(lalm, encoded, list(enumerate(keys)), said, max_new_tokens, description)


def refusal_probabilities(
    lalm: LALM,
    prompts: Sequence[Prompt],
    pushes: Mapping[str, tuple[SteeringVectors, float]],
    description: str = "refusal probabilities",
) -> dict[str, Float[Tensor, "prompt"]]:
    """How likely each prompt's answer is to open as a refusal (0 to 1), under each push (vectors,
    alpha).

    See `live.LivePrompt.refusal_probability`. Finer than counting refused answers: a push shows
    before it tips the answer over. Values are kept, so that the same push on the same prompt is
    never run twice. Raises HookedModelError as `answers` does.
    """
    pushing = [(0, SteeringDefence("push", vectors, alpha)) for vectors, alpha in pushes.values()]
    found = opening_chances(lalm, [prompts], pushing, description)
    return dict(zip(pushes, found, strict=True))


def opening_chances(
    lalm: LALM,
    variants: Sequence[Prompts],
    pushes: Sequence[tuple[int, Defence]],
    description: str = "refusal probabilities",
) -> list[Float[Tensor, "prompt"]]:
    """The same under any pushes, each on the prompts of the variant with its number.

    Raises ValueError for a model that cannot go on from a prompt that has run
    (`key_values.keeps_plain_cache`).
    """
    # Weights and clips are read once for all pushes.
    openings, negligible = refusing_openings(), NEGLIGIBLE
    encoded = [lalm.encode(prompts) for prompts in variants]
    read = _keys(lalm, encoded, "refusal probability", openings, negligible)
    effects = [(at, _effect(defence)) for at, defence in pushes]
    jobs = [(at, [content_key(key, effect) for key in read[at]]) for at, effect in effects]

    def chances(ready: PreparedBatch, numbers: list[int]) -> Iterator[list[float]]:
        together = max(1, rows_that_fit(lalm, ready.prompts[0], new_tokens=8) // len(ready.prompts))
        for start in range(0, len(numbers), together):
            some = [pushes[number][1] for number in numbers[start : start + together]]
            pushing = [partial(defence.push, lalm) for defence in some]
            with under_each(
                ready, pushing, [defence.strengths(ready) for defence in some]
            ) as several:
                found = refusal_probability(several, openings, negligible=negligible)
            yield from found.view(len(some), -1).tolist()

    # An opening has a handful of tokens.
    return [torch.tensor(own) for own in _kept(lalm, encoded, jobs, chances, 8, description)]


def _effect(defence: Defence) -> dict[str, object] | None:
    """What a push does beside the prompt's text, whatever it is called; None for nothing."""
    if isinstance(defence, PromptDefence) or getattr(defence, "alpha", None) == 0:
        return None
    return {key: value for key, value in defence.settings().items() if key != "name"}


def _kept(
    lalm: LALM,
    variants: Sequence[Sequence[Encoded]],
    jobs: Sequence[tuple[int, list[str]]],
    run: Callable[[PreparedBatch, list[int]], Iterator[list[Any]]],
    new_tokens: int,
    description: str,
) -> list[list[Any]]:
    """What each job, a variant's number and a key for each of its prompts, has for them: read, or
    `run`.

    `run` gives for some rows of a variant what each of some jobs has for them. Long prompts come
    first and together, so that little is padded.
    """
    store = Store(cache_folder() / "course")
    kept = {key: value for _, own in jobs for key in own if (value := store.read(key)) is not None}

    def lacking(rows: Sequence[int], at: int | None = None) -> list[int]:
        ours = [number for number, (of, _) in enumerate(jobs) if at in (None, of)]
        return [number for number in ours if any(jobs[number][1][row] not in kept for row in rows)]

    rows = [row for row in range(len(variants[0])) if lacking([row])]
    longest = {
        row: max((prompts[row] for prompts in variants), key=lambda prompt: prompt.length)
        for row in rows
    }
    rows.sort(key=lambda row: -longest[row].length)
    with tqdm(total=len(rows), desc=description, unit="prompt", delay=2, leave=False) as bar:
        for fitting in chunks(lalm, rows, [longest[row] for row in rows], new_tokens):
            mixed = not lalm.fit_together([longest[row] for row in fitting])
            for some in [[row] for row in fitting] if mixed else [fitting]:
                first = PreparedBatch(lalm, [variants[0][row] for row in some])
                for at, prompts in enumerate(variants):
                    if numbers := lacking(some, at):
                        ready = first.retexted([prompts[row] for row in some])
                        for number, values in zip(numbers, run(ready, numbers), strict=True):
                            for row, value in zip(some, values, strict=True):
                                if (key := jobs[number][1][row]) not in kept:  # what is kept stays
                                    kept[key] = store.write(key, value)
                bar.update(len(some))
    return [[kept[key] for key in own] for _, own in jobs]


def _keys(lalm: LALM, variants: Sequence[Sequence[Encoded]], *what: object) -> list[list[str]]:
    """A key for each prompt: the model (read once), what is done, the prompt as it is heard."""
    shared = lalm.key(*what)
    return [[content_key(shared, prompt.key) for prompt in prompts] for prompts in variants]
