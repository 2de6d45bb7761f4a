"""A course recorded by the command and replayed in kernels of its own: the same tables, without the model."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.cli import main
from sarsteer_lab.course.run_notebooks import HEADER, find_notebooks, run_notebooks, walkthrough

ROOT = Path(__file__).resolve().parents[2]
CELLS = [
    'MODEL = "pocket"',
    """from sarsteer_lab import SteeringVectors, course, load_prompts
from sarsteer_lab.course import widgets
from sarsteer_lab.probe.absent import Absent
lalm = course.load_model(MODEL)
harmful, harmless = (load_prompts("derive", label)[:4] for label in ("harmful", "harmless"))""",
    """spoken = [course.states(lalm, asked, "spoken") for asked in (harmful, harmless)]
vectors = SteeringVectors(spoken[0].mean(0) - spoken[1].mean(0))
pushes = {alpha: (vectors, alpha) for alpha in (0.0, 0.5)}
found = course.refusal_probabilities(lalm, [p.spoken() for p in harmful], pushes)""",
    """import os
if os.path.exists("stop") and hasattr(lalm, "places"):  # the second run
    os.kill(os.getpid(), 9)""",
    """panel = widgets.steer_panel(lalm, {"a": vectors}, spoken[1], harmful[:1])
panel""",
    """if getattr(lalm, "recording", None) and lalm.recording.replaying:
    weights = [*lalm.model.parameters()]
    assert weights and all(isinstance(weight, Absent) and weight.behind.value is None for weight in weights)
    panel.alpha.value = 0.51
    panel.runner._guarded(panel._answer)
    assert "NotRecorded" in panel.runner.message.value""",
    """low, high = float(found[0.5].min()), float(found[0.5].max())
course.closing([course.claim_on_value("A push", f"{low:.12f} to {high:.12f}", (low, high))])""",
]


def replayed(out: Path, notebooks: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The closing tables of a replay that finds nothing in the user's cache."""
    monkeypatch.setenv("SARSTEER_CACHE", str(folder / "another cache"))
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", f"recorded:{out}")
    if (notebooks / "solutions").is_dir():
        run_notebooks(find_notebooks([notebooks / "solutions"]), save=False)
    return walkthrough(notebooks, folder / "walk").read_text()


@pytest.mark.late
def test_a_course_recorded_and_replayed_has_the_same_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks, out = tmp_path / "notebooks", tmp_path / "bundle"
    notebooks.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / "a.ipynb")
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    command = ["record", "replica:qwen2_audio", "--out", str(out), "--notebooks", str(notebooks)]
    (notebooks / "stop").touch()
    assert main(command) != 0 and not (out / "manifest.json").exists()
    assert "Kernel died" in capsys.readouterr().err
    (notebooks / "stop").unlink()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "will be about" in said and "tables of both runs are the same" in said
    assert json.loads((out / "manifest.json").read_text())["model"] == "replica:qwen2_audio"
    assert main(command) == 2 and "is a finished recording" in capsys.readouterr().err
    again = replayed(out, notebooks, tmp_path, monkeypatch)
    assert HEADER in again and again == (out / "summary.md").read_text()


@pytest.mark.slow
def test_all_chapters_and_solutions_recorded_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks, out = tmp_path / "notebooks", tmp_path / "bundle"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("exercises", "workshops"))
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    assert main(["record", "replica:qwen2_audio", "--out", str(out), "--notebooks", str(notebooks)]) == 0
    assert sum(path.stat().st_size for path in out.rglob("*")) < 10e6
    again = replayed(out, notebooks, tmp_path, monkeypatch)
    assert again.count(HEADER) == 7 and again == (out / "summary.md").read_text()
