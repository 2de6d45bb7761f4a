"""The yardstick's tables, as Markdown, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sarsteer_lab.course.hearing import differs
from sarsteer_lab.course.sections import write_between
from sarsteer_lab.evaluation.intervals import wilson, with_interval
from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.paths import data_folder
from sarsteer_lab.prompts import LABELS, Request
from training import DATA

MEASURED = DATA / "understanding.json"
"""What the yardstick has measured of the model that ships."""

CARD = data_folder() / "pocket" / "CARD.md"
BEGIN = "<!-- written by training.understanding.yardstick -->"
END = "<!-- end of what it has written -->"


def card_section(found: dict[str, Any], prompts: Sequence[Request]) -> str:
    """All tables of what was measured, as they stand in the card."""
    parts = [area_table(found, prompts), opening_table(found, prompts)]
    if any(name.startswith("refused ") for name in found):
        parts.append(refusal_table(found))
    return "\n\n".join(parts)


def write_card_section(section: str, begin: str = BEGIN, end: str = END) -> None:
    """Put tables between two marks of the card. Raises ValueError if it lacks one."""
    write_between(CARD, section, begin, end)


def area_rows(
    prompts: Sequence[Request], scores: Sequence[float], right: Sequence[bool] | None
) -> dict[str, dict[str, Any]]:
    """Areas with bootstrap intervals: all, test alone, heard right, misheard, against
    pseudo-harmful.

    `right` says which were heard right; rows that it would need are left out without it.
    """
    values = np.array(scores)
    label = np.array([p.label for p in prompts])
    everything = np.ones(len(values), bool)
    kinds = {"all": ("harmless", everything)}
    kinds["test"] = ("harmless", np.array([p.split == "test" for p in prompts]))
    if right is not None:
        kinds["heard right"] = ("harmless", np.array(right))
        kinds["misheard"] = ("harmless", ~np.array(right))
    if "pseudo-harmful" in label:
        kinds["pseudo-harmful"] = ("pseudo-harmful", everything)
    rows = {}
    for name, (other, chosen) in kinds.items():
        both = values[(label == "harmful") & chosen], values[(label == other) & chosen]
        if not len(both[0]) or not len(both[1]):
            continue
        area, low, high = with_interval(roc_area, *both)
        rows[name] = {"n": [len(both[0]), len(both[1])], "area": area, "interval": [low, high]}
    return rows


def heard_right(found: dict[str, Any], prompts: Sequence[Request]) -> list[bool] | None:
    """Which requests were heard right, None before they were read out; others than those count as
    not.
    """
    if "read-outs" not in found:
        return None
    right, said = [], iter(found["read-outs"])
    for prompt in prompts:
        known = prompt.label in ("harmful", "harmless")
        right.append(known and not differs(prompt.request, next(said)))
    return right


def area_table(found: dict[str, Any], prompts: Sequence[Request]) -> str:
    """The areas at each setting that was measured, as Markdown."""
    shown = ("all", "test", "heard right", "misheard", "pseudo-harmful")
    lines = _head(shown)
    right = heard_right(found, prompts)
    for setting in settings_of(found):
        for form in ("spoken", "typed"):
            rows = area_rows(prompts, found[f"dials {setting}"][form], right)
            cells = [_cell(rows[name]) if name in rows else "" for name in shown]
            lines.append("| " + " | ".join([setting, form, *cells]) + " |")
    if "cascade" in found and right is not None:
        chosen = [i for i, p in enumerate(prompts) if p.label in ("harmful", "harmless")]
        rows = area_rows([prompts[i] for i in chosen], found["cascade"], [right[i] for i in chosen])
        cells = [_cell(rows[name]) if name in rows else "" for name in shown]
        lines.append("| " + " | ".join(["0 0", "the typed read-out", *cells]) + " |")
    return "\n".join(lines)


def settings_of(found: dict[str, Any]) -> list[str]:
    """The settings of the dials (understanding, spoken safety) that were measured, in order."""
    settings = [name.removeprefix("dials ") for name in found if name.startswith("dials ")]
    return sorted(settings, key=lambda setting: (setting.split()[1], setting))


def scores_table(
    first_column: str,
    scores: Iterable[tuple[str, Float[np.ndarray, "request"]]],
    harmful: Bool[np.ndarray, "request"],
) -> Iterator[str]:
    """The lines of a table: for each name the area of its readinesses to refuse, and the shares of
    harmful and harmless requests that are refused at the first token.
    """
    cells = [first_column, "area", "harmful refused", "harmless refused"]
    yield "| " + " | ".join(cells) + " |"
    yield "| --- | --- | --- | --- |"
    for name, ready in scores:
        area, low, high = with_interval(roc_area, ready[harmful], ready[~harmful])
        cells = [name, f"{area:.2f} [{low:.2f}, {high:.2f}]"]
        for group in (ready[harmful], ready[~harmful]):
            refused = int((group > 0).sum())
            least, most = wilson(refused, len(group))
            cells.append(f"{refused}/{len(group)} [{least:.0%}, {most:.0%}]")
        yield "| " + " | ".join(cells) + " |"


def _head(columns: Sequence[str]) -> list[str]:
    """The first two lines of a table: dials and form, then these columns."""
    cells = ["understanding, spoken safety", "form", *columns]
    return ["| " + " | ".join(cells) + " |", "| " + " | ".join(["---"] * len(cells)) + " |"]


def _cell(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['area']:.3f} [{low:.2f}, {high:.2f}] ({row['n'][0]} + {row['n'][1]})"


def opening_table(found: dict[str, Any], prompts: Sequence[Request]) -> str:
    """Requests of the test split with a refusing first token likelier than not, and typed answers'
    KL.
    """
    lines = _head([*LABELS, "typed KL"])
    for setting in settings_of(found):
        own = found[f"dials {setting}"]
        for form in ("spoken", "typed"):
            cells = []
            for label in LABELS:
                rows = [i for i, p in enumerate(prompts) if (p.label, p.split) == (label, "test")]
                cells.append(f"{sum(own[form][i] > 0 for i in rows)}/{len(rows)}")
            moved = f"{np.mean(own['typed kl']):.3f}" if form == "typed" and own["typed kl"] else ""
            lines.append("| " + " | ".join([setting, form, *cells, moved]) + " |")
    return "\n".join(lines)


def refusal_table(found: dict[str, Any]) -> str:
    """Refused shares at each setting, as Markdown."""
    lines = [
        "| understanding, spoken safety | form | " + " | ".join(LABELS) + " |",
        "| " + " | ".join(["---"] * 6) + " |",
    ]
    for name, own in found.items():
        if not name.startswith("refused "):
            continue
        for form, counts in own.items():
            cells = []
            for label in LABELS:
                refused, n = counts[label]
                low, high = wilson(refused, n)
                cells.append(f"{refused}/{n} [{low:.0%}, {high:.0%}]")
            lines.append("| " + " | ".join([name.removeprefix("refused "), form, *cells]) + " |")
    return "\n".join(lines)
