"""The one way to many answers: clips under several texts and defences, each read once, all kept.

`ask` is what `run.run` (a folder for an evaluation) and `kept` (the user's cache) are thin layers
over. Questions about the same clips are planned as a `Sheet`. A batch of its clips is a `Task`:
read once, continued under each text, and answered under several defences at a time, as rows of one
batch. What is said to a prompt is kept under a key of the model, what is asked, what the defence
does, and the prompt. What is kept is never asked again, and stays: another batch would give other
last digits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from sarsteer_lab.access import alone
from sarsteer_lab.batch import Encoded, split_into_batches
from sarsteer_lab.encoding import encode_variants
from sarsteer_lab.engine.memory import keep_freed_memory
from sarsteer_lab.evaluation.cluster import on_cluster
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.tasks import Asked, Group, Said, Task, answer
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.own_code import refuse_foreign
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.store import Store

Question = tuple[Sequence[Prompt], Defence]
"""Prompts, and the defence that they are asked under."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Questions about the same clips, and what is known of each clip without holding it.

    `variants` are the prompts under each text; `of_question` says which of them a question asks
    with. `keys` are those of what is said: question, row. `kinds` and `lengths` say which rows
    may share a batch, and which are alike; `clips` are keys of the clips alone.
    """

    asked: Asked
    defences: list[Defence]
    variants: list[list[Prompt]]
    of_question: list[int]
    keys: list[list[str]]
    kinds: list[int]
    lengths: list[float]
    clips: list[str]

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """These rows in batches of at most so many."""
        lengths = [self.lengths[row] for row in rows]
        kinds = [self.kinds[row] for row in rows]
        for places in split_into_batches(lengths, kinds, batch_size):
            yield [rows[place] for place in places]

    def order(self) -> list[int]:
        """All rows in the order in which they run."""
        n_rows = len(self.kinds)
        return [row for batch in self.batches(range(n_rows), n_rows) for row in batch]

    def tasks(
        self, lalm: LALM, rows: Sequence[int], batch_size: int, claimed: set[str]
    ) -> Iterator[Task]:
        """What is left to do for these rows: groups with keys that nobody has `claimed` before."""
        for batch in self.batches(rows, batch_size):
            groups = []
            for variant, questions in self._together(max(1, batch_size // len(batch))):
                keys = [self.keys[question][row] for question in questions for row in batch]
                unclaimed = _claim(keys, claimed)
                if any(unclaimed):
                    defences = [self.defences[question] for question in questions]
                    groups.append(Group(variant, defences, unclaimed))
            if groups:
                yield Task(self.asked, self._encoded(lalm, batch), groups)

    def _together(self, at_once: int) -> Iterator[tuple[int, list[int]]]:
        """Variants, and questions that ask with them: as many `at_once` as fit into a batch."""
        for variant in range(len(self.variants)):
            questions = [n for n, own in enumerate(self.of_question) if own == variant]
            for start in range(0, len(questions), at_once):
                yield variant, questions[start : start + at_once]

    def _encoded(self, lalm: LALM, batch: Sequence[int]) -> list[list[Encoded]]:
        """A batch's prompts: variant, row."""
        by_row = []
        for row in batch:
            by_row.append(encode_variants(lalm, [prompts[row] for prompts in self.variants]))
        return [list(of_variant) for of_variant in zip(*by_row, strict=True)]

    def lacking(self, claimed: set[str]) -> list[int]:
        """Rows that have a key that nobody has claimed."""
        rows = zip(*self.keys, strict=True)
        return [row for row, keys in enumerate(rows) if not claimed.issuperset(keys)]


def _claim(keys: Sequence[str], claimed: set[str]) -> list[str | None]:
    """These keys, which are `claimed` from now on; None for those that were before.

    So a prompt that is in two batches is kept as the first of them answers it, whichever is done
    first.
    """
    left = []
    for key in keys:
        left.append(None if key in claimed else key)
        claimed.add(key)
    return left


def plan(lalm: LALM, questions: Sequence[Question], asked: Asked, key: str) -> Sheet:
    """Look at each clip once; `key` is `asked.key(lalm)`.

    Raises ValueError for questions that are not about the same clips, row by row, and ClipError.
    """
    texts: list[list[tuple[str, str | None]]] = []
    variants: list[list[Prompt]] = []
    of_question = []
    for prompts, _ in questions:
        own_texts = [(prompt.text, prompt.system) for prompt in prompts]
        if own_texts not in texts:
            texts.append(own_texts)
            variants.append(list(prompts))
        of_question.append(texts.index(own_texts))
    prompt_keys, kinds, lengths, clips = [], [], [], []
    for of_row in zip(*variants, strict=True):
        encoded = encode_variants(lalm, of_row)
        prompt_keys.append([prompt.key for prompt in encoded])
        kinds.append(lalm.batch_group(encoded[0]))
        lengths.append(max(prompt.length for prompt in encoded))
        clips.append(content_key(encoded[0].waveform))
    keys = []
    for (_, defence), variant in zip(questions, of_question, strict=True):
        key_of_push = content_key(key, lalm.results.push_key(defence.effect()))
        keys.append([content_key(key_of_push, of_row[variant]) for of_row in prompt_keys])
    defences = [defence for _, defence in questions]
    return Sheet(asked, defences, variants, of_question, keys, kinds, lengths, clips)


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
    said: dict[str, Said] = {}
    n_questions = 0
    for sheet in sheets:
        for keys in sheet.keys:
            n_questions += len(keys)
            for key in keys:
                kept = store.read(key)
                if kept is not None:
                    said[key] = kept
    _tell_missing(lalm, sheets, said)
    tasks = _tasks(lalm, sheets, batch_size, set(said), whole)
    work: Iterable[tuple[Task, Iterable[list[Said]]]]
    if ray is None:
        work = ((task, answer(lalm, task)) for task in tasks)
    else:
        work = on_cluster(ray, lalm, tasks)
    progress = {"desc": "answers", "unit": "prompt", "delay": 2, "leave": False}
    with tqdm(total=n_questions, initial=len(said), **progress) as bar:
        for task, results in work:
            for group, of_group in zip(task.groups, results, strict=True):
                # Hooks of one's own may have come meanwhile, from another thread.
                refuse_foreign(lalm.model, lalm.name)
                for new_key, of_prompt in zip(group.keys, of_group, strict=True):
                    if new_key is not None:
                        said[new_key] = store.write(new_key, of_prompt)
                        bar.update()
    return said


def _tell_missing(lalm: LALM, sheets: Sequence[Sheet], said: Mapping[str, Said]) -> None:
    """Tell the model's `results` of every question that lacks something."""
    for sheet in sheets:
        for question, keys in enumerate(sheet.keys):
            lacking = [row for row, key in enumerate(keys) if key not in said]
            if lacking:
                variant = sheet.variants[sheet.of_question[question]]
                [prompt] = lalm.encode([variant[lacking[0]]])
                settings = sheet.asked.settings(sheet.defences[question])
                lalm.results.missing(sheet.asked.what, prompt, settings)


def _tasks(
    lalm: LALM, sheets: Sequence[Sheet], batch_size: int, claimed: set[str], whole: bool
) -> Iterator[Task]:
    for sheet in sheets:
        rows = range(len(sheet.kinds)) if whole else sheet.lacking(claimed)
        yield from sheet.tasks(lalm, rows, batch_size, claimed)
