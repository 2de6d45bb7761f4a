"""The panels of the site's chapters in a browser: each is moved, and what it then shows is checked
against the library."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import PHONE, ROOT, SITE, WIDE, in_browser, picture, sideways

from sarsteer_lab.evaluation.separation import roc_area, uniform_bound

pytestmark = [
    *in_browser,
    pytest.mark.skipif(
        not (SITE / "index.html").is_file(), reason="no site here: make docs builds it"
    ),
]


def page_of(panel: str) -> str:
    """The page on which a panel stands, whatever the number of its chapter."""
    [page] = [
        path for path in SITE.rglob("*.html") if f'id="panel-{panel}"' in path.read_text("utf-8")
    ]
    return page.relative_to(SITE).as_posix()


def rows_of(view: Any) -> dict[str, list[str]]:
    """The numbers behind a panel, by what each row is about."""
    rows = view.locator(".numbers tbody tr")
    read = [rows.nth(i).locator("th, td").all_text_contents() for i in range(rows.count())]
    return {name: cells for name, *cells in read}


def slide(view: Any, label: str, value: float) -> None:
    """Put a slider to a value, as a script of the page would."""
    view.get_by_role("slider", name=label).fill(f"{value:g}")


def move_threshold(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """What the view counts is what the library counts, at ten thresholds."""
    for _ in range(10):
        form, odds = chooser.choice([*state["readings"]]), chooser.randrange(-156, 98) / 20
        view.get_by_label(form).check()
        slide(view, "Refuse what is readier than", odds)
        threshold = 1 / (1 + math.exp(-odds))
        kinds = {kind: np.array(scores) for kind, scores in state["readings"][form].items()}
        harmful = kinds.pop("harmful")
        others = np.concatenate([*kinds.values()])
        rows = rows_of(view)
        refused = int(rows["harmful"][0])
        assert refused == (harmful >= threshold).sum()
        for kind, scores in kinds.items():
            assert int(rows[kind][1]) == (scores < threshold).sum()
            assert float(rows[kind][2]) == pytest.approx(roc_area(harmful, scores), abs=0.0006)
        # The point lies on the line of what a uniform push can do at best.
        answered = sum(int(rows[kind][1]) for kind in kinds) / len(others)
        bound = uniform_bound(harmful, others)
        assert np.abs(bound - [answered, refused / len(harmful)]).max(1).min() < 1e-9
        places = view.locator("polyline.bound").get_attribute("points").split()
        circle = view.locator("circle.bound")
        assert ",".join(map(circle.get_attribute, ("cx", "cy"))) in places
    slider, strip = view.get_by_label("Refuse what is readier than"), view.locator(".dragged")
    slider.press("ArrowRight")
    before = slider.get_attribute("aria-valuetext")
    strip.scroll_into_view_if_needed()
    strip.click(position={"x": 0.8 * strip.bounding_box()["width"], "y": 20})
    assert slider.get_attribute("aria-valuetext") != before


def move_answers(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten settings, by the keys of the sliders: each card shows what was recorded."""
    for _ in range(10):
        request = chooser.choice(state["requests"])
        view.get_by_label(request["words"], exact=True).check()
        places = []
        for control in state["controls"]:
            places.append(chooser.randrange(len(control["values"])))
            put_control(view, control, places[-1])
        for name, answer in request["found"][",".join(map(str, places))].items():
            form = {"without steering": "typed", "steered": "spoken"}.get(name, name)
            card = view.locator(f"article[data-form={form}]")
            assert card.locator(".outcome").inner_text().split()[1] == answer["outcome"]
            words = "".join(answer["tokens"]).replace("\n", "↵") + (" …" if answer["cut"] else "")
            assert card.locator(".answer").text_content() == (words or "(nothing)")
            ready = int(card.locator(".readiness").inner_text().removesuffix("%"))
            assert abs(ready - 100 * answer["refusal_probability"]) <= 0.51
        audio = view.locator("audio").get_attribute("src")
        assert audio == f"../clips/{request['clip']}"
    assert view.locator("svg .now").count() == 1 and view.locator("button").count() == 0


def put_control(view: Any, control: dict[str, Any], place: int) -> None:
    """Put one of the controls of `answers.js` to a place of its values."""
    values = control["values"]
    if len(values) == 1:
        return
    if isinstance(values[0], str):
        view.get_by_label(values[place], exact=True).check()
        return
    slider = view.get_by_role("slider", name=f"{control['name']} =")
    slider.press("Home")
    for _ in range(place):
        slider.press("ArrowRight")


def move_gap(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten layers and points: the picture has each state where it lies; a click reads a request."""
    n = len(state["requests"])
    points = view.locator("svg :is(rect, circle)")
    for _ in range(10):
        layer, place = chooser.randrange(len(state["layers"])), chooser.randrange(2 * n)
        slide(view, "Layer", layer)
        slide(view, "Request", place)
        request = state["requests"][place % n]
        assert request["words"] in view.locator("p[role=status]").inner_text()
        assert ("typed" if place < n else "spoken") in view.locator("p[role=status]").inner_text()
        row = view.locator(".numbers tbody tr").nth(place % n).locator("td")
        places = [*state["layers"][layer][place % n], *state["layers"][layer][place % n + n]]
        assert [float(cell) for cell in row.all_text_contents()[1:]] == places
        chosen = points.nth(place).bounding_box()
        other = points.nth((place + 1) % (2 * n)).bounding_box()
        assert chosen["width"] > other["width"]
    before = view.locator("p[role=status]").inner_text()
    points.last.dispatch_event("click")
    assert view.locator("p[role=status]").inner_text() != before


MOVED = {"threshold": move_threshold, "dial": move_answers, "gap": move_gap}
"""What moves each panel of a chapter, and checks what it then shows."""


@pytest.mark.parametrize("panel", [*MOVED])
@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", PHONE)])
def test_a_chapters_panel_moves(
    browser: Any, address: str, panel: str, scheme: str, size: dict[str, int]
) -> None:
    recorded = json.loads((ROOT / f"docs/recordings/{panel}.json").read_text("utf-8"))
    page = browser.new_page(viewport=size, color_scheme=scheme)
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"{address}/{page_of(panel)}")
    view = page.locator(f"#panel-{panel}")
    view.locator("summary").last.click()  # the numbers behind it
    MOVED[panel](view, recorded["state"], random.Random(size["width"]))
    found = Axe().run(page, f"#panel-{panel}").response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    assert sideways(page) == 0 and not failed
    picture(page, f"site-panel-{panel}-{scheme}-{size['width']}", full_page=False)
    page.close()
