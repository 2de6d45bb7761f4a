"""Every step of every workshop tells time, difficulty, importance and what to expect, truly.

And nobody is asked the same thing twice, be it in an exercise or in a workshop.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from steps_needed import importance
from workshops import BROKEN_LAB, CALL, SYMPTOM, WORKSHOPS, cells_of, expected, name, opened

from sarsteer_lab.course.checks import defences, directions, gap, knowing, models, steering
from sarsteer_lab.course.checks.tools import CheckResult
from sarsteer_lab.lalm import LALM

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
MINUTES = {"★☆☆": 10, "★★☆": 15, "★★★": 25}
HEADING = re.compile(r"## (?:Step|Bug) \d+ · .+\n\n\*(\d+) min · ([★☆]{3}) · (.+)\*\n\n")
NOTHING_TO_WRITE = {"the aim of workshops 0 to 6", "may be skipped"}

every = pytest.mark.parametrize("path", WORKSHOPS, ids=name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from opened(tmp_path, monkeypatch)


@every
def test_steps_tell_time_difficulty_and_importance(path: Path, folder: Path) -> None:
    cells = cells_of(path)
    total = 0
    for number, cell in enumerate(cells):
        if not re.match("## (Step|Bug)", cell.source):
            continue
        line = HEADING.match(cell.source)
        assert line, cell.source[:80]
        assert int(line[1]) == MINUTES[line[2]]
        total += int(line[1])
        check = CALL.match(cells[number + 2].source)
        if check and check[1] == check[2]:
            assert line[3] == importance(check[1]), check[1]
        else:
            assert line[3] in NOTHING_TO_WRITE
    assert f"**Time:** about {total} minutes" in cells[0].source


def test_stars_mean_the_same_everywhere() -> None:
    for path in sorted((NOTEBOOKS / "exercises").glob("*.ipynb")):
        assert "★ takes about 10 minutes, ★★ 15, ★★★ 25." in cells_of(path)[0].source, path.stem
    first = cells_of(WORKSHOPS[0])[0].source
    assert "★☆☆ takes about 10 minutes, ★★☆ 15 and ★★★ 25" in first
    lecturer = (NOTEBOOKS / "LECTURER.md").read_text(encoding="utf-8")
    assert "about 10 minutes for one star, 15 for two, 25 for three" in lecturer


@every
def test_what_to_expect_stands_beneath(path: Path) -> None:
    """Of every check, of every symptom, and of every cell that only shows something."""
    cells = cells_of(path)
    last_lines = [c.source.splitlines()[-1] for c in cells if c.cell_type == "code"]
    told = expected(path)
    assert list(told) == [line for line in last_lines if CALL.match(line)]
    assert told and all(text.startswith("passed: ") for text in told.values())
    for cell, below in pairwise(cells):
        if cell.cell_type != "code" or cell.source.startswith("from "):
            continue
        shows = "print(" in cell.source and not SYMPTOM.search(cell.source)
        if shows and not re.search(r"^def [a-z_]+\(.*\):\n    return \.\.\.", cell.source):
            assert "Expected output" in below.source, cell.source[:80]
    if path == BROKEN_LAB:
        for cell in cells:
            if cell.source.startswith("*Expected"):
                given = cell.source.split("```text\n")[1]
                assert re.search("yours|before it to after it: [1-6] of 6", given)


@pytest.mark.pocket
@pytest.mark.slow
@pytest.mark.timeout(3600)
@every
def test_expected_outputs_are_what_comes_out(
    path: Path, folder: Path, pocket: LALM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SARSTEER_COURSE_MODEL")
    from workshop.expected import renew

    renew(folder / path.name)
    assert cells_of(folder / path.name) == cells_of(path)


Checks = dict[str, Callable[..., CheckResult]]


def without_a_model(modules: list[ModuleType]) -> Checks:
    """Their checks that are of one function alone, and so can be tried on any function."""
    found = {}
    for module in modules:
        for called, check in vars(module).items():
            if called.startswith("check_") and len(inspect.signature(check).parameters) == 1:
                found[called.removeprefix("check_")] = check
    return found


def answers_of_exercises() -> dict[str, Any]:
    """The functions that the exercises' solutions write, by their names."""
    answers: dict[str, Any] = {}
    for path in sorted((NOTEBOOKS / "solutions").glob("*.ipynb")):
        code = [cell.source for cell in cells_of(path) if cell.cell_type == "code"]
        for source, following in pairwise(code):
            check = re.match(r"check_\w+\((\w+)[,)]", following)
            if check and f"def {check[1]}(" in source:
                namespace = {"torch": torch, "np": np}
                exec(source, namespace)
                answers[f"{path.stem[:2]} {check[1]}"] = namespace[check[1]]
    return answers


def answers_of_workshops() -> dict[str, Any]:
    """The functions that our solutions of the workshops write, repairs included."""
    from workshop import begin
    from workshop.broken import BUGS
    from workshop.mine import STEPS, solution

    begin(8)
    own = vars(importlib.import_module("my_sarsteer"))
    answers = {name: own[name] for name in STEPS}
    imported = nbformat.read(BROKEN_LAB, as_version=4).cells[2].source.split("from workshop")[0]
    for bug in BUGS:
        namespace = own | {"contextmanager": contextmanager}
        exec(imported + "\n" + solution(bug), namespace)
        answers[f"bug {bug}"] = namespace[bug]
    return answers


def test_no_exercise_asks_what_a_workshop_asks(folder: Path) -> None:
    """What answers the one does not answer the other, whatever it is called."""
    modules = ("ears", "states", "directions", "steering", "evaluating", "instruments", "broken")
    of_workshops = without_a_model([importlib.import_module(f"workshop.{m}") for m in modules])
    of_exercises = without_a_model([gap, directions, steering, defences, knowing, models])
    exercises, workshops = answers_of_exercises(), answers_of_workshops()
    assert len(exercises) >= 15 and len(of_workshops) >= 25 and len(of_exercises) >= 14
    same = []
    for answers, checks in ((exercises, of_workshops), (workshops, of_exercises)):
        for called, answer in answers.items():
            same += [(called, check) for check in checks if checks[check](answer)]
    assert not same


def test_each_check_asks_once() -> None:
    """One check, one exercise: what has another wording is not another question."""
    called = []
    for path in sorted((NOTEBOOKS / "exercises").glob("*.ipynb")):
        for cell in cells_of(path):
            if cell.cell_type == "code":
                called += re.findall(r"^(check_\w+)\(", cell.source, re.MULTILINE)
    assert len(called) == len(set(called)) >= 25
