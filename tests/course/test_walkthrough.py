"""The main job runs the chapters and collects their closing tables."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.cli import main
from sarsteer_lab.course.run_notebooks import page, title

CLAIM = """from sarsteer_lab import course
display(course.closing([course.claim_on_value("two is more than one", "2", (1.5, 2.5), above=1)]))"""


def write(path: Path, heading: str, code: str) -> None:
    cells = [nbformat.v4.new_markdown_cell(heading), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def test_the_closing_tables_come_on_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    write(chapters / "00_first.ipynb", "Words\n\n# The first", CLAIM)
    write(chapters / "01_second.ipynb", "# The second", "print('no table here')")
    before = (chapters / "00_first.ipynb").read_bytes()
    arguments = ["--notebooks", str(chapters), "--folder", str(tmp_path / "out" / "deep")]
    assert main(["walkthrough", *arguments, "--html", str(tmp_path / "pages")]) == 0
    assert "| two is more than one | 2 | [1.50, 2.50]" in capsys.readouterr().out
    summary = (tmp_path / "out" / "deep" / "summary.md").read_text()
    assert (
        "## The first\n\n| claim |" in summary
        and "**seen here**" in summary
        and "second" not in summary
    )
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {
        "00_first.html",
        "01_second.html",
    }
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


def test_the_committed_chapters_all_have_a_closing_table() -> None:
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    paths = sorted(folder.glob("0*.ipynb"))
    found = page(paths, [nbformat.read(path, as_version=4) for path in paths])
    assert len(paths) == 7 and all(
        f"## {title(nbformat.read(p, as_version=4))}\n\n| claim" in found for p in paths
    )
