"""What Sphinx reads, laid out in one folder: docs/, notebooks, findings, the public names.

`python docs/sources.py FOLDER`. Notebooks are taken as they are committed, and none is run.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from guesses import asked, scored, truths
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output
from panels import RECORDINGS, embedded

from sarsteer_lab.course.folding import shown_outputs
from sarsteer_lab.course.guesses import GUESS_MIME, SCORE_MIME
from sarsteer_lab.course.recordings import CELLS

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
REPOSITORY = os.environ.get("SARSTEER_REPOSITORY", "")
"""OWNER/NAME of a public GitHub repository, for the buttons that open a chapter in Colab."""

GROUPS = {
    "chapters": "",
    "appendix": "appendix",
    "exercises": "exercises",
    "workshops": "workshops",
}
"""Sections of the site, by the folders of notebooks/ that they show. Solutions are not shown."""

COPIED = {
    "findings.md": "figures/walkthrough/summary.md",
    "lecturer.md": "notebooks/LECTURER.md",
}
"""Pages that are files of the repository outside docs/."""

PICTURES = {"idea.png": "figures/04_steering/idea.png"}
"""Figures that pages show beside those in notebooks."""

LIVE = {cell: name for cell, name in CELLS.items() if (RECORDINGS / f"{name}.json").is_file()}
"""Cells whose panel can be moved on the site, fed by a recording, and its name there."""

TITLED_FENCE = re.compile(r'^```(\w+) title="([^"]*)"\n(.*?)^```$', flags=re.M | re.S)
"""A block of code with a title, which says why a test does not run it."""


def notebooks(group: str) -> list[Path]:
    """The notebooks of a section, in their order."""
    return sorted((ROOT / "notebooks" / GROUPS[group]).glob("*.ipynb"))


def sources() -> dict[str, str]:
    """Every page that Sphinx reads, by its place in the folder."""
    pages = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        pages[path.relative_to(DOCS).as_posix()] = with_captions(on_the_site(text))
    for page, source in COPIED.items():
        pages[page] = (ROOT / source).read_text(encoding="utf-8")
    pages["api.md"] = api()
    for group in GROUPS:
        for path in notebooks(group):
            pages[f"{group}/{path.name}"] = nbformat.writes(as_page(path, group))
    return pages


def on_the_site(text: str) -> str:
    """Markdown whose links to files of the repository go to the site's pages of them."""
    for page, source in COPIED.items():
        text = text.replace(f"](../{source})", f"]({page})")
    return text.replace("](../notebooks/", "](chapters/")


def with_captions(text: str) -> str:
    """Markdown whose titled blocks are written as Sphinx shows a title: as a caption."""
    return TITLED_FENCE.sub(r"```{code-block} \1\n:caption: '\2'\n\n\3```", text)


def api() -> str:
    """The page of the library: each public name, as autodoc reads it from its module."""
    stub = (ROOT / "sarsteer_lab" / "__init__.pyi").read_text(encoding="utf-8")
    lines = ["# The library", "", "Each name is imported from `sarsteer_lab` itself.", ""]
    for module, name in re.findall(r"^from \.(\S+) import (\w+)", stub, flags=re.M):
        lines += ["```{eval-rst}", f".. {kind(name)}:: sarsteer_lab.{module}.{name}"]
        lines += ["   :no-value:"] if name.isupper() and name != "LALM" else []
        lines += ["```", ""]
    return "\n".join(lines)


def kind(name: str) -> str:
    """The directive of autodoc for a public name: constants are upper case, classes capitalised."""
    if name == "LALM":
        return "autoclass"
    if name.isupper():
        return "autodata"
    return "autoclass" if name[0].isupper() else "autofunction"


def as_page(path: Path, group: str) -> NotebookNode:
    """A notebook as its page shows it: without what installs, with a way to take it home."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "install"]
    questions = truths(notebook.cells)
    for cell in notebook.cells:
        if cell.id.endswith("-load"):  # imports and settings: to be unfolded
            cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]
        if "course.guess(" in cell.source:  # the panel says it all
            cell.metadata.tags = [*cell.metadata.get("tags", []), "remove-input"]
        if cell.cell_type == "code":
            cell.outputs = shown_outputs(cell)
        for output in cell.get("outputs", []):
            as_shown(output, cell.id)
    if questions:
        caption = "Your guesses in this chapter"
        notebook.cells.insert(-1, html_cell(scored(path.stem, questions, caption)))
    title = notebook.cells[0]
    title.source = re.sub("^# .*\n?", rf"\g<0>\n{take_home(path, group)}\n", title.source, count=1)
    return notebook


def course_score() -> str:
    """All guesses of the course beside what came out, as HTML."""
    questions = []
    for path in notebooks("chapters"):
        questions += truths(nbformat.read(path, as_version=4).cells)
    return scored("course", questions, "Your guesses in the course")


def html_cell(text: str) -> NotebookNode:
    """A cell that only shows HTML."""
    output = new_output("display_data", {"text/html": text})
    return new_code_cell(
        "# shown by the site", outputs=[output], metadata={"tags": ["remove-input"]}
    )


def as_shown(output: NotebookNode, cell: str) -> None:
    """Take away what no page shows, and put the live panel in place of its still.

    The reader's browser keeps guesses, and scores them. Not shown are the state of a check, and the
    style of pandas' tables, which is for light pages.
    """
    data = output.get("data", {})
    data.pop("application/vnd.sarsteer-lab.check+json", None)
    question = data.pop(GUESS_MIME, None)
    if question is not None and "truth" not in question:
        data["text/html"] = asked(question, data["text/html"])
    if data.pop(SCORE_MIME, None) is not None:
        data["text/html"] = course_score()
    if "text/html" in data:
        data["text/html"] = re.sub(r"<style scoped>.*?</style>", "", data["text/html"], flags=re.S)
        if cell in LIVE:
            data["text/html"] = embedded(LIVE[cell], data["text/html"], "../clips/")


def take_home(path: Path, group: str) -> str:
    """How a reader gets a notebook to run it: a paragraph of HTML, or a command."""
    if group == "workshops":  # which import what lies beside them
        return "To work on it, copy the course: `sarsteer-lab course notebooks`."
    links = [
        f'<a class="take-home" href="{path.name}" download>Download the notebook</a>',
        '<a href="../colab.html">on Colab or Kaggle</a>',
    ]
    if REPOSITORY:
        file = path.relative_to(ROOT).as_posix()
        colab = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/{file}"
        links.insert(0, f'<a class="take-home" href="{colab}">Open in Colab</a>')
    return f"<p>{' '.join(links)}</p>\n"


def lay_out(folder: Path) -> None:
    """Write all pages into a folder."""
    for name, text in sources().items():
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    for name, source in PICTURES.items():
        shutil.copy(ROOT / source, folder / name)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
