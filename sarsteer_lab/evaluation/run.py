"""The runner: greedy responses to sets of requests under several defences, in a folder.

`responses.jsonl` holds one response a line, in an order that is fixed beforehand, `timings.jsonl`
how long they took, and `manifest.json` what the folder is about. What is said to each request is
kept in the folder's `parts/` (`asking.ask`), so a killed run goes on, and a larger grid of settings
costs only what is new.

What is decoded together changes the last digits of what is computed. So batches are fixed
beforehand too, and run as a whole: a run that was killed and continued leaves the same bytes as one
that was not.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from os.path import commonprefix
from pathlib import Path
from typing import Any

import pandas as pd

from sarsteer_lab.chat import dated_template
from sarsteer_lab.engine.memory import rows_that_fit
from sarsteer_lab.evaluation.answering import Asked, Said
from sarsteer_lab.evaluation.asking import Sheet, ask, plan
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.keys import versions
from sarsteer_lab.lalm import ANSWER_TOKENS, LALM
from sarsteer_lab.prompts import Form, Request
from sarsteer_lab.speech import clip_seconds
from sarsteer_lab.store import Store, atomic_write

FORMAT = "sarsteer-lab responses 5"

FACTS = ("label", "words", "clip's content")
"""What a manifest says of a request besides its id."""

SHOWN = 60
"""Characters of a value that a message shows."""

Sets = Mapping[str, Sequence[Request]]


class EvaluationError(ValueError):
    """A folder of responses does not belong to this evaluation. The message says how."""


@dataclass(frozen=True)
class Response:
    """What the model said to one request under one defence; `tokens` is its length.

    `refusal_probability`, 0 to 1, is None if nobody has asked.
    """

    defence: str
    set: str
    id: str
    label: str
    request: str
    response: str
    tokens: int
    refusal_probability: float | None = None


def run(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Sets,
    folder: Path | str,
    *,
    form: Form = "spoken",
    max_new_tokens: int = ANSWER_TOKENS,
    batch_size: int = 16,
    refusal_probability: bool = False,
    ray: str | None = None,
) -> list[Response]:
    """Greedy responses to every request of every set under every defence, in a fixed order.

    They are those of the plain `evaluate`, up to ties within rounding. `form` says how requests are
    asked. `batch_size` is the number of rows that run together; all defences share one reading
    of a batch's clips, and where requests are few, a batch's rows are those of several defences.
    With `refusal_probability` each response also says how likely its answer was to open as a
    refusal, from the same reading; only for models that decode on from it (ValueError for others).

    `ray` is the address of a Ray cluster ("auto", "host:port", "ray://host:port", "local" for one
    of its own). Tasks carry clips and vectors; its machines need this package and the model, which
    they load by `lalm.name`. A task whose worker dies runs again elsewhere; results land in
    `folder` here.

    If the folder holds responses of this evaluation, it goes on from there; defences and sets may
    join or leave. Raises `EvaluationError` if the folder belongs to another evaluation (versions,
    model, form, settings, defences, requests or clips of the same name differ), `HookedModelError`
    inside `with steer(...)` or with hooks of your own on the model, ValueError for names or ids
    that occur twice, requests without that form and, with `ray`, workers that have another model,
    and ImportError if the package ray is missing.
    """
    folder = Path(folder)
    _check(defences, sets, batch_size)
    asked = Asked(max_new_tokens, refusal_probability)
    with _on_the_day_of(folder, lalm) as day:
        sheets = _plan(lalm, defences, sets, form, asked)
        limits = {"form": form, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
        _claim(folder, _manifest(lalm, day, limits, defences, sets, sheets))
        store = Store(folder / "parts")
        said = ask(lalm, list(sheets.values()), store, batch_size, whole=True, ray=ray)
    return _finish(lalm, folder, sets, sheets, said)


@contextmanager
def _on_the_day_of(folder: Path, lalm: LALM) -> Iterator[dict[str, str]]:
    """Let a chat template that writes a date write that on which the run began, in this block.

    Gives what the manifest says of it, and says it on standard error.
    """
    if not dated_template(lalm.processor, lalm.day):
        yield {}
        return
    before = lalm.day
    lalm.day = day_of(folder, lalm)
    template = f"{lalm.name}'s chat template writes a date into every prompt"
    print(f"{template}: {lalm.day}, on which this run began", file=sys.stderr)
    try:
        yield {"day": lalm.day.isoformat()}
    finally:
        lalm.day = before


def day_of(folder: Path | str, lalm: LALM) -> date:
    """The date that the prompts of a folder's run hold: when it began; of a new one the model's.

    Whoever derives vectors for a run sets `lalm.day` to it before: under another date states are
    others, and so are the vectors.
    """
    try:
        return date.fromisoformat(_begun(Path(folder))["day"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return lalm.day  # a new run, one without a date, or what `_claim` refuses


def _begun(folder: Path) -> Any:
    """The manifest of a folder. Raises OSError and ValueError."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def _plan(
    lalm: LALM, defences: Sequence[Defence], sets: Sets, form: Form, asked: Asked
) -> dict[str, Sheet]:
    """What is asked of each set."""
    key = asked.key(lalm)
    sheets = {}
    for name, requests in sets.items():
        questions = []
        for defence in defences:
            questions.append(([defence.prompt(request, form) for request in requests], defence))
        sheets[name] = plan(lalm, questions, asked, key)
    return sheets


def _manifest(
    lalm: LALM,
    day: Mapping[str, str],
    limits: Mapping[str, str | int],
    defences: Sequence[Defence],
    sets: Sets,
    sheets: Mapping[str, Sheet],
) -> dict[str, Any]:
    """What a folder is about: all that decides its responses."""
    manifest: dict[str, Any] = {"format": FORMAT, "versions": versions(), **day}
    manifest["model"] = lalm.fingerprint()
    manifest |= {"dtype": str(lalm.dtype), "device": lalm.device.type, **limits}
    manifest["defences"] = {defence.name: defence.settings() for defence in defences}
    manifest["sets"] = {name: _entries(sets[name], sheet) for name, sheet in sheets.items()}
    return manifest


def _entries(requests: Sequence[Request], sheet: Sheet) -> list[list[str]]:
    """What makes a set of requests another one: of each its id and `FACTS`."""
    entries = []
    for request, row in zip(requests, sheet.rows, strict=True):
        entries.append([request.id, request.label, request.request, row.clip_key])
    return entries


def _finish(
    lalm: LALM, folder: Path, sets: Sets, sheets: Mapping[str, Sheet], said: Mapping[str, Said]
) -> list[Response]:
    """Write all responses to the folder's files, and return them: by set, defence and batch."""
    responses, times = [], []
    for name, sheet in sheets.items():
        for defence, keys in zip(sheet.defences, sheet.keys, strict=True):
            n_tokens, seconds = 0, 0.0
            for number in sheet.order():
                reply = said[keys[number]]
                response = _response(lalm, defence.name, name, sets[name][number], reply)
                responses.append(response)
                n_tokens += response.tokens
                seconds += reply["seconds"]
            cell = {"defence": defence.name, "set": name, "tokens": n_tokens, "seconds": seconds}
            times.append(cell)
    write_lines(folder / "responses.jsonl", [asdict(response) for response in responses])
    write_lines(folder / "timings.jsonl", times)
    return responses


def _response(lalm: LALM, defence: str, name: str, request: Request, reply: Said) -> Response:
    ids = lalm.tokenizer(reply["text"], add_special_tokens=False)["input_ids"]
    of_request = (request.id, request.label, request.request)
    probability = reply.get("refusal_probability")
    return Response(defence, name, *of_request, reply["text"], len(ids), probability)


def batch_size_for(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Sets,
    folder: Path | str,
    max_new_tokens: int,
    form: Form = "spoken",
) -> int:
    """As many requests as fit under every defence; of a folder that was begun, its batch size.

    Memory that is free may change from run to run, and batches may not: see above.
    """
    try:
        return int(_begun(Path(folder))["batch_size"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    lengths = [0.0]
    for requests in sets.values():
        longest = max(requests, key=_words if form == "typed" else _seconds)
        for prompt in lalm.encode([defence.prompt(longest, form) for defence in defences]):
            lengths.append(prompt.length)
    return rows_that_fit(lalm, max(lengths), max_new_tokens)


def _words(request: Request) -> float:
    return len(request.request)


def _seconds(request: Request) -> float:
    return clip_seconds(request.clip or "")


def speeds(folder: Path | str) -> dict[tuple[str, str], float]:
    """Tokens per second of each (defence, set) of a finished run."""
    times = read_lines(Path(folder) / "timings.jsonl").set_index(["defence", "set"])
    return (times["tokens"] / times["seconds"]).to_dict()


def read_lines(path: Path) -> pd.DataFrame:
    """A table from JSON lines, a row each."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def write_lines(path: Path, records: Sequence[Mapping[Any, Any]]) -> None:
    """Write JSON lines: a reader sees the old file or the new; one that says the same stays."""
    # ASCII with escapes: no character of a response can be taken for a line end.
    lines = [json.dumps(record) + "\n" for record in records]
    content = "".join(lines).encode()
    if not (path.is_file() and path.read_bytes() == content):
        with atomic_write(path) as scratch:
            scratch.write_bytes(content)


def _check(defences: Sequence[Defence], sets: Sets, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size has to be at least 1, not {batch_size}")
    if not defences or not any(sets.values()):
        raise ValueError("nothing to evaluate: give at least one defence and one request")
    _check_distinct("defences", [defence.name for defence in defences])
    for name, requests in sets.items():
        _check_distinct(f"ids in the set {name!r}", [request.id for request in requests])


def _check_distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} have to be distinct; twice: {', '.join(twice[:5])}")


def _claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the folder this evaluation's, or check that it is."""
    path = folder / "manifest.json"
    content = json.dumps(manifest, indent=1)
    if path.exists():
        try:
            earlier = _begun(folder)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{path}: is damaged ({error}); use a new folder") from error
        difference = next(_differences(earlier, json.loads(content)), None)
        if difference is not None:
            advice = "Use a new folder, or give what it was started with"
            raise EvaluationError(f"{folder} holds another evaluation: {difference}. {advice}")
    elif (folder / "responses.jsonl").exists():
        raise EvaluationError(f"{folder} holds responses but no manifest.json; use a new folder")
    with atomic_write(path) as scratch:
        scratch.write_text(content, encoding="utf-8")


def _differences(earlier: Any, now: Any, where: str = "") -> Iterator[str]:
    """The places in which what both manifests name differs, in words."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in earlier:
            if key in now and where == "sets":
                yield from _differing_requests(key, earlier[key], now[key])
            elif key in now:
                yield from _differences(earlier[key], now[key], f"{where} {key}".strip())
    elif isinstance(earlier, list) and isinstance(now, list) and len(earlier) == len(now):
        for number, (old, new) in enumerate(zip(earlier, now, strict=True), 1):
            yield from _differences(old, new, f"{where}, entry {number}")
    elif earlier != now:
        yield f"{where} was {_shown(earlier, now)}, now {_shown(now, earlier)}"


def _differing_requests(name: str, earlier: Any, later: Any) -> Iterator[str]:
    """How a set of requests differs from the one of its name, request by request."""
    old = {entry[0]: entry[1:] for entry in earlier}
    new = {entry[0]: entry[1:] for entry in later}
    counts = f"{len(old)} requests before, {len(new)} now"
    for number in sorted(new.keys() - old.keys()):
        yield f"sets {name} has the new request {number!r} ({counts})"
    for number in sorted(old.keys() - new.keys()):
        yield f"sets {name} no longer has the request {number!r} ({counts})"
    for number, old_facts in old.items():
        for fact, before, now in zip(FACTS, old_facts, new[number], strict=True):
            yield from _differences(before, now, f"sets {name}, request {number!r}: its {fact}")
    if list(old) != list(new):
        yield f"sets {name} has its requests in another order"


def _shown(value: Any, other: Any) -> str:
    """A value in so many characters, around where it begins to differ from the other."""
    text, other_text = repr(value), repr(other)
    same = len(commonprefix([text, other_text]))
    if same < SHOWN // 2 or len(text) <= SHOWN:
        return text[:SHOWN]
    return f"\u2026{text[same - SHOWN // 2 : same + SHOWN // 2]}"
