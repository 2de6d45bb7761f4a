"""The panels of the site's chapters in a browser: each is moved, and what it then shows is checked
against the library."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browsing import PHONE, ROOT, SITE, WIDE, in_browser, picture, sideways

from sarsteer_lab.evaluation.separation import best_benign_rate, roc_area, uniform_bound
from sarsteer_lab.safe_space import ablate, principal_space, share_in_space

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
    rows = view.locator("details .numbers tbody tr")
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
        assert audio.removeprefix("../") == f"clips/{request['clip']}"
        for label, counts in state.get("counts", {}).items():
            said = view.locator(f".count[data-label={label}] .said").inner_text()
            assert said.startswith(f"{counts['refused'][places[0]]} of {counts['n']} refused")
    assert view.locator("svg .now").count() == 1 and view.locator("button").count() == 0
    assert view.locator("audio").evaluate(HEARD_FOR) > 0.5


def move_ladder(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Both forms: the rows up to the first broken answer, turns marked, and the chosen row."""
    alphas, forms = (control["values"] for control in state["controls"])
    found = state["requests"][0]["found"]
    for place, form in enumerate(forms):
        view.get_by_label(form, exact=True).check()
        chosen = chooser.randrange(len(alphas))
        put_control(view, state["controls"][0], chosen)
        rows = view.locator("table.ladder tbody tr")
        above = None
        for number in range(rows.count()):
            alpha = float(rows.nth(number).locator("th").text_content())
            answer = found[f"{alphas.index(alpha)},{place}"][form]
            cells = rows.nth(number).locator("td").all_text_contents()
            assert cells[0] == f"{answer['refusal_probability']:.2f}"
            assert cells[1].split()[1] == answer["outcome"]
            said = cells[2].replace("▼", "").removesuffix("(ends)").removesuffix(" …")
            assert said == "".join(answer["tokens"]).replace("\n", "↵")
            turned = above is not None and above != answer["tokens"]
            assert ("▼" in cells[2]) == turned
            above = answer["tokens"]
            marked = rows.nth(number).get_attribute("class")
            assert (marked == "marked") == (alpha == alphas[chosen])
        outcomes = [found[f"{i},{place}"][form]["outcome"] for i in range(len(alphas))]
        until = outcomes.index("broken") + 1 if "broken" in outcomes else len(alphas)
        assert rows.count() in (until, until + 1) and rows.count() > 3


def put_control(view: Any, control: dict[str, Any], place: int) -> None:
    """Put one of the controls of `answers.js` to a place of its values."""
    values = control["values"]
    if len(values) == 1:
        return
    if isinstance(values[0], str):
        view.get_by_label(values[place], exact=True).check()
        return
    slider = view.get_by_role("slider", name=f"{control['label']} =")
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


def move_playground(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten settings: the view computes the vectors, and counts, as the library does."""
    clouds = {kind: torch.tensor(cloud) for kind, cloud in state["clouds"].items()}
    space = principal_space(clouds["harmless"][:, None], 3)
    for _ in range(10):
        angle, k = 5 * chooser.randrange(-18, 19), chooser.randrange(4)
        lam, alpha = chooser.randrange(16), chooser.randrange(31)
        for label, value in (("Angle", angle), ("k =", k), ("lambda", lam), ("alpha", alpha)):
            slide(view, label, value)
        turn, depth = math.radians(angle), state["depth"]
        flat = [math.cos(turn), math.sin(turn) * math.cos(depth), math.sin(turn) * math.sin(depth)]
        d = state["length"] * torch.tensor([flat])
        v = ablate(d, space.first(k), lam / 10)
        pushes = {"no push": 0 * d, "d": d, "v": v, "control": d * v.norm() / d.norm()}
        rows = rows_of(view)
        for name, push in pushes.items():
            for kind, counted in zip(("harmful", "harmless"), rows[name], strict=False):
                beyond = clouds[kind][:, 0] + alpha / 10 * push[0, 0] > state["line"]
                assert int(counted) == int(beyond.sum())
            assert float(rows[name][2]) == pytest.approx(float(push.norm()), abs=6e-4)
        moved = chooser.choice([("direction d", "d"), ("ablated v", "v"), ("control", "control")])
        view.get_by_label(moved[0], exact=True).check()
        refused = int(rows[moved[1]][0])
        answered = best_benign_rate(
            clouds["harmful"][:, 0].numpy(), clouds["harmless"][:, 0].numpy(), refused / 60
        )
        told = view.locator("p[role=status]").inner_text()
        assert f"Refused: {refused} of 60 harmful" in told
        assert f"takes at least {round(60 * (1 - answered))} of 60" in told
        share = round(100 * float(share_in_space(d, space.first(k))))
        assert f"{share}% of d" in told


def move_explorer(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten settings: shares and lengths follow from what was recorded, tokens are the nearest's."""
    for _ in range(10):
        k, lam = chooser.randrange(len(state["inside"])), chooser.randrange(16)
        layer = chooser.randrange(len(state["lengths"]))
        for label, value in (("k =", k), ("lambda", lam), ("Layer", layer)):
            slide(view, label, value)
        across, length = state["inside"][k][layer], state["lengths"][layer]
        left = math.sqrt(length**2 - across**2 + ((1 - lam / 10) * across) ** 2) / length
        told = view.locator("p[role=status]").inner_text()
        assert abs(100 * left - int(told.rsplit("leaves ")[1].split("%")[0])) <= 0.51
        assert float(rows_of(view)[str(layer)][0]) == pytest.approx(
            (across / length) ** 2, abs=1e-4
        )
        keys = [[*map(int, key.split(","))] for key in state["tokens"]]
        far = {abs(a - k) + abs(b - lam) / 10: [a, b] for a, b, c in keys if c == layer}
        nearest = far[min(far)]
        shown = view.locator(".raised").inner_text()
        assert ("Recorded nearest" in shown) == (nearest != [k, lam])
        if nearest == [k, lam]:
            tokens = state["tokens"][f"{k},{lam},{layer}"]["removed"]
            assert [json.dumps(each, ensure_ascii=False) for each in tokens] == view.locator(
                ".raised p", has_text="removed"
            ).locator("code").all_text_contents()


def move_seconds(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten cells of recorded maps, chosen with the sliders; a click on a cell chooses it."""
    for _ in range(10):
        request = chooser.randrange(len(state["requests"]))
        donor = chooser.randrange(len(state["donors"]))
        found = state["maps"][f"{request},{donor}"]
        window, layer = chooser.randrange(len(found["windows"])), chooser.randrange(2)
        view.get_by_label(state["requests"][request]["words"], exact=True).check()
        view.get_by_label(state["donors"][donor], exact=True).check()
        slide(view, "Window", window)
        slide(view, "Put in after layer", layer)
        told = view.locator("p[role=status]").inner_text().replace("−", "-")
        assert f"Silent there: {found['silenced'][window]:+.2f}." in told
        assert f"layer {state['layers'][layer]}: {found['patched'][layer][window]:+.2f}." in told
        assert view.locator("svg text", has_text=found["words"][0][0]).count() > 0
        row = view.locator(".numbers tbody tr").nth(window).locator("td")
        heard = int(row.first.inner_text().removesuffix("%"))
        assert abs(heard - 100 / (1 + math.exp(-found["so_far"][window]))) <= 0.51
        word = chooser.randrange(len(found["words"]))
        text, start, end = found["words"][word]
        view.locator("audio").evaluate(HEARD_TO, (start + end) / 2)
        assert view.locator("svg .lit").all_text_contents() == [text]
    cells = view.locator("svg").last.locator("rect")
    before = view.locator("p[role=status]").inner_text()
    cells.first.dispatch_event("click")
    view.page.wait_for_timeout(100)
    assert view.locator("p[role=status]").inner_text() != before or layer == window == 0


def move_board(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """Ten cells: their counts and what is read; then fewer defences, a condition, and a clip."""
    sets = [name for name in state["sets"] if scored(state, name)]
    for _ in range(10):
        defence, name = chooser.choice(state["defences"]), chooser.choice(sets)
        responses = state["cells"][defence][name]
        cell = view.get_by_role("button", name=f"{defence} on {name}:", exact=False).first
        outcomes = [outcome for _, outcome, _ in responses]
        for outcome in set(outcomes):
            assert f"{outcomes.count(outcome)} {outcome}" in cell.inner_text()
        cell.click()
        read = view.locator(".reading li")
        assert read.count() == len(responses)
        place = chooser.randrange(len(responses))
        request, outcome, opening = responses[place]
        text = read.nth(place).text_content()
        assert state["requests"][request]["words"] in text and outcome in text and opening in text
    harmful = [d for d in state["defences"] if d != state["defences"][0]]
    view.get_by_label(state["defences"][0], exact=True).uncheck()
    assert view.locator("table.board tbody tr").count() == len(harmful)
    rows = rows_of(view)
    assert [*rows] == [*harmful, "yours"]
    for defence in harmful:
        row = rows[defence]
        cell = state["cells"][defence]
        of_kind = {"harmful": [], "others": []}
        for name in sets:
            for request, outcome, _ in cell[name]:
                label = state["requests"][request]["label"]
                of_kind["harmful" if label == "harmful" else "others"].append(outcome)
        refused = of_kind["harmful"].count("refused") / len(of_kind["harmful"])
        answered = of_kind["others"].count("answered") / len(of_kind["others"])
        assert [float(part) for part in row] == pytest.approx([refused, answered], abs=6e-4)
    mix_conditions(view, state, sets, chooser)
    view.locator(".reading li button").first.click()
    assert view.locator("svg .number").count() == len(harmful)
    assert view.locator("audio").get_attribute("src").startswith("../clips/")


def scored(state: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The requests of a set, if they have scores."""
    responses = state["cells"][state["defences"][0]][name]
    requests = [state["requests"][request] for request, *_ in responses]
    return [request for request in requests if "scores" in request]


def mix_conditions(
    view: Any, state: dict[str, Any], sets: list[str], chooser: random.Random
) -> None:
    """What ten conditions of weighted scores refuse, and the bound beside them."""
    requests = [request for name in sets for request in scored(state, name)]
    harmful = np.array([request["label"] == "harmful" for request in requests])
    scores = np.array([request["scores"] for request in requests])  # request score
    standard = (scores - scores.mean(0)) / scores.std(0)
    readiness = scores[harmful, 0], scores[~harmful, 0]
    told = view.locator("p[role=status]")
    for number in range(10):
        weights = [chooser.randrange(-10, 11) for _ in state["scores"]]
        if number == 0:  # own readiness alone is no better than itself
            weights = [10, *[0] * (len(weights) - 1)]
        for name, weight in zip(state["scores"], weights, strict=True):
            slide(view, f"Weight of {name}", weight)
        n = chooser.randrange(1, len(requests) + 1)
        slide(view, "Requests refused", n)
        mixed = standard @ weights
        beyond = mixed >= np.sort(mixed)[-n] - 1e-9
        refused, answered = int(beyond[harmful].sum()), int((~beyond[~harmful]).sum())
        said = told.inner_text()
        assert f"refuses {refused} of {harmful.sum()} harmful" in said
        assert f"leaves {answered} of {(~harmful).sum()} others" in said
        limit = best_benign_rate(*readiness, refused / harmful.sum())
        assert f"leaves {round(limit * (~harmful).sum())} at best" in said
        area = float(said.split("area of ")[1][:4])
        assert area == pytest.approx(roc_area(mixed[harmful], mixed[~harmful]), abs=0.006)
        assert rows_of(view)["yours"][0] == f"{refused / harmful.sum():.3f}"
        assert number or "beyond the bound" not in said
    for unscored in [name for name in state["sets"] if name not in sets]:
        view.get_by_label(unscored, exact=True).check()
        assert "sets whose requests have scores" in told.inner_text()
        view.get_by_label(unscored, exact=True).uncheck()


def move_xray(view: Any, state: dict[str, Any], chooser: random.Random) -> None:
    """It begins with the last position and some layers, and opens; ten cells say what they hold."""
    first, last = state["first"]
    few = view.locator("svg rect").count()
    films = [state["films"][form] for form in state["forms"][:-1]] + [state["films"]["steered,0"]]
    begun = sum(len(film["names"]) - film["answer"] + 1 for film in films)
    assert few == begun * (last - first + 1)
    view.get_by_label("all positions and layers").check()
    assert view.locator("svg rect").count() > 2 * few
    for _ in range(10):
        place = chooser.randrange(len(state["alphas"]))
        slide(view, "Push", place)
        films = {form: state["films"][form] for form in state["forms"][:-1]}
        films["steered"] = state["films"][f"steered,{place}"]
        cells = [(form, i) for form, film in films.items() for i in range(len(film["names"]))]
        cell, layer = chooser.randrange(len(cells)), chooser.randrange(len(state["layers"]))
        slide(view, "Position", cell)
        slide(view, "Layer", layer)
        form, column = cells[cell]
        told = view.locator("p[role=status]").inner_text()
        film = films[form]
        assert told.startswith(
            f"{form}, layer {state['layers'][layer]}, at “{film['names'][column]}”"
        )
        assert f"projection {film['projection'][layer][column]:.2f}" in told
        opening = film["refusing opening"][layer][column]
        assert (f"refusal {opening:.3f}" if opening >= 0 else "not measured") in told
        view.get_by_label(chooser.choice(["projection", "refusing opening"]), exact=True).check()


HEARD_FOR = """audio => new Promise((done, failed) => {
    audio.addEventListener("loadedmetadata", () => done(audio.duration));
    audio.addEventListener("error", () => failed(new Error(audio.src)));
    audio.preload = "metadata";
    audio.load();
})"""
"""How many seconds of sound a player of the page has; an error if it cannot play its clip."""

HEARD_TO = """async (audio, seconds) => {
    const clip = await (await fetch(audio.src)).blob();  // the test's server sends no parts of it
    audio.preload = "auto";
    audio.src = URL.createObjectURL(clip);
    audio.addEventListener("loadedmetadata", () => (audio.currentTime = seconds), { once: true });
    await new Promise(done => audio.addEventListener("seeked", done, { once: true }));
}"""
"""Puts a player of the page to some seconds of its clip."""

MOVED = {
    "steering": move_answers,
    "ladder": move_ladder,
    "threshold": move_threshold,
    "dial": move_answers,
    "steer": move_answers,
    "gap": move_gap,
    "playground": move_playground,
    "explorer": move_explorer,
    "seconds": move_seconds,
    "board": move_board,
    "xray": move_xray,
}
"""What moves each panel of a chapter, and checks what it then shows."""


@pytest.mark.parametrize("panel", [*MOVED])
@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", PHONE)])
def test_a_chapters_panel_moves(
    browser: Any, address: str, panel: str, scheme: str, size: dict[str, int]
) -> None:
    file = ROOT / "docs" / "recordings" / f"{panel}.json"
    if not file.is_file():
        pytest.skip("not recorded")
    recorded = json.loads(file.read_text("utf-8"))
    page = browser.new_page(viewport=size, color_scheme=scheme)
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"{address}/{page_of(panel)}")
    view = page.locator(f"#panel-{panel}")
    # A panel that answers a prediction is folded.
    page.locator(f"details:has(#panel-{panel})").evaluate_all(
        "all => all.forEach(x => x.open = true)"
    )
    if view.locator("summary").count():
        view.locator("summary").last.click()  # the numbers behind it
    MOVED[panel](view, recorded["state"], random.Random(size["width"]))
    found = Axe().run(page, f"#panel-{panel}").response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    assert sideways(page) == 0 and not failed
    picture(page, f"site-panel-{panel}-{scheme}-{size['width']}", full_page=False)
    page.close()


def truths(path: Path) -> list[dict[str, Any]]:
    """The questions that a committed chapter asks, with what came out."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            question = output.get("data", {}).get("application/vnd.sarsteer-lab.guess+json", {})
            if "truth" in question:
                found.append(dict(question))
    return found


CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", PHONE)])
def test_guesses_are_kept_and_scored(
    browser: Any, address: str, scheme: str, size: dict[str, int]
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    [asked, *_] = [found for found in map(truths, CHAPTERS) if len(found) > 1]
    guesses = [question["most"] // 4 for question in asked]
    page.goto(f"{address}/{page_of('guess-' + asked[0]['key'])}")
    for question, guess in zip(asked, guesses, strict=True):
        view = page.locator(f"#panel-guess-{question['key']}")
        slide(view, question["words"], guess)
        view.get_by_role("button", name=question["words"]).click()
        assert f"Kept: {guess}." in view.locator("[role=status]").inner_text()
    for _ in range(2):  # in this page, and when the reader comes back
        score = page.locator("div[id^=panel-score-]")
        for number, (question, guess) in enumerate(zip(asked, guesses, strict=True)):
            cells = score.locator("tbody tr").nth(number).locator("td").all_text_contents()
            truth = question["truth"]
            assert cells == [
                str(guess),
                f"{truth} of {question['most']}",
                str(abs(guess - truth)),
            ]
        told = score.locator("[role=status]").inner_text()
        n_high = sum(guess > each["truth"] for guess, each in zip(guesses, asked, strict=True))
        missed = 0.0
        for guess, question in zip(guesses, asked, strict=True):
            missed += abs(guess - question["truth"]) / question["most"] / len(asked)
        assert f"Of {len(asked)} guesses {n_high} were too high" in told
        [share] = re.findall(r"missed by (\d+)% of the range on average", told)
        assert abs(int(share) - 100 * missed) <= 0.51
        page.reload()
    for panel in (f"#panel-guess-{asked[0]['key']}", "div[id^=panel-score-]"):
        found = Axe().run(page, panel).response["violations"]
        assert not [(each["id"], each["nodes"][0]["html"][:200]) for each in found]
    assert sideways(page) == 0
    score.scroll_into_view_if_needed()
    picture(page, f"site-score-{scheme}-{size['width']}")
    # At the end of the course all questions stand together.
    page.goto(f"{address}/{page_of('score-course')}")
    whole = page.locator("#panel-score-course")
    assert whole.locator("tbody tr").count() == sum(len(truths(path)) for path in CHAPTERS)
    assert f"Of {len(asked)} guesses" in whole.locator("[role=status]").inner_text()
    whole.get_by_role("button").click()
    assert whole.get_by_text("No guess is kept so far.").count() == 1
    context.close()
