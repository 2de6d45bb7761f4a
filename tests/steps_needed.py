"""What a step of the workshops is needed for, read off the solutions and the notebooks."""

import ast
import re
from functools import cache
from pathlib import Path

from workshops import CALL, WORKSHOPS, cells_of


@cache
def uses(path: Path) -> frozenset[str]:
    """What a workshop's first cells import from the reader's own file."""
    found: set[str] = set()
    for cell in cells_of(path):
        if cell.cell_type == "code" and cell.source.startswith("from my_sarsteer"):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.ImportFrom):
                    found |= {alias.name for alias in node.names}
    return frozenset(found)


def names_in(code: str) -> set[str]:
    """Names that a piece of code takes from outside, and what it asks of `my_sarsteer` itself."""
    from workshop.mine import globals_of

    asked = re.findall(r"\bmy_sarsteer\.(\w+)", code)
    return globals_of(compile(code, "cell", "exec")) | set(asked)


@cache
def looks(path: Path) -> frozenset[str]:
    """What a workshop's cells use in which nothing is written or checked."""
    found: set[str] = set()
    for cell in cells_of(path):
        by_reader = CALL.search(cell.source) or re.search(
            r"^    (return )?\.\.\.", cell.source, re.M
        )
        if cell.cell_type == "code" and not by_reader and not cell.source.startswith("from "):
            found |= names_in(cell.source)
    return frozenset(found)


def importance(name: str) -> str:
    """What the line under a step's heading says of it."""
    from workshop.mine import STEPS, solution

    if name not in STEPS:
        return "stands alone"
    number = STEPS[name]
    own = [step for step, workshop in STEPS.items() if workshop == number]
    places, workshops = [], set()
    for step, workshop in STEPS.items():
        if step == name or name not in names_in(solution(step)):
            continue
        if workshop == number:
            places.append(str(own.index(step) + 1))
        else:
            workshops.add(workshop)
    for path in WORKSHOPS:
        if name in uses(path):
            workshops.add(int(path.stem[:2]))
    parts = []
    if places:
        parts.append(f"step{'s' * (len(places) > 1)} {', '.join(places)}")
    if workshops:
        numbers = [str(each) for each in sorted(workshops)]
        parts.append(f"workshop{'s' * (len(numbers) > 1)} {', '.join(numbers)}")
    [path] = [path for path in WORKSHOPS if path.stem.startswith(f"{number:02}")]
    if not parts and name in looks(path):
        parts.append("the look below it")
    return f"needed for {' and '.join(parts)}" if parts else "may be skipped"
