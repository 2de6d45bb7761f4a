"""How much each statement of a file says at once: nodes of the syntax tree per simple statement.

A simple statement is an assignment, an expression, a return, a raise, an assert, and the head of an
`if`, `for`, `while` or `with`. Docstrings, type annotations and long tables of constants are left
out. `weight` is how much there is to read, however it is broken into lines; `mean` says how much of
it comes at once; `nested` is the share of statements with comprehensions inside comprehensions.

    python tests/density.py sarsteer_lab      a line for each room
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SKIPPED = (ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop)
ROOMS = ("engine", "pocket", "probe", "evaluation", "course")


@dataclass(frozen=True)
class Density:
    """Of some files."""

    weight: int
    statements: int
    nested: float

    @property
    def mean(self) -> float:
        """Nodes per statement."""
        return self.weight / self.statements


def parts_read(node: ast.AST) -> list[ast.AST]:
    """What of a node is read in one go, without annotations; nothing of what is no statement."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Return | ast.Raise | ast.Assert):
        return list(ast.iter_child_nodes(node))
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return [node.target, node.value]
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        return [node.value]
    if isinstance(node, ast.If | ast.While):
        return [node.test]
    if isinstance(node, ast.For):
        return [node.target, node.iter]
    return list(node.items) if isinstance(node, ast.With) else []


def inner_nodes(parts: Iterable[ast.AST]) -> list[ast.AST]:
    return [node for part in parts for node in ast.walk(part)]


def is_nested(nodes: Iterable[ast.AST]) -> bool:
    """Whether a comprehension stands inside another."""
    for outer in nodes:
        if isinstance(outer, COMPREHENSIONS):
            for inner in ast.walk(outer):
                if inner is not outer and isinstance(inner, COMPREHENSIONS):
                    return True
    return False


def statements(path: Path) -> Iterator[tuple[int, bool]]:
    """Weight of each statement of a file, and whether it nests comprehensions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        nodes = inner_nodes(parts_read(node))
        constants = sum(isinstance(inner, ast.Constant) for inner in nodes)
        if nodes and constants <= 0.45 * len(nodes):
            weight = sum(not isinstance(inner, SKIPPED) for inner in nodes)
            yield weight, is_nested(nodes)


def density(paths: Iterable[Path]) -> Density:
    """Of all these files together."""
    weights, nested = [], 0
    for path in paths:
        for weight, nests in statements(path):
            weights.append(weight)
            nested += nests
    return Density(sum(weights), len(weights), nested / len(weights))


def core(package: Path) -> list[Path]:
    """The top-level files but the command line."""
    return [path for path in package.glob("*.py") if not path.name.startswith("cli")]


def rooms(package: Path) -> dict[str, Density]:
    """The density of each room of the package."""
    of_rooms = {"core": density(core(package))}
    for room in ROOMS:
        of_rooms[room] = density((package / room).rglob("*.py"))
    of_rooms["cli"] = density(package.glob("cli*.py"))
    return of_rooms


def main() -> None:
    total = 0
    print(f"{'room':12} {'weight':>7} {'statements':>10} {'mean':>5} {'nested':>7}")
    for room, of_room in rooms(Path(sys.argv[1])).items():
        total += of_room.weight
        shown = (
            f"{of_room.weight:7} {of_room.statements:10} {of_room.mean:5.1f} {of_room.nested:7.2%}"
        )
        print(f"{room:12} {shown}")
    print(f"{'all':12} {total:7}")


if __name__ == "__main__":
    main()
