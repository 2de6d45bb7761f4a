"""Every notebook runs from top to bottom; blank exercises fail every check, filled ones pass.

Quick: chapters and the appendix (with fewer requests) in a kernel on the tiny random replica,
exercises and solutions in this process. Slow: all of them in a kernel on the pocket model.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from sarsteer_lab.course import run_notebooks as module
from sarsteer_lab.course.checks.tools import CHECK_MIME, CheckResult
from sarsteer_lab.course.run_notebooks import NotebookError, find_notebooks, main, run_notebooks
from sarsteer_lab.lalm import LALM

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
COLAB = (ROOT / "docs" / "colab.md").read_text(encoding="utf-8")
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
APPENDIX = sorted((FOLDER / "appendix").glob("*.ipynb"))
EXERCISES = sorted((FOLDER / "exercises").glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
FEWEST_EXERCISES = 3


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


IN_BFLOAT16 = []
"""All chapters; CI runs those in which most is computed by hand."""
for path in CHAPTERS:
    by_hand = path.name.startswith(("02_", "04_", "05_"))
    marks = () if by_hand else pytest.mark.slow
    IN_BFLOAT16.append(pytest.param(path, id=name(path), marks=marks))


@pytest.fixture
def tiny_course(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The course on the replica, with one cache for all tests of this run."""
    kept = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "replica")
    monkeypatch.setenv("SARSTEER_CACHE", str(kept / "course-cache"))
    monkeypatch.setenv("SARSTEER_FIGURES", str(kept / "course-figures"))
    yield


def run_here(path: Path) -> list[CheckResult]:
    """Run a notebook's cells in this process; the checks' results. A cell's error is raised."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    results = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            outcome = shell.run_cell(cell.source)
            outcome.raise_error()
            if isinstance(outcome.result, CheckResult):
                results.append(outcome.result)
    return results


def checks_in(notebook: nbformat.NotebookNode) -> list[dict[str, object]]:
    """What the checks said in an executed notebook."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    data = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [dict(entry[CHECK_MIME]) for entry in data if CHECK_MIME in entry]


def calls_of_checks(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [
        c.source for c in cells if c.cell_type == "code" and c.source.lstrip().startswith("check_")
    ]


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_chapters_run_on_the_replica(path: Path, tiny_course: None) -> None:
    run_notebooks([path], save=False)


@pytest.mark.late
@pytest.mark.parametrize("path", IN_BFLOAT16)
def test_chapters_run_in_bfloat16(
    path: Path, tiny_course: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large models do: what is computed by hand agrees there, too, as far as its digits go."""
    monkeypatch.setenv("SARSTEER_COURSE_OPTIONS", '{"dtype": "bfloat16"}')
    run_notebooks([path], save=False)


@pytest.mark.parametrize("path", [*CHAPTERS, *APPENDIX, *SOLUTIONS], ids=name)
def test_float64_is_computed_on_the_cpu(path: Path) -> None:
    """Apple's GPUs have none, and what is then compared with it would lie on two devices."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            for before in re.findall(r"(.*?)\.double\(\)", cell.source):
                assert before.endswith(".cpu()") or "as_tensor(" in before, (cell.id, before)


@pytest.mark.late
@pytest.mark.parametrize("path", APPENDIX, ids=name)
def test_the_appendix_runs_on_the_replica(path: Path, tiny_course: None, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    (setup,) = [
        cell
        for cell in notebook.cells
        if "REQUESTS = None" in cell.source and cell.cell_type == "code"
    ]
    setup.source = setup.source.replace("REQUESTS = None", "REQUESTS = 2")
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    run_notebooks([copy], save=False)


@pytest.mark.parametrize("path", EXERCISES, ids=name)
def test_blanks_fail_every_check(path: Path, tiny_course: None) -> None:
    results = run_here(path)
    assert len(results) == len(calls_of_checks(path)) >= FEWEST_EXERCISES
    assert not [result for result in results if result.passed]


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solutions_pass_every_check(path: Path, tiny_course: None) -> None:
    results = run_here(path)
    assert len(results) == len(calls_of_checks(path)) >= FEWEST_EXERCISES
    assert not [result for result in results if not result.passed]


@pytest.mark.pocket
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", [*CHAPTERS, *APPENDIX, *EXERCISES, *SOLUTIONS], ids=name)
def test_notebooks_run_on_the_pocket_model(path: Path, pocket: LALM) -> None:
    (notebook,) = run_notebooks([path], save=False)
    found = [bool(check["passed"]) for check in checks_in(notebook)]
    if path in EXERCISES:
        assert len(found) == len(calls_of_checks(path)) and not any(found)
    if path in SOLUTIONS:
        assert len(found) == len(calls_of_checks(path)) and all(found)


def test_every_chapter_has_exercises_and_solutions_with_the_same_checks() -> None:
    stems = [path.stem for path in CHAPTERS]
    assert (
        APPENDIX
        and stems
        and stems == [path.stem for path in EXERCISES] == [path.stem for path in SOLUTIONS]
    )
    for exercise, solution in zip(EXERCISES, SOLUTIONS, strict=True):
        assert calls_of_checks(exercise) == calls_of_checks(solution)
        assert any("..." in cell.source for cell in nbformat.read(exercise, as_version=4).cells)


@pytest.mark.parametrize("path", [*CHAPTERS, *APPENDIX, *EXERCISES, *SOLUTIONS], ids=name)
def test_notebooks_are_in_order(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "sarsteer_lab" in code[0] and f"\n{code[0]}\n```" in COLAB, (
        "the first code cell is that of Colab's page"
    )
    assert code[1].startswith(('MODEL = "pocket"', 'MODEL = "replica:')), (
        "the next code cell names the model, and nothing else"
    )
    if path in [*CHAPTERS, *APPENDIX]:
        assert any("course.closing(" in source for source in code), (
            "a chapter ends with claims and verdicts"
        )
        cells = notebook.cells
        if "course.calibration()" in cells[-1].source:  # the course's end: how well one guessed
            cells = cells[:-2]
        last = [cell.source for cell in cells[-4:]]
        assert any("closing" in source for source in last), "then findings, then what to remember"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            shown = str(output)
            assert os.fspath(Path.home()) not in shown and os.fspath(FOLDER) not in shown, (
                cell.source[:80]
            )


def test_progress_bars_do_not_stay(tmp_path: Path) -> None:
    source = "import sys; from tqdm import tqdm; [i for i in tqdm(range(3))]; print('50%'); "
    source += "sys.stderr.write('hm')"
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    (notebook,) = run_notebooks([path])
    shown = [output.text for output in notebook.cells[0].outputs if output.output_type == "stream"]
    assert "50%\n" in shown and not any("3/3" in text for text in shown)


def test_the_bar_reaches_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    run_notebooks([tmp_path / "a.ipynb"])
    assert "1/1 [" in capsys.readouterr().err


def test_two_at_once_wait_for_each_other_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    meet = """import os, pathlib, time
pathlib.Path("here-{own}").touch()
while not pathlib.Path("here-{other}").exists():
    time.sleep(0.05)
print("threads", os.environ.get("OMP_NUM_THREADS"))"""
    paths = [tmp_path / "a.ipynb", tmp_path / "b.ipynb"]
    for path, names in zip(
        paths, ({"own": "a", "other": "b"}, {"own": "b", "other": "a"}), strict=True
    ):
        cells = [nbformat.v4.new_code_cell(meet.format(**names))]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    done = run_notebooks(paths, at_once=2)
    share = max(1, (os.cpu_count() or 1) // 2)
    assert [notebook.cells[0].outputs[0].text for notebook in done] == [f"threads {share}\n"] * 2
    # One that fails stops the other, which would wait for ever.
    for name in "ab":
        (tmp_path / f"here-{name}").unlink()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), paths[1])
    before = paths[0].read_bytes()
    with pytest.raises(NotebookError, match=r"b\.ipynb.*(?s:.)*ZeroDivisionError"):
        run_notebooks(paths, at_once=2)
    assert paths[0].read_bytes() == before


def test_all_begin_once_and_with_several_at_once_the_last_does_early() -> None:
    assert module.beginning_order(4, 1) == [0, 1, 2, 3]
    assert module.beginning_order(5, 2) == [0, 4, 1, 3, 2]
    assert module.beginning_order(10, 2) == [0, 9, 1, 8, 2, 7, 6, 5, 4, 3]
    assert module.beginning_order(0, 2) == []


def test_a_hanging_cell_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELL_SECONDS", 3)
    cells = [nbformat.v4.new_code_cell("import time; time.sleep(60)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    with pytest.raises(NotebookError, match=r"a\.ipynb.*after 3 seconds(?s:.)*sleep"):
        run_notebooks([tmp_path / "a.ipynb"])


def test_a_failing_cell_is_named_and_its_notebook_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    for path, source in ((good, "print(6 * 7)"), (bad, "1 / 0")):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    before = bad.read_bytes()
    assert find_notebooks([tmp_path]) == [good, bad] == find_notebooks([good, bad])
    with pytest.raises(NotebookError, match=r"b\.ipynb.*(?s:.)*ZeroDivisionError"):
        run_notebooks([good, bad])
    assert bad.read_bytes() == before and "42" in good.read_text()
    run_notebooks([good], html=tmp_path / "pages")
    assert "42" in (tmp_path / "pages" / "a.html").read_text()
    assert main([str(good)]) == 0
    assert main([str(tmp_path / "c.ipynb")]) == 1
    assert "no such notebook" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="a process's children are read from /proc")
@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_kernel_starts_ends_the_run(tmp_path: Path, signal_sent: int) -> None:
    """nbclient's own answer to it let the run go on, with the notebook's cells as if run."""
    for name in "ab":
        cells = [nbformat.v4.new_code_cell("print(6 * 7)")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    before = [path.read_bytes() for path in find_notebooks([tmp_path])]
    command = [sys.executable, "-m", "sarsteer_lab.course.run_notebooks", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not children.read_text():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal_sent)
        said = running.communicate(timeout=60)[1]
    assert running.returncode in (-signal_sent, 130), said
    assert "atexit" not in said
    assert [path.read_bytes() for path in find_notebooks([tmp_path])] == before
