"""The page of the four claims holds the chapters' own numbers, and nothing that was typed in."""

from pathlib import Path

import nbformat

from sarsteer_lab import course
from sarsteer_lab.course.four_claims import CLAIMS, TITLE, page, rows_found
from sarsteer_lab.course.run_notebooks import write_summary


def closing(*claims: str) -> str:
    """A chapter's closing table of claims whose interval is 1 to 2."""
    made = []
    for number, claim in enumerate(claims):
        interval = lambda confidence: (1.0, 2.0)  # noqa: E731
        made.append(course.claim_on_value(claim, f"measured {number}", interval))
    return course.closing(made).data


def test_rows_are_found_by_their_marks() -> None:
    table = closing(
        "More often spoken (paper, claim 1)",
        "The same (control of claim 1: hearing)",
        "Typed vectors act less (paper, claim 2: they do not transfer)",
        "Something else",
    )
    found = rows_found({"0 · A chapter": [table]})
    marks = [(row.number, row.control) for row in found]
    assert marks == [(1, None), (1, "hearing"), (2, None)]
    assert found[0].claim == "More often spoken" and found[0].measured == "measured 0"
    assert found[0].verdict == "**seen**" and found[0].interval.startswith("[1.00, 2.00]")


def test_the_page_sets_the_four_claims_beside_their_controls() -> None:
    first = closing("More often spoken (paper, claim 1)", "The same (control of claim 1: hearing)")
    third = closing("Prompts cost answers (paper, claim 3)")
    lines = page({"0 · First": [first], "5 · Third": [third]}).splitlines()
    rows = [line for line in lines if line.startswith("| **")]
    assert [row.split(".")[0] for row in rows] == [f"| **{claim.number}" for claim in CLAIMS]
    assert "(0) More often spoken: measured 0 [1.00, 2.00]: **seen**" in rows[0]
    assert "(0) The same: measured 1" in rows[0]
    assert "not asked yet" in rows[1] and "(5) Prompts cost answers" in rows[2]
    assert all(f"`{claim.command}`" in row for claim, row in zip(CLAIMS, rows, strict=True))


def test_the_page_stands_before_the_tables_of_the_chapters(tmp_path: Path) -> None:
    notebooks = []
    for heading, claim in (("# 0 · First", "It is so (paper, claim 4)"), ("# 1 · Other", "No")):
        cell = nbformat.v4.new_code_cell("closing()")
        data = {"text/markdown": closing(claim)}
        cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        cells = [nbformat.v4.new_markdown_cell(heading), cell]
        notebooks.append(nbformat.v4.new_notebook(cells=cells))
    text = write_summary(notebooks, tmp_path).read_text()
    assert text.index(TITLE) < text.index("## 0 · First") < text.index("## 1 · Other")
    alone = write_summary(notebooks[1:], tmp_path).read_text()
    assert TITLE not in alone
