"""The certificate: verdicts of a run beside the shipped ones, and nothing about who ran it."""

import getpass
import html
import platform
import re
from pathlib import Path

import nbformat
import pytest

from sarsteer_lab.course.certificate import code_hash, table_rows, write_certificate
from sarsteer_lab.course.tables import plain

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def as_committed() -> list[nbformat.NotebookNode]:
    return [nbformat.read(path, as_version=4) for path in CHAPTERS]


def change(notebook: nbformat.NotebookNode, before: str, after: str) -> None:
    """Change the first such text in a closing table."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("| claim |") and before in text:
                output["data"]["text/markdown"] = text.replace(before, after, 1)
                return
    raise AssertionError(f"no table holds {before!r}")


def page(notebooks: list[nbformat.NotebookNode], folder: Path) -> str:
    return write_certificate(CHAPTERS, notebooks, folder).read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_what_was_shipped_comes_out_as_shipped(tmp_path: Path) -> None:
    notebooks = as_committed()
    text = page(notebooks, tmp_path / "new")
    rows = [row for notebook in notebooks for row in table_rows(notebook)]
    assert len(rows) > 30
    assert f"Of {len(rows)} claims, {len(rows)} came out with the verdict that was shipped" in text
    assert "Where it differs" not in text and "not in it" not in text
    assert text.count("The notebook is the shipped one") == len(CHAPTERS)
    shown = words(text)
    for claim, measured, interval, _ in rows:
        for cell in (claim, measured, interval):
            assert " ".join(plain(cell).split()) in shown


def test_another_verdict_stands_first_with_both_numbers(tmp_path: Path) -> None:
    notebooks = as_committed()
    [claim, measured, _, verdict] = table_rows(notebooks[0])[0]
    assert verdict == "**seen**"
    change(notebooks[0], "**seen**", "**cannot tell** (n = 999 could)")
    change(notebooks[0], measured, "dial 1: 3/40")
    change(notebooks[1], table_rows(notebooks[1])[0][0], "A claim of my own")
    notebooks[2].cells[0].source += "\n\nAnother word."
    text = page(notebooks, tmp_path)
    [differs] = re.findall(r"<h2>Where it differs</h2>(.*?)<h2>", text, flags=re.S)
    assert differs.count("<tr>") == 3, "the heading and two claims"
    shown = words(differs)
    assert f"{plain(claim)} dial 1: 3/40" in shown
    assert f"cannot tell seen {plain(measured)}" in shown
    assert "A claim of my own" in shown and "not in it" in shown
    assert text.count("The notebook is not the shipped one") == 1
    assert code_hash(notebooks[2]) in text


def test_each_of_the_papers_claims_has_its_rows(tmp_path: Path) -> None:
    text = page(as_committed(), tmp_path)
    parts = re.split(r"<h3>(\d)\. ", text.partition("<h2>Chapter by chapter")[0])
    assert parts[1::2] == ["1", "2", "3", "4"]
    for number, part in zip(parts[1::2], parts[2::2], strict=True):
        assert f"claim {number}" in part


def test_nothing_tells_who_ran_it_or_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", f"recorded:{tmp_path / 'secret' / 'qwen'}")
    for variable in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(variable, "ada-lovelace")
    text = page(as_committed(), tmp_path)
    assert "recorded:qwen" in text
    for secret in (str(tmp_path), "secret", str(ROOT), str(Path.home()), platform.node()):
        assert secret not in text
    assert getpass.getuser() not in text
    assert 'autocomplete="off"' in text and "<script" not in text and "http" not in text


def test_markup_of_a_claim_is_shown_and_does_nothing(tmp_path: Path) -> None:
    table = "| claim | measured | interval | verdict |\n| --- | --- | --- | --- |\n"
    table += "| <img src=x> &#42;a | 1 | [0, 2] | **seen** |"
    output = nbformat.v4.new_output("display_data", {"text/markdown": table})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# <b>Mine"), cell])
    write_certificate([Path("99_mine.ipynb")], [notebook], tmp_path)
    text = (tmp_path / "certificate.html").read_text()
    assert "&lt;img src=x&gt; *a" in text and "<img" not in text and "<b>Mine" not in text
