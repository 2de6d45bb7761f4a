"""The budgets of the house measure difficulty: how much a statement says at once."""

import ast
from pathlib import Path

import density
import pytest

PACKAGE = Path(__file__).parent.parent / "sarsteer_lab"
MEANS = {"core": 7.3, "engine": 7.3, "pocket": 7.3, "probe": 7.3, "evaluation": 7.3, "course": 8.0}
"""Nodes of the syntax tree a statement (steering-vectors 6.2, repeng 6.4, nanoGPT 6.2)."""

NESTED = 0.001
"""Share of statements with comprehensions inside comprehensions."""

ANY = 60
"""How often annotations of the core may say `Any`."""


@pytest.fixture(scope="module")
def rooms() -> dict[str, density.Density]:
    return density.rooms(PACKAGE)


@pytest.mark.parametrize("room", MEANS)
def test_a_room_is_read_without_stopping(rooms: dict[str, density.Density], room: str) -> None:
    assert rooms[room].mean <= MEANS[room]
    assert rooms[room].nested <= NESTED


def test_the_core_says_what_it_takes_and_gives() -> None:
    said = 0
    for path in density.core(PACKAGE):
        for node in ast.walk(ast.parse(path.read_text())):
            said += isinstance(node, ast.Name) and node.id == "Any"
    assert said <= ANY


def test_density_counts_what_is_read_at_once(tmp_path: Path) -> None:
    """Against counts by hand: nodes of `x = f(a)` are x, the call, f and a."""
    file = tmp_path / "module.py"
    file.write_text('"""Title."""\nx: int = f(a)\nif x:\n    y = [[b for b in c] for c in d]\n')
    whole = density.density([file])
    assert (whole.weight, whole.statements) == (4 + 1 + 10, 3)
    assert whole.nested == pytest.approx(1 / 3)
