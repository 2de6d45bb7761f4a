"""Slides made from this checkout: read back as they were written, and rendered where that goes."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pptx import Presentation
from pptx.util import Inches

from sarsteer_lab.cli import main
from sarsteer_lab.course.executed import closing_tables
from sarsteer_lab.course.four_claims import CLAIMS
from sarsteer_lab.course.slides.deck import Deck, lines_needed, pages
from sarsteer_lab.course.slides.lecture import LectureError, read_lecture
from sarsteer_lab.course.tables import plain

ROOT = Path(__file__).resolve().parents[2]
LECTURER = ROOT / "notebooks" / "LECTURER.md"
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {path.stem: path for path in sorted((ROOT / "figures").glob("0*/*.png"))}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slides") / "deep" / "slides.pptx"
    folders = ["--notebooks", str(ROOT / "notebooks"), "--figures", str(ROOT / "figures")]
    assert main(["slides", str(out), *folders]) == 0
    return out


@pytest.fixture(scope="module")
def slides(file: Path) -> list[Any]:
    return list(Presentation(str(file)).slides)


def pictures(slides: list[Any]) -> list[Any]:
    return [shape for slide in slides for shape in slide.shapes if shape.shape_type == 13]


def alt(shape: Any) -> str:
    return shape._element.xpath(".//p:cNvPr")[0].get("descr", "")


def named_in_order() -> list[str]:
    """The figures that LECTURER.md names, by chapter, in its order."""
    named = []
    for chapter, line in enumerate(re.findall(r"\*\*Slides\.\*\* (.+)", LECTURER.read_text())):
        for name in re.findall(r"`(\w+)`", line):
            if list((ROOT / "figures").glob(f"0{chapter}_*/{name}.png")):
                named.append(f"{chapter} {name}")
    return named


def test_all_figures_come_in_the_lecturers_order_with_alternative_texts(slides: list[Any]) -> None:
    shown = []
    for picture in pictures(slides):
        chapter, name = re.fullmatch(r"(\d) · .+: ([\w ]+)", picture.name).groups()  # type: ignore
        shown.append(f"{chapter} {name.replace(' ', '_')}")
        [path] = (ROOT / "figures").glob(f"0{chapter}_*/{name.replace(' ', '_')}.png")
        assert picture.image.blob == path.read_bytes()
        assert len(alt(picture)) > 30, "its caption, not its name"
    assert shown == named_in_order() and len(shown) > 25
    for slide in slides:
        assert slide.shapes.title.text_frame.text.strip()


def test_pictures_keep_their_shape_and_everything_lies_on_the_slide(slides: list[Any]) -> None:
    width, height = Inches(13.333), Inches(7.5)
    for slide in slides:
        for shape in slide.shapes:
            assert shape.left >= 0 and shape.left + shape.width <= width
            assert shape.top >= 0 and shape.top + shape.height <= height
    for picture in pictures(slides):
        across, down = picture.image.size
        assert picture.width / picture.height == pytest.approx(across / down, rel=0.01)
        assert picture.width > width / 3


def test_every_computed_claim_is_there_with_its_verdict(slides: list[Any]) -> None:
    tables = [shape.table for slide in slides for shape in slide.shapes if shape.has_table]
    rows = {tuple(cell.text for cell in row.cells) for table in tables for row in table.rows}
    expected = 0
    for path in CHAPTERS:
        for text in closing_tables(nbformat.read(path, as_version=4)):
            for line in text.partition("\n\n")[0].splitlines()[2:]:
                cells = [plain(cell.strip()) for cell in line.strip("| ").split(" | ")]
                assert tuple(cells) in rows, line
                expected += 1
    assert expected > 30
    titles = " ".join(slide.shapes.title.text_frame.text for slide in slides)
    assert all(claim.says in titles for claim in CLAIMS)


def test_notes_hold_what_a_lecturer_says(slides: list[Any]) -> None:
    notes = {}
    for slide in slides:
        if slide.has_notes_slide:
            notes[slide.shapes.title.text_frame.text] = slide.notes_slide.notes_text_frame.text
    assert "An audio token is a word." in notes["0 · Meet the model"]
    assert "tokens count time, not words" in notes["0 · Meet the model: a quiz"]
    assert "How to read a verdict." in notes["3 · The safe space: what came out"]
    assert not [text for text in notes.values() if "**" in text or "<br>" in text]


def test_what_is_too_long_goes_on_on_the_next_slide() -> None:
    deck = Deck("A test")
    paragraph = "word " * 60
    deck.text("Long", [paragraph] * 12)
    deck.table("Longer", [["a", "b"], *[[paragraph, "short"]] * 9], (1, 1))
    assert len(deck.file.slides) > 6
    for slide in deck.file.slides:
        for shape in slide.shapes:
            assert shape.top + shape.height <= Inches(7.5)
    assert lines_needed("a b", 20, 10) == 1 and lines_needed("a\nb", 20, 10) == 2
    assert lines_needed("x" * 1000, 20, 10) > 10
    assert list(pages([2, 2, 9, 1], 4)) == [[0, 1], [2], [3]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["slides.pdf"], "slides are a .pptx file"),
        (["slides.pptx", "--notebooks", "."], "holds no notebooks"),
        (["slides.pptx", "--notebooks", "chapters"], "made in a checkout"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chapters").mkdir()
    shutil.copy(CHAPTERS[0], tmp_path / "chapters")
    assert main(["slides", *arguments]) == 2
    assert reason in capsys.readouterr().err and not list(tmp_path.glob("slides*"))


def test_a_chapter_that_lacks_its_order_is_named(tmp_path: Path) -> None:
    text = LECTURER.read_text().replace("- **Slides.**", "- **Pictures.**", 1)
    (tmp_path / "LECTURER.md").write_text(text)
    with pytest.raises(LectureError, match="chapter 0 has no Slides"):
        read_lecture(tmp_path / "LECTURER.md", {})


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("soffice") and shutil.which("pdftotext")), reason="no LibreOffice here"
)
def test_rendered_text_stays_on_its_slide(file: Path, slides: list[Any], tmp_path: Path) -> None:
    convert = ["soffice", "--headless", "--convert-to", "pdf", "--outdir", str(tmp_path)]
    subprocess.run([*convert, str(file)], check=True, capture_output=True, timeout=300)
    pdf, page_texts = tmp_path / "slides.pdf", tmp_path / "words.html"
    subprocess.run(["pdftotext", "-bbox", str(pdf), str(page_texts)], check=True)
    rendered = re.split("<page ", page_texts.read_text())[1:]
    assert len(rendered) == len(slides)
    for slide, page in zip(slides, rendered, strict=True):
        [width, height] = re.findall(r'^width="([\d.]+)" height="([\d.]+)"', page)[0]
        words = re.findall(
            r'xMin="([\d.-]+)" yMin="([\d.-]+)" xMax="([\d.]+)" yMax="([\d.]+)"', page
        )
        title = slide.shapes.title.text_frame.text
        assert words, title
        for left, top, right, bottom in words:
            assert 0 <= float(left) and float(right) <= float(width), title
            assert 0 <= float(top) and float(bottom) <= float(height) - 5, title
