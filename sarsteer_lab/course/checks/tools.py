"""What checks of exercises are made with: an answer is right, or a message says what is wrong."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

CHECK_MIME = "application/vnd.sarsteer-lab.check+json"
"""Under this type a check's outcome stands in an executed notebook, so that tests can read it."""


class Wrong(Exception):
    """An answer to an exercise is not right. The message tells what is wrong, not what is right."""


@dataclass(frozen=True)
class CheckResult:
    """What a check says; true if the exercise is solved."""

    check: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "not yet"
        return f"{verdict}: {self.message}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        verdict = "\u2705 **passed**" if self.passed else "\u274c **not yet**"
        return {
            "text/plain": repr(self),
            "text/markdown": f"{verdict}: {self.message}",
            CHECK_MIME: {"check": self.check, "passed": self.passed},
        }


def check(function: Callable[P, str]) -> Callable[P, CheckResult]:
    """Make a check of a function that returns a word of explanation or raises `Wrong` (decorator).

    A blank (`...`) among the arguments fails before the function runs; an error in it is what the
    student's answer caused, and is told as such. So a check never raises.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> CheckResult:
        name = function.__name__
        if any(value is ... or value is None for value in (*args, *kwargs.values())):
            return CheckResult(name, False, "there is still a blank (`...`) to fill in")
        try:
            return CheckResult(name, True, function(*args, **kwargs))
        except Wrong as wrong:
            return CheckResult(name, False, str(wrong))
        except Exception as error:
            message = f"the answer cannot be checked: {type(error).__name__}: {error}"
            return CheckResult(name, False, message)

    return checked


def need(condition: object, message: str) -> None:
    """Raise `Wrong(message)` unless the condition holds."""
    if not condition:
        raise Wrong(message)


def call(function: object, *args: Any, **kwargs: Any) -> Any:
    """Run a student's function. Raises `Wrong` if it is none, fails, or returns nothing."""
    if not callable(function):
        raise Wrong(f"a function is wanted here, not {type(function).__name__}")
    name = getattr(function, "__name__", "the function")
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        raise Wrong(f"`{name}` stops with {type(error).__name__}: {error}") from error
    blank = value is None or value is ...
    need(not blank, f"`{name}` returns nothing: is there still a blank in it?")
    return value


def need_tensor(value: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The value if it is a finite tensor of this shape; else raises `Wrong`, naming `what`."""
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} should be a tensor, but is a {type(value).__name__}")
    got = tuple(value.shape)
    otherwise = f"{what} should have shape {shape}, but has {got}: over which axis did you go?"
    need(got == shape, otherwise)
    need(value.isfinite().all(), f"{what} holds values that are not finite")
    return value


def need_close(
    answer: Any,
    right: Any,
    otherwise: str,
    mistakes: Mapping[str, Any] | None = None,
    *,
    within: float = 1e-4,
) -> None:
    """Compare an answer, a number or a tensor, with the right one, up to `within`.

    `mistakes` maps what to say of a usual mistake to what it gives. Raises `Wrong` with the first
    one's words that gives this answer, or with `otherwise`.
    """
    given = _double(answer)
    if torch.allclose(_double(right), given, rtol=0, atol=within):
        return
    for words, value in (mistakes or {}).items():
        if torch.allclose(_double(value), given, rtol=0, atol=within):
            raise Wrong(words)
    raise Wrong(otherwise)


def _double(value: Any) -> Tensor:
    return torch.as_tensor(value).cpu().double()


def need_each(given: object, names: Iterable[str], what: str, of: str) -> dict[str, float]:
    """The numbers if there is one `what` for each `of` in `names`; else raises `Wrong`."""
    if not isinstance(given, dict):
        raise Wrong(f"give a dictionary: one {what} for each {of}")
    missing = [name for name in names if given.get(name, ...) is ...]
    need(not missing, f"no {what} for {', '.join(missing)}")
    return {name: float(given[name]) for name in names}


def gaussian(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Made-up tensors of these shapes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]
