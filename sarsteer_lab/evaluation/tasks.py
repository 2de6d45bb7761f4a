"""Requests under groups of defences, answered at a stretch: here, or by workers of a Ray
cluster."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.prompts import Prompt, Request

BATCHES_PER_TASK = 8
"""Batches, of one or several defences, that one task of a cluster runs: the clips are read once for
all."""

Texts = list[tuple[str, str | None]]
"""What stands beside each clip: text, and system turn."""
Group = tuple[list[Defence], Texts]
"""Defences that are answered in one batch, for they all ask with the same texts."""
Found = list[dict[str, Any]]
"""Of a group, for each defence: its answers (`texts`), the `seconds` that they took, and the
`openings`, how likely each answer was to open as a refusal, if they are asked for."""


@dataclass(frozen=True, eq=False)
class Task:
    """The clips of a chunk under groups of defences; `first` are the texts of a reading that all
    share.

    How they are asked is said at `run.run`.
    """

    max_new_tokens: int
    share_reading: bool
    openings: bool
    chunk: int
    first: Texts
    groups: list[Group]


def answers(lalm: LALM, task: Task, clips: Sequence[Any]) -> Iterator[Found]:
    """What the model says to the clips (paths or waveforms) under each group."""

    def prompts(texts: Texts) -> list[Prompt]:
        return [
            Prompt(text, clip, system) for (text, system), clip in zip(texts, clips, strict=True)
        ]

    remember_clips(lalm)
    first: PreparedBatch | None = None
    ready: PreparedBatch | None = None
    for defences, texts in task.groups:
        start = time.perf_counter()
        asked = lalm.encode(prompts(texts))
        if task.share_reading:
            # As the first defence asks, whichever is next: so a run that goes on rounds alike.
            first = first or PreparedBatch(lalm, prompts(task.first))
        if (
            first is None
            or ready is None
            or [p.key for p in ready.prompts] != [p.key for p in asked]
        ):
            ready = None  # free its memory before the next one is made
            ready = PreparedBatch(lalm, asked) if first is None else first.retexted(asked)
        pushes = [partial(defence.push, lalm) for defence in defences]
        with under_each(ready, pushes, [defence.strengths(ready) for defence in defences]) as rows:
            said = {"texts": rows.generate(task.max_new_tokens)}
            seconds = (time.perf_counter() - start) / len(defences)
            if task.openings:
                said["openings"] = refusal_probability(rows).tolist()
        own = [slice(at, at + len(asked)) for at in range(0, len(rows.prompts), len(asked))]
        yield [
            {name: each[some] for name, each in said.items()} | {"seconds": seconds} for some in own
        ]


def on_cluster(
    address: str, lalm: LALM, tasks: Sequence[Task], requests: Sequence[list[Request]]
) -> Iterator[tuple[Task, list[Found]]]:
    """Tasks and what they found, as workers are done; `requests` are those of each chunk."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('a cluster needs Ray: pip install "sarsteer-lab[cluster]"') from error
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    # A worker that dies, or its machine, is no fault of the task: it runs again, however often.
    work = ray.remote(max_retries=-1, num_cpus=1, num_gpus=int(lalm.device.type == "cuda"))(_work)
    source = (lalm.name, lalm.safety, lalm.dtype, lalm.fingerprint())
    clips: dict[int, Any] = {}
    waiting = {}
    for task in tasks:
        if task.chunk not in clips:
            clips[task.chunk] = ray.put(
                [lalm.waveform(one.spoken()) for one in requests[task.chunk]]
            )
        packed = io.BytesIO()
        torch.save(
            task, packed
        )  # unlike a plain pickle, what lies on a GPU can be read without one
        waiting[work.remote(source, packed.getvalue(), clips[task.chunk])] = task
    while waiting:
        [done], _ = ray.wait(list(waiting))
        try:
            found = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        yield waiting.pop(done), found


def _work(
    source: tuple[str, float | None, torch.dtype, str], packed: bytes, clips: Sequence[Any]
) -> list[Found]:
    """What a worker does: all answers of a task."""
    task = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)
    return list(answers(model_of(*source), task, clips))


@lru_cache(maxsize=1)
def model_of(name: str, safety: float | None, dtype: torch.dtype, fingerprint: str) -> LALM:
    """This worker's model, loaded once. Raises ValueError if it is not the one that the run is
    about."""
    lalm = load_lalm(name, safety=safety, dtype=dtype)
    if lalm.fingerprint() != fingerprint:
        raise ValueError(
            f"a worker's {name} is another model than here (fingerprints {lalm.fingerprint()[:12]} and "
            f"{fingerprint[:12]}); give all machines the same files and version"
        )
    return lalm
