"""Record the course with a model once, so that it can be replayed without the model.

`record` runs chapters (and solutions, where they lie beside them) twice (see `probe.recorded`), then packs
what was noted into a folder: `states.safetensors` (states in half precision, and other numbers),
`notes.jsonl` (answers and the like), `model/` (configuration, tokenizer: no weights), `summary.md` (the
chapters' closing tables), a note on licences, and `manifest.json` (settings, versions, a hash of each file).
"""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.course.run_notebooks import find_notebooks, run_notebooks, walkthrough
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.pocket.base import file_sha256
from sarsteer_lab.probe.recorded import FORMAT
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.store import Store, adapter_layers, atomic_write

STATES_OF = 8
"""The chapters capture a derivation request about so often: typed, spoken, and with each of the texts."""

REST_MB = 15
"""Answers, figures' numbers and the tokenizer, roughly."""

LICENCE = """This folder holds no weights. It holds what {model} computed and said when the
course's requests were put to it, and its tokenizer and configuration: the licence and terms of that model
apply to them. Some requests are harmful on purpose, and answers may be: keep the folder to the class.
"""


def record(model: str, out: Path, notebooks: Path) -> str:
    """Record the chapters in `notebooks` with a model into the folder `out`; returns what came of it.

    Killed, it goes on where it was. Raises FileExistsError for a finished recording, FileNotFoundError if
    there are no notebooks, ValueError for a model with adapters or quantised, and `NotebookError`.
    """
    if (out / "manifest.json").exists():
        raise FileExistsError(f"{out} is a finished recording, and nothing is overwritten: name a new folder")
    if not find_notebooks([notebooks]):
        raise FileNotFoundError(f"{notebooks}: holds no notebooks; `sarsteer-lab course FOLDER` copies them")
    work = out / "work"
    about = begin(model, work)
    solutions = notebooks / "solutions"
    before = os.environ.get("SARSTEER_COURSE_MODEL")
    os.environ["SARSTEER_COURSE_MODEL"] = f"recorded:{out.resolve()}"  # the notebooks' kernels read it
    pages = {}
    try:
        for stage in ("live", "calls"):
            with atomic_write(work / "about.json") as scratch:
                scratch.write_text(json.dumps(about | {"stage": stage}), encoding="utf-8")
            print(
                f"{'First run, the model alone' if stage == 'live' else 'Second run, taking notes'}:",
                flush=True,
            )
            pages[stage] = walkthrough(notebooks, work / stage).read_text(encoding="utf-8")
            if solutions.is_dir():
                run_notebooks(find_notebooks([solutions]), save=False)
    finally:
        os.environ.pop("SARSTEER_COURSE_MODEL")
        if before is not None:
            os.environ["SARSTEER_COURSE_MODEL"] = before
    # States in half precision may move a last digit, so what the first run found stays to be compared.
    (out / "summary-live.md").write_text(pages["live"], encoding="utf-8")
    total = pack(out, about, pages["calls"])
    same = "the same" if pages["live"] == pages["calls"] else "NOT the same, compare summary-live.md"
    return f"{out}: {total / 1e6:.1f} MB. The closing tables of both runs are {same}."


def begin(model: str, work: Path) -> dict[str, object]:
    """Say how large a recording will be, keep what is no weight of the model; returns what it is about."""
    lalm = load_lalm(model)
    if adapter_layers(lalm.model) or getattr(lalm.model, "hf_quantizer", None) is not None:
        raise ValueError(f"{model}: models with adapters or quantised weights cannot be recorded")
    states = STATES_OF * len(load_prompts("derive")) * lalm.n_layers * lalm.d_model * 2
    print(f"The recording of {model} will be about {states / 1e6 + REST_MB:.0f} MB", flush=True)
    for part in (lalm.model.config, lalm.core.generation_config, lalm.processor):
        part.save_pretrained(work / "model")
    packages = ("sarsteer-lab", "torch", "transformers")
    return {
        "format": FORMAT,
        "model": model,
        "name": f"recorded {lalm.name}",
        "class": type(lalm.model).__name__,
        "attention": lalm.model.config._attn_implementation,
        "family": lalm.family.name,
        "dtype": str(lalm.dtype),
        "device": lalm.device.type,
        "dial": lalm.safety is not None,
        "versions": {name: version(name) for name in packages},
    }


def pack(out: Path, about: dict[str, object], summary: str) -> int:
    """Put all notes into few files; returns the size of all, in bytes."""
    work = out / "work"
    store = Store(work)
    notes = {path.stem: store.find(path.stem) for path in sorted(work.glob("??/*.*"))}
    tensors = {name: value for name, value in notes.items() if isinstance(value, Tensor)}
    save_file(tensors, out / "states.safetensors")
    lines = [json.dumps([name, value]) + "\n" for name, value in notes.items() if name not in tensors]
    (out / "notes.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "summary.md").write_text(summary, encoding="utf-8")
    (out / "LICENCE-NOTE.txt").write_text(LICENCE.format(**about), encoding="utf-8")
    shutil.copytree(work / "model", out / "model", dirs_exist_ok=True)
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and work not in path.parents]
    files = {
        path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in paths
    }
    with atomic_write(out / "manifest.json") as scratch:
        scratch.write_text(json.dumps(about | {"files": files}, indent=1), encoding="utf-8")
    shutil.rmtree(work)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
