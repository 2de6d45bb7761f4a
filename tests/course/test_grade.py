"""A class graded on the replica: what students really hand in, each in a kernel of its own."""

import csv
import shutil
import unicodedata
import zipfile
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.cli import main
from sarsteer_lab.course.checks.tools import CHECK_MIME
from sarsteer_lab.course.grading import grade as module
from sarsteer_lab.course.grading.hand_ins import hand_ins, student_name, unpack
from sarsteer_lab.course.grading.running import SetupError
from sarsteer_lab.course.grading.tasks import recognised, shipped_exercises

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
NAME = "02_refusal_directions"
OTHER = "07_compare_defences"

in_kernels = pytest.mark.late
"""Tests that wait for kernels: some seconds each on a machine that has nothing else to do."""

pytestmark = pytest.mark.timeout(1800)

Rows = dict[tuple[str, str], dict[str, str]]


def shipped(name: str, kind: str = "exercises") -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / kind / f"{name}.ipynb", as_version=4)


def answered(name: str, **answers: str) -> nbformat.NotebookNode:
    """An exercise with cells replaced, by the ends of their ids; "-" in ids is written "_"."""
    notebook = shipped(name)
    for end, source in answers.items():
        [cell] = [cell for cell in notebook.cells if cell.id.endswith(end.replace("_", "-"))]
        cell.source = source
    return notebook


def solved(name: str) -> nbformat.NotebookNode:
    """An exercise filled in right, as a student would."""
    solutions = {
        cell.id.replace("-sol-", "-ex-"): cell for cell in shipped(name, "solutions").cells
    }
    notebook = shipped(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = solutions[cell.id].source
    return notebook


def without(notebook: nbformat.NotebookNode, *ends: str) -> nbformat.NotebookNode:
    notebook.cells = [cell for cell in notebook.cells if not cell.id.endswith(ends)]
    return notebook


def put(notebook: nbformat.NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def table(path: Path) -> Rows:
    """The rows by student and the number of the task ("2.1")."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    by_task = {(row["student"], row["task"].partition(" ")[0]): row for row in rows}
    assert len(by_task) == len(rows)
    return by_task


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


WRONG = """def agreement(shifts):
    return shifts.square().sum(-1).mean(0).sqrt() / shifts.mean(0).norm(dim=-1)"""
LOOP = """def project_out(states, direction):
    while True:
        print("still here " * 100)"""
MADE_UP = """refusal = {"text": torch.ones(12), "typed": torch.zeros(12)}
difference, p = 1.0, 2 / 2**12"""
CHEAT = """import sarsteer_lab.course.checks.directions as checks
checks.need_close = lambda *_, **__: None  # every answer is close
def agreement(shifts):
    return shifts.mean(0).norm(dim=-1)
open("left-by-a-student.txt", "w").write("hm")"""


def make_stuck(path: Path) -> None:
    """One task that never ends, one that ends the kernel, one that was taken out."""
    stuck = answered(NAME, answer_1=WRONG, answer_2=LOOP, answer_3="import os\nos._exit(3)")
    put(without(stuck, "task-4", "answer-4", "check-4"), path)


def make_class(folder: Path) -> None:
    # As Moodle names a student's folder, and as a browser names a second download.
    moodle = folder / "Jürgen Müßig_4711_assignsubmission_file_"
    put(solved(NAME), moodle / f"{NAME} (1).ipynb")
    put(shipped(NAME), moodle / f"{NAME}.ipynb")  # the blank one, by mistake
    # Mistakes of several kinds; 2.4 is right for numbers that the student has made up.
    mistaken = answered(
        NAME,
        answer_1=WRONG,
        answer_2="def project_out(states, direction)\n    return states",
        answer_4=MADE_UP,
    )
    put(mistaken, folder / "Mia" / "homework" / "my homework.ipynb")
    # Checks made to pass, and an output that was never computed.
    cheated = answered(NAME, answer_1=CHEAT, check_2="check_project_out = lambda f: 'passed'")
    for cell in cheated.cells:
        if cell.id in ("02-ex-check-1", "02-ex-check-3"):
            check = cell.source.partition("(")[0]
            data = {CHECK_MIME: {"check": check, "passed": True}}
            cell.outputs = [nbformat.v4.new_output("display_data", data)]
    put(cheated, folder / "=Eve" / f"{NAME}.ipynb")
    (folder / "=Eve" / "torch.py").write_text("raise SystemExit('not torch')")
    # A zip archive of the whole course, from a system that decomposes umlauts and does not say so.
    decomposed = unicodedata.normalize("NFD", f"zwölf/exercises/{NAME}.ipynb")
    with zipfile.ZipFile(folder / "Zoë.zip", "w") as archive:
        archive.writestr(decomposed, nbformat.writes(solved(NAME)))
        archive.write(NOTEBOOKS / f"{NAME}.ipynb", f"zwölf/{NAME}.ipynb")
        archive.writestr(f"__MACOSX/._{NAME}.ipynb", "resources")
    # A damaged one; a folder without any.
    (folder / "Cy").mkdir()
    (folder / "Cy" / f"{NAME}.ipynb").write_text(nbformat.writes(solved(NAME))[:900])
    (folder / "Dee").mkdir()
    (folder / "Dee" / "sorry.txt").write_text("next week")


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class/, and grade.csv as the command has made it."""
    folder = tmp_path_factory.mktemp("grading")
    make_class(folder / "class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        before = snapshot(folder / "class")
        command = ["grade", "class", "--model", "replica", "--minutes", "1"]
        assert main(command) == 0
        assert snapshot(folder / "class") == before
    return folder


@pytest.fixture
def rows(graded: Path) -> Rows:
    return table(graded / "grade.csv")


def results(rows: Rows, student: str) -> list[str]:
    return [rows[student, f"2.{number}"]["result"] for number in (1, 2, 3, 4)]


@in_kernels
def test_right_answers_pass_whatever_their_files_are_called(rows: Rows) -> None:
    for student in ("Jürgen Müßig_4711", "Zoë"):
        assert results(rows, student) == ["passed"] * 4
    assert rows["Jürgen Müßig_4711", "2.1"]["file"].endswith(f"/{NAME} (1).ipynb")
    assert rows["Zoë", "2.2"]["exercise"] == NAME
    assert rows["Zoë", "2.2"]["task"] == "2.2 Take a direction out"


@in_kernels
def test_each_mistake_is_told_and_stops_no_other_task(rows: Rows) -> None:
    assert results(rows, "Mia") == ["failed", "error", "failed", "failed"]
    assert "upside down" in rows["Mia", "2.1"]["message"]
    assert "SyntaxError" in rows["Mia", "2.2"]["message"]
    assert "blank" in rows["Mia", "2.3"]["message"]
    assert "difference" in rows["Mia", "2.4"]["message"]


@in_kernels
def test_edited_checks_and_outputs_do_not_count(rows: Rows, graded: Path) -> None:
    # A spreadsheet would compute what begins with "=".
    assert results(rows, "'=Eve") == ["failed"] * 4
    first, second, third, _ = (rows["'=Eve", f"2.{number}"]["message"] for number in (1, 2, 3, 4))
    assert "shows 'passed'" in first and "shows 'passed'" in third
    assert "check cell was changed" in second and "check cell was changed" not in first
    assert not list(graded.rglob("left-by-a-student.txt"))


@in_kernels
def test_what_is_missing_or_damaged_has_a_row(rows: Rows) -> None:
    assert rows["Cy", ""]["result"] == "error" and rows["Cy", ""]["exercise"] == NAME
    assert "cannot be read as a notebook" in rows["Cy", ""]["message"]
    assert results(rows, "Dee") == ["not reached"] * 4
    assert rows["Dee", "2.1"]["message"] == "not handed in"


@in_kernels
def test_a_second_run_reads_what_is_kept_and_runs_what_is_new(
    graded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SARSTEER_CACHE", str(graded / "cache"))
    monkeypatch.chdir(graded)
    first = table(graded / "grade.csv")
    ran: list[str] = []
    run = module.run_hand_in

    def counted(notebook: nbformat.NotebookNode, *others: object) -> object:
        ran.append(str(others[1]))
        return run(notebook, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run_hand_in", counted)
    command = ["grade", "class", "--model", "replica", "--minutes", "1"]
    assert main(command) == 0
    assert not ran and table(graded / "grade.csv") == first
    shown = capsys.readouterr().out
    assert f"Left aside, as no exercise of the course: Zoë.zip/zwölf/{NAME}.ipynb" in shown
    assert "6 students, 21 rows (error 2, failed 7, not reached 4, passed 8)" in shown
    # Content decides, not the name; what is new is run, and a task that hangs takes no time of
    # others.
    copy = graded / "again"
    shutil.copytree(graded / "class", copy)
    (copy / "Mia" / "homework").rename(copy / "Mia" / "late")
    make_stuck(copy / f"Ole_{NAME}-Copy1.ipynb")
    assert main(["grade", "again", *command[2:]]) == 0
    again = table(graded / "grade.csv")
    assert len(ran) == 1 and again["Mia", "2.1"]["file"].startswith("Mia/late/")
    assert results(again, "Ole") == ["failed", "timed out", "error", "not reached"]
    assert "upside down" in again["Ole", "2.1"]["message"]
    assert "loop" in again["Ole", "2.2"]["message"]
    assert "ended the kernel" in again["Ole", "2.3"]["message"]


@pytest.mark.slow
def test_every_shipped_solution_passes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercises = shipped_exercises()
    for name in exercises:
        put(shipped(name, "solutions"), tmp_path / "class" / "ann" / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "class", "--model", "replica"]) == 0
    rows = table(tmp_path / "grade.csv")
    assert len(rows) == sum(len(exercise.tasks) for exercise in exercises.values()) == 31
    assert [row for row in rows.values() if row["result"] != "passed"] == []


def test_an_exercise_is_recognised_by_what_is_in_it() -> None:
    exercises = shipped_exercises()
    assert len(exercises) == 10
    for name, exercise in exercises.items():
        assert [task.number for task in exercise.tasks] == list(range(1, len(exercise.tasks) + 1))
        notebook = shipped(name)
        for cell in notebook.cells:
            cell.id = "x" * 8  # as Colab, which gives cells ids of its own
        assert recognised(notebook, "Untitled.ipynb", exercises) is exercise
        assert recognised(shipped(name, "solutions"), f"{name}.ipynb", exercises) is exercise
    for folder in ("", "workshops", "appendix"):
        for path in (NOTEBOOKS / folder).glob("*.ipynb"):
            notebook = nbformat.read(path, as_version=4)
            assert recognised(notebook, path.name, exercises) is None, path


def test_what_is_given_is_what_stands_before_the_first_blank() -> None:
    exercises = shipped_exercises()
    last = exercises[NAME].tasks[3]
    assert last.wanted == ("difference", "p")
    assert exercises[NAME].tasks[0].wanted == ("agreement",)
    assert "refusal = course.refusal_probability" in last.given
    assert "difference =" not in last.given
    assert exercises[NAME].tasks[0].given == ""
    assert "def answered(prompts)" in exercises[OTHER].tasks[2].given


def test_students_are_told_apart(tmp_path: Path) -> None:
    assert student_name("Ann Lee_77_assignsubmission_file_") == "Ann Lee_77"
    assert student_name(unicodedata.normalize("NFD", "Jörg")) == "Jörg"
    for name in (f"ann_{NAME}.ipynb", f"bob/{NAME}.ipynb", "bob/.ipynb_checkpoints/x.ipynb"):
        put(shipped(NAME), tmp_path / "class" / name)
    (tmp_path / "class" / "link.ipynb").symlink_to(tmp_path / "class" / f"ann_{NAME}.ipynb")
    found = hand_ins(tmp_path / "class", [NAME], tmp_path / "scratch")
    assert [(file.student, file.own_folder) for file in found.files] == [
        ("ann", False),
        ("bob", True),
    ]


def test_who_hands_in_no_notebook_is_a_student_too(tmp_path: Path) -> None:
    put(shipped(NAME), tmp_path / "class" / "ann" / f"{NAME}.ipynb")
    (tmp_path / "class" / "bob").mkdir()
    with zipfile.ZipFile(tmp_path / "class" / "Cy.zip", "w") as archive:
        archive.writestr("report.pdf", "%PDF")
    found = hand_ins(tmp_path / "class", [NAME], tmp_path / "scratch")
    assert found.students == {"ann", "bob", "Cy"}
    assert [file.student for file in found.files] == ["ann"]


def test_archives_stay_in_their_folder_and_are_of_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "class.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../../outside.ipynb", "{}")
        zipped.writestr("Ann/a.ipynb", nbformat.writes(shipped(NAME)))
    found = hand_ins(archive, [NAME], tmp_path / "deep" / "scratch")
    assert "Ann" in found.students and not (tmp_path / "outside.ipynb").exists()
    (tmp_path / "bad.zip").write_bytes(archive.read_bytes()[:60])
    assert "cannot be unpacked" in unpack(tmp_path / "bad.zip", tmp_path / "nowhere")
    monkeypatch.setattr("sarsteer_lab.course.grading.hand_ins.LARGEST_ARCHIVE", 1000)
    assert "would unpack to" in unpack(archive, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "no such folder"),
        (["empty"], "holds no notebooks"),
        (["empty", "--out", "empty/grade.csv"], "where nothing is written"),
        (["empty", "--minutes", "0"], "are too few"),
    ],
)
def test_what_cannot_be_graded_is_said(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["grade", *arguments]) == 2
    assert reason in capsys.readouterr().err


@in_kernels
def test_a_model_that_does_not_load_is_nobodys_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(shipped(NAME), tmp_path / "class" / "ann" / f"{NAME}.ipynb")
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "class", "--model", "recorded:nowhere"]) == 2
    error = capsys.readouterr().err
    assert "its setup cells fail" in error and "nowhere" in error
    assert issubclass(SetupError, RuntimeError) and not (tmp_path / "grade.csv").exists()


def test_the_help_says_that_it_runs_students_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", "--help"]) == 0
    assert "THIS RUNS WHAT STUDENTS WROTE" in capsys.readouterr().out
