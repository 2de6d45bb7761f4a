"""Answering: one batch of clips, decoded under several texts and defences at a stretch."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from sarsteer_lab.batch import Encoded
from sarsteer_lab.engine import openings
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import Defence, SteeringDefence
from sarsteer_lab.lalm import LALM

Said = dict[str, Any]
"""What is said to a prompt, as asked: `text`, the `seconds` it took once the prompts were read,
`refusal_probability`."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every prompt: a greedy answer of so many tokens (0: none), and how likely
    an answer is to open as a refusal (`openings.refusal_probability`)."""

    max_new_tokens: int = 0
    refusal_probability: bool = False

    @property
    def what(self) -> str:
        """The same in words."""
        if not self.refusal_probability:
            return "answers"
        with_answers = "answers and refusal probabilities"
        return with_answers if self.max_new_tokens else "refusal probabilities"

    def settings(self, defence: Defence) -> dict[str, Any]:
        """How it is asked under a defence, in short."""
        settings: dict[str, Any] = {"defence": defence.name}
        if isinstance(defence, SteeringDefence):
            settings["alpha"] = defence.alpha
        if self.max_new_tokens:
            settings["max_new_tokens"] = self.max_new_tokens
        return settings

    def key(self, lalm: LALM) -> str:
        """A key of the model and of what is asked. Raises HookedModelError as `LALM.key` does."""
        if not self.refusal_probability:
            return lalm.key("said", asdict(self))
        return lalm.key("said", asdict(self), openings.refusing_openings(), openings.NEGLIGIBLE)


@dataclass(frozen=True, eq=False)
class Group:
    """Defences that share a batch: each has a block of rows, the prompts of one variant.

    `keys` are those of what is said, row by row; None where it is not to be kept.
    """

    variant: int
    defences: list[Defence]
    keys: Sequence[str | None]


@dataclass(frozen=True, eq=False)
class Task:
    """Some clips under several texts (`variants`, row by row the same clips), and who asks."""

    asked: Asked
    variants: list[list[Encoded]]
    groups: list[Group]


def answer(lalm: LALM, task: Task) -> Iterator[list[Said]]:
    """What the model says to a task's prompts under each group's defences, row by row."""
    remember_clips(lalm)
    # As the first variant, whichever is asked for: so a run that goes on rounds alike.
    first = PreparedBatch(lalm, task.variants[0])
    for variant, groups in groupby(task.groups, key=attrgetter("variant")):
        ready = first.retexted(task.variants[variant])
        for group in groups:
            start = time.perf_counter()  # what has been read until now is read for all groups
            pushes, strengths = [], []
            for defence in group.defences:
                pushes.append(partial(defence.push, lalm))
                strengths.append(defence.strengths(len(ready.prompts), ready.states))
            with under_each(ready, pushes, strengths) as together:
                replies = _replies(together, task.asked, start)
            yield replies


def _replies(ready: PreparedBatch, asked: Asked, start: float) -> list[Said]:
    """What is said to each prompt of a batch; `start` is when the work on it began."""
    replies: list[Said] = [{} for _ in ready.prompts]
    if asked.max_new_tokens:
        texts = ready.generate(asked.max_new_tokens)
        seconds = (time.perf_counter() - start) / len(replies)
        for reply, text in zip(replies, texts, strict=True):
            reply |= {"text": text, "seconds": seconds}
    if asked.refusal_probability:
        values = openings.refusal_probability(ready, negligible=openings.NEGLIGIBLE).tolist()
        for reply, value in zip(replies, values, strict=True):
            reply["refusal_probability"] = value
    return replies
