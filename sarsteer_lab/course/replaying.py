"""Cells that a replay does not run: those that work on the model's layers by hand.

They are tagged `by-hand`, and show in a replay what they gave when the course was recorded. No
later cell may need what they define.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

MODEL_VARIABLE = "SARSTEER_COURSE_MODEL"
"""The environment variable that names another model than the notebooks do."""

OPTIONS_VARIABLE = "SARSTEER_COURSE_OPTIONS"
"""The one that says how it is loaded: options of `load_lalm`, JSON."""

BY_HAND = "by-hand"
"""The tag of these cells; nbclient skips them."""

NOTEBOOKS = "notebooks"
"""The folder of a recording that holds the notebooks as they ran."""

Outputs = list[nbformat.NotebookNode]


class NotebookError(RuntimeError):
    """A notebook cannot be read, or a cell failed: the message names the notebook, and the cell."""


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook. Raises NotebookError for a file that is none, or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        lacking = {"nbformat", "cells"} - json.loads(text).keys()
        if lacking:
            raise ValueError(f"it has no {', '.join(sorted(lacking))}")
        return nbformat.reads(text, as_version=4)
    except Exception as error:  # what a damaged file makes its reader raise is of every kind
        reason = str(error).partition("\n")[0]
        raise NotebookError(f"{path}: cannot be read as a notebook ({reason})") from error


def name_model(name: str | None, options: Mapping[str, Any]) -> None:
    """Have this process's notebooks load another model than they say, or load it otherwise.

    None is the model that they say; options that are None or "auto" are left out.
    """
    given = {option: value for option, value in options.items() if value not in (None, "auto")}
    if name is not None:
        is_folder = Path(name).expanduser().is_dir()
        # Kernels run in the notebooks' folder.
        os.environ[MODEL_VARIABLE] = str(Path(name).expanduser().resolve()) if is_folder else name
    if given:
        os.environ[OPTIONS_VARIABLE] = json.dumps(given)


def model_options() -> dict[str, Any]:
    """The options of `load_lalm` that the environment variable holds, if any.

    Raises ValueError if it is not an object of JSON.
    """
    text = os.environ.get(OPTIONS_VARIABLE, "") or "{}"
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        wanted = 'options of load_lalm as JSON, such as {"dtype": "bfloat16", "bits": 4}'
        raise ValueError(f"{OPTIONS_VARIABLE}={text!r}: give {wanted}")
    return options


def recording() -> Path | None:
    """The folder of the recording that is replayed; None if a model runs."""
    kind, _, folder = os.environ.get(MODEL_VARIABLE, "").partition(":")
    return Path(folder).expanduser() if kind == "recorded" else None


def is_by_hand(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell works on the model's layers by hand."""
    return BY_HAND in cell.metadata.get("tags", [])


def recorded_outputs(folder: Path) -> dict[str, Outputs]:
    """What the cells by hand of a recording gave, by their source."""
    outputs = {}
    for path in sorted((folder / NOTEBOOKS).rglob("*.ipynb")):
        for cell in read_notebook(path).cells:
            if is_by_hand(cell):
                outputs[cell.source] = cell.outputs
    return outputs


def show_recorded(notebook: nbformat.NotebookNode, outputs: Mapping[str, Outputs]) -> None:
    """Give a notebook's cells by hand their recorded outputs, or a word that there are none."""
    for cell in notebook.cells:
        if is_by_hand(cell):
            nothing = "This cell works on the model by hand, and was not in the recorded course.\n"
            stand_in = nbformat.v4.new_output("stream", name="stdout", text=nothing)
            cell.outputs = outputs.get(cell.source, [stand_in])
            cell.execution_count = None
