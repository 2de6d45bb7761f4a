"""Slides as a PowerPoint file, drawn with python-pptx: text, figures and tables that fit.

Lengths are in inches, sizes of letters in points. How much room a text takes is estimated from the
mean width of Arial's letters; a list or table that is too long goes on on the next slide.
"""

import math
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.util import Inches, Length, Pt

from sarsteer_lab.course.tables import plain

WIDTH, HEIGHT = 13.333, 7.5
MARGIN = 0.5
TITLE_TOP, TITLE_HEIGHT = 0.3, 0.9
BODY_TOP = 1.35
CAPTION_HEIGHT = 0.75
BODY_HEIGHT = HEIGHT - BODY_TOP - 0.4
BODY_WIDTH = WIDTH - 2 * MARGIN

FONT = "Arial"
TEXT_SIZE, CAPTION_SIZE, TABLE_SIZE = 26, 14, 16
TITLE_SIZES = (28, 22, 18)
INK, QUIET, SEEN = "1A1A1A", "595959", "0072B2"

LETTER = 0.52
"""Mean width of a letter, in units of its size."""

LINE = 1.22
"""Height of a line, in the same units."""

CELL_PADDING = 0.1
"""Above and below a cell's text together; at its sides twice that."""

_MARKS = re.compile(r"(\*\*.+?\*\*|\*[^*\s][^*]*\*|`[^`]+`)")
_TITLE_ONLY = 5
"""The layout of python-pptx's own template that has a title and nothing else."""


class Deck:
    """Slides one after another, each with speaker's notes."""

    def __init__(self, title: str) -> None:
        self.file = Presentation()
        self.file.slide_width, self.file.slide_height = Inches(WIDTH), Inches(HEIGHT)
        self.file.core_properties.title = title
        self.file.core_properties.author = ""  # the template brings a name
        self.file.core_properties.last_modified_by = ""

    def save(self, path: Path) -> None:
        """Write the file."""
        self.file.save(str(path))

    def text(
        self, title: str, paragraphs: Sequence[str], notes: str = "", size: int = TEXT_SIZE
    ) -> None:
        """Slides with paragraphs (Markdown within a line: bold, italic, code)."""
        room = [
            lines_needed(text, size, BODY_WIDTH) * height_of(size) + 0.15 for text in paragraphs
        ]
        for part in pages(room, BODY_HEIGHT):
            slide = self._slide(title, notes)
            box = slide.shapes.add_textbox(*_place(BODY_TOP, BODY_HEIGHT))
            frame = box.text_frame
            frame.word_wrap = True
            for number, place in enumerate(part):
                paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
                paragraph.space_after = Pt(8)
                _write(paragraph, paragraphs[place], size)

    def figure(self, title: str, picture: bytes, caption: str, notes: str = "") -> None:
        """A slide with a picture as large as fits, and its caption, which is its alt text too."""
        slide = self._slide(title, notes)
        width, height = Image.open(BytesIO(picture)).size
        room = BODY_HEIGHT - CAPTION_HEIGHT
        scale = min(BODY_WIDTH / width, room / height)
        left, top = (WIDTH - scale * width) / 2, BODY_TOP - 0.1
        size = (Inches(scale * width), Inches(scale * height))
        shape = slide.shapes.add_picture(BytesIO(picture), Inches(left), Inches(top), *size)
        shape.name = title
        shape._element.nvPicPr.cNvPr.set("descr", caption)
        below = HEIGHT - CAPTION_HEIGHT - 0.2
        box = slide.shapes.add_textbox(*_place(below, CAPTION_HEIGHT))
        box.text_frame.word_wrap = True
        _write(box.text_frame.paragraphs[0], shortened(caption), CAPTION_SIZE, QUIET)

    def table(
        self, title: str, rows: Sequence[Sequence[str]], widths: Sequence[float], notes: str = ""
    ) -> None:
        """Slides with a table. `rows` begin with the headings; `widths` are shares of the slide."""
        inches = [share * BODY_WIDTH / sum(widths) for share in widths]
        heading, *body = rows
        heights = [row_height(row, inches) for row in rows]
        left = BODY_HEIGHT - heights[0]
        for part in pages(heights[1:], left):
            shown = [heading, *(body[place] for place in part)]
            slide = self._slide(title, notes)
            size = (len(shown), len(heading))
            frame = slide.shapes.add_table(*size, *_place(BODY_TOP, 0.1 * len(shown)))
            frame._element.nvGraphicFramePr.cNvPr.set("descr", title)
            table = frame.table
            for column, width in zip(table.columns, inches, strict=True):
                column.width = Inches(width)
            for line, row in enumerate(shown):
                table.rows[line].height = Inches(row_height(row, inches))
                for column, text in enumerate(row):
                    _fill(table.cell(line, column), text, heading=line == 0)

    def _slide(self, title: str, notes: str) -> Any:
        slide = self.file.slides.add_slide(self.file.slide_layouts[_TITLE_ONLY])
        shape = slide.shapes.title
        shape.left, shape.top, shape.width, shape.height = _place(TITLE_TOP, TITLE_HEIGHT)
        frame = shape.text_frame
        frame.vertical_anchor = MSO_ANCHOR.MIDDLE
        frame.word_wrap = True
        paragraph = frame.paragraphs[0]
        paragraph.alignment = PP_ALIGN.LEFT
        _write(paragraph, title, title_size(title), bold=True)
        if notes:
            slide.notes_slide.notes_text_frame.text = plain(notes)
        return slide


def shortened(text: str, most: int = 260) -> str:
    """A caption that fits below its figure; the whole stands in the alt text and the notes."""
    if len(text) <= most:
        return text
    return f"{text[:most].rsplit(' ', 1)[0]} …"


def height_of(size: float) -> float:
    """The height of a line of letters of this size."""
    return LINE * size / 72


def lines_needed(text: str, size: float, width: float) -> int:
    """How many lines a text takes at most in a column of this width."""
    letters = max(1, math.floor(width * 72 / (LETTER * size)))
    lines = 0
    for paragraph in plain(text).split("\n"):
        lines += 1
        used = 0
        for word in paragraph.split():
            if used and used + 1 + len(word) > letters:
                lines += 1
                used = 0
            used += len(word) + (used > 0)
            lines += (used - 1) // letters  # a word that is longer than a line
            used = (used - 1) % letters + 1
    return lines


def title_size(title: str) -> float:
    """The largest size in which a title fits above a slide."""
    for size in TITLE_SIZES:
        if lines_needed(title, size, BODY_WIDTH) * height_of(size) <= TITLE_HEIGHT:
            break
    return size


def row_height(row: Sequence[str], widths: Sequence[float]) -> float:
    """The height of a table's row whose columns have these widths."""
    lines = []
    for text, width in zip(row, widths, strict=True):
        lines.append(lines_needed(text, TABLE_SIZE, width - 2 * CELL_PADDING))
    return max(lines) * height_of(TABLE_SIZE) + CELL_PADDING


def pages(heights: Sequence[float], room: float) -> Iterator[list[int]]:
    """The places of what fits on one page, then of what fits on the next, and so on."""
    page: list[int] = []
    used = 0.0
    for place, height in enumerate(heights):
        if page and used + height > room:
            yield page
            page, used = [], 0.0
        page.append(place)
        used += height
    if page:
        yield page


def _place(top: float, height: float) -> tuple[Length, Length, Length, Length]:
    return Inches(MARGIN), Inches(top), Inches(BODY_WIDTH), Inches(height)


def _write(
    paragraph: Any, text: str, size: float, colour: str = INK, *, bold: bool = False
) -> None:
    """Put Markdown into a paragraph."""
    for piece in _MARKS.split(text):
        if not piece:
            continue
        run = paragraph.add_run()
        run.text = plain(piece)
        run.font.size, run.font.name = Pt(size), FONT
        run.font.color.rgb = RGBColor.from_string(colour)
        run.font.bold = bold or piece.startswith("**")
        run.font.italic = piece.startswith("*") and not piece.startswith("**")
        if piece.startswith("`"):
            run.font.name = "Courier New"


def _fill(cell: Any, text: str, *, heading: bool) -> None:
    """Put Markdown into a cell of a table."""
    cell.margin_top = cell.margin_bottom = Inches(CELL_PADDING / 2)
    cell.margin_left = cell.margin_right = Inches(CELL_PADDING)
    cell.fill.solid()
    cell.fill.fore_color.rgb = RGBColor.from_string(SEEN if heading else "FFFFFF")
    colour = "FFFFFF" if heading else INK
    _write(cell.text_frame.paragraphs[0], text, TABLE_SIZE, colour, bold=heading)
