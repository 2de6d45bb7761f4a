"""Tables of the chapters: what stands in a cell is shown as it is, whatever a model has said."""

import re
from html import unescape

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.display import Markdown
from nbconvert.filters import markdown2html

from sarsteer_lab import course

HOSTILE = [
    "a | b",
    "first\n\n# second\n| --- |",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "`code` ``",
    "**bold** *it* _it_ __b__ ~~gone~~",
    "[link](javascript:alert(1)) ![picture](x.png)",
    "$x$ and $$y$$ or \\(z\\)",
    "&lt;b&gt; &amp;",
    "a \\| b \\",
    "snake_case, 5 < 6 > 4",
]


def cells_of(html: str) -> list[list[str]]:
    """The text of each cell as a reader sees it, line by line; fails on any tag within but ours."""
    lines = []
    for line in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)
        cells = [re.sub(r"</?(?:span|code)>", "", cell) for cell in cells]
        assert not any("<" in cell for cell in cells)
        lines.append([unescape(cell).strip() for cell in cells])
    return lines


def shown(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_models_answer_is_shown_and_does_nothing(text: str) -> None:
    rows = [
        {"request": "What?", "answer": text, "end": 1},
        {"request": text, "answer": "", "end": 2},
    ]
    markdown = course.table(rows).data
    assert "$" not in markdown and "\n\n" not in markdown and "<script" not in markdown
    assert cells_of(markdown2html(markdown)) == [
        ["request", "answer", "end"],
        ["What?", shown(text), "1"],
        [shown(text), "", "2"],
    ]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab_ |`*<>&[]()!~$\\\n#-:;/=\"'"))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    markdown = course.table([{"a": text, "b": text}], {"b": "<code>{!r}</code>"}).data
    lines = cells_of(markdown2html(markdown))
    assert lines == [["a", "b"], [shown(text), shown(repr(text))]]


def test_numbers_stand_in_their_formats_and_words_as_they_are() -> None:
    rows = [
        {"name": "granite_speech", "share": 0.123, "ends": (0.5, -0.25, 0.75), "in": True},
        {"name": None, "share": float("nan"), "ends": None, "in": False},
    ]
    formats = {"share": "{:.0%}", "ends": "{:.2f} [{:+.2f}, {:.2f}]"}
    assert course.table(rows, formats).data == (
        "| name | share | ends | in |\n"
        "| --- | --- | --- | --- |\n"
        "| granite_speech | 12% | 0.50 [-0.25, 0.75] | yes |\n"
        "|  |  |  | no |"
    )
    assert course.table([{"x": torch.tensor(0.5)}], {"x": "{:.1f}"}).data.endswith("| 0.5 |")


def test_a_data_frame_is_a_table_too() -> None:
    frame = pd.DataFrame({"n": [3, 4], "share": [0.5, None], "broken": [True, False]})
    assert course.table(frame, {"share": "{:.0%}"}).data.splitlines()[2:] == [
        "| 3 | 50% | yes |",
        "| 4 |  | no |",
    ]


def test_a_column_that_a_row_lacks_is_empty() -> None:
    rows = [{"a": 1, "b": 2}, {"b": 3}]
    assert course.table(rows).data.splitlines()[-1] == "|  | 3 |"


def test_headings_templates_and_markdown_are_markup_within_their_cell() -> None:
    rows = [{"*a|b*": Markdown("**bold**, or\n\n# c | d"), "verdict": ("no", "x*y")}]
    table = course.table(rows, {"verdict": "**{}** ({})"}, note="*Below.*")
    html = markdown2html(table.data)
    assert "<em>a|b</em>" in html and "<strong>bold</strong>, or # c | d" in html
    assert "<strong>no</strong> (x*y)" in html and html.count("<tr>") == 2
    assert table.data.endswith("\n\n*Below.*")


def test_without_rows_it_says_so() -> None:
    assert course.table([], note="Below.").data == "*No rows.*\n\nBelow."
    assert course.table(pd.DataFrame({"a": []})).data == "*No rows.*"
