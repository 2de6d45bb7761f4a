"""What pages are made of besides text: panels that can be moved, and the fate of the claims.

A panel is a view (an ECMAScript module in anywidget's form) and the recording that feeds it. Both
stand in the page itself, so that the panel works from a folder, too, and waits for no other file.
The claims are read from the head of the committed summary; nothing of them is typed in.
"""

import html
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from sarsteer_lab.course.widgets.web import module

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RECORDINGS = DOCS / "recordings"
CLIPS = ROOT / "data" / "prompts" / "clips"
SUMMARY = ROOT / "figures" / "walkthrough" / "summary.md"

HOST = """
// The site's side of an anywidget model: a recording in place of a kernel.
function recorded(values) {
  const heard = {};
  return {
    get: (name) => values[name],
    set(name, value) {
      values[name] = value;
      for (const call of heard[`change:${name}`] ?? []) call();
    },
    save_changes() {},
    on: (event, call) => (heard[event] ??= []).push(call),
    off: (event, call) => (heard[event] = (heard[event] ?? []).filter((each) => each !== call)),
  };
}
const panel = document.getElementById("PANEL");
const values = JSON.parse(document.getElementById("PANEL-values").textContent);
view.render({ model: recorded(values), el: panel });
"""

VERDICTS = {"seen": "●", "no difference": "=", "opposite": "✕", "cannot tell": "?"}
"""The mark of each verdict."""

LINE = re.compile(r"\((\d+)\) (.*): \*\*([^*]+)\*\*(.*)")
"""A tested claim in the summary: its chapter, what was measured, the verdict."""


def recording(name: str) -> dict[str, Any]:
    """A recording: for most panels the state of the view, and what is chosen at first."""
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


def clips() -> list[Path]:
    """The clips that recordings name."""
    names = set()
    for path in RECORDINGS.glob("*.json"):
        names |= set(re.findall(r'"clip": "([^"]+)"', path.read_text(encoding="utf-8")))
    return [CLIPS / name for name in sorted(names)]


NO_SCRIPT = """<noscript>This panel needs JavaScript. What it shows is told in
<a href="chapters/04_steering.html">chapter 4</a>.</noscript>"""


def embedded(name: str, still: str = NO_SCRIPT, clips: str = "clips/") -> str:
    """A panel as HTML. The still is seen where no scripts run; `clips` is where these lie."""
    begins = recording(name)
    return shown(name, begins.pop("view"), begins | {"live": False, "clips": clips}, still)


def shown(name: str, view: str, values: dict[str, Any], still: str = "") -> str:
    """A view as HTML, under a name of its own on the page, with the values that feed it."""
    fed = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    fed = fed.replace("</", "<\\/")  # nothing in it ends the script
    code = module(view).replace("export default", "const view =")
    host = HOST.replace("PANEL", f"panel-{name}")
    return (
        f'<div id="panel-{name}">{still}</div>\n'
        f'<script type="application/json" id="panel-{name}-values">{fed}</script>\n'
        f'<script type="module">\n{code}{host}</script>\n'
    )


class Panel(Directive):
    """`panel` NAME: a panel of the site."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The panel's place, its recording and its module."""
        return [nodes.raw("", embedded(self.arguments[0]), format="html")]


@dataclass(frozen=True)
class Tested:
    """A tested claim: the chapter that tests it, what was measured, and the verdict."""

    chapter: str
    measured: str
    verdict: str
    margin: str

    @property
    def mark(self) -> str:
        """The verdict in one sign."""
        return VERDICTS[self.verdict]

    def told(self) -> str:
        """In one line of HTML, the verdict first."""
        verdict = f'<b class="verdict">{self.mark} {self.verdict}</b>{html.escape(self.margin)}'
        measured = re.sub(r"\*([^*]+)\*", r"<i>\1</i>", html.escape(self.measured))
        return f"{verdict}: {measured} (chapter {self.chapter})"


@dataclass(frozen=True)
class Fate:
    """A claim of the paper, with the tests of it and its controls as the summary has them."""

    says: str
    tests: list[Tested]
    controls: list[Tested]

    def first_objection(self) -> Tested | None:
        """The first control that the claim does not pass."""
        return next((each for each in self.controls if each.verdict != "seen"), None)


def read_fates(summary: str) -> list[Fate]:
    """The table of the paper's claims at the head of the summary. Raises ValueError without one."""
    rows = re.findall(r"^\| \*\*\d\.\*\* .*\|$", summary, flags=re.M)
    if not rows:
        raise ValueError("the summary has no table of the paper's claims")
    fates = []
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        says = re.sub(r"^\*\*\d\.\*\* ", "", cells[0])
        fates.append(Fate(says, read_lines(cells[1]), read_lines(cells[2])))
    return fates


def read_lines(cell: str) -> list[Tested]:
    """The tested claims in a cell. Raises ValueError for a line that is none."""
    found = []
    for line in cell.split("<br>"):
        match = LINE.fullmatch(line)
        if match is None or match[3] not in VERDICTS:
            raise ValueError(f"not a tested claim: {line!r}")
        found.append(Tested(*match.groups()))
    return found


class Claims(Directive):
    """`claims`: the paper's claims, a line each, and what became of them."""

    def run(self) -> list[nodes.Node]:
        """A list; each entry unfolds into all that was tested."""
        fates = read_fates(SUMMARY.read_text(encoding="utf-8"))
        entries = "\n".join(map(entry, fates))
        return [nodes.raw("", f'<ol class="claims">\n{entries}\n</ol>\n', format="html")]


def entry(fate: Fate) -> str:
    """A claim as an entry of the list."""
    lines = [f"<li><p><b>{html.escape(fate.says)}</b></p>", f"<p>{fate.tests[0].told()}</p>"]
    objection = fate.first_objection()
    if objection is not None:
        lines.append(f"<p>But {objection.told()}</p>")
    for name, tested in (("test", fate.tests), ("control", fate.controls)):
        lines.append(unfolds(name, tested))
    return "\n".join([*lines, "</li>"])


def unfolds(name: str, tested: list[Tested]) -> str:
    """All of a claim's tests or controls, folded below how many came out how."""
    counts = Counter(each.verdict for each in tested)
    said = ", ".join(f"{VERDICTS[verdict]} {n} {verdict}" for verdict, n in counts.items())
    lines = "\n".join(f"<li>{each.told()}</li>" for each in tested)
    head = f"<summary>{len(tested)} {name}{'s' * (len(tested) > 1)}: {said}</summary>"
    return f"<details>{head}<ul>\n{lines}\n</ul></details>"
