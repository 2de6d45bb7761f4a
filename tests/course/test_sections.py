"""A section of a file is written between its marks, and nothing else is touched."""

from pathlib import Path

import pytest

from sarsteer_lab.course.sections import write_between

BEGIN, END = "<!-- here -->", "<!-- to here -->"


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
    write_between(file, "new", BEGIN, END)
    assert file.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nbehind\n"


@pytest.mark.parametrize("text", ["nothing", BEGIN, END, f"{END}\nlost?\n{BEGIN}\nbehind"])
def test_a_file_without_both_marks_in_order_stays_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(text)
    with pytest.raises(ValueError, match="has no line"):
        write_between(file, "new", BEGIN, END)
    assert file.read_text() == text
