"""The panels of chapters 04 and 05 in a real browser: a headless Chromium against a JupyterLab of its own.

Skipped where there is no Chromium. Pictures of what was seen are left in `build/browser/`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from browsing import PICTURES, ROOT, in_browser, picture

from sarsteer_lab.store import data_folder

TOKEN = "a-token-for-one-test"

RUN_ALL_SECONDS = int(os.environ.get("SARSTEER_BROWSER_SECONDS", "900"))
ANSWER_MS = 60_000

FEWER = {
    'spread("test", label, 40)': 'spread("test", label, 6)',
    "N = 40": "N = 6",
    '"harmful": 30, "harmless": 20, "pseudo-harmful": 20, "everyday": 10': ", ".join(
        f'"{label}": 3' for label in ("harmful", "harmless", "pseudo-harmful", "everyday")
    ),
}
"""What the chapters ask here: it is the panels that are tried."""

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
    for path in (ROOT / "notebooks").glob("0[45]_*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
                for many, few in FEWER.items():
                    shortened.update({many} if many in cell.source else ())
                    cell.source = cell.source.replace(many, few)
        nbformat.write(notebook, folder / "notebooks" / path.name)
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
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_DATA_DIR": str(folder / "data"),
    }
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(120):
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


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    yield page
    page.close()


def run_all(page: Any, lab: str, name: str) -> None:
    """Open a notebook, run all of its cells from the menu, and wait for the table that ends each chapter."""
    page.goto(f"{lab}/lab/tree/{name}?token={TOKEN}&reset")
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    # Before its kernel is there, running would ask which one to start.
    page.get_by_text("| Idle").wait_for(timeout=90_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    closing = page.locator(".jp-OutputArea-output table", has_text="95% interval").last
    deadline = time.monotonic() + RUN_ALL_SECONDS
    while not closing.is_visible():
        if time.monotonic() > deadline:
            picture(page, f"stuck-{name}")
            pytest.fail(f"{name} did not come to its end in {RUN_ALL_SECONDS} s")
        traceback = page.locator(".jp-OutputArea-output:has-text('Traceback')")
        assert not traceback.count(), traceback.first.inner_text()[-2000:]
        page.wait_for_timeout(500)


def test_steer_panel_steers(page: Any, lab: str) -> None:
    run_all(page, lab, "04_steering.ipynb")
    panel = page.locator(".sarsteer-steer")
    panel.scroll_into_view_if_needed()
    left, right = (panel.locator(".sarsteer-answer").nth(i) for i in (0, 1))
    handle = panel.locator(".widget-slider .noUi-handle").first
    examples = panel.locator("select").first
    default = handle.get_attribute("aria-valuenow")
    seen = []
    for example in range(examples.locator("option").count()):
        examples.select_option(index=example)
        handle.press("Home")
        page.wait_for_function(
            "panel => { const [a, b] = panel.querySelectorAll('.sarsteer-answer');"
            " return b.textContent.includes('alpha = 0.00') &&"
            " a.querySelector('p').textContent === b.querySelector('p').textContent }",
            arg=panel.element_handle(),
            timeout=ANSWER_MS,
        )
        unsteered = left.locator("p").text_content()
        if example == 0:
            picture(page, "04-alpha-0")
        for _ in range(10):
            handle.press("ArrowRight")
        page.wait_for_function(
            "panel => panel.querySelectorAll('.sarsteer-answer')[1].textContent.includes('alpha = 0.10')",
            arg=panel.element_handle(),
            timeout=ANSWER_MS,
        )
        assert handle.get_attribute("aria-valuenow") == default
        steered = right.locator("p").text_content()
        assert left.locator("p").text_content() == unsteered
        seen.append((unsteered, steered))
        if steered != unsteered:
            picture(page, "04-alpha-default")
            break
    # How long a slider move takes depends on the machine: noted beside the pictures, not judged.
    seconds = panel.get_by_text("answered in").text_content() or ""
    (PICTURES / "04-seconds.txt").write_text(seconds + "\n")
    assert any(a != b for a, b in seen), f"steering changed none of the answers: {seen}"

    record = panel.locator(".sarsteer-record")
    record.click()
    page.wait_for_timeout(1500)
    record.click()
    panel.get_by_text("your recording").wait_for(timeout=ANSWER_MS)
    assert not panel.get_by_text("Error").count()
    picture(page, "04-recording")


def test_board_cell_is_read(page: Any, lab: str) -> None:
    run_all(page, lab, "05_over_refusal.ipynb")
    page.locator(".sarsteer-cell").first.scroll_into_view_if_needed()
    reading = page.locator(".sarsteer-reading")
    reading.get_by_text("Click a cell").wait_for(timeout=ANSWER_MS)  # it is drawn once it is in view
    cell = page.locator(".sarsteer-cell", has_text=" of ").first
    cell.wait_for(timeout=ANSWER_MS)
    # Not innerText: it is empty while the browser skips drawing a notebook cell that is out of view.
    words = (cell.text_content() or "").strip()
    cell.click()
    page.wait_for_function(
        "reading => reading.querySelectorAll('li').length > 0",
        arg=reading.element_handle(),
        timeout=ANSWER_MS,
    )
    count = int(words.rsplit(" of ", 1)[1])
    assert reading.locator("li").count() == count
    assert words in (reading.text_content() or "")
    picture(page, "05-cell")
