"""SARSteer Lab: look inside an audio-language model, and steer what it does with a spoken request.

Importing the package is cheap: torch and transformers are only imported by the modules that need them.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

__all__ = ["__version__", "cache_folder", "data_folder"]


def data_folder() -> Path:
    """The shipped prompts, clips and pocket weights: `sarsteer_lab/_data` in a wheel, `data/` in a checkout.

    Raises FileNotFoundError if the installation carries no data.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the data of sarsteer-lab are not beside {package} (neither _data/ in it nor data/ next to it): "
        "install the wheel, or install a checkout with `pip install -e .`"
    )


def cache_folder() -> Path:
    """Where assembled models and captured activations are kept; created if missing.

    The environment variable `SARSTEER_CACHE` names it, else it is `~/.cache/sarsteer-lab`. Everything in it
    can be made again, so it may be deleted at any time.
    """
    folder = Path(os.environ.get("SARSTEER_CACHE") or "~/.cache/sarsteer-lab").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
