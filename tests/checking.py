"""What is asked of every module of checks of the exercises."""

import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from sarsteer_lab.course.checks.tools import CheckResult

Check = Callable[..., CheckResult]


def told_apart(check: Check, right: tuple[Any, ...], wrong: Mapping[str, tuple[Any, ...]]) -> None:
    """A right answer passes, each wrong one is told by its message, and a blank is called one."""
    result = check(*right)
    assert result.passed, result.message
    for message, answer in wrong.items():
        result = check(*answer)
        assert not result.passed, message
        assert re.search(message, result.message), (message, result.message)
    blank = check(..., *right[1:])
    assert not blank.passed and "blank" in blank.message


def all_tested(checks: ModuleType, test: Callable[..., Any], count: int) -> None:
    """Each of the module's `count` checks is named in the file that `test` stands in."""
    members = inspect.getmembers(checks, callable)
    names = {name for name, _ in members if name.startswith("check_")}
    source = inspect.getsource(inspect.getmodule(test))  # type: ignore[arg-type]
    assert len(names) == count and all(f"checks.{name}," in source for name in names)
