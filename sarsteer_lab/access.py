"""A lock on a model: one thread at a time runs it, and who steers it has it to itself.

Hooks are on a model, not in a thread: whatever another thread ran meanwhile would be steered, or
noted, with them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock, get_ident
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class SteeringError(RuntimeError):
    """What is being run cannot be steered correctly. The message says why and what to do."""


class Access:
    """Which thread runs a model, and which one steers it (`LALM.access`).

    Others wait while it runs. While it is steered they are refused: the thread that steers might be
    waiting for them.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._steering: list[int] = []  # the thread that steers, once for each of its blocks

    @contextmanager
    def alone(self, *, steering: bool = False) -> Iterator[None]:
        """Run, or steer, the model in this thread alone, while the block lasts.

        Raises SteeringError if another thread steers it.
        """
        self.refuse_others()
        with self._lock:
            if not steering:
                with float32_by_default():
                    yield
                return
            self._steering.append(get_ident())
            try:
                yield
            finally:
                self._steering.pop()

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread steers the model."""
        return any(thread != get_ident() for thread in self._steering)

    def refuse_others(self) -> None:
        """Raise SteeringError in all threads but the one that steers."""
        if self.is_elsewhere:
            raise SteeringError(
                "another thread steers this model (steer, project_out and their like): run it in "
                "that thread, or once its `with` block has ended"
            )


@contextmanager
def float32_by_default() -> Iterator[None]:
    """torch's usual default dtype: extractors and models take it for parts that they make."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_this_thread(hook: Callable[P, R]) -> Callable[P, R | None]:
    """A hook that leaves passes of other threads alone."""
    owner = get_ident()

    @wraps(hook)
    def hook_of_owner(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return hook(*args, **kwargs) if get_ident() == owner else None

    return hook_of_owner


def alone(function: Callable[P, R]) -> Callable[P, R]:
    """A function of a model, or of what has one as its `lalm`, that runs it in its thread alone."""

    @wraps(function)
    def function_alone(*args: P.args, **kwargs: P.kwargs) -> R:
        lalm: Any = getattr(args[0], "lalm", args[0])
        with lalm.access.alone():
            return function(*args, **kwargs)

    return function_alone
