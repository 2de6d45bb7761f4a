"""The one runner: responses of a model under several defences, kept piece by piece, here or on a
Ray cluster.

A piece is one batch of requests under one defence. It is kept in the folder's `parts/` under a key
of all that it depends on, so whatever is there is never computed again: a killed run goes on, and a
larger grid of settings costs only what is new. Once all pieces are there, `responses.jsonl` holds
one response a line, in an order that is fixed beforehand, and `timings.jsonl` how long each piece
took; `manifest.json` says what the folder is about.

What is decoded together changes the last digits of what is computed. So batches are fixed
beforehand too, and run as a whole: a run that was killed and continued leaves the same bytes as one
that was not.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from sarsteer_lab.engine.memory import keep_freed_memory, rows_that_fit
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.tasks import (
    BATCHES_PER_TASK,
    Found,
    Group,
    Task,
    Texts,
    answers,
    on_cluster,
)
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request
from sarsteer_lab.speech import clip_seconds
from sarsteer_lab.store import Store, atomic_write

FORMAT = "sarsteer-lab responses 3"


class EvaluationError(ValueError):
    """A folder of responses does not belong to this evaluation. The message says how."""


@dataclass(frozen=True)
class Response:
    """What the model said to one request under one defence; `tokens` is its length, `opening` how
    likely it was to open as a refusal (0 to 1; None if nobody has asked)."""

    defence: str
    set: str
    id: str
    label: str
    request: str
    response: str
    tokens: int
    opening: float | None = None


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Requests of one set that are asked together; `known` says for each what its responses depend
    on."""

    set: str
    requests: list[Request]
    known: list[list[str]]


def run(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    folder: Path | str,
    *,
    max_new_tokens: int = 40,
    batch_size: int = 16,
    share_reading: bool = False,
    openings: bool = False,
    ray: str | None = None,
) -> list[Response]:
    """Greedy responses to every request of every set under every defence, in a fixed order.

    `batch_size` is the number of rows that run together. With `share_reading` the order goes by
    requests first, and all defences share one reading of a batch's clips
    (`prepared.PreparedBatch`): steering defences then cost decoding steps alone, prompt defences
    their text as well. Where requests are few, a batch's rows are those of several defences
    (`prepared.under_each`). Responses are the same up to ties within rounding.

    With `openings` each response also
    says how likely its answer was to open as a refusal (`live.refusing_openings`), from the same
    reading; only for models that decode on from it, with clips that may share a batch (ValueError
    for others).

    `ray` is the address of a Ray cluster ("auto", "host:port", "ray://host:port", "local" for one
    of its own). Tasks carry clips and vectors; its machines need this package and the model, which
    they load by `lalm.name`. A task whose worker dies runs again elsewhere; results land in
    `folder` here.

    If the folder holds pieces of this evaluation, it goes on from there; defences and sets may join
    or leave. Raises `EvaluationError` if the folder belongs to another evaluation (model, settings,
    defences, requests or clips of the same name differ), `HookedModelError` inside `with
    steer(...)` or with hooks of your own on the model, ValueError for names or ids that occur
    twice, requests without a clip and, with `ray`, workers that have another model, and ImportError
    if the package ray is missing.
    """
    keep_freed_memory()
    folder = Path(folder)
    _check(defences, sets, batch_size)
    asking: dict[str, Any] = {"max_new_tokens": max_new_tokens, "share_reading": share_reading}
    base = lalm.key(FORMAT, asking)
    chunks, known = _chunks(lalm, sets, batch_size)
    own = {defence.name: defence.settings() for defence in defences}
    setup: dict[str, Any] = {
        "model": lalm.fingerprint(),
        "dtype": str(lalm.dtype),
        "device": lalm.device.type,
    }
    setup |= {**asking, "batch_size": batch_size, "defences": own, "sets": known}
    _claim(folder, {"format": FORMAT, **setup})
    pieces = [(defence.name, at) for defence in defences for at in range(len(chunks))]
    if share_reading:
        pieces.sort(key=lambda piece: piece[1])
    keys = {(name, at): content_key(base, own[name], chunks[at].known) for name, at in pieces}
    store = Store(folder / "parts")
    kept = {piece: value for piece, key in keys.items() if (value := store.read(key)) is not None}
    missing = {
        piece
        for piece in pieces
        if piece not in kept or (openings and "openings" not in kept[piece])
    }

    tasks: list[Task] = []
    for at, chunk in enumerate(chunks):
        groups = _together(defences, chunk.requests, batch_size if share_reading else 0)
        # A batch of several defences runs as a whole, even if only some of its pieces are missing.
        lacking = [group for group in groups if any((one.name, at) in missing for one in group[0])]
        size = BATCHES_PER_TASK if ray else len(defences)
        for start in range(0, len(lacking), size):
            first = _texts(defences[0], chunk.requests)
            some = lacking[start : start + size]
            tasks.append(Task(**asking, openings=openings, chunk=at, first=first, groups=some))
    work: Iterator[tuple[Task, Iterable[Found]]]
    if ray is None:
        work = (
            (task, answers(lalm, task, [r.clip for r in chunks[task.chunk].requests]))
            for task in tasks
        )
    else:
        work = on_cluster(ray, lalm, tasks, [chunk.requests for chunk in chunks])
    progress = {"desc": "responses", "unit": "batch", "delay": 2, "leave": False}
    with tqdm(total=len(keys), initial=len(keys) - len(missing), **progress) as bar:
        for task, found in work:
            for (together, _), said in zip(task.groups, found, strict=True):
                for defence, made in zip(together, said, strict=True):
                    if (piece := (defence.name, task.chunk)) in missing:
                        kept[piece] = made
                        store.write(keys[piece], made)
                        bar.update()
    return _finish(lalm, folder, chunks, {piece: kept[piece] for piece in pieces})


def _finish(
    lalm: LALM,
    folder: Path,
    chunks: Sequence[_Chunk],
    kept: Mapping[tuple[str, int], dict[str, Any]],
) -> list[Response]:
    """Write what all pieces say to the folder's files, and return it."""
    responses, times = [], []
    for (name, at), piece in kept.items():
        ids = lalm.tokenizer(piece["texts"], add_special_tokens=False)["input_ids"]
        chances = piece.get("openings") or [None] * len(ids)
        said = zip(chunks[at].requests, piece["texts"], map(len, ids), chances, strict=True)
        responses += [
            Response(name, chunks[at].set, r.id, r.label, r.request, *rest) for r, *rest in said
        ]
        length = sum(map(len, ids))
        times.append(
            {"defence": name, "set": chunks[at].set, "tokens": length, "seconds": piece["seconds"]}
        )
    write_lines(folder / "responses.jsonl", [asdict(response) for response in responses])
    write_lines(folder / "timings.jsonl", times)
    return responses


def batch_size_for(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    folder: Path | str,
    max_new_tokens: int,
) -> int:
    """As many requests as fit under every defence; for a folder that was begun, what it was begun
    with.

    Memory that is free may change from run to run, and batches may not: see above.
    """
    try:
        return int(
            json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))["batch_size"]
        )
    except (OSError, ValueError, LookupError, TypeError):
        sizes = []
        for requests in sets.values():
            longest = max(requests, key=lambda request: clip_seconds(request.clip or ""))
            for prompt in lalm.encode([defence.prompt(longest) for defence in defences]):
                sizes.append(rows_that_fit(lalm, prompt, max_new_tokens))
        return min(sizes)


def speeds(folder: Path | str) -> dict[tuple[str, str], float]:
    """Tokens per second for each (defence, set) of a finished run, by the time that its batches
    took."""
    totals = (
        read_lines(Path(folder) / "timings.jsonl")
        .groupby(["defence", "set"])[["tokens", "seconds"]]
        .sum()
    )
    return (totals["tokens"] / totals["seconds"]).to_dict()


def read_lines(path: Path) -> pd.DataFrame:
    """A table from JSON lines, a row each."""
    return pd.DataFrame(
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    )


def write_lines(path: Path, records: Sequence[Mapping[Any, Any]]) -> None:
    """Write JSON lines; a reader sees the old file or the new one, and one that says the same
    stays."""
    # ASCII with escapes: no character of a response can be taken for a line end.
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    if not (path.is_file() and path.read_bytes() == content):
        with atomic_write(path) as scratch:
            scratch.write_bytes(content)


def _chunks(
    lalm: LALM, sets: Mapping[str, Sequence[Request]], batch_size: int
) -> tuple[list[_Chunk], dict[str, list[list[str]]]]:
    """Requests of similar length together, the longest first; and what is known of all of each
    set."""
    chunks: list[_Chunk] = []
    known: dict[str, list[list[str]]] = {}
    for name, requests in sets.items():
        looked = []
        for request in requests:  # one at a time, so that only one waveform is held
            # The key holds chat format, instruction and clip, by content.
            [encoded] = lalm.encode([request.spoken()])
            samples = 0 if encoded.waveform is None else len(encoded.waveform)
            looked.append(
                (samples, request, [request.id, request.label, request.request, encoded.key])
            )
        known[name] = [facts for *_, facts in looked]
        looked.sort(key=lambda entry: -entry[0])
        for at in range(0, len(looked), batch_size):
            _, some, facts = zip(*looked[at : at + batch_size], strict=True)
            chunks.append(_Chunk(name, list(some), list(facts)))
    return chunks, known


def _texts(defence: Defence, requests: Sequence[Request]) -> Texts:
    return [(prompt.text, prompt.system) for prompt in map(defence.prompt, requests)]


def _together(
    defences: Sequence[Defence], requests: Sequence[Request], rows: int
) -> Iterator[Group]:
    """The defences in runs of those that fit into one batch of `rows`, asking with the same
    texts."""
    group: list[Defence] = []
    texts: Texts = []
    for defence in defences:
        own = _texts(defence, requests)
        if group and ((len(group) + 1) * len(requests) > rows or own != texts):
            yield group, texts
            group = []
        group, texts = [*group, defence], own
    yield group, texts


def _check(
    defences: Sequence[Defence], sets: Mapping[str, Sequence[Request]], batch_size: int
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size has to be at least 1, not {batch_size}")
    if not defences or not any(sets.values()):
        raise ValueError("nothing to evaluate: give at least one defence and one request")
    lists = {"defences": [defence.name for defence in defences]}
    lists |= {
        f"ids in the set {name!r}": [r.id for r in requests] for name, requests in sets.items()
    }
    for what, names in lists.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{what} have to be distinct; twice: {', '.join(twice[:5])}")


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder this evaluation's, or check that it is."""
    path = folder / "manifest.json"
    manifest = json.loads(json.dumps(manifest))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EvaluationError(f"{path}: is damaged ({error}); use a new folder") from error
        if difference := next(_differences(found, manifest), None):
            raise EvaluationError(
                f"{folder} holds another evaluation: {difference}. Use a new folder, or give what it was "
                "started with"
            )
    elif (folder / "responses.jsonl").exists():
        raise EvaluationError(f"{folder} holds responses but no manifest.json; use a new folder")
    with atomic_write(path) as scratch:
        scratch.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _differences(found: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """The places in which what both manifests name differs, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in found:
            if key in wanted:
                yield from _differences(found[key], wanted[key], f"{where} {key}".strip())
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for n, (a, b) in enumerate(zip(found, wanted, strict=True), 1):
            yield from _differences(a, b, f"{where}, entry {n}")
    elif found != wanted:
        yield f"{where} was {found!r:.60}, now {wanted!r:.60}"
