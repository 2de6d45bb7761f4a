"""The commands for teachers; `cli` puts them beside the others."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option, Typer

from sarsteer_lab.cli_options import number

app = Typer(add_completion=False, rich_markup_mode=None)


def minutes_above_0(given: str | float) -> float:
    """A number of minutes; 0 and less is wrong usage."""
    minutes = number(given)
    if minutes <= 0:
        raise BadParameter(f"{given!r} minutes are too few")
    return minutes


def needs(module: str, extra: str) -> None:
    """Say which extra is not installed, if it is not. Raises ImportError."""
    if find_spec(module) is None:
        raise ImportError(f"{module} is not installed: pip install 'sarsteer-lab[{extra}]'")


GRADED = "a folder (or a zip archive of it) with a folder or zip archive a student, or notebooks"
KEPT = "the table, CSV; results are kept beside it, so that a run goes on where it was"
COURSE_MODEL = (
    "the course's model: pocket, replica, recorded:FOLDER (default: as the notebooks say)"
)


@app.command()
def grade(
    folder: Annotated[Path, Argument(help=GRADED)],
    out: Annotated[Path, Option(help=KEPT)] = Path("grade.csv"),
    model: Annotated[str | None, Option(help=COURSE_MODEL)] = None,
    minutes: Annotated[
        float, Option(parser=minutes_above_0, help="the time of each notebook")
    ] = 15.0,
) -> None:
    """Run students' exercise notebooks anew, with the shipped checks: a table of what passed.

    THIS RUNS WHAT STUDENTS WROTE, on this machine and with your rights: their code can read,
    change and send whatever you can. Look at the notebooks first, or run this as a user without
    rights, in a container or on a machine without your files and the network (docs/teaching.md).
    """
    needs("nbclient", "lab")
    from sarsteer_lab.course.grading.grade import grade as grade_class

    print(grade_class(folder, out, model=model, minutes=minutes))


@app.command()
def slides(
    out: Annotated[Path, Argument(help="the file, .pptx")] = Path("slides.pptx"),
    notebooks: Annotated[
        Path, Option(help="the chapters as they were run, and LECTURER.md")
    ] = Path("notebooks"),
    figures: Annotated[Path, Option(help="their figures")] = Path("figures"),
) -> None:
    """Slides of the course, with speaker's notes: figures in LECTURER's order, and the verdicts."""
    needs("pptx", "teach")
    from sarsteer_lab.course.slides.make import make_slides

    print(f"{out}: {make_slides(notebooks, figures, out)} slides, to be edited as you like")


@app.command()
def bundle(
    out: Annotated[Path, Argument(help="a new folder, or one that was begun")],
    torch_index: Annotated[
        str | None, Option(help="a package index to take torch from: PyTorch's for the CPU build")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="say what would be fetched and how large it is, no more")
    ] = False,
) -> None:
    """All that a class without network needs, in one folder: wheels, weights, notebooks."""
    from sarsteer_lab.course.bundle.make import make_bundle

    print(make_bundle(out, torch_index, announce_only=dry_run))
