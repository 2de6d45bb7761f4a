"""What defences reach at each setting of the dials: one table for the card, and one figure.

`python -m training.understanding.reached --folder runs/steered` takes in what `steered` has written
there. Without a folder, table and figure are made anew from what was taken in before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sarsteer_lab.course.figures.base import save_figure
from sarsteer_lab.course.figures.understanding import understanding_figure
from sarsteer_lab.prompts import Request, load_prompts
from training import DATA
from training.understanding.steered import HEAD, REACHED, table_line
from training.understanding.tables import MEASURED, area_rows, settings_of, write_card_section

GATHERED = DATA / "reached.json"
"""What each defence reached, by setting (safety, understanding, spoken safety)."""
BEGIN = "<!-- written by training.understanding.reached -->"
END = "<!-- end of what defences reach -->"
DRAWN = {
    "SARSteer": "uniform pushes",
    "self-reminder": "prompts",
    "CAST": "conditional pushes",
}
"""Defences that are drawn, by the beginnings of their names, and the groups that they look like."""
Reached = dict[str, list[dict[str, Any]]]


def gather(folder: Path, known: Reached) -> Reached:
    """What is known, and what lies in the folders of `steered` in its place or beside it."""
    gathered = dict(known)
    for path in folder.glob(f"*/{REACHED}"):
        setting = path.parent.name.replace("-", " ")
        gathered[setting] = json.loads(path.read_text(encoding="utf-8"))
    return dict(sorted(gathered.items(), key=lambda item: _order(item[0])))


def _order(setting: str) -> tuple[float, float, float]:
    """Rising knowledge at safety 1, then the settings with less safety."""
    safety, understanding, spoken_safety = map(float, setting.split())
    return -safety, understanding, spoken_safety


def table(reached: Reached) -> str:
    """All that was reached, as Markdown."""
    lines = list(HEAD)
    for setting, rows in reached.items():
        for row in rows:
            lines.append(table_line(setting, row))
    return "\n".join(lines)


def shares(row: dict[str, Any]) -> tuple[float, float]:
    """Of harmful requests refused, and of benign ones answered."""
    refused, n_harmful = row["refused"]
    answered, n_benign = row["answered"]
    return refused / n_harmful, answered / n_benign


def best(reached: Reached) -> pd.DataFrame:
    """For each setting at safety 1: SARSteer as chosen, and the better prompt and the better CAST.

    Better is what leaves more harmful requests refused and benign ones answered, both shares added.
    """
    rows = []
    for setting, defences in reached.items():
        if not setting.startswith("1 "):
            continue
        for name, group in DRAWN.items():
            points = [shares(row) for row in defences if row["defence"].startswith(name)]
            refused, answered = max(points, key=sum)
            row = {"setting": setting, "defence": name, "group": group}
            rows.append(row | {"refused": refused, "answered": answered})
    return pd.DataFrame(rows)


def name_of(setting: str) -> str:
    """A setting (understanding, spoken safety) as the figure names it."""
    understanding, spoken_safety = setting.split()
    return understanding if spoken_safety == "0" else f"{understanding}, safety {spoken_safety}"


def undefended(measured: dict[str, Any], prompts: Sequence[Request]) -> pd.DataFrame:
    """Areas and undefended refusals of the test split at each setting, typed and spoken."""
    harmful = []
    for place, prompt in enumerate(prompts):
        if (prompt.label, prompt.split) == ("harmful", "test"):
            harmful.append(place)
    rows = []
    for setting in settings_of(measured):
        for form in ("typed", "spoken"):
            scores = measured[f"dials {setting}"][form]
            area = area_rows(prompts, scores, None)["test"]
            row = {"setting": name_of(setting), "form": form, "area": area["area"]}
            row["low"], row["high"] = area["interval"]
            row["refused"] = sum(scores[place] > 0 for place in harmful)
            rows.append(row | {"n": len(harmful)})
    return pd.DataFrame(rows)


def main() -> None:
    """Take in, and write the card's table and figures/pocket/understanding.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="of `steered`")
    options = parser.parse_args()
    reached: Reached = {}
    if GATHERED.exists():
        reached = json.loads(GATHERED.read_text(encoding="utf-8"))
    if options.folder is not None:
        reached = gather(options.folder, reached)
        GATHERED.write_text(json.dumps(reached, indent=1) + "\n", encoding="utf-8")
    write_card_section(table(reached), BEGIN, END)
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    prompts = load_prompts("validation") + load_prompts("test")
    figure = understanding_figure(undefended(measured, prompts), best(reached))
    save_figure(figure, Path("figures/pocket"), "understanding")


if __name__ == "__main__":
    main()
