"""The page to share: its numbers are the run's, it needs nothing else, and a phone shows it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import DESK, PHONE, colours, in_browser, picture, sideways
from spoken_set import write_set

from sarsteer_lab.cli import main
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.phrases import SHOWN_WORDS
from sarsteer_lab.evaluation.report import evaluate_into, write_report
from sarsteer_lab.evaluation.run import read_lines, write_lines
from sarsteer_lab.evaluation.run_check import sealed
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request

DEFENCES = ["none", "self-reminder before", "refusal direction"]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[float, int], np.ndarray]
) -> list[Path]:
    """Two finished runs on the tiny replica; the second has one defence."""
    folder = tmp_path_factory.mktemp("runs")
    asked = f"prompts:{write_set(folder / 'set', make_clip)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(folder / "cache"))
        for name, defences in (("first", DEFENCES), ("second", DEFENCES[:1])):
            arguments = [
                "--model",
                "replica:qwen2_audio",
                "--set",
                asked,
                "--derive",
                asked,
                "--k",
                "2",
            ]
            arguments += [part for defence in defences for part in ("--defence", defence)]
            arguments += ["--tokens", "4", "--folder", str(folder / name)]
            assert main(["evaluate", *arguments]) == 0
    return [folder / "first", folder / "second"]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    assert main(["report", *map(str, runs), "--page", str(path)]) == 0
    return path


def markdown_table(path: Path) -> list[list[str]]:
    lines = [line.strip().strip("|").split("|") for line in path.read_text().splitlines()]
    return [[cell.strip() for cell in line] for line in [lines[0], *lines[2:]]]


def test_its_numbers_are_those_of_the_runs_tables(runs: list[Path], page: Path) -> None:
    found = re.findall(r'<table class="results">.*?</table>', page.read_text(), flags=re.S)
    assert len(found) == 2
    for run, table in zip(runs, found, strict=True):
        rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.S) for row in rows]
        assert cells == markdown_table(run / "table.md")
        assert len(cells) == 1 + len(pd.read_csv(run / "table.csv"))


def test_it_shows_topics_prompted_refusal_and_settings(runs: list[Path], page: Path) -> None:
    text = page.read_text()
    about = json.loads((runs[0] / "about.json").read_text())
    [topics, _] = re.findall(r'<table class="topics">.*?</table>', text, flags=re.S)
    assert re.findall(r"<td>(\d+)/(\d+)</td>", topics)[0][1] == "3" and "privacy" in topics
    assert {row["text"] for row in about["prompted"]} == {"none", "paper"}
    assert text.count('<table class="prompted">') == 2 and "paper</td><td>harmful, spoken" in text
    assert (
        f"<td>{about['versions']['torch']}</td>" in text and "<td>replica:qwen2_audio</td>" in text
    )
    # Of the machine it was made on it says nothing.
    assert str(runs[0].parent) not in text and "<td>prompts:set</td>" in text
    assert text.count("data:audio/mpeg;base64,") == 2 * 4  # a clip for each set of each run


def test_every_sentence_of_ones_own_is_asked(
    tiny: LALM, spoken: list[Request], cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    own = ["Say no.", "Never help."]
    evaluate_into(folder, tiny, [Defence("none")], {"set": spoken}, [PhraseJudge()], refusals=own)
    about = json.loads((folder / "about.json").read_text())
    assert {row["text"] for row in about["prompted"]} == {"none", "own text", "own text 2"}


def test_sets_may_be_called_by_numbers(tiny: LALM, spoken: list[Request], tmp_path: Path) -> None:
    """As folders and files of one's own are: "2026", "001"."""
    sets = {"001": spoken[:2], "2026": spoken[2:]}
    evaluate_into(tmp_path / "run", tiny, [Defence("none")], sets, [PhraseJudge()])
    write_report([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(f">{name}</t" in page for name in sets)


def test_a_set_may_hold_harmless_and_everyday_requests(
    tiny: LALM, spoken: list[Request], tmp_path: Path
) -> None:
    """Both are measured by BRR, in a row of each."""
    harmless = [replace(request, label="harmless") for request in spoken[:2]]
    everyday = [replace(request, label="everyday") for request in spoken[2:]]
    defences, judges = [Defence("none"), Defence("again")], [PhraseJudge()]
    for name, sets in (
        ("mixed", {"mine": harmless + everyday}),
        ("apart", {"one": harmless, "other": everyday}),
    ):
        evaluate_into(tmp_path / name, tiny, defences, sets, judges)
    write_report([tmp_path / "mixed", tmp_path / "apart"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("BRR, harmless") == page.count("BRR, everyday") > 0
    [side_by_side] = re.findall(r'<table class="compared">.*?</table>', page, flags=re.S)
    assert side_by_side.count("mine") == 2
    write_report([tmp_path / "apart"], tmp_path / "page.html")
    assert "BRR, " not in (tmp_path / "page.html").read_text()


def seal_again(run: Path) -> None:
    """Let a changed run pass for one that was written so."""
    about = json.loads((run / "about.json").read_text())
    del about["checksum"]
    (run / "about.json").write_text(sealed(run, about))


def test_of_an_answer_twenty_words_are_shown(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    lines = read_lines(copy / "responses.jsonl").to_dict("records")
    for line in lines:
        line["response"] = " ".join(f"word{n}" for n in range(1, 60))
    write_lines(copy / "responses.jsonl", lines)
    seal_again(copy)
    write_report([copy], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert f"word{SHOWN_WORDS} \u2026" in text and f"word{SHOWN_WORDS + 1}" not in text


def test_what_models_and_sets_say_is_text(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    lines = read_lines(copy / "responses.jsonl").to_dict("records")
    for line in lines:
        line["response"], line["request"] = (
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
        )
    write_lines(copy / "responses.jsonl", lines)
    manifest = json.loads((copy / "manifest.json").read_text())
    for facts in manifest["sets"].values():
        for fact in facts:
            fact[2] = lines[0]["request"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    seal_again(copy)
    write_report([copy], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;alert(1)" in text


def swapped(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**lines[0], "label": "harmless"}, *lines[1:]]


def answered(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    other = "refused" if lines[0]["outcome"] != "refused" else "answered"
    return [{**lines[0], "outcome": other}, *lines[1:]]


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        (
            "responses.jsonl",
            lambda lines: [lines[0], *lines],
            "responses.jsonl, line 2: is there t",
        ),
        ("responses.jsonl", lambda lines: lines[:-1], "responses.jsonl has 29 lines, not 30"),
        ("responses.jsonl", swapped, "responses.jsonl, line 1 .*: its label or request is not"),
        ("outcomes.jsonl", swapped, "outcomes.jsonl, line 1: is of another response"),
        (
            "outcomes.jsonl",
            lambda lines: [lines[0], *lines],
            "outcomes.jsonl, line 2: is of another",
        ),
        ("outcomes.jsonl", lambda lines: lines[:3] + lines[4:], "outcomes.jsonl, line 4: is of"),
        ("outcomes.jsonl", lambda lines: lines[:-1], "outcomes.jsonl, line 30: 1 are missing"),
        ("outcomes.jsonl", answered, "table.csv, line 2 .*: other counts than in outcomes.jsonl"),
    ],
)
def test_a_run_that_was_edited_is_refused_with_the_line(
    runs: list[Path], tmp_path: Path, file: str, change: Callable[..., Any], complaint: str
) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    write_lines(copy / file, change(read_lines(copy / file).to_dict("records")))
    with pytest.raises(ValueError, match=complaint):
        write_report([copy], tmp_path / "report.html")


def test_a_table_that_was_edited_is_refused(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    table = pd.read_csv(copy / "table.csv")
    table.loc[1, "refused"] += 1
    table.to_csv(copy / "table.csv", index=False)
    with pytest.raises(ValueError, match="table.csv, line 3 .*: other counts"):
        write_report([copy], tmp_path / "report.html")


def test_what_is_no_finished_run_is_said(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (copy / "about.json").write_text("{}")
    assert main(["report", str(copy), "--page", str(tmp_path / "page.html")]) == 2
    assert f"{copy}: a file of its run is damaged" in capsys.readouterr().err
    (copy / "table.csv").unlink()
    assert main(["report", str(runs[0]), str(copy), "--page", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert "(table.csv missing)" in error and f"--folder {copy}" in error and error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_clip_that_is_gone_is_left_out(runs: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    about = json.loads((copy / "about.json").read_text())
    for requests in about["requests"].values():
        for facts in requests.values():
            facts["clip"] = str(tmp_path / "gone.wav")
    (copy / "about.json").write_text(json.dumps(about))
    seal_again(copy)
    write_report([copy], tmp_path / "report.html")
    assert "<audio" not in (tmp_path / "report.html").read_text()


class TestInTheBrowser:
    pytestmark = in_browser

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
    def test_it_is_readable(
        self, browser: Any, page: Path, scheme: str, size: dict[str, int]
    ) -> None:
        seen = browser.new_page(viewport=size, color_scheme=scheme)
        asked: list[str] = []
        complaints: list[str] = []
        seen.on("request", lambda request: asked.append(request.url))
        seen.on("console", lambda message: complaints.append(message.text))
        seen.goto(page.as_uri())
        ground, ink = colours(seen)
        assert (ground > 200 and ink < 60) if scheme == "light" else (ground < 60 and ink > 200)
        assert sideways(seen) == 0
        assert not complaints
        picture(seen, f"report-{scheme}-{size['width']}", full_page=True)
        seen.close()
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]

    def test_its_numbers_and_its_plane_are_the_runs(
        self, browser: Any, runs: list[Path], page: Path
    ) -> None:
        seen = browser.new_page()
        seen.goto(page.as_uri())
        for at, run in enumerate(runs):
            rows = seen.locator("table.results").nth(at).locator("tr")
            shown = [rows.nth(i).locator("th, td").all_text_contents() for i in range(rows.count())]
            assert shown == markdown_table(run / "table.md")
        table = pd.read_csv(runs[0] / "table.csv").set_index(["defence", "set"])
        points = seen.locator("section").first.locator("figure").first.locator("circle")
        assert points.count() == len(DEFENCES)
        for at, defence in enumerate(DEFENCES):
            harmful, benign = (
                table.loc[(defence, "prompts harmful")],
                table.loc[(defence, "prompts harmless")],
            )
            x, y = (float(points.nth(at).get_attribute(name) or "nan") for name in ("cx", "cy"))
            assert x == pytest.approx(20 + 200 * benign["answered"] / benign["n"], abs=0.06)
            assert y == pytest.approx(220 - 200 * harmful["refused"] / harmful["n"], abs=0.06)
        sound = seen.locator("audio").first
        length = sound.evaluate(
            "sound => new Promise(done => { sound.onloadedmetadata = () => done(sound.duration);"
            " sound.onerror = () => done(-1); sound.load(); sound.preload = 'metadata' })"
        )
        assert 0.5 < length < 3
        seen.close()
