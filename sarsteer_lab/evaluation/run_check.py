"""Do the files of a finished run still belong together? What was edited is named by its line."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sarsteer_lab.evaluation.judges import OUTCOMES
from sarsteer_lab.evaluation.table import KEYS, tabulate
from sarsteer_lab.keys import content_key
from sarsteer_lab.store import file_sha256

SEALED = ("table.csv", "responses.jsonl", "outcomes.jsonl")
"""Files of a run whose content `about.json`, the last that is written, holds checksums of."""

ASKED = ["defence", "set", "label", "id"]
"""What a line of responses and outcomes is about."""

COUNTS = ["n", *OUTCOMES]


def check_run(
    folder: Path, table: pd.DataFrame, responses: pd.DataFrame, outcomes: pd.DataFrame
) -> None:
    """Check that responses, outcomes, the table and the manifest of a run tell the same.

    Raises ValueError with the file and the line of the first that does not: one that is there
    twice, is missing, or says something else than the files beside it.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    _check_responses(responses, manifest)
    n_responses = len(responses)
    for start in range(0, max(len(outcomes), n_responses), n_responses):
        part = outcomes[start : start + n_responses]
        _check_outcomes(part, responses, start)
    unknown = set(outcomes["outcome"]) - set(OUTCOMES)
    if unknown:
        line = outcomes.index[outcomes["outcome"].isin(unknown)][0] + 1
        raise ValueError(f"outcomes.jsonl, line {line}: there is no outcome {unknown.pop()!r}")
    counted = tabulate(outcomes).set_index(KEYS)[COUNTS]
    told = table.set_index(KEYS)[COUNTS]
    if not counted.index.equals(told.index):
        raise ValueError("table.csv has other rows than outcomes.jsonl counts")
    differing = (counted != told).any(axis=1)
    for number, key in enumerate(told.index, start=2):
        if differing.iloc[number - 2]:
            raise ValueError(
                f"table.csv, line {number} ({', '.join(key)}): other counts than in outcomes.jsonl"
            )


def sealed(folder: Path, about: dict[str, Any]) -> str:
    """What `about.json` says, as a text, with checksums of itself and of `SEALED`."""
    about["files"] = {name: file_sha256(folder / name) for name in SEALED}
    content = json.loads(json.dumps(about, default=str))
    return json.dumps({"checksum": content_key(content), **content}, indent=1)


def check_seal(folder: Path, about: dict[str, Any]) -> None:
    """Raise ValueError if `about.json` or one of `SEALED` is not as it was written.

    Of a run of an earlier version, without checksums, nothing is checked.
    """
    about = dict(about)
    advice = "was damaged or edited: evaluate into this folder again"
    checksum = about.pop("checksum", None)
    expected = content_key(about) if "files" in about else None
    if checksum != expected:
        raise ValueError(f"about.json {advice}")
    for name, checksum in about.get("files", {}).items():
        if file_sha256(folder / name) != checksum:
            raise ValueError(f"{name} {advice}")


def _check_responses(responses: pd.DataFrame, manifest: dict[str, Any]) -> None:
    """Whether every request of the manifest is there once under every defence."""
    twice = responses.duplicated(["defence", "set", "id"])
    if twice.any():
        raise ValueError(f"responses.jsonl, line {_first(twice)}: is there twice")
    expected = {}
    for name, entries in manifest["sets"].items():
        for request_id, label, request, _ in entries:
            expected[name, request_id] = (label, request)
    for number, row in enumerate(responses.itertuples(), start=1):
        if expected.get((row.set, row.id)) != (row.label, row.request):
            reason = "its label or request is not that of manifest.json"
            raise ValueError(f"responses.jsonl, line {number} ({row.id}): {reason}")
    n_expected = len(expected) * len(manifest["defences"])
    if len(responses) != n_expected:
        raise ValueError(f"responses.jsonl has {len(responses)} lines, not {n_expected}")


def _check_outcomes(outcomes: pd.DataFrame, responses: pd.DataFrame, start: int) -> None:
    """Whether a judge's outcomes are of these responses, line by line."""
    n_lines = min(len(outcomes), len(responses))
    told = outcomes[ASKED].to_numpy()[:n_lines]
    asked = responses[ASKED].to_numpy()[:n_lines]
    same = (told == asked).all(axis=1)
    if not same.all():
        number = start + int((~same).argmax()) + 1
        raise ValueError(f"outcomes.jsonl, line {number}: is of another response than there")
    if len(outcomes) != len(responses):
        lacking = len(responses) - len(outcomes)
        raise ValueError(f"outcomes.jsonl, line {start + len(outcomes) + 1}: {lacking} are missing")


def _first(marks: pd.Series) -> int:
    """The line of the first that is marked."""
    return int(marks.to_numpy().argmax()) + 1
