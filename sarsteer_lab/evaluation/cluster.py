"""Tasks on a Ray cluster: the way past one machine."""

import io
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from sarsteer_lab.evaluation.answering import Said, Task, answer
from sarsteer_lab.keys import versions
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm

GROUPS_PER_TASK = 8
"""Batches, of one or several defences, that a worker runs at a stretch: it reads the clips once."""

Source = tuple[str, tuple[tuple[str, float], ...], torch.dtype, str]
"""Which model a worker needs: its name, dials, dtype and key (`LALM.key`)."""


def on_cluster(
    address: str, lalm: LALM, tasks: Iterable[Task]
) -> Iterator[tuple[Task, list[list[Said]]]]:
    """Tasks, in parts, and what was said to them, as workers are done."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('a cluster needs Ray: pip install "sarsteer-lab[cluster]"') from error
    _check_answers(address)
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    # A worker that dies, or its machine, is no fault of the task: it runs again, however often.
    work = ray.remote(max_retries=-1, num_cpus=1, num_gpus=int(lalm.device.type == "cuda"))(_work)
    source = (lalm.name, tuple(lalm.dials.items()), lalm.dtype, lalm.key())
    waiting = {}
    for task in tasks:
        for start in range(0, len(task.groups), GROUPS_PER_TASK):
            part = replace(task, groups=task.groups[start : start + GROUPS_PER_TASK])
            packed = io.BytesIO()
            torch.save(part, packed)  # what lies on a GPU can be read without one
            waiting[work.remote(source, packed.getvalue())] = part
    while waiting:
        [done], _ = ray.wait(list(waiting))
        try:
            said = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        yield waiting.pop(done), said


def _check_answers(address: str) -> None:
    """Raise ConnectionError if nobody listens at HOST:PORT, for which Ray would wait in silence."""
    place = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=5).close()
    except (OSError, OverflowError) as error:
        advice = "check the address, or run without it"
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}); {advice}"
        ) from error


def _work(source: Source, packed: bytes) -> list[list[Said]]:
    """What a worker does: all answers of a task."""
    task = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)
    return list(answer(model_of(*source), task))


@lru_cache(maxsize=1)
def model_of(name: str, dials: tuple[tuple[str, float], ...], dtype: torch.dtype, key: str) -> LALM:
    """This worker's model, loaded once. Raises ValueError if it is not the one of the run."""
    settings: dict[str, Any] = dict(dials)
    lalm = load_lalm(name, dtype=dtype, **settings)
    if lalm.key() != key:
        own = ", ".join(f"{package} {number}" for package, number in versions().items())
        raise ValueError(
            f"a worker's {name} is another model than here, or computed by others ({own}, on "
            f"{lalm.device.type}): give all machines the same files, versions and devices"
        )
    return lalm
