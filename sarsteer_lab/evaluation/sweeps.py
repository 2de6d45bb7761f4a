"""A grid of steering settings as independent tasks, here or on a Ray cluster, results as Parquet files.

The smallest piece is one batch of requests under one setting. Its file is named after all that its rows
depend on, so whatever is there is never computed again: a killed sweep goes on, and a larger grid costs only
what is new. Tasks carry clips and vectors with them; a machine of the cluster needs this package and the
model.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from sarsteer_lab.engine.memory import rows_that_fit
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM, rough_length
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.prompts import Prompt, SpokenPrompt
from sarsteer_lab.steering import SteeringVectors, steer

FORMAT = "sarsteer-lab sweep 1"
SETTINGS_PER_TASK = 8
"""Settings that one task of a cluster runs on its batch: the clips are read once for all of them."""

COLUMNS = ["variant", "layers", "alpha", "set", "label", "id", "request", "response", "outcome"]


@dataclass(frozen=True)
class Setting:
    """One point of the grid: vectors by name, layers by name ("all" or "3-8") and index, and a strength."""

    variant: str
    layers: str
    indices: tuple[int, ...] | None
    alpha: float

    @property
    def name(self) -> str:
        """What tables call it; "none" without steering."""
        return f"{self.variant} | layers {self.layers} | alpha={self.alpha:g}" if self.alpha else "none"


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests that are read and answered together, with their clips as waveforms."""

    rows: list[dict[str, str]]
    prompts: list[Prompt]


@dataclass(frozen=True)
class Source:
    """Where a worker gets the model, and the fingerprint that it has to have there."""

    model: str
    safety: float
    fingerprint: str


def settings_of(
    variants: Mapping[str, SteeringVectors],
    layers: Mapping[str, tuple[int, ...] | None],
    alphas: Sequence[float],
) -> list[Setting]:
    """The grid: no steering first, then each variant on each choice of layers at each strength but 0."""
    start = Setting("none", "all", None, 0.0)
    return [
        start,
        *(
            Setting(variant, name, indices, alpha)
            for variant in variants
            for name, indices in layers.items()
            for alpha in alphas
            if alpha
        ),
    ]


def parse_layers(texts: Sequence[str], n_layers: int) -> dict[str, tuple[int, ...] | None]:
    """Choices of layers by their names: "all", "7", "3-8" (both ends count).

    Raises ValueError for anything else and for layers that the model lacks.
    """
    choices: dict[str, tuple[int, ...] | None] = {}
    for text in texts:
        first, _, last = text.partition("-")
        if text == "all":
            choices[text] = None
        elif (
            first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first) < n_layers
        ):
            choices[text] = tuple(range(int(first), int(last or first) + 1))
        else:
            raise ValueError(
                f"layers {text!r}: give all, a number or a range from 0 to {n_layers - 1}, as 3-8"
            )
    return choices


def sweep_grid(
    lalm: LALM,
    variants: Mapping[str, SteeringVectors],
    settings: Sequence[Setting],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    folder: Path | str,
    *,
    max_new_tokens: int = 16,
    batch_size: int = 32,
    cluster: tuple[str, Source] | None = None,
) -> pd.DataFrame:
    """Greedy responses and outcomes (phrase judge) of every request under every setting: a row for each.

    Columns are `COLUMNS`. `cluster` is a Ray address ("auto", "host:port", "ray://host:port", "local" for
    one of its own) and where its workers get the model; without it the tasks run here, one after the other.
    On the cluster a task whose worker dies runs again elsewhere, and results come back to `folder` here. Rows
    are the same either way up to ties within rounding. Raises ValueError for requests without a clip,
    ImportError without the package ray, and what a worker raises.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    batches = list(_batches(lalm, sets, batch_size))
    paths = {
        (b, s): folder / f"{_digest(lalm, batch, setting, variants, max_new_tokens)}.parquet"
        for b, batch in enumerate(batches)
        for s, setting in enumerate(settings)
    }
    todo = {b: [s for s in range(len(settings)) if not paths[b, s].is_file()] for b in range(len(batches))}
    done = len(paths) - sum(map(len, todo.values()))
    with tqdm(total=len(paths), initial=done, desc="sweep", unit="batch", delay=2, leave=False) as bar:

        def keep(b: int, s: int, rows: list[dict[str, Any]]) -> None:
            _write(pd.DataFrame(rows, columns=COLUMNS), paths[b, s])
            bar.update()

        if cluster is None:
            for b, wanted in todo.items():
                answers = _answers(lalm, batches[b], [settings[s] for s in wanted], variants, max_new_tokens)
                for s, rows in zip(wanted, answers, strict=True):
                    keep(b, s, rows)
        else:
            _on_cluster(*cluster, lalm, batches, settings, variants, max_new_tokens, todo, keep)
    return pd.concat([pd.read_parquet(path) for path in paths.values()], ignore_index=True)


def outcomes_of(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `sweep_grid` as `evaluation.tabulate` takes them: a setting is a defence."""
    names = [
        Setting(row.variant, row.layers, None, row.alpha).name
        for row in table[["variant", "layers", "alpha"]].itertuples()
    ]
    return table.assign(defence=names, judge=PhraseJudge.name)[
        ["defence", "set", "label", "id", "judge", "outcome"]
    ]


def _batches(lalm: LALM, sets: Mapping[str, Sequence[SpokenPrompt]], batch_size: int) -> Iterator[Batch]:
    for name, requests in sets.items():
        clips = {request.id: lalm.waveform(request.spoken()) for request in requests}
        lengths = {id: 0 if clip is None else len(clip) for id, clip in clips.items()}
        ordered = sorted(requests, key=lambda request: -lengths[request.id])
        for at in range(0, len(ordered), batch_size):
            chunk = ordered[at : at + batch_size]
            yield Batch(
                [{"set": name, "label": r.label, "id": r.id, "request": r.request} for r in chunk],
                [Prompt(r.spoken().text, clips[r.id]) for r in chunk],
            )


def _answers(
    lalm: LALM,
    batch: Batch,
    settings: Sequence[Setting],
    variants: Mapping[str, SteeringVectors],
    max_new_tokens: int,
) -> Iterator[list[dict[str, Any]]]:
    """A setting's rows at a time; the batch is read once."""
    if not settings:
        return
    ready, judge = PreparedBatch(lalm, batch.prompts), PhraseJudge()
    n = len(batch.prompts)
    at_once = max(1, rows_that_fit(lalm, max(batch.prompts, key=rough_length), max_new_tokens) // n)
    for start in range(0, len(settings), at_once):
        some = settings[start : start + at_once]
        # What is not pushed at all may have a variant's name that is nobody's.
        chosen = [variants[s.variant] if s.alpha else next(iter(variants.values())) for s in some]
        pushes = [
            partial(steer, lalm, vectors, layers=s.indices) for s, vectors in zip(some, chosen, strict=True)
        ]
        with under_each(ready, pushes, [torch.full((n,), s.alpha) for s in some]) as rows:
            texts = rows.generate(max_new_tokens)
        for at, setting in enumerate(some):
            where = {"variant": setting.variant, "layers": setting.layers, "alpha": setting.alpha}
            yield [
                {**where, **row, "response": text, "outcome": judge.judge(row["request"], text)}
                for row, text in zip(batch.rows, texts[at * n : (at + 1) * n], strict=True)
            ]


def _on_cluster(
    address: str,
    source: Source,
    lalm: LALM,
    batches: Sequence[Batch],
    settings: Sequence[Setting],
    variants: Mapping[str, SteeringVectors],
    max_new_tokens: int,
    todo: Mapping[int, Sequence[int]],
    keep: Callable[[int, int, list[dict[str, Any]]], None],
) -> None:
    """Hand out the tasks and keep results in the order in which they come."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('a sweep on a cluster needs Ray: pip install "sarsteer-lab[cluster]"') from error
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    # A worker that dies, or its machine, is no fault of the task: it runs again, however often.
    work = ray.remote(max_retries=-1, num_cpus=1, num_gpus=int(lalm.device.type == "cuda"))(_work)
    on_host: Mapping[str, SteeringVectors] = {
        name: SteeringVectors(vectors.values.cpu(), vectors.provenance, vectors.layers)
        for name, vectors in variants.items()
    }
    shared = ray.put(on_host)
    waiting = {}
    for b, wanted in todo.items():
        if not wanted:
            continue
        batch = ray.put(batches[b])
        for at in range(0, len(wanted), SETTINGS_PER_TASK):
            part = wanted[at : at + SETTINGS_PER_TASK]
            task = work.remote(source, batch, [settings[s] for s in part], shared, max_new_tokens)
            waiting[task] = (b, part)
    while waiting:
        [task], _ = ray.wait(list(waiting))
        b, part = waiting.pop(task)
        try:
            found = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        for s, rows in zip(part, found, strict=True):
            keep(b, s, rows)


def _work(
    source: Source,
    batch: Batch,
    settings: Sequence[Setting],
    variants: Mapping[str, SteeringVectors],
    max_new_tokens: int,
) -> list[list[dict[str, Any]]]:
    """What a worker does: rows of each setting."""
    return list(_answers(_model(source), batch, settings, variants, max_new_tokens))


@lru_cache(maxsize=1)
def _model(source: Source) -> LALM:
    """This worker's model, loaded once. Raises ValueError if it is not the one that the sweep is about."""
    lalm = load_lalm(source.model, safety=source.safety)
    if lalm.fingerprint != source.fingerprint:
        raise ValueError(
            f"a worker's {source.model} is another model than here (fingerprints {lalm.fingerprint[:12]} and "
            f"{source.fingerprint[:12]}); give all machines the same files and version"
        )
    return lalm


def _digest(
    lalm: LALM,
    batch: Batch,
    setting: Setting,
    variants: Mapping[str, SteeringVectors],
    max_new_tokens: int,
) -> str:
    """A name made of all that the rows depend on."""
    vectors = variants[setting.variant].values.cpu().numpy().tobytes() if setting.alpha else b""
    parts = [FORMAT, lalm.fingerprint, str(lalm.dtype), max_new_tokens, asdict(setting), batch.rows]
    parts += [lalm.chat(prompt) for prompt in batch.prompts]
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(vectors)
    for prompt in batch.prompts:
        digest.update(hashlib.sha256(prompt.audio.tobytes()).digest())  # type: ignore[union-attr]
    return digest.hexdigest()[:32]


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write a file that a reader sees whole or not at all."""
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    table.to_parquet(scratch, index=False)
    os.replace(scratch, path)
