"""What the site is made of besides docs/*.md: notebooks, public names, findings; and formulas as
MathML."""

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

ITEM = r" *(?:[-*]|\d+\.) "
"""How an entry of a list begins."""

HOW_TO = ["own_prompts", "own_model", "models", "colab", "cluster", "llama_cpp", "report"]


def notebooks(group: str) -> list[Path]:
    """The notebooks of a section, in their order."""
    return sorted((ROOT / "notebooks" / GROUPS[group]).glob("*.ipynb"))


def heading(text: str) -> str:
    """A page's first heading."""
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The order of the pages."""
    shown = [f"{name}.md" for name in HOW_TO if (ROOT / "docs" / f"{name}.md").is_file()]
    sections = {group: [f"{group}/{path.stem}.md" for path in notebooks(group)] for group in GROUPS}
    config.nav = ["index.md", "first_hour.md"]
    config.nav += [{name.capitalize(): pages} for name, pages in sections.items() if pages]
    config.nav += ["findings.md", {"How to": shown}, "api.md", "lecturer.md"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not written in docs/."""
    pages: dict[str, str | bytes] = {
        "findings.md": (ROOT / "figures" / "walkthrough" / "summary.md").read_text(
            encoding="utf-8"
        ),
        "lecturer.md": (ROOT / "notebooks" / "LECTURER.md").read_text(encoding="utf-8"),
        "api.md": "\n\n".join(["# The library", *api()]),
    }
    for group in GROUPS:
        for path in notebooks(group):
            pages |= notebook_page(path, group, config.extra["repository"])
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def api() -> Iterator[str]:
    """The public names, as mkdocstrings takes them."""
    stub = (ROOT / "sarsteer_lab" / "__init__.pyi").read_text(encoding="utf-8")
    for module, name in re.findall(r"^from \.(\S+) import (\w+)", stub, flags=re.M):
        yield f"::: sarsteer_lab.{module}.{name}"


def notebook_page(path: Path, group: str, repository: str) -> dict[str, str | bytes]:
    """A notebook as a page with its pictures, and the notebook itself to take home."""
    notebook = nbformat.read(path, as_version=4)
    whole = nbformat.writes(notebook)
    # What installs is for those who run it.
    notebook.cells = [cell for cell in notebook.cells if cell.id != "install"]
    folder = f"{path.stem}_files"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = as_jupyter_reads(cell.source)
    exporter = MarkdownExporter()
    resources = {"unique_key": "output", "output_files_dir": folder}
    body, found = exporter.from_notebook_node(notebook, resources)
    buttons = f"[Download the notebook]({path.name}){{ .md-button }}"
    if repository:
        place = path.relative_to(ROOT).as_posix()
        colab = f"https://colab.research.google.com/github/{repository}/blob/main/{place}"
        buttons = f"[Open in Colab]({colab}){{ .md-button .md-button--primary }} {buttons}"
    buttons += " [on Colab or Kaggle](../colab.md)"
    if group == "workshops":  # they import what lies beside them
        buttons = "To work on it, copy the course: `sarsteer-lab course notebooks`."
    first = f"# {heading(body)}\n"
    body = body.replace(first, f"{first}\n{buttons}\n", 1)
    # Tables that pandas made bring a style of their own, for light pages alone.
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)
    pages: dict[str, str | bytes] = {f"{group}/{path.stem}.md": body}
    pages |= {f"{group}/{name}": data for name, data in found["outputs"].items()}
    if group != "workshops":
        pages[f"{group}/{path.name}"] = whole
    return pages


def as_jupyter_reads(text: str) -> str:
    """Markdown so written that MkDocs reads it as Jupyter does: a list may follow a line directly,
    and what unfolds is Markdown too."""
    text = re.sub(rf"^(?!{ITEM})(.*\S.*)\n(?={ITEM})", r"\1\n\n", text, flags=re.M)
    return text.replace("<details><summary>", '<details markdown="1">\n<summary>')


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match["open"] == r"\[" else "inline"
        return convert(html.unescape(match["tex"]), display=display)

    form = r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>'
    return re.sub(form, drawn, content, flags=re.S)
