"""What pages are made of besides text: panels that can be moved, and the fate of the claims.

A panel is a view (an ECMAScript module in anywidget's form) and the recording that feeds it. Both
stand in the page itself, so that the panel works from a folder, too, and waits for no other file.
The claims are read from the closing tables in the committed summary; nothing of them is typed in.
"""

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from sarsteer_lab.course.executed import tables_in, verdict_word
from sarsteer_lab.course.four_claims import ASKED, Fate, Found, answers, decisive, fates
from sarsteer_lab.course.tables import plain
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


class Claims(Directive):
    """`claims`: the paper's claims, what became of each, what follows, and how to test it."""

    def run(self) -> list[nodes.Node]:
        """A list; below what decides a claim's fate all that was tested unfolds."""
        tables = tables_in(SUMMARY.read_text(encoding="utf-8"))
        entries = "\n".join(map(entry, fates(tables)))
        answered = "\n".join(f"<li>{told(row)}</li>" for row in answers(tables))
        asked = f"<p>{in_html(ASKED)}</p>\n<ul>\n{answered}\n</ul>"
        claims = f'<ol class="claims">\n{entries}\n</ol>'
        return [nodes.raw("", f"{asked}\n{claims}\n", format="html")]


def entry(fate: Fate) -> str:
    """A claim as an entry of the list."""
    claim = fate.claim
    lines = [f"<li><p><b>{html.escape(claim.says)}</b> <i>{fate.word()}.</i></p>"]
    lines += [f"<p>{told(row)}</p>" for row in decisive(fate)]
    lines.append(f"<p>What follows for a large model: {html.escape(claim.follows)}</p>")
    commands = ", then ".join(f"<code>{html.escape(each)}</code>" for each in claim.commands)
    lines.append(f"<p>Test it there: {commands}</p>")
    for name, rows in (("test", fate.tests), ("control", fate.controls)):
        lines.append(unfolds(name, rows))
    return "\n".join([*lines, "</li>"])


def in_html(markdown: str) -> str:
    """A sentence of Markdown with bold words and code."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(markdown))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def told(row: Found) -> str:
    """A tested claim in one line of HTML, the verdict first."""
    word = verdict_word(row.verdict)
    beside = plain(row.verdict).removeprefix(word)  # a sample that could tell, or the margin
    verdict = f'<b class="verdict">{VERDICTS[word]} {word}</b>{html.escape(beside)}{row.remark}'
    number = row.number_of_chapter
    place = "appendix" if number == "A" else "chapter"
    return f"{verdict}: {html.escape(plain(row.says))} ({place} {number})"


def unfolds(name: str, rows: list[Found]) -> str:
    """All of a claim's tests or controls, folded below how many came out how."""
    counts = Counter(verdict_word(row.verdict) for row in rows)
    said = ", ".join(f"{VERDICTS[verdict]} {n} {verdict}" for verdict, n in counts.items())
    lines = "\n".join(f"<li>{told(row)}</li>" for row in rows)
    head = f"<summary>{len(rows)} {name}{'s' * (len(rows) != 1)}: {said}</summary>"
    return f"<details>{head}<ul>\n{lines}\n</ul></details>"
