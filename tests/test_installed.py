"""What the wheel brings: the course copied, and the commands, in a fresh environment."""

import subprocess
from pathlib import Path

import nbformat
import pytest
from installed import ROOT

from sarsteer_lab.cli import main

BEGUN = {
    str(path.relative_to(ROOT / "notebooks"))
    for path in (ROOT / "notebooks").rglob("*.*")
    if path.is_file()
    and path.suffix != ".md"
    and not {"solutions", "__pycache__", ".ipynb_checkpoints"} & set(path.parts)
}
"""What a course begins with: notebooks, and what workshops import."""


def copied(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_course_is_copied_from_the_wheel(installed: dict[str, str], tmp_path: Path) -> None:
    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, shell=True, cwd=tmp_path, env=installed, capture_output=True, text=True
        )

    told = run("sarsteer-lab course here/notebooks")
    assert told.returncode == 0, told.stderr
    assert (
        f"{sum(name.endswith('.ipynb') for name in BEGUN)} notebooks are in here/notebooks"
        in told.stdout
    )
    assert copied(tmp_path / "here" / "notebooks") == BEGUN
    assert any(name.startswith("exercises/") for name in BEGUN)
    assert not any("solution" in name for name in BEGUN)
    for name in BEGUN:
        assert (tmp_path / "here/notebooks" / name).read_bytes() == (
            ROOT / "notebooks" / name
        ).read_bytes()
    (chapter,) = (tmp_path / "here/notebooks").glob("00_*.ipynb")
    chapter.write_text("a student's own work")
    again = run("sarsteer-lab course here/notebooks")
    assert (
        again.returncode == 2
        and "nothing is overwritten" in again.stderr
        and again.stderr.count("\n") == 1
    )
    assert chapter.read_text() == "a student's own work"
    where = run('python -c "import sarsteer_lab; print(sarsteer_lab.__file__)"').stdout.strip()
    assert str(ROOT) not in where and where.endswith("site-packages/sarsteer_lab/__init__.py")


@pytest.mark.late
def test_a_copied_chapter_starts_where_it_was_copied(
    installed: dict[str, str], tmp_path: Path
) -> None:
    """Its first cells: what it imports, and the model (the rest is run where the chapters are)."""
    path = ROOT / "notebooks" / "00_meet_the_model.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:3]
    nbformat.write(notebook, tmp_path / path.name)
    environment = {**installed, "SARSTEER_COURSE_MODEL": "replica"}
    command = ["python", "-m", "sarsteer_lab.course.run_notebooks", path.name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = nbformat.read(tmp_path / path.name, as_version=4).cells[2].outputs
    assert "replica" in shown[-1]["data"]["text/plain"]


def test_a_checkout_copies_its_own_notebooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["course", str(tmp_path / "notebooks")]) == 0
    assert copied(tmp_path / "notebooks") == BEGUN
    assert "Start: jupyter lab" in capsys.readouterr().out
