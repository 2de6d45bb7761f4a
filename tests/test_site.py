"""The site that `make docs` has built: whole, self-contained, and readable on a phone and in the
dark."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import DESK, PHONE, ROOT, SITE, colours, in_browser, picture, sideways

import sarsteer_lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SITE / "index.html").is_file(), reason="no site here: make docs builds it"
    ),
]

LOADED = {"src", "srcset", "poster", "data"}
"""Attributes whose target a browser fetches; so is the href of a <link>, unless it only
describes."""


SEEN = ["index", "chapters/index", "chapters/04_steering", "exercises/04_steering"]
SEEN += ["workshops/00_ears_and_mouth", "findings", "own_prompts", "api", "lecturer"]
"""Pages that the browser opens."""

VIEW = "application/vnd.jupyter.widget-view+json"
"""How a notebook marks what only a kernel can show."""


class Links(HTMLParser):
    """A page's anchors, the targets of its links, and what it makes a browser load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.loaded += [value for name, value in found.items() if name in LOADED and tag != "a"]
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href", ""))
        elif "href" in found:
            self.targets.append(found["href"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Links]:
    return {path: Links(path) for path in sorted(SITE.rglob("*.html"))}


def test_every_chapter_exercise_and_how_to_has_its_page(pages: dict[Path, Links]) -> None:
    names = {str(path.relative_to(SITE)) for path in pages}
    expected = {"index.html", "findings.html", "api.html", "lecturer.html"}
    expected |= {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    for folder, section in (("", "chapters"), ("exercises", "exercises"), ("appendix", "appendix")):
        expected |= {
            f"{section}/{p.stem}.html" for p in (ROOT / "notebooks" / folder).glob("*.ipynb")
        }
    assert expected <= names
    assert not [name for name in names if "solutions" in name]


def test_no_link_is_broken(pages: dict[Path, Links]) -> None:
    broken = []
    for path, links in pages.items():
        for target in [*links.targets, *links.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = place / "index.html" if place.is_dir() else place
            there = place.is_file() and SITE in place.parents
            if there and parts.fragment and place in pages:
                there = unquote(parts.fragment) in pages[place].anchors
            if not there:
                broken.append(f"{path.relative_to(SITE)}: {target}")
    assert not broken, "\n".join(broken)


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Links]) -> None:
    elsewhere = {
        (path.name, target)
        for path, links in pages.items()
        for target in links.loaded
        if (urlsplit(target).scheme or urlsplit(target).netloc) and not target.startswith("data:")
    }
    assert not elsewhere
    for sheet in SITE.rglob("*.css"):
        assert not re.search(
            r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")
        )


def test_chapters_come_with_their_outputs_and_a_notebook_to_take_home() -> None:
    [cell, _] = re.findall(
        r"^```python.*?\n(.*?)\n```$", (ROOT / "docs/colab.md").read_text(), flags=re.M | re.S
    )
    for path in (ROOT / "notebooks").glob("0*.ipynb"):
        text = html.unescape((SITE / "chapters" / f"{path.stem}.html").read_text(encoding="utf-8"))
        committed = nbformat.read(path, as_version=4).cells
        outputs = [each.get("data", {}) for cell in committed for each in cell.get("outputs", [])]
        pictures = sum("image/png" in data and "text/html" not in data for data in outputs)
        assert len(re.findall(r'<img [^>]*src="\.\./_images/', text)) == pictures
        claims = [
            data["text/markdown"]
            for data in outputs
            if "| claim |" in data.get("text/markdown", "")
        ]
        assert len(re.findall(r"<th[^>]*><p>claim</p></th>", text)) == len(claims)
        taken = nbformat.read(SITE / "chapters" / path.name, as_version=4).cells
        code = [each.source for each in taken if each.cell_type == "code"]
        assert (
            code == [each.source for each in committed if each.cell_type == "code"]
            and code[0] == cell
        )
        assert cell.splitlines()[0] not in text  # nobody reads a page to install something


def test_a_panel_stands_here_as_its_still() -> None:
    """The HTML that the notebook holds beside the live view, and not the view."""
    stills = 0
    for path in (ROOT / "notebooks").glob("0*.ipynb"):
        text = (SITE / "chapters" / f"{path.stem}.html").read_text(encoding="utf-8")
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if VIEW in output.get("data", {}):
                    stills += 1
                    assert output["data"]["text/html"].strip() in text, (path.name, cell.id)
        assert VIEW not in text
    assert stills > 5


def test_markdown_is_read_as_jupyter_reads_it(pages: dict[Path, Links]) -> None:
    """Lists right below a line, and what unfolds."""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "```" not in text and not re.search(r"\{(code-block|toctree|eval-rst)\}", text), path
    text = (SITE / "chapters" / "04_steering.html").read_text(encoding="utf-8")
    assert re.search(r"<strong>After this chapter you can</strong></p>\s*<ul", text)
    hidden = (SITE / "workshops" / "00_ears_and_mouth.html").read_text(encoding="utf-8")
    assert re.search(r"<details>\s*<summary>Solution</summary>\s*<div class=\"highlight", hidden)


def test_a_block_that_no_test_runs_says_why() -> None:
    reasons = 0
    for path in (ROOT / "docs").glob("*.md"):
        page = html.unescape((SITE / f"{path.stem}.html").read_text(encoding="utf-8"))
        words = " ".join(re.sub(r"<[^>]+>", "", page).split())
        for reason in re.findall(r'^```\w+ title="([^"]*)"$', path.read_text(), flags=re.M):
            reasons += 1
            assert reason.split("`")[0] in words, (path.name, reason)
    assert reasons > 0


def test_formulas_are_drawn_by_the_browser_itself(pages: dict[Path, Links]) -> None:
    text = (SITE / "chapters" / "04_steering.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 4
    for path in pages:
        text = path.read_text(encoding="utf-8")
        # (Signs of MathML may be of a class "mathopen".)
        assert not re.search(r"<script[^>]*mathjax|class=\"math[\" ]", text, flags=re.I), path


def test_the_library_page_describes_every_public_name(pages: dict[Path, Links]) -> None:
    found = pages[SITE / "api.html"].anchors
    names = {anchor.rpartition(".")[2] for anchor in found}
    assert set(sarsteer_lab.__all__) <= names


def test_the_clips_that_panels_play_are_the_shipped_ones() -> None:
    for path in (ROOT / "docs/recordings").glob("*.json"):
        for clip in re.findall(r'"clip": "([^"]+)"', path.read_text("utf-8")):
            shipped = ROOT / "data" / "prompts" / "clips" / clip
            assert (SITE / "clips" / clip).read_bytes() == shipped.read_bytes()
    assert len([*(SITE / "clips").iterdir()]) >= 8


def test_the_first_page_tells_the_claims_fate_as_the_summary_does() -> None:
    text = html.unescape((SITE / "index.html").read_text(encoding="utf-8"))
    page = " ".join(re.sub(r"<[^>]+>", "", text).split())
    summary = (ROOT / "figures" / "walkthrough" / "summary.md").read_text(encoding="utf-8")
    rows = [line for line in summary.splitlines() if re.match(r"\| \*\*[1-4]\.\*\* ", line)]
    assert len(rows) == 4
    told = 0
    for row in rows:
        cells = row.strip("| ").split(" | ")
        says, tests, controls, follows, commands = cells
        assert says.partition("** ")[2] in page and follows in page
        assert commands.replace("`", "") in page
        fate, *tests = tests.split("<br>")
        assert f"{re.match(r'[*][*](.+?)[*][*]', fate)[1]}." in page
        for line in [*tests, *controls.split("<br>")]:
            assert on_the_first_page(line) in page, line
            told += 1
    folded = re.findall(r"<details><summary>(\d+) (?:test|control)s?:", text)
    assert sum(map(int, folded)) == told > 20


def on_the_first_page(line: str) -> str:
    """A line of the summary's page of claims as the site words it: the verdict first."""
    measured, _, verdict = re.sub(r"^\([A\d]\) ", "", line).rpartition(": **")
    verdict = verdict.replace("*", "")
    place = "appendix" if line[1] == "A" else "chapter"
    return f"{verdict}: {measured.replace('*', '')} ({place} {line[1]})"


def test_the_decisive_lines_come_first_on_the_site_and_are_not_folded() -> None:
    text = html.unescape((SITE / "index.html").read_text(encoding="utf-8"))
    assert text.index('<ol class="claims">') < text.index('id="panel-steering"')
    summary = (ROOT / "figures" / "walkthrough" / "summary.md").read_text(encoding="utf-8")
    rows = [line for line in summary.splitlines() if re.match(r"\| \*\*[1-4]\.\*\* ", line)]
    asked = text.index("Does the model know?")
    assert asked < text.index("0.96 against 0.68") < text.index('<ol class="claims">')
    entries = re.findall(r"<li><p><b>.*?(?=<details>)", text, flags=re.S)
    assert len(entries) == len(rows)
    for entry, row in zip(entries, rows, strict=True):
        seen = " ".join(re.sub(r"<[^>]+>", "", entry).split())
        _, tests, controls, follows, _ = row.strip("| ").split(" | ")
        assert follows in seen and "Test it there: " in seen
        assert on_the_first_page(tests.split("<br>")[1]) in seen
        worst = controls.split("<br>")[0]
        assert on_the_first_page(worst) in seen or "**seen**" in worst


class TestInTheBrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
    def test_it_is_readable(
        self, browser: Any, address: str, scheme: str, size: dict[str, int]
    ) -> None:
        page = browser.new_page(viewport=size, color_scheme=scheme)
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None
        )
        page.on("pageerror", lambda error: failed.append(str(error)))
        for name in SEEN:
            page.goto(f"{address}/{name}.html")
            page.locator("article h1").first.wait_for()
            ground, ink = colours(page)
            assert (
                (ground > 200 and ink < 90) if scheme == "light" else (ground < 60 and ink > 180)
            ), name
            assert sideways(page) == 0, name
            picture(page, f"site-{name.replace('/', '-')}-{scheme}-{size['width']}")
        page.close()
        own = (address, "data:", "blob:")
        assert not failed and not [url for url in asked if not url.startswith(own)]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_first_page_is_accessible(self, browser: Any, address: str, scheme: str) -> None:
        page = browser.new_page(viewport=PHONE, color_scheme=scheme)
        page.goto(f"{address}/index.html")
        page.locator(".sarsteer-view input[type=range]").wait_for()
        found = Axe().run(page, "article").response["violations"]
        assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
        page.close()

    def test_what_its_panel_waits_for_takes_two_seconds_at_most(
        self, browser: Any, address: str
    ) -> None:
        """From a cold start at 10 Mbit/s.

        Bytes are counted, not seconds, which depend on what else the machine does.
        """
        page = browser.new_context(viewport=PHONE).new_page()
        sizes: list[int] = []
        page.on("response", lambda answer: sizes.append(len(answer.body())))
        page.goto(f"{address}/index.html", wait_until="networkidle")
        page.locator(".sarsteer-view input[type=range]").wait_for()
        assert len(sizes) > 3 and 8 * sum(sizes) / 10e6 < 2
        page.context.close()

    def test_the_search_finds_a_name(self, browser: Any, address: str) -> None:
        page = browser.new_page(viewport=DESK)
        page.goto(f"{address}/index.html")
        page.locator(".search-button__button:visible").first.click()
        page.locator("dialog input[name=q]").fill("principal_space")
        page.keyboard.press("Enter")
        page.locator("#search-results a[href*='api.html']").first.wait_for(timeout=60_000)
        page.close()
