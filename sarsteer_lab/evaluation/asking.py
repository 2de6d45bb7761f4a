"""Many answers, asked once and kept: clips under several texts and defences, each clip read once.

`ask` is what `run.run` (a folder for an evaluation) and `cached_answers` (the user's cache) are
thin layers over. Questions about the same clips are planned as a `Sheet`. A batch of its clips is a
`Task`: read once, continued under each text, and answered under several defences at a time, as rows
of one batch. What is said to a prompt is kept under a key of the model, what is asked, what the
defence does, and the prompt. What is kept is never asked again, and stays: another batch would give
other last digits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm.auto import tqdm

from sarsteer_lab.access import alone
from sarsteer_lab.batch import Encoded, split_into_batches
from sarsteer_lab.encoding import encode_variants, refuse_another_clip
from sarsteer_lab.engine.memory import keep_freed_memory
from sarsteer_lab.evaluation.answering import Asked, Group, Said, Task, answer
from sarsteer_lab.evaluation.cluster import on_cluster
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.own_code import refuse_foreign
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.store import Store

Question = tuple[Sequence[Prompt], Defence]
"""Prompts, and the defence that they are asked under."""


class Row(NamedTuple):
    """What is known of one clip of a sheet without holding it: keys, and how it may be batched.

    `batch_group` is that of `LALM.batch_group`, `length` that of the longest prompt
    (`Encoded.length`); there is a prompt's key for each variant.
    """

    clip_key: str
    batch_group: int
    length: float
    prompt_keys: list[str]


@dataclass(frozen=True, eq=False)
class Sheet:
    """Questions about the same clips: a table with a row for each clip.

    `variants` are the prompts under each text, row by row; `variant_of_question` says which of them
    a question asks with. `keys` are those of what is said: question, row.
    """

    asked: Asked
    defences: list[Defence]
    variants: list[list[Prompt]]
    variant_of_question: list[int]
    keys: list[list[str]]
    rows: list[Row]

    def batches(self, numbers: Sequence[int], batch_size: int) -> list[list[int]]:
        """The rows of these numbers in batches of at most so many."""
        lengths = [row.length for row in self.rows]
        groups = [row.batch_group for row in self.rows]
        return split_into_batches(numbers, lengths, groups, batch_size)

    def order(self) -> list[int]:
        """The numbers of all rows in the order in which they run."""
        n_rows = len(self.rows)
        return [number for batch in self.batches(range(n_rows), n_rows) for number in batch]

    def tasks(
        self, lalm: LALM, numbers: Sequence[int], batch_size: int, claimed: set[str]
    ) -> Iterator[Task]:
        """What is left to do for these rows: groups with keys that nobody has `claimed` before."""
        for batch in self.batches(numbers, batch_size):
            n_defences = max(1, batch_size // len(batch))  # few clips leave room for several
            groups = []
            for variant, questions in self._questions_together(n_defences):
                keys = [self.keys[question][number] for question in questions for number in batch]
                new_keys = _claim(keys, claimed)
                if any(new_keys):
                    defences = [self.defences[question] for question in questions]
                    groups.append(Group(variant, defences, new_keys))
            if groups:
                yield Task(self.asked, self._encoded(lalm, batch), groups)

    def _questions_together(self, at_most: int) -> Iterator[tuple[int, list[int]]]:
        """Each variant with the questions that ask with it, `at_most` so many at a time."""
        for variant in range(len(self.variants)):
            numbered = enumerate(self.variant_of_question)
            questions = [question for question, its_variant in numbered if its_variant == variant]
            for start in range(0, len(questions), at_most):
                yield variant, questions[start : start + at_most]

    def _encoded(self, lalm: LALM, batch: Sequence[int]) -> list[list[Encoded]]:
        """A batch's prompts: variant, row. Raises ValueError for a clip that is another by now."""
        by_row = []
        for number in batch:
            encoded = encode_variants(lalm, [prompts[number] for prompts in self.variants])
            if [prompt.key for prompt in encoded] != self.rows[number].prompt_keys:
                changed = "has changed since the questions were planned: ask them again"
                raise ValueError(f"the clip {self.variants[0][number].audio!s:.200} {changed}")
            by_row.append(encoded)
        return [list(of_variant) for of_variant in zip(*by_row, strict=True)]

    def lacking(self, claimed: set[str]) -> list[int]:
        """The numbers of rows that have a key that nobody has claimed."""
        by_row = zip(*self.keys, strict=True)
        return [number for number, keys in enumerate(by_row) if not claimed.issuperset(keys)]


def _claim(keys: Sequence[str], claimed: set[str]) -> list[str | None]:
    """Add keys to those that are `claimed`, and return them: None for those that were before.

    So a prompt that is in two batches is kept as the first of them answers it, whichever is done
    first.
    """
    new_keys = []
    for key in keys:
        new_keys.append(None if key in claimed else key)
        claimed.add(key)
    return new_keys


def plan(lalm: LALM, questions: Sequence[Question], asked: Asked, key: str) -> Sheet:
    """Look at each clip once; `key` is `asked.key(lalm)`.

    Raises ValueError for questions that are not about the same clips, row by row, and ClipError.
    """
    variants, variant_of_question = _variants(questions)
    rows = []
    for of_row in zip(*variants, strict=True):
        encoded = encode_variants(lalm, of_row)
        clip_key, group = content_key(encoded[0].waveform), lalm.batch_group(encoded[0])
        length = max(prompt.length for prompt in encoded)
        rows.append(Row(clip_key, group, length, [prompt.key for prompt in encoded]))
    defences = [defence for _, defence in questions]
    keys = []
    for defence, variant in zip(defences, variant_of_question, strict=True):
        question_key = content_key(key, lalm.results.push_key(defence.effect()))
        keys.append([content_key(question_key, row.prompt_keys[variant]) for row in rows])
    return Sheet(asked, defences, variants, variant_of_question, keys, rows)


def _variants(questions: Sequence[Question]) -> tuple[list[list[Prompt]], list[int]]:
    """The prompts under each text that questions ask with, and which of these each asks with.

    Raises ValueError for questions with the same texts about other clips.
    """
    variants: list[list[Prompt]] = []
    numbers: dict[tuple[tuple[str, str | None], ...], int] = {}
    variant_of_question = []
    for prompts, _ in questions:
        texts = tuple((prompt.text, prompt.system) for prompt in prompts)
        if texts not in numbers:
            numbers[texts] = len(variants)
            variants.append(list(prompts))
        for first, prompt in zip(variants[numbers[texts]], prompts, strict=True):
            refuse_another_clip(first, prompt)
        variant_of_question.append(numbers[texts])
    return variants, variant_of_question


@alone
def ask(
    lalm: LALM,
    sheets: Sequence[Sheet],
    store: Store,
    batch_size: int,
    *,
    whole: bool = False,
    ray: str | None = None,
) -> dict[str, Said]:
    """What is said to every question of the sheets, by its key: read from the store, or asked.

    `batch_size` is the number of rows that run together. Batches are those of prompts that lack
    something; with `whole` they are those of all prompts, and so depend on the questions alone:
    whether or not a run was killed, the same rounds alike. `ray` as in `run.run`. Raises
    ValueError for refusal probabilities of a model that cannot go on from a prompt that has run
    (`key_values.keeps_plain_cache`).
    """
    keep_freed_memory()
    store = lalm.results.store(store)
    keys: list[str] = []
    for sheet in sheets:
        for of_question in sheet.keys:
            keys += of_question
    said: dict[str, Said] = {}
    for key in keys:
        kept = store.read(key)
        if kept is not None:
            said[key] = kept
    _tell_missing(lalm, sheets, said)
    tasks = _tasks(lalm, sheets, batch_size, set(said), whole)
    progress = {"desc": "answers", "unit": "prompt", "delay": 2, "leave": False}
    with tqdm(total=len(keys), initial=len(said), **progress) as bar:
        for new_key, reply in _replies(lalm, tasks, ray):
            said[new_key] = store.write(new_key, reply)
            bar.update()
    return said


def _replies(lalm: LALM, tasks: Iterable[Task], ray: str | None) -> Iterator[tuple[str, Said]]:
    """What is said to each prompt of the tasks that is to be kept, with its key, as it comes."""
    done: Iterable[tuple[Task, Iterable[list[Said]]]]
    if ray is None:
        done = ((task, answer(lalm, task)) for task in tasks)
    else:
        done = on_cluster(ray, lalm, tasks)
    for task, replies in done:
        for group, of_group in zip(task.groups, replies, strict=True):
            # Hooks of one's own may have come meanwhile, from another thread.
            refuse_foreign(lalm.model, lalm.name)
            for key, reply in zip(group.keys, of_group, strict=True):
                if key is not None:
                    yield key, reply


def _tell_missing(lalm: LALM, sheets: Sequence[Sheet], said: Mapping[str, Said]) -> None:
    """Tell the model's `results` of every question that lacks something."""
    for sheet in sheets:
        questions = zip(sheet.defences, sheet.variant_of_question, sheet.keys, strict=True)
        for defence, variant, keys in questions:
            lacking = [number for number, key in enumerate(keys) if key not in said]
            if lacking:
                [prompt] = lalm.encode([sheet.variants[variant][lacking[0]]])
                lalm.results.missing(sheet.asked.what, prompt, sheet.asked.settings(defence))


def _tasks(
    lalm: LALM, sheets: Sequence[Sheet], batch_size: int, claimed: set[str], whole: bool
) -> Iterator[Task]:
    for sheet in sheets:
        numbers = range(len(sheet.rows)) if whole else sheet.lacking(claimed)
        yield from sheet.tasks(lalm, numbers, batch_size, claimed)
