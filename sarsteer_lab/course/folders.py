"""Where the course reads and writes: its checkout, if there is one, figures, and guesses."""

import os
from pathlib import Path

from sarsteer_lab.paths import cache_folder, data_folder

FIGURES_VARIABLE = "SARSTEER_FIGURES"
"""The environment variable that tells a chapter's kernel in which folder its figures go.

`run_notebooks` sets it for the kernels that it starts: to build/walkthrough/figures in
`make walkthrough`, to the committed figures/ in `make notebooks`, to the recording's own folder in
`record`. `grading` sets it to a scratch folder. JupyterLab does not, so a chapter that is run there
draws into build/figures.
"""


GUESSES_VARIABLE = "SARSTEER_GUESSES"
"""The environment variable that names the folder of guesses.

`run_notebooks` names an empty one to its kernels: nobody sits at them, and what is committed holds
nobody's guesses.
"""


def checkout() -> Path | None:
    """The repository that this package lies in; None where it is installed from a wheel."""
    data = data_folder()
    return data.parent if data.name == "data" else None


def figures_folder() -> Path:
    """Where figures go: what `SARSTEER_FIGURES` names, else build/figures.

    The latter lies in the checkout, where git ignores it; without one, in the working folder.
    """
    named = os.environ.get(FIGURES_VARIABLE)
    if named:
        return Path(named).expanduser()
    return (checkout() or Path.cwd()) / "build" / "figures"


def guesses_folder() -> Path:
    """Where a reader's guesses are kept: what `SARSTEER_GUESSES` names, else in the cache."""
    named = os.environ.get(GUESSES_VARIABLE)
    return Path(named) if named else cache_folder() / "guesses"
