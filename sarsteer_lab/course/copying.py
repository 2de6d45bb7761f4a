"""The course to take home: apart from `session`, whose imports take seconds."""

import shutil
from pathlib import Path

from sarsteer_lab.paths import data_folder


def notebooks_folder() -> Path:
    """The course's notebooks as this installation brings them; a wheel has no solutions."""
    data = data_folder()
    # A checkout has notebooks beside data; a wheel has _notebooks beside _data.
    return data.with_name(data.name.replace("data", "notebooks"))


def copy_course(folder: Path) -> int:
    """Copy the course's notebooks to a new folder; returns how many.

    Solutions stay behind, and so does what its owner has written in the workshops (`mine`).

    Raises FileExistsError for a folder that is there.
    """
    if folder.exists():
        raise FileExistsError(
            f"{folder} is there already, and nothing is overwritten: name a new folder"
        )
    left_out = shutil.ignore_patterns("solutions", "mine", "*.md", ".*", "__pycache__")
    shutil.copytree(notebooks_folder(), folder, ignore=left_out)
    return len(list(folder.rglob("*.ipynb")))
