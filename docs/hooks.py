"""What the site shows besides docs/*.md: notebooks, public names, findings, formulas as MathML."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "chapters": "",
    "exercises": "exercises",
    "workshops": "workshops",
    "appendix": "appendix",
}
"""Sections of the site, by the folders of notebooks/ that they show. Solutions are not shown."""

COPIED = {
    "findings.md": "figures/walkthrough/summary.md",
    "lecturer.md": "notebooks/LECTURER.md",
}
"""Pages that are files of the repository outside docs/."""

ITEM = r" *(?:[-*]|\d+\.) "
"""How an entry of a list begins."""

FORMULA = r'<(span|div) class="arithmatex">(?P<open>\\[(\[])(?P<tex>.*?)\\[)\]]</\1>'

HOW_TO = [
    "own_prompts",
    "own_model",
    "models",
    "colab",
    "cluster",
    "llama_cpp",
    "report",
    "teaching",
]


def notebooks(group: str) -> list[Path]:
    """The notebooks of a section, in their order."""
    return sorted((ROOT / "notebooks" / GROUPS[group]).glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of the pages."""
    config.nav = ["index.md", "first_hour.md"]
    for group in GROUPS:
        pages = [f"{group}/{path.stem}.md" for path in notebooks(group)]
        config.nav.append({group.capitalize(): pages})
    how_to = [f"{name}.md" for name in HOW_TO]
    config.nav += ["findings.md", {"How to": how_to}, "api.md", "lecturer.md"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not written in docs/."""
    pages: dict[str, str | bytes] = {"api.md": "\n\n".join(["# The library", *api()])}
    for page, source in COPIED.items():
        pages[page] = (ROOT / source).read_text(encoding="utf-8")
    for group in GROUPS:
        for path in notebooks(group):
            pages |= notebook_page(path, group, config.extra["repository"])
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def api() -> Iterator[str]:
    """The public names, as mkdocstrings takes them."""
    stub = (ROOT / "sarsteer_lab" / "__init__.pyi").read_text(encoding="utf-8")
    for module, name in re.findall(r"^from \.(\S+) import (\w+)", stub, flags=re.M):
        yield f"::: sarsteer_lab.{module}.{name}"


def notebook_page(path: Path, group: str, repository: str) -> dict[str, str | bytes]:
    """A notebook as a page with its pictures, and the notebook itself to take home."""
    notebook = nbformat.read(path, as_version=4)
    pages: dict[str, str | bytes] = {}
    if group != "workshops":  # which import what lies beside them
        pages[f"{group}/{path.name}"] = nbformat.writes(notebook)
    # What installs is for those who run it.
    notebook.cells = [cell for cell in notebook.cells if cell.id != "install"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = as_jupyter_reads(cell.source)
    names = {"unique_key": "output", "output_files_dir": f"{path.stem}_files"}
    body, resources = MarkdownExporter().from_notebook_node(notebook, names)
    # Tables that pandas made bring a style of their own, for light pages alone.
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)
    heading_and_buttons = rf"\g<0>\n{buttons(path, group, repository)}\n"
    body = re.sub("^# .*\n", heading_and_buttons, body, count=1, flags=re.M)
    pages[f"{group}/{path.stem}.md"] = body
    for name, picture in resources["outputs"].items():
        pages[f"{group}/{name}"] = picture
    return pages


def buttons(path: Path, group: str, repository: str) -> str:
    """How a reader gets a notebook to run it, in Markdown."""
    if group == "workshops":
        return "To work on it, copy the course: `sarsteer-lab course notebooks`."
    shown = (
        f"[Download the notebook]({path.name}){{ .md-button }} [on Colab or Kaggle](../colab.md)"
    )
    if not repository:
        return shown
    file = path.relative_to(ROOT).as_posix()
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/{file}"
    return f"[Open in Colab]({colab}){{ .md-button .md-button--primary }} {shown}"


def as_jupyter_reads(text: str) -> str:
    """Markdown that MkDocs reads as Jupyter does.

    A list may follow a line directly, and what unfolds is Markdown too.
    """
    text = re.sub(rf"^(?!{ITEM})(.*\S.*)\n(?={ITEM})", r"\1\n\n", text, flags=re.M)
    return text.replace("<details><summary>", '<details markdown="1">\n<summary>')


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves."""
    return re.sub(FORMULA, as_mathml, content, flags=re.S)


def as_mathml(formula: re.Match[str]) -> str:
    """A match of `FORMULA` as MathML, in the line or on a line of its own."""
    display = "block" if formula["open"] == r"\[" else "inline"
    return convert(html.unescape(formula["tex"]), display=display)
