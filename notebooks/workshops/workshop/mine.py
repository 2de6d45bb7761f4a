"""The reader's own file: every function that passes its check is kept there, for the workshops
after it.

The file is plain Python: one part for each step, in the order of `STEPS`, each below a line that
names it. Parts may be edited by hand; what stands above them is written anew. A step that passes
again replaces its part. What is missing of earlier workshops is filled in from the folded solutions
of their notebooks, the only place where these are written.
"""

import ast
import builtins
import dis
import importlib.util
import inspect
import json
import linecache
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from IPython.display import Markdown

from sarsteer_lab.course.checks.tools import CheckResult, Wrong, check, need

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "mine" / "my_sarsteer.py"
NAME = FILE.stem

_BY_WORKSHOP = (
    ("read_wave", "chat", "encode", "answer_ids", "answers"),
    ("record_last", "hooked", "capture", "distance"),
    ("refused_with", "with_and_without", "refusal_direction", "random_like", "cosines"),
    ("safe_space", "inside", "ablate", "share", "stretch"),
    ("push", "steering", "relative_push", "dose_response"),
    ("judge", "evaluate", "rates", "p_value"),
    ("sarsteer",),
    ("area", "bound", "answered_at", "price", "coverage", "bootstrap", "choose", "peeking"),
)
STEPS = {name: number for number, names in enumerate(_BY_WORKSHOP) for name in names}
"""The workshop of every step, in the order of the file."""

METHOD = 6
"""Up to this workshop the file is SARSteer itself; what comes later measures."""

MOST_LINES = 150
"""Lines of code that SARSteer itself may take."""

HEADER = '''"""SARSteer, written in the workshops of SARSteer Lab."""

import re
from contextlib import contextmanager, nullcontext

import numpy as np
import soundfile
import torch
from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import proportion_confint
'''
_MARK = re.compile(r"^# == (\w+) \((mine|ours)\)$", re.MULTILINE)

Parts = dict[str, tuple[str, str]]
"""Of each step that is there: whose it is ("mine" or "ours"), and its source."""


def step(function: Callable[..., str]) -> Callable[..., CheckResult]:
    """Make a check (see `tools.check`) of `check_<step>` that also keeps an answer that passes."""
    name, checked = function.__name__.removeprefix("check_"), check(function)

    @wraps(function)
    def kept(answer: object, *more: Any) -> CheckResult:
        result = checked(answer, *more)
        if not result:
            return result
        try:
            said = keep(name, answer)
        except (Wrong, ValueError) as wrong:
            return CheckResult(result.check, False, str(wrong))
        return CheckResult(result.check, True, f"{result.message}{said}")

    return kept


def keep(name: str, answer: Any) -> str:
    """Write the function into the reader's file. Raises `Wrong` if it could not work from there.

    One that comes from a file, as those imported from `my_sarsteer` do, is left where it is.
    """
    function = inspect.unwrap(answer)
    cell = linecache.cache.get(function.__code__.co_filename, ())
    if len(cell) < 3 or cell[1] is not None:  # a notebook's cells have no time of change
        return ""
    need(
        function.__name__ == name,
        f"it works, but later workshops look for it as `{name}`: define it under that name (`def {name}(...)`)",
    )
    source = functions_of("".join(cell[2]))
    parts = read() | {name: ("mine", source)}
    module = _module(_text(parts))
    unknown = sorted(globals_of(compile(source, name, "exec")) - {*vars(module), *dir(builtins)})
    need(
        not unknown,
        f"it works here, but it uses {', '.join(f'`{word}`' for word in unknown)} of this notebook, which "
        f"{FILE.name} does not have: make it an argument, or import it in the same cell",
    )
    write(parts)
    return f". Kept in `mine/{FILE.name}`, {method_lines(parts)} lines of code so far"


def functions_of(cell: str) -> str:
    """What of a cell is kept: imports, functions, classes and constants; nothing that is only tried
    out."""
    lines, kept = cell.splitlines(), []
    for node in ast.parse(cell).body:
        constant = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id.isupper() for target in node.targets
        )
        if constant or isinstance(
            node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            decorators = getattr(node, "decorator_list", [])
            start = min([node.lineno, *(each.lineno for each in decorators)])
            kept.append("\n".join(lines[start - 1 : node.end_lineno]))
    return "\n\n\n".join(kept)


def globals_of(code: CodeType) -> set[str]:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    used = {
        each.argval
        for each in dis.get_instructions(code)
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return used.union(*map(globals_of, inner)) - {"__name__", "__module__", "__qualname__"}


def read() -> Parts:
    """The parts of the reader's file; none if there is no file."""
    if not FILE.exists():
        return {}
    _, *found = _MARK.split(FILE.read_text(encoding="utf-8"))
    named = zip(found[::3], found[1::3], found[2::3], strict=True)
    return {name: (whose, source.strip()) for name, whose, source in named}


def write(parts: Parts) -> None:
    """Write the file, and load it as `my_sarsteer`."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(_text(parts), encoding="utf-8")
    load()


def _text(parts: Parts) -> str:
    ordered = [(name, *parts[name]) for name in STEPS if name in parts]
    return HEADER + "".join(
        f"\n\n# == {name} ({whose})\n{source}\n" for name, whose, source in ordered
    )


def load() -> ModuleType:
    """The reader's file as the module `my_sarsteer`, as it now is. Raises ValueError if it does not
    run."""
    sys.modules[NAME] = module = _module(FILE.read_text(encoding="utf-8"))
    return module


def _module(text: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, FILE)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        exec(compile(text, str(FILE), "exec"), vars(module))
    except Exception as error:
        advice = "mend it by hand, or start over with `clean_start()`"
        raise ValueError(
            f"mine/{FILE.name} does not run ({type(error).__name__}: {error}): {advice}"
        ) from error
    return module


def code_lines(text: str) -> list[str]:
    """The lines of a source that are neither blank nor comments alone."""
    return [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def method_lines(parts: Parts) -> int:
    """How many lines of code SARSteer itself takes, without the instruments of later workshops."""
    own = {name: part for name, part in parts.items() if STEPS.get(name, METHOD) <= METHOD}
    return len(code_lines(_text(own)))


def solution(name: str) -> str:
    """The folded solution of a step, or the repair of a bug, from the notebook of its workshop."""
    numbered = f"{STEPS[name]:02}_*.ipynb" if name in STEPS else "*_broken_lab.ipynb"
    (path,) = ROOT.glob(numbered)
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and "<summary>Solution</summary>" in text:
            code = re.findall(
                r"```python\n(.*?)```", text.split("<summary>Solution</summary>")[1], re.DOTALL
            )[0]
            if re.search(rf"^def {name}\(", code, re.MULTILINE):
                return code.strip()
    raise LookupError(f"{path.name} holds no solution of {name}")


def begin(workshop: int, *, ours: bool = False) -> Markdown:
    """Make the steps of all earlier workshops importable from `my_sarsteer`.

    They are the reader's own where these are kept, else our solutions; all are our solutions with
    `ours` (the reader's file then becomes `my_sarsteer.old.py`). Raises ValueError if the file does
    not run.
    """
    parts = read()
    earlier = [name for name, number in STEPS.items() if number < workshop]
    if ours:
        _put_aside()
        parts = {}
    missing = [name for name in earlier if name not in parts]
    write(parts | {name: ("ours", solution(name)) for name in missing})
    if not earlier:
        return Markdown(f"Functions that pass will be kept in `mine/{FILE.name}`.")
    own = [name for name in earlier if parts.get(name, ("ours",))[0] == "mine"]
    given = [name for name in earlier if name not in own]
    said = [
        f"{whose}: {', '.join(names)}"
        for whose, names in (("yours", own), ("ours", given))
        if names
    ]
    return Markdown(
        f"`mine/{FILE.name}` holds these steps of earlier workshops: {'; '.join(said)}."
    )


def clean_start() -> None:
    """Begin with nothing kept; what was is in `my_sarsteer.old.py`."""
    _put_aside()


def _put_aside() -> None:
    if FILE.exists():
        FILE.replace(FILE.with_suffix(".old.py"))


def progress() -> Markdown:
    """Which steps are there, whose they are, and how long the file is."""
    parts = read()
    rows = ["| workshop | yours | ours | to do |", "| --- | --- | --- | --- |"]
    for number, names in enumerate(_BY_WORKSHOP):
        cells = {
            whose: [n for n in names if parts.get(n, ("",))[0] == whose]
            for whose in ("mine", "ours", "")
        }
        rows.append(
            f"| {number} | " + " | ".join(", ".join(cell) for cell in cells.values()) + " |"
        )
    told = f"{method_lines(parts)} lines of code up to workshop {METHOD}"
    return Markdown("\n".join(rows) + f"\n\n{told} (at most {MOST_LINES} are wanted).")
