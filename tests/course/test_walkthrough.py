"""The main job runs the chapters, collects their closing tables, and leaves no trace in git."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.cli import main
from sarsteer_lab.course import run_notebooks
from sarsteer_lab.course.executed import tables_by_title, tables_in, title
from sarsteer_lab.course.four_claims import BEGIN, END, page, short
from sarsteer_lab.course.run_notebooks import find_notebooks, write_summary

ROOT = Path(__file__).resolve().parents[2]
WITH_FINDINGS = [ROOT / "notebooks", ROOT / "notebooks" / "appendix"]

CLAIM = """from sarsteer_lab import course
two = course.claim_on_value("two is more than one", "2", lambda confidence: (1.5, 2.5), above=1)
display(course.closing([two]))"""

COMMITTED_FIGURE = """from matplotlib.figure import Figure
lalm = course.load_model("pocket")
lalm.name = "pocket"  # the replica in place of the model whose figures are committed
course.show(Figure(), "00_meet_the_model", "dial", lalm)"""


def write(path: Path, heading: str, code: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(heading), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this checkout in a git repository of its own, with one small chapter.

    Kernels take the package from there, and it is the working folder.
    """
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    copy = tmp_path / "checkout"
    for folder in ("sarsteer_lab", "figures"):
        shutil.copytree(ROOT / folder, copy / folder)
    (copy / "data").symlink_to(ROOT / "data")
    (copy / "notebooks").mkdir()
    write(
        copy / "notebooks" / "00_small.ipynb", "# A small chapter", f"{CLAIM}\n{COMMITTED_FIGURE}"
    )
    for file in (".gitignore", "README.md"):
        shutil.copy(ROOT / file, copy)
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=copy, check=True)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(run_notebooks, "checkout", lambda: copy)
    monkeypatch.setenv("PYTHONPATH", str(copy))
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    monkeypatch.delenv("SARSTEER_FIGURES", raising=False)
    return copy


def git_status(checkout: Path) -> set[str]:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    shown = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return set(shown.stdout.splitlines())


def test_the_main_job_and_a_chapter_in_the_lab_leave_no_trace_in_git(checkout: Path) -> None:
    before = git_status(checkout)
    assert main(["walkthrough"]) == 0
    build = checkout / "build"
    made = {str(path.relative_to(build)) for path in build.rglob("*") if path.is_file()}
    pages = {"summary.md", "certificate.html", "00_small.html"}
    pages |= {"figures/00_meet_the_model/dial.png"}
    assert made == {f"walkthrough/{name}" for name in pages}
    assert git_status(checkout) == before
    # In JupyterLab nobody tells the kernel where figures go.
    run_notebooks.run_notebooks([checkout / "notebooks" / "00_small.ipynb"], save=False)
    assert (build / "figures" / "00_meet_the_model" / "dial.png").is_file()
    assert git_status(checkout) == before


def test_what_is_committed_changes_when_all_notebooks_are_run(checkout: Path) -> None:
    before = git_status(checkout)
    assert run_notebooks.main(["notebooks"]) == 0
    changed = {line.split()[1] for line in git_status(checkout) - before}
    assert changed == {
        "figures/00_meet_the_model/dial.png",
        "figures/walkthrough/summary.md",
        "notebooks/00_small.ipynb",
        "README.md",
    }
    assert "## A small chapter" in (checkout / "figures" / "walkthrough" / "summary.md").read_text()
    assert "*Not asked yet*" in (checkout / "README.md").read_text()
    assert not (checkout / "build").exists()


def test_the_closing_tables_come_on_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    write(chapters / "00_first.ipynb", "Words\n\n# The first", CLAIM)
    write(chapters / "01_second.ipynb", "# The second", "print('no table here')")
    before = (chapters / "00_first.ipynb").read_bytes()
    folder = tmp_path / "out" / "deep"
    assert main(["walkthrough", "--notebooks", str(chapters), "--folder", str(folder)]) == 0
    assert "| two is more than one | 2 | [1.50, 2.50]" in capsys.readouterr().out
    summary = (folder / "summary.md").read_text()
    assert "## The first\n\n| claim |" in summary and "**seen**" in summary
    assert "second" not in summary
    written = {path.name for path in folder.iterdir()}
    assert written == {"summary.md", "certificate.html", "00_first.html", "01_second.html"}
    assert (chapters / "00_first.ipynb").read_bytes() == before


def test_without_notebooks_or_with_a_failing_one_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["walkthrough", "--notebooks", str(tmp_path), "--folder", str(tmp_path / "out")]) == 2
    )
    assert "holds no notebooks" in capsys.readouterr().err
    write(tmp_path / "00_bad.ipynb", "# Bad", "1 / 0")
    assert (
        main(["walkthrough", "--notebooks", str(tmp_path), "--folder", str(tmp_path / "out")]) == 2
    )
    assert "ZeroDivisionError" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_interrupted_it_says_so_in_one_line_and_leaves_no_kernel(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
    write(tmp_path / "00_long.ipynb", "# Long", f"{code}time.sleep(600)")
    command = [sys.executable, "-m", "sarsteer_lab", "walkthrough", "--notebooks", str(tmp_path)]
    running = subprocess.Popen(
        [*command, "--folder", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    )
    while not (begun.exists() and begun.read_text()):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    error = running.communicate(timeout=60)[1]
    assert (
        running.returncode == 130 and "What is done is kept" in error and "Traceback" not in error
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_the_committed_results_are_those_of_the_committed_notebooks(tmp_path: Path) -> None:
    notebooks = [nbformat.read(path, as_version=4) for path in find_notebooks(WITH_FINDINGS)]
    summary = write_summary(notebooks, tmp_path).read_text()
    assert len(notebooks) == 11
    for notebook in notebooks:
        assert f"## {title(notebook)}\n\n| claim" in summary
    committed = ROOT / "figures"
    assert summary == (committed / "walkthrough" / "summary.md").read_text()


def test_the_readme_tells_the_four_claims_as_the_committed_notebooks_do() -> None:
    notebooks = [nbformat.read(path, as_version=4) for path in find_notebooks(WITH_FINDINGS)]
    tables = tables_by_title(notebooks)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{short(tables)}\n\n{END}" in readme
    assert readme.index(BEGIN) < readme.index("## The first half hour"), "near its top"
    summary = (ROOT / "figures" / "walkthrough" / "summary.md").read_text(encoding="utf-8")
    assert page(tables) in summary and page(tables_in(summary)) == page(tables)
