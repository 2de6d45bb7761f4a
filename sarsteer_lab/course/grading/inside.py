"""What works in the kernel beside a student's code: the setup kept, and the shipped checks run.

It makes it hard to pass by accident or by an edited check, and no more than that: code that runs
in the same process can undo anything. Nothing here is for students to import.
"""

import importlib
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from sarsteer_lab.course.grading.tasks import CHECKS

GRADE_MIME = "application/vnd.sarsteer-lab.grade+json"
"""Under this type the outcome of a shipped check leaves the kernel."""


def look_here_last() -> None:
    """Take modules from the working folder last: a file called torch.py there replaces nothing."""
    elsewhere = [entry for entry in sys.path if entry]
    sys.path[:] = [*elsewhere, ""]


@dataclass(frozen=True)
class Bench:
    """The variables of a kernel, and what the shipped setup cells had put there."""

    variables: MutableMapping[str, Any]
    setup: dict[str, Any]

    def check(self, imports: str, given: str, wanted: Sequence[str], check: str) -> None:
        """Run a shipped check on the student's answer, and send what it says out of the kernel.

        What the check compares with is made anew by the shipped statements `given`, from the
        setup's own model: not by what the student's cells have left under those names. `wanted` are
        the answer's names.
        """
        missing = [name for name in wanted if name not in self.variables]
        try:
            if missing:
                outcome = {"result": "missing", "message": f"there is no {', '.join(missing)}"}
            else:
                outcome = self._outcome(imports, given, check)
        except Exception as error:  # whatever a student's answer makes of it
            outcome = {"result": "error", "message": f"{type(error).__name__}: {error}"}
        display({GRADE_MIME: outcome}, raw=True)

    def _outcome(self, imports: str, given: str, check: str) -> dict[str, str]:
        names = {**self.variables, **self.setup}
        # As on disk: an answer may have changed them in memory.
        for module in [name for name in sys.modules if name.startswith(CHECKS)]:
            del sys.modules[module]
        importlib.import_module(CHECKS)
        exec(imports, names)
        exec(given, names)
        result = eval(check, names)
        return {"result": "passed" if result.passed else "failed", "message": result.message}


def bench(variables: MutableMapping[str, Any]) -> Bench:
    """The bench of a kernel in which only the setup cells have run."""
    setup = {name: value for name, value in variables.items() if not name.startswith("_")}
    return Bench(variables, setup)
