"""How Sphinx makes the site (`make docs`). Nothing in it is loaded from elsewhere.

It opens from a folder too: `build/site/index.html`.
"""

import shutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from panels import Claims, Panel, clips  # noqa: E402
from sources import GROUPS, notebooks  # noqa: E402

from sarsteer_lab.course.widgets.web import VIEWS  # noqa: E402

project = "SARSteer Lab"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]

# Notebooks stand here as they were committed. A panel's still comes as HTML beside a live view.
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # else two scripts from the web
nb_code_prompt_show = "Imports and settings"
nb_code_prompt_hide = "Imports and settings"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings are written for people who read code: `name` is code there.
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
add_module_names = False
maximum_signature_line_length = 80

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["static", str(VIEWS / "views.css")]
html_css_files = ["views.css", "site.css"]
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_math_renderer = "mathml"
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navigation_with_keys": True,
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
html_sidebars = {name: [] for name in ("index", "first_hour", "findings", "api", "lecturer")}


def draw_inline(writer: nodes.NodeVisitor, node: nodes.math) -> None:
    """A formula in the line as MathML, which browsers draw by themselves."""
    writer.body.append(tex2mathml(node.astext()))
    raise SkipNode


def draw_block(writer: nodes.NodeVisitor, node: nodes.math_block) -> None:
    """A formula on a line of its own as MathML."""
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise SkipNode


def put_notebooks(app: Sphinx, problem: Exception | None) -> None:
    """The notebooks themselves, beside their pages, to take home."""
    if problem is not None:
        return
    for group in GROUPS:
        if group == "workshops":  # which import what lies beside them
            continue
        for path in notebooks(group):
            shutil.copyfile(path, Path(app.outdir) / group / path.name)


def put_clips(app: Sphinx, problem: Exception | None) -> None:
    """The clips that the panels play."""
    folder = Path(app.outdir) / "clips"
    folder.mkdir(exist_ok=True)
    for clip in clips():
        shutil.copyfile(clip, folder / clip.name)


def tidy(app: Sphinx, problem: Exception | None) -> None:
    """Take away what the theme brings for its own developers: two megabytes that no page loads."""
    static = Path(app.outdir) / "_static"
    for path in [*static.rglob("*.map"), *static.glob("*.html")]:
        path.unlink()


def setup(app: Sphinx) -> None:
    """What the pages need besides what Sphinx and the theme bring."""
    app.add_html_math_renderer("mathml", (draw_inline, None), (draw_block, None))
    app.add_lexer("csv", TextLexer)
    app.add_directive("panel", Panel)
    app.add_directive("claims", Claims)
    app.connect("build-finished", put_notebooks)
    app.connect("build-finished", put_clips)
    app.connect("build-finished", tidy, priority=900)  # after the theme's files are there
