"""Finished work on disk: what a model has answered is kept, so that an interrupted run goes on from there."""

import json
from pathlib import Path
from typing import Any


class Ledger:
    """Values under keys, one JSON line each, written the moment they are known.

    A line that was cut off when a run was killed is skipped on reading: its work is done again. `reused`
    counts the values that were found rather than computed. The file may be deleted at any time.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.reused = 0
        self._values: dict[str, Any] = {}
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                try:
                    entry = json.loads(line)
                    self._values[entry["key"]] = entry["value"]
                except (ValueError, KeyError, TypeError):
                    continue

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def write(self, values: dict[str, Any]) -> None:
        """Keep values under their keys, in memory and on disk."""
        self._values.update(values)
        # The newline comes first, so that a line cut off by an earlier run does not swallow this one.
        text = "".join(f"\n{json.dumps({'key': key, 'value': value})}" for key, value in values.items())
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
