"""Responses of a model under several defences, kept on disk batch by batch, so that a killed run goes on.

A folder holds three files. `manifest.json` pins all that responses depend on; `responses.jsonl` is one
response a line, in an order that is fixed beforehand; `timings.jsonl` says how long each batch took. Batches
are fixed too: what is decoded together changes the last digits of what is computed, so a batch is written as
a whole or run again as a whole. Hence a run that was killed and continued leaves the same bytes as one that
was not.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sarsteer_lab.engine.memory import rows_that_fit
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import Defence, PushingDefence
from sarsteer_lab.evaluation.phrases import refusal_is_settled
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, SpokenPrompt

FORMAT = "sarsteer-lab responses 1"


class EvaluationError(ValueError):
    """A folder of responses does not belong to this evaluation, or is damaged. The message says how."""


@dataclass(frozen=True)
class Response:
    """What the model said to one request under one defence; `tokens` is its length."""

    defence: str
    set: str
    id: str
    label: str
    request: str
    response: str
    tokens: int


@dataclass(frozen=True)
class _Batch:
    """Requests of one set that are answered together under one defence."""

    defence: Defence
    set: str
    requests: list[SpokenPrompt]


def collect_responses(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    folder: Path | str,
    *,
    max_new_tokens: int = 40,
    batch_size: int = 16,
    share_reading: bool = False,
    rates_only: bool = False,
) -> list[Response]:
    """Greedy responses to every request of every set under every defence, in a fixed order.

    `batch_size` is the number of rows that run together. With `share_reading` the order goes by requests
    first, and all defences share one reading of a batch's clips (`prepared.PreparedBatch`): steering defences
    then cost decoding steps alone, prompt defences their text as well. Where requests are few, a batch's rows
    are those of several defences (`prepared.under_each`). Responses are the same up to ties within rounding.

    With `rates_only` an answer ends once it has refused (`refusals.refusal_is_settled`). What the phrase
    judge calls answered, and so every ASR and BRR, is the same as with whole answers; a refusal that would
    have broken down later counts as refused.

    Each batch is on disk (flushed and synced) before the next one starts. If the folder already holds
    responses, the run goes on where it stopped: a line or batch that was cut off is run again. Raises
    `EvaluationError` if the folder belongs to another evaluation (model, settings, defences, requests or
    clips differ), if its files are damaged, or if another process writes to it; ValueError for names or ids
    that occur twice and requests without a clip.
    """
    folder = Path(folder)
    _check_names(defences, sets)
    batches = list(_plan(defences, sets, batch_size, share_reading))
    manifest = _manifest(lalm, defences, sets, max_new_tokens, batch_size, share_reading, rates_only)
    _claim(folder, manifest)
    path = folder / "responses.jsonl"
    done, size = _read(path, batches)
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
    read: list[SpokenPrompt] = []
    first: PreparedBatch | None = None
    ready: PreparedBatch | None = None
    settled = refusal_is_settled if rates_only else None
    progress = tqdm(batches, initial=len(done), desc="responses", unit="batch", delay=2, leave=False)
    with progress, path.open("ab") as file, (folder / "timings.jsonl").open("ab") as timings:
        for group in _together(batches, batch_size, share_reading):
            if group.stop <= len(done):
                continue
            start = time.perf_counter()
            batch = batches[group[0]]
            prompts = [batch.defence.prompt(request) for request in batch.requests]
            if rates_only and not share_reading:
                ready = None  # free its memory before the next one is made
                ready = PreparedBatch(lalm, prompts)
            elif share_reading:
                if first is None or read is not batch.requests:
                    # As the first defence asks, whichever is next: so a run that goes on rounds alike.
                    read, first, ready = batch.requests, None, None
                    first = ready = PreparedBatch(lalm, [defences[0].prompt(request) for request in read])
                if ready is None or ready.prompts != prompts:
                    ready = None
                    ready = first.retexted(prompts)
            here = [batches[index].defence for index in group]
            texts = _texts(lalm, here, prompts, ready, max_new_tokens, settled)
            seconds = (time.perf_counter() - start) / len(group)
            for index, said in zip(group, texts, strict=True):
                if index < len(done):
                    continue  # on disk before the run was cut off
                if file.tell() != size or path.stat().st_size != size:
                    raise EvaluationError(f"{path}: another process writes to it; let only one run at a time")
                responses = _responses(lalm, batches[index], said)
                content = b"".join(_line(response) for response in responses)
                _append(file, content)
                size += len(content)
                timings.write(json.dumps({"batch": index, "seconds": seconds}).encode() + b"\n")
                timings.flush()
                done.append(responses)
                progress.update()
    return [response for responses in done for response in responses]


def batch_size_for(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    folder: Path | str,
    max_new_tokens: int,
) -> int:
    """As many requests as fit under every defence; for a folder that was begun, what it was begun with.

    Memory that is free may change from run to run, and batches may not: see above.
    """
    try:
        return int(json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))["batch_size"])
    except (OSError, ValueError, LookupError, TypeError):
        requests = [max(found, key=_size) for found in sets.values() if found]
        return min(
            rows_that_fit(lalm, defence.prompt(request), max_new_tokens)
            for defence in defences
            for request in requests
        )


def speeds(
    responses: Sequence[Response], folder: Path | str, batch_size: int
) -> dict[tuple[str, str], float]:
    """Tokens per second for each (defence, set): responses' tokens over the time their batches took.

    Batches whose time was lost in a kill are left out; nan if all were.
    """
    seconds: dict[int, float] = {}
    for line in (Path(folder) / "timings.jsonl").read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
            seconds[entry["batch"]] = entry["seconds"]
        except (ValueError, KeyError, TypeError):  # cut off by a kill
            continue
    totals: dict[tuple[str, str], list[float]] = {}
    index, room = -1, 0
    previous = None
    for response in responses:
        key = (response.defence, response.set)
        if key != previous or room == 0:
            index, room, previous = index + 1, batch_size, key
            total = totals.setdefault(key, [0.0, 0.0])
            total[1] += seconds.get(index, 0.0)
        room -= 1
        if index in seconds:
            total[0] += response.tokens
    return {key: tokens / time if time else float("nan") for key, (tokens, time) in totals.items()}


def _plan(
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    batch_size: int,
    share_reading: bool,
) -> Iterator[_Batch]:
    """The batches in their order: requests of similar length together, the longest first."""
    if batch_size < 1:
        raise ValueError(f"batch_size has to be at least 1, not {batch_size}")
    chunks = []
    for name, requests in sets.items():
        ordered = sorted(requests, key=lambda request: -_size(request))
        chunks += [(name, ordered[at : at + batch_size]) for at in range(0, len(ordered), batch_size)]
    if share_reading:
        for name, chunk in chunks:
            yield from (_Batch(defence, name, chunk) for defence in defences)
    else:
        for defence in defences:
            yield from (_Batch(defence, name, chunk) for name, chunk in chunks)


def _size(request: SpokenPrompt) -> int:
    return 0 if request.clip is None or not request.clip.is_file() else request.clip.stat().st_size


def _together(batches: Sequence[_Batch], batch_size: int, share_reading: bool) -> Iterator[range]:
    """The batches in runs of those that fit into one: the same prompts under pushes by row."""
    start = 0
    for at in range(1, len(batches) + 1):
        one = batches[start]
        if (
            not share_reading
            or at == len(batches)
            or (at - start + 1) * len(one.requests) > batch_size
            or batches[at].requests is not one.requests
            or not all(isinstance(b.defence, PushingDefence) for b in (one, batches[at]))
            or any(one.defence.prompt(r) != batches[at].defence.prompt(r) for r in one.requests)
        ):
            yield range(start, at)
            start = at


def _texts(
    lalm: LALM,
    defences: Sequence[Defence],
    prompts: list[Prompt],
    ready: PreparedBatch | None,
    max_new_tokens: int,
    settled: Callable[[str], bool] | None,
) -> list[list[str]]:
    """The prompts' answers under each defence: pushes on what has been read at once, or else one defence."""
    pushing = [defence for defence in defences if isinstance(defence, PushingDefence)]
    if ready is None or len(pushing) < len(defences):
        [defence] = defences
        with defence.steering(lalm, prompts):
            if ready is not None:
                return [ready.generate(max_new_tokens, settled)]
            return [lalm.generate(prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts))]
    strengths = [defence.strengths(ready) for defence in pushing]
    with under_each(ready, [partial(defence.push, lalm) for defence in pushing], strengths) as rows:
        texts = rows.generate(max_new_tokens, settled)
    return [texts[at : at + len(prompts)] for at in range(0, len(texts), len(prompts))]


def _responses(lalm: LALM, batch: _Batch, texts: Sequence[str]) -> list[Response]:
    lengths = [len(ids) for ids in lalm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    return [
        Response(batch.defence.name, batch.set, request.id, request.label, request.request, text, length)
        for request, text, length in zip(batch.requests, texts, lengths, strict=True)
    ]


def _line(response: Response) -> bytes:
    # ASCII with escapes: no character of a response can be taken for a line end.
    return json.dumps(asdict(response)).encode() + b"\n"


def _append(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path, batches: Sequence[_Batch]) -> tuple[list[list[Response]], int]:
    """The complete batches on disk, and how many bytes they take; what follows them was cut off.

    Raises EvaluationError if a complete line is not the response that belongs there.
    """
    if not path.exists():
        return [], 0
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is cut off or nothing
    done: list[list[Response]] = []
    number = size = 0
    for batch in batches:
        chunk = lines[number : number + len(batch.requests)]
        responses = []
        for offset, (line, request) in enumerate(zip(chunk, batch.requests, strict=False)):
            responses.append(_parse(path, number + offset + 1, line, batch, request))
        if len(chunk) < len(batch.requests):
            return done, size
        done.append(responses)
        number += len(chunk)
        size += sum(len(line) + 1 for line in chunk)
    if len(lines) > number:
        raise EvaluationError(f"{path}, line {number + 1}: there should be {number} responses only")
    return done, size


def _parse(path: Path, number: int, line: bytes, batch: _Batch, request: SpokenPrompt) -> Response:
    where = f"{path}, line {number}"
    try:
        response = Response(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise EvaluationError(
            f"{where}: is not a response ({error}); delete it and all lines below, to have them run again"
        ) from error
    expected = (batch.defence.name, batch.set, request.id)
    if (response.defence, response.set, response.id) != expected:
        raise EvaluationError(
            f"{where}: is the response to {response.id!r} of {response.set!r} under {response.defence!r}, "
            f"but {expected} belongs here; delete this line and all below, to have them run again"
        )
    return response


def _check_names(defences: Sequence[Defence], sets: Mapping[str, Sequence[SpokenPrompt]]) -> None:
    if not defences or not any(sets.values()):
        raise ValueError("nothing to evaluate: give at least one defence and one request")
    lists = {"defences": [defence.name for defence in defences]}
    lists |= {f"ids in the set {name!r}": [r.id for r in requests] for name, requests in sets.items()}
    for what, names in lists.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{what} have to be distinct; twice: {', '.join(twice[:5])}")


def _manifest(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    max_new_tokens: int,
    batch_size: int,
    share_reading: bool,
    rates_only: bool,
) -> dict[str, Any]:
    """All that responses depend on, JSON-able. Clips count by content, not by where they lie."""
    return {
        "format": FORMAT,
        "model": lalm.fingerprint,
        "dtype": str(lalm.dtype),
        "device": lalm.device.type,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "share_reading": share_reading,
        # Left out where it is off, so that folders made before it was there go on.
        **({"rates_only": True} if rates_only else {}),
        "defences": {defence.name: defence.settings() for defence in defences},
        "sets": {name: [_identity(request) for request in requests] for name, requests in sets.items()},
    }


def _identity(request: SpokenPrompt) -> list[str]:
    clip = "" if request.clip is None else hashlib.sha256(request.clip.read_bytes()).hexdigest()[:16]
    return [request.id, request.label, request.request, request.text, clip]


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder this evaluation's, or check that it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    manifest = json.loads(json.dumps(manifest))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EvaluationError(f"{path}: is damaged ({error}); use a new folder") from error
        if json.dumps(found) != json.dumps(manifest):  # the order counts too
            raise EvaluationError(
                f"{folder} holds another evaluation: {_difference(found, manifest)}. "
                "Use a new folder, or give what it was started with"
            )
        return
    if (folder / "responses.jsonl").exists():
        raise EvaluationError(f"{folder} holds responses but no manifest.json; use a new folder")
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as file:
        _append(file, json.dumps(manifest, indent=1).encode())
    os.replace(scratch, path)


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first place in which two JSON values differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if list(found) != list(wanted) and where in ("defences", "sets"):
            return f"its {where} are {', '.join(found)}, now {', '.join(wanted)}"
        for key in {**found, **wanted}:
            if json.dumps(found.get(key)) != json.dumps(wanted.get(key)):
                return _difference(found.get(key), wanted.get(key), f"{where} {key}".strip())
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (first, second) in enumerate(zip(found, wanted, strict=True)):
            if first != second:
                return _difference(first, second, f"{where}, entry {number + 1}")
    return f"{where} was {found!r:.60}, now {wanted!r:.60}"
