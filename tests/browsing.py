"""A headless Chromium for the tests that look at pages; without one they are skipped."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "build" / "browser"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

FAKE_MICROPHONE = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # it beeps

SITE = ROOT / "build" / "site"
"""Where `make docs` builds the site."""

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
WIDE = {"width": 1400, "height": 900}

in_browser = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"
    ),
]
"""The marks of a test that drives a browser."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_MICROPHONE]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site's address while tests run."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def picture(page: Any, name: str, **options: Any) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", **options)


def colours(page: Any) -> tuple[float, float]:
    """How light the page's ground and its text are, 0 to 255."""
    both = page.evaluate(
        "() => ['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name]"
        ".match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part) / 3, 0))"
    )
    return both[0], both[1]


def sideways(page: Any) -> int:
    """Pixels by which a page is wider than its window: what a reader on a phone would have to push
    aside."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
