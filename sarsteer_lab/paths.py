"""Where things are: the shipped data, and the user's cache folder."""

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any


def data_folder() -> Path:
    """The shipped prompts, clips and weights: `sarsteer_lab/_data` or, in a checkout, `data/`.

    Raises FileNotFoundError if the installation carries no data.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{package} has neither _data/ in it nor data/ next to it: install the wheel, "
        "or `pip install -e .`"
    )


@cache
def shipped_table(name: str) -> dict[str, Any]:
    """A TOML file of the shipped data ("prompts/refusals.toml"), read once; not to be changed."""
    return tomllib.loads((data_folder() / name).read_text(encoding="utf-8"))


def cache_folder() -> Path:
    """Where assembled models and finished results are kept; created if missing.

    The environment variable `SARSTEER_CACHE` names it, else it is `~/.cache/sarsteer-lab`.
    Everything in it can be made again, so it may be deleted at any time. Raises NotADirectoryError
    where a file lies in its place, and OSError where it cannot be made.
    """
    named = os.environ.get("SARSTEER_CACHE") or "~/.cache/sarsteer-lab"
    folder = Path(named)
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        reason = "a file lies there: name another folder with SARSTEER_CACHE"
        raise NotADirectoryError(f"the cache cannot be in {folder}, {reason}") from error
    except (OSError, RuntimeError) as error:  # the second where there is no such home folder
        cause = getattr(error, "strerror", None) or str(error)
        advice = "name another folder with SARSTEER_CACHE"
        raise OSError(f"the cache cannot be in {folder} ({cause}): {advice}") from error
    return folder
