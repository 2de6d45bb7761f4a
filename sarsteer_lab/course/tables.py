"""Tables of the chapters: rows in, Markdown out, and no cell's text can break the table."""

import html
import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import pandas as pd
from IPython.display import Markdown

_MARKUP = re.compile(r"[`*<&|~]|\](?=\()|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown reads as markup within a line; an underscore inside a word is none."""

_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")


def escaped(text: str) -> str:
    """A text, a model's answer for instance, as Markdown that shows it and does nothing else."""
    text = _MARKUP.sub(_entity, text)
    for sign in "\\$":
        # What may begin a formula: MathJax looks for it in the page, but not across elements.
        text = text.replace(sign, f"<span>&#{ord(sign)};</span>")
    return " ".join(text.split())


def _entity(sign: re.Match[str]) -> str:
    return f"&#{ord(sign[0])};"


def plain(text: str) -> str:
    """Markdown of the course's tables and pages as text: without entities, elements and marks."""
    text = html.unescape(re.sub(r"<br\s*/?>", "\n", text))
    text = re.sub(r"</?(span|code|b|i)>", "", text)
    return re.sub(r"\*\*(.+?)\*\*|`([^`]+)`|\*([^*\s][^*]*)\*", _unmarked, text)


def _unmarked(match: re.Match[str]) -> str:
    [text] = [group for group in match.groups() if group is not None]
    return text


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in _BETWEEN_CELLS.split(line.strip().strip("|"))]


class _Template(Formatter):
    """`str.format`, but for what it puts in: that is escaped."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return escaped(super().format_field(value, format_spec))


def _cell(value: Any, template: str) -> str:
    if isinstance(value, Markdown):
        return value.data
    if value is None or value != value:  # not a number
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    parts = value if isinstance(value, tuple) else (value,)
    return _Template().format(template, *parts)


def _line(cells: Sequence[str]) -> str:
    in_line = [" ".join(cell.split()).replace("|", "&#124;") for cell in cells]
    return f"| {' | '.join(in_line)} |"


def table(
    rows: Sequence[Mapping[str, Any]] | pd.DataFrame,
    formats: Mapping[str, str] | None = None,
    *,
    note: str = "",
) -> Markdown:
    """A table with a line per row, and a column per key of the first row, which is its heading.

    `formats` are templates of `str.format` by column: `"{:.0%}"`, `"<code>{!r}</code>"`, or for a
    cell that is a tuple `"{:.2f} [{:.2f}, {:.2f}]"`. Templates, headings and `note`, which stands
    below, are Markdown. What stands in a cell is text, and shown as it is; a cell that is to be
    read as Markdown is an IPython `Markdown`. True and False are shown as yes and no, None and
    numbers that are none as nothing.
    """
    formats = formats or {}
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    headings = list(records[0]) if records else []
    lines = [_line(headings), _line(["---"] * len(headings))]
    for record in records:
        cells = [_cell(record.get(name), formats.get(name, "{}")) for name in headings]
        lines.append(_line(cells))
    text = "\n".join(lines) if records else "*No rows.*"
    return Markdown(f"{text}\n\n{note}" if note else text)
