"""Record the course with a model once, so that it can be replayed without the model.

`record` runs the chapters, and the solutions where they lie beside them, with the model. All that
is kept of it goes into a folder: `results/` (states, answers, probabilities, under their keys),
`model/` (configuration and processor: no weights), `notebooks/` as they ran, `summary.md` (the
chapters' closing tables), a note on licences, and `manifest.json` (see `probe.tape`).
"""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import torch

from sarsteer_lab.course.replaying import MODEL_VARIABLE, NOTEBOOKS
from sarsteer_lab.course.run_notebooks import (
    find_chapters,
    find_notebooks,
    run_notebooks,
    write_summary,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.tape import begin, being_recorded, finish
from sarsteer_lab.prompts import load_prompts

STATES_OF = 8
"""Chapters capture a derivation request about so often: typed, spoken, and with each text."""

REST_MB = 20
"""Answers, notebooks with their figures, and the tokenizer, roughly."""

LICENCE = """\
This folder holds no weights. It holds what {model} computed and said when the course's requests
were put to it, and its tokenizer and configuration: the licence and terms of that model apply to
them. Some requests are harmful on purpose, and answers may be: keep the folder to the class.
"""


def record(model: str, out: Path, notebooks: Path) -> str:
    """Record the chapters in `notebooks` with a model into the folder `out`; says what came of it.

    Killed, it goes on where it was. Raises FileExistsError for a finished recording and for one of
    another model, FileNotFoundError if there are no notebooks, and `NotebookError`.
    """
    if (out / "manifest.json").exists():
        advice = "nothing is overwritten: name a new folder"
        raise FileExistsError(f"{out} is a finished recording, and {advice}")
    chapters = find_chapters(notebooks)
    solutions = notebooks / "solutions"
    worked = find_notebooks([solutions]) if solutions.is_dir() else []
    start(model, out)
    with course_model(f"recording:{out.resolve()}"):
        figures = out / "work" / "figures"
        executed = run_notebooks([*chapters, *worked], save=False, figures=figures)
    for path, notebook in zip([*chapters, *worked], executed, strict=True):
        copy = out / NOTEBOOKS / path.relative_to(notebooks)
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, copy)
    write_summary(executed[: len(chapters)], out)
    (out / "LICENCE-NOTE.txt").write_text(LICENCE.format(model=model), encoding="utf-8")
    manifest = finish(out)
    shutil.rmtree(out / "work")
    size = sum(entry["bytes"] for entry in manifest.files.values())
    return f'{out}: {size / 1e6:.1f} MB. To replay it: MODEL = "recorded:{out}"'


def start(model: str, out: Path) -> None:
    """Say how large a recording will be, and begin it, or go on with the one that is there."""
    try:
        begun = being_recorded(out)
    except FileNotFoundError:
        lalm = load_lalm(model)
        print(
            f"The recording of {model} will be about {expected_megabytes(lalm):.0f} MB", flush=True
        )
        begin(lalm, model, out)
        del lalm  # the notebooks' kernels load it anew
        gc.collect()
        torch.cuda.empty_cache()
        return
    if begun.model != model:
        raise FileExistsError(f"{out} is a recording of {begun.model}: name a new folder")
    print(f"The recording of {model} in {out} goes on", flush=True)


def expected_megabytes(lalm: LALM) -> float:
    """What a recording of the course takes, roughly: states in the model's dtype, and the rest."""
    states = STATES_OF * len(load_prompts("derive"))
    return states * lalm.n_layers * lalm.d_model * lalm.dtype.itemsize / 1e6 + REST_MB


@contextmanager
def course_model(name: str) -> Iterator[None]:
    """Have the notebooks that are run in this block use this model."""
    before = os.environ.get(MODEL_VARIABLE)
    os.environ[MODEL_VARIABLE] = name  # their kernels read it
    try:
        yield
    finally:
        del os.environ[MODEL_VARIABLE]
        if before is not None:
            os.environ[MODEL_VARIABLE] = before
