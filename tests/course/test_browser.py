"""The panels in a real browser, some in chapters 04 and 07: a headless Chromium against a
JupyterLab.

Skipped where there is no Chromium. Pictures of what was seen are left in `build/browser/`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
from browsing import PICTURES, ROOT, in_browser, picture

from sarsteer_lab.course.folding import fold
from sarsteer_lab.paths import data_folder

TOKEN = "a-token-for-one-test"

RUN_ALL_SECONDS = int(os.environ.get("SARSTEER_BROWSER_SECONDS", "900"))
ANSWER_MS = RUN_ALL_SECONDS * 1000 // 15

FEWER = {
    "N = 40": "N = 6",
    "zip(LABELS, (30, 20, 20, 10))": "zip(LABELS, (3, 3, 3, 3))",
    'everyone = course.requests("test", labels=kinds)': "everyone = sets",
}
"""What the chapters ask here: it is the panels that are tried."""

VISUALS = [
    """
from IPython.display import HTML

from sarsteer_lab import course, load_prompts
from sarsteer_lab.course import figures, widgets
from sarsteer_lab.course.widgets.panels import picture
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.evaluation.table import judge_responses
from sarsteer_lab.prompts import REFUSALS

lalm = course.load_model("pocket")
pick = [p for label in ("harmful", "harmless") for p in load_prompts("derive", label)[:4]]
states = collect_states(lalm, pick, refusals={"inspect": REFUSALS["inspect"]})
vectors = states.sarsteer(k=2, refusal="inspect")
request = load_prompts("test", "harmful")[3]
HTML(picture(figures.architecture(lalm, request), 1100))
""",
    "widgets.playground()",
    "widgets.xray(lalm, request, vectors, alpha=0.1, max_new_tokens=4)",
    "widgets.ladder(lalm, request, vectors, (0, 0.1, 0.3), max_new_tokens=8)",
    """
asked = []
for label in ("harmful", "harmless", "pseudo-harmful"):
    asked += load_prompts("test", label)[:3]
long = "a reminder to inspect the audio before anything is answered"
said = {"none": "Here is how.", long: "I'm sorry, but I can't help with that."}
made = [(name, p, text) for name, text in said.items() for p in asked]
responses = [Response(name, p.label, p.id, p.label, p.request, text, 4) for name, p, text in made]
heard = {p.id: p.request if i % 2 else "something else" for i, p in enumerate(asked)}
widgets.over_refusal_board(responses, judge_responses(responses, [PhraseJudge()]), asked, heard)
""",
    "from IPython.display import Markdown\nMarkdown('| verdict |\\n| --- |\\n| none |')",
]
"""A notebook of the panels that no chapter has to be run for; its last cell ends it as a chapter
ends."""

pytestmark = [*in_browser, pytest.mark.pocket, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab on copies of the notebooks; gives its address."""
    pytest.importorskip("jupyterlab")
    if not (data_folder() / "pocket" / "readout.safetensors").is_file():
        pytest.skip("the pocket model's weights are not there")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    shortened: set[str] = set()
    for path in (ROOT / "notebooks").glob("0[47]_*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                for many, few in FEWER.items():
                    shortened.update({many} if many in cell.source else ())
                    cell.source = cell.source.replace(many, few)
        nbformat.write(notebook, folder / "notebooks" / path.name)
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in VISUALS]
    made = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    nbformat.write(made, folder / "notebooks" / "visuals.ipynb")
    nbformat.write(guessing(), folder / "notebooks" / "guessing.ipynb")
    assert shortened == set(FEWER), "a chapter has changed: how does it ask fewer requests now?"
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder / "notebooks",
        "IdentityProvider.token": TOKEN,
        "LabApp.user_settings_dir": folder / "settings",
        "LabApp.workspaces_dir": folder / "workspaces",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {
        "SARSTEER_COURSE_REFUSAL": "inspect",
        "SARSTEER_FIGURES": str(folder / "figures"),
        "SARSTEER_GUESSES": str(folder / "guesses"),
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_DATA_DIR": str(folder / "data"),
    }
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(RUN_ALL_SECONDS // 3):
                try:
                    urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "log").read_text()
                    time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def guessing() -> nbformat.NotebookNode:
    """A prediction with a question, and its debrief, folded as in a saved notebook."""
    question = "from sarsteer_lab import course\ncourse.guess('99-many', 'How many', 40)"
    output = nbformat.v4.new_output("display_data", {"text/plain": "What came out before"})
    debrief = "course.say('**Debrief.** Many.')\ncourse.came_out('99-many', 30)"
    cells = [
        nbformat.v4.new_markdown_cell("> **Predict.** How many?"),
        nbformat.v4.new_code_cell(question),
        nbformat.v4.new_code_cell(debrief, outputs=[output]),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    cells[2].outputs[0].data["text/markdown"] = "**Debrief.** What came out before"
    fold(notebook)
    assert cells[2].metadata.jupyter.outputs_hidden
    return notebook


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.set_default_timeout(ANSWER_MS)
    yield page
    page.close()


def run_all(page: Any, lab: str, name: str) -> None:
    """Open a notebook, run all of its cells from the menu, and wait for the table that ends each
    chapter."""
    page.goto(f"{lab}/lab/tree/{name}?token={TOKEN}&reset", timeout=2 * ANSWER_MS)
    page.locator(".jp-Notebook").wait_for(timeout=2 * ANSWER_MS)
    # Before its kernel is there, running would ask which one to start.
    page.get_by_text("| Idle").wait_for(timeout=2 * ANSWER_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    closing = page.locator(".jp-OutputArea-output table", has_text="verdict").last
    deadline = time.monotonic() + RUN_ALL_SECONDS
    while not closing.is_visible():
        if time.monotonic() > deadline:
            picture(page, f"stuck-{name}")
            pytest.fail(f"{name} did not come to its end in {RUN_ALL_SECONDS} s")
        traceback = page.locator(".jp-OutputArea-output:has-text('Traceback')")
        assert not traceback.count(), traceback.first.inner_text()[-2000:]
        page.wait_for_timeout(500)


def changed(page: Any, read: Callable[[], str | None], before: str | None) -> str:
    """What `read` gives once it is no longer `before`. (A panel makes its elements anew, so none is
    held.)"""
    deadline = time.monotonic() + ANSWER_MS / 1000
    while (now := read()) == before:
        assert time.monotonic() < deadline, f"nothing changed: {str(before)[:200]}"
        page.wait_for_timeout(200)
    return now or ""


def test_a_guess_is_kept_and_what_came_out_unfolds_when_it_is_run(page: Any, lab: str) -> None:
    page.goto(f"{lab}/lab/tree/guessing.ipynb?token={TOKEN}&reset", timeout=2 * ANSWER_MS)
    page.get_by_text("| Idle").wait_for(timeout=2 * ANSWER_MS)
    before = page.get_by_text("What came out before")
    assert not before.count() or not before.first.is_visible(), "it is folded"
    question, debrief = page.locator(".jp-CodeCell").all()
    question.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    panel = page.locator(".sarsteer-guess")
    panel.get_by_role("slider", name="How many").fill("25")
    panel.get_by_role("button", name="How many").click()
    panel.get_by_text("Kept: 25.").wait_for()
    debrief.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    told = page.get_by_text("your guess was 5 too low")
    told.wait_for()
    assert told.is_visible()
    picture(page, "guess")


def test_visuals_move(page: Any, lab: str) -> None:
    run_all(page, lab, "visuals.ipynb")

    def open_panel(name: str) -> Any:
        panel = page.locator(f".sarsteer-{name}")
        panel.scroll_into_view_if_needed()
        return panel

    panel = open_panel("playground")
    told = panel.locator("p[role=status]").text_content
    before = told(timeout=ANSWER_MS)
    panel.get_by_role("slider", name="Angle").press("ArrowRight")
    assert "as long as d" in changed(page, told, before)
    picture(page, "playground")

    panel = open_panel("xray")
    told = panel.locator("p[role=status]").text_content
    before = told(timeout=ANSWER_MS) or ""
    assert before.startswith("spoken")
    panel.locator(".films svg").first.locator("rect").nth(3).click()
    assert changed(page, told, before).startswith("typed")
    maps = panel.locator(".films").inner_html
    before = maps(timeout=ANSWER_MS)
    panel.get_by_label("refusing opening").check()
    before = changed(page, maps, before)
    panel.get_by_role("slider", name="Push").press("PageUp")
    changed(page, maps, before)
    assert not panel.get_by_text("Error").count()
    picture(page, "xray")

    panel = open_panel("answers")  # the ladder
    text = panel.locator("table").text_content
    before, rows = text(timeout=ANSWER_MS), panel.locator("tr").count()
    panel.get_by_role("slider", name="A strength").press("ArrowRight")
    assert "0.01" in changed(page, text, before) and panel.locator("tr").count() == rows + 1
    picture(page, "ladder")
    before = text()
    panel.get_by_label("typed", exact=True).check()
    changed(page, text, before)

    panel = open_panel("board")
    names = panel.locator(".board th, .board button")
    names.first.wait_for(timeout=ANSWER_MS)
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    assert names.count() > 6 and not names.evaluate_all(cut)
    text = panel.locator(".reading").text_content
    before = text()
    panel.locator(".board button").nth(1).click()
    assert "heard differently" in changed(page, text, before)
    assert panel.locator(".reading li").count() == 3
    sound = panel.locator("audio")
    for place in (0, 1):
        before = sound.get_attribute("src")
        panel.locator(".reading li button").nth(place).click()
        changed(page, lambda: sound.get_attribute("src"), before)
    picture(page, "board")


def test_steer_panel_steers(page: Any, lab: str) -> None:
    run_all(page, lab, "04_steering.ipynb")
    panel = page.locator(".sarsteer-answers", has=page.locator("article"))
    panel.scroll_into_view_if_needed()
    cards = {name: panel.locator(f"article[data-form={name}] .answer") for name in ALIKE}
    slider = panel.get_by_role("slider", name="alpha =")

    def said(form: str) -> str | None:
        return cards[form].text_content(timeout=ANSWER_MS)

    examples = panel.locator(".requests input")
    seen = []
    for example in range(examples.count()):
        examples.nth(example).check()
        slider.press("Home")
        answered(page, panel, slider, "0")
        unsteered = said("typed")
        assert said("spoken") == unsteered
        if example == 0:
            picture(page, "04-alpha-0")
        for _ in range(10):
            slider.press("ArrowRight")
        answered(page, panel, slider, "0.1")
        assert said("typed") == unsteered
        seen.append((unsteered, said("spoken")))
        if unsteered != seen[-1][1]:
            picture(page, "04-alpha-default")
            break
    # How long a slider move takes depends on the machine: noted beside the pictures, not judged.
    seconds = panel.get_by_text("answered in").text_content() or ""
    (PICTURES / "04-seconds.txt").write_text(seconds + "\n")
    assert any(a != b for a, b in seen), f"steering changed none of the answers: {seen}"

    record = panel.locator(".record")
    record.click()
    page.wait_for_timeout(1500)
    record.click()
    panel.get_by_text("your recording").first.wait_for(timeout=ANSWER_MS)
    assert not panel.get_by_text("Error").count()
    picture(page, "04-recording")


ALIKE = ("typed", "spoken")
"""How the two answers are marked: the one without steering like a typed one, the steered like a
spoken one."""


def answered(page: Any, panel: Any, slider: Any, value: str) -> None:
    """Wait until the panel shows answers at a value of its first slider."""
    told = panel.locator("p[role=status]")
    deadline = time.monotonic() + ANSWER_MS / 1000
    while not (told.text_content() or "").startswith(f"alpha {value}:"):
        assert time.monotonic() < deadline, told.text_content()
        page.wait_for_timeout(200)
    assert slider.get_attribute("aria-valuetext") == value


def test_board_cell_is_read(page: Any, lab: str) -> None:
    run_all(page, lab, "07_compare_defences.ipynb")
    panel = page.locator(".sarsteer-board")
    panel.scroll_into_view_if_needed()
    reading = panel.locator(".reading")
    reading.get_by_text("Choose a cell").wait_for(timeout=ANSWER_MS)  # drawn once it is in view
    cell = panel.locator(".board button", has_text=" of ").first
    cell.wait_for(timeout=ANSWER_MS)
    # Not innerText: it is empty while the browser skips drawing a notebook cell that is out of
    # view.
    words = (cell.text_content() or "").strip()
    cell.click()
    reading.locator("li").first.wait_for(timeout=ANSWER_MS)
    count = int(words.rsplit(" of ", 1)[1])
    assert reading.locator("li").count() == count
    assert words in (reading.text_content() or "")
    picture(page, "05-cell")
