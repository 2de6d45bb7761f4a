"""A course recorded by the command and replayed in kernels of its own, without the model."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.cli import main
from sarsteer_lab.course.executed import HEADER
from sarsteer_lab.course.replaying import recorded_outputs
from sarsteer_lab.course.run_notebooks import find_notebooks, run_notebooks, walkthrough

ROOT = Path(__file__).resolve().parents[2]
MODEL = "replica:qwen2_audio"
CELLS = [
    'MODEL = "pocket"',
    """from sarsteer_lab import SteeringVectors, capture, course, kept, load_prompts
lalm = course.load_model(MODEL)
harmful, harmless = (load_prompts("derive", label)[:4] for label in ("harmful", "harmless"))
asked = [request.spoken() for request in harmful]""",
    """states = kept(capture)(lalm, asked)
others = kept(capture)(lalm, [request.spoken() for request in harmless])
vectors = SteeringVectors(states.mean(0) - others.mean(0))""",
    """import os
if os.path.exists("stop"):
    os.kill(os.getpid(), 9)""",
    """plain = course.answers(lalm, asked, max_new_tokens=4)
steered = course.answers(lalm, asked, vectors=vectors, alpha=2.0, max_new_tokens=4)
print(plain, steered)""",
    """pushes = {alpha: (vectors, alpha) for alpha in (0.0, 0.5)}
refusing = course.refusal_probability(lalm, asked, pushes)""",
    """table = course.sweep(
    lalm, "a", {"a": vectors}, [0.5], {"few": harmful[:2] + harmless[:2]}, max_new_tokens=4
)""",
    """handle = lalm.layers[1].register_forward_hook(lambda _m, _a, output: output * 2)
print("by hand:", lalm.next_token_logits(asked).norm())
handle.remove()""",
    """from IPython.display import display
low, high = float(refusing[0.5].min()), float(refusing[0.5].max())
measured = f"{low:.12f} to {high:.12f}"
claims = [course.claim_on_value("A push", measured, lambda confidence: (low, high))]
display(course.closing(claims))
display(table.drop(columns=["tokens_per_second"], errors="ignore"))""",
]
BY_HAND = 7
"""The place of the cell that works on a layer by hand."""

WITHOUT_WEIGHTS = """assert all(weight.is_meta for weight in lalm.model.parameters())
from sarsteer_lab.probe.recorded import NotRecorded
try:
    course.answers(lalm, asked, vectors=vectors, alpha=2.02, max_new_tokens=4)
except NotRecorded as error:
    print(error)"""


def write(path: Path, cells: Sequence[str], by_hand: int | None = None) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    if by_hand is not None:
        notebook.cells[by_hand].metadata["tags"] = ["by-hand"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def shown(cell: nbformat.NotebookNode) -> list[str]:
    """A cell's outputs as text."""
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


def replay_in(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have kernels replay a recording, with nothing in the user's cache."""
    monkeypatch.setenv("SARSTEER_CACHE", str(folder / "another cache"))
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", f"recorded:{out}")


@pytest.mark.late
def test_a_course_recorded_and_replayed_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks, out = tmp_path / "notebooks", tmp_path / "recording"
    write(notebooks / "a.ipynb", CELLS, by_hand=BY_HAND)
    write(notebooks / "solutions" / "a.ipynb", CELLS[:3])
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    command = ["record", MODEL, "--out", str(out), "--notebooks", str(notebooks)]

    (notebooks / "stop").touch()
    assert main(command) != 0 and not (out / "manifest.json").exists()
    captured = capsys.readouterr()
    assert "will be about" in captured.out and "Kernel died" in captured.err
    kept_before = {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.*")}
    assert kept_before
    (notebooks / "stop").unlink()
    other = ["record", "pocket", "--out", str(out), "--notebooks", str(notebooks)]
    assert main(other) == 2 and f"is a recording of {MODEL}" in capsys.readouterr().err
    assert main(command) == 0 and "goes on" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == before for path, before in kept_before.items())
    assert main(command) == 2 and "is a finished recording" in capsys.readouterr().err

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"] == MODEL and {"capture", "answers"} <= manifest["asked"].keys()
    assert not (out / "work").exists() and MODEL in (out / "LICENCE-NOTE.txt").read_text()
    assert (out / "notebooks" / "solutions" / "a.ipynb").is_file()
    recorded = nbformat.read(out / "notebooks" / "a.ipynb", as_version=4)
    assert shown(recorded.cells[BY_HAND])[0].startswith("by hand: tensor(")

    replay_in(tmp_path, out, monkeypatch)
    write(notebooks / "a.ipynb", [*CELLS, WITHOUT_WEIGHTS], by_hand=BY_HAND)
    folder = tmp_path / "walk"
    summary = walkthrough(notebooks, folder).read_text()
    assert HEADER in summary and summary == (out / "summary.md").read_text()
    [replayed] = run_notebooks([notebooks / "a.ipynb"], save=False)
    for cell, before in zip(replayed.cells, recorded.cells, strict=False):
        assert shown(cell) == shown(before)
    [refused] = shown(replayed.cells[-1])
    assert "answers of 'Answer the request" in refused and "alpha=2.02" in refused
    assert "defence='push', alpha=2.0, max_new_tokens=4" in refused
    run_notebooks(find_notebooks([notebooks / "solutions"]), save=False)


def test_cells_by_hand_show_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their sources; a cell that was not recorded shows no other outputs in their place."""
    recording = tmp_path / "recording"
    write(recording / "notebooks" / "a.ipynb", ["x = 1", "print(y)"], by_hand=1)
    notebook = nbformat.read(recording / "notebooks" / "a.ipynb", as_version=4)
    output = nbformat.v4.new_output("stream", name="stdout", text="as recorded")
    notebook.cells[1].outputs = [output]
    nbformat.write(notebook, recording / "notebooks" / "a.ipynb")
    assert recorded_outputs(recording) == {"print(y)": [output]}

    monkeypatch.setenv("SARSTEER_COURSE_MODEL", f"recorded:{recording}")
    for source, text in (("print(y)", "as recorded"), ("print(z)", "not in the recorded course")):
        write(tmp_path / "b.ipynb", ["print('runs')", source], by_hand=1)
        [replayed] = run_notebooks([tmp_path / "b.ipynb"], save=False)
        assert shown(replayed.cells[0]) == ["runs\n"]
        [words] = shown(replayed.cells[1])
        assert text in words


@pytest.mark.slow
def test_all_chapters_and_solutions_recorded_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebooks, out = tmp_path / "notebooks", tmp_path / "recording"
    left_out = shutil.ignore_patterns("exercises", "workshops", "appendix")
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=left_out)
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    assert main(["record", MODEL, "--out", str(out), "--notebooks", str(notebooks)]) == 0
    assert sum(path.stat().st_size for path in out.rglob("*")) < 30e6
    replay_in(tmp_path, out, monkeypatch)
    run_notebooks(find_notebooks([notebooks / "solutions"]), save=False)
    summary = walkthrough(notebooks, tmp_path / "walk").read_text()
    assert summary.count(HEADER) == 7 and summary == (out / "summary.md").read_text()
