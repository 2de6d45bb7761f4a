"""One palette a meaning, for colour-blind readers too; and no figure names a colour of its own."""

import ast
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.figure import Figure

import sarsteer_lab.course
from sarsteer_lab.course import figures, palette
from sarsteer_lab.course.figures.base import in_series

COURSE = Path(sarsteer_lab.course.__file__).parent
DRAWING = [*sorted((COURSE / "figures").glob("*.py")), *sorted((COURSE / "widgets").glob("*.py"))]

# Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color vision
# deficiency", severity 1, for linear RGB.
SEEN_BY = {
    "everybody else": np.eye(3),
    "protanopes": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopes": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopes": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, D65

PALETTES = {
    "kinds of request": palette.LABELS,
    "forms": palette.FORMS,
    "outcomes": palette.OUTCOMES,
    "defences": palette.DEFENCES,
    "outcomes, answers by their topic": palette.TOPICS,
}


def lab(colour: str, seen_by: str) -> np.ndarray:
    """A colour in CIE L*a*b*, as these readers see it."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(SEEN_BY[seen_by]) @ linear, 0, 1)
    x, y, z = (TO_XYZ @ linear) / TO_XYZ.sum(1)
    cube = [
        value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z)
    ]
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


@pytest.mark.parametrize("seen_by", SEEN_BY)
@pytest.mark.parametrize("name", PALETTES)
def test_colours_of_one_palette_are_told_apart(name: str, seen_by: str) -> None:
    """A difference of 2.3 is just seen; these are for thin lines and small points."""
    looks = [look[0] for look in PALETTES[name].values()]
    for first, second in combinations(looks, 2):
        distance = np.linalg.norm(lab(first, seen_by) - lab(second, seen_by))
        assert distance > 15, f"{first} and {second} for {seen_by}: {distance:.0f}"


@pytest.mark.parametrize("name", PALETTES)
def test_no_meaning_hangs_on_colour_alone(name: str) -> None:
    beside = [look[1:] for look in PALETTES[name].values()]
    assert len(set(beside)) == len(beside)


def test_a_colour_of_requests_forms_and_outcomes_means_one_thing() -> None:
    used = {name: {look[0] for look in PALETTES[name].values()} for name in list(PALETTES)[:3]}
    for first, second in combinations(used.values(), 2):
        assert first & second <= {palette.GREY}


def test_names_with_a_meaning_have_its_look_in_every_figure() -> None:
    looks = {name: look for name, _, look in in_series({"typed": 0, "mine": 0, "harmful": 0})}
    assert looks["typed"]["color"] == palette.FORMS["typed"][0]
    assert looks["harmful"]["color"] == palette.LABELS["harmful"][0]
    assert looks["mine"]["color"] not in (looks["typed"]["color"], looks["harmful"]["color"])


def pushes_drawn() -> list[Figure]:
    """Every figure of chapters 3 and 4 that draws a direction beside what ablation leaves of it."""
    lines = {name: torch.tensor([0.1, 0.6]) for name in ("ablated", "not ablated")}
    planes = {name: (line, line) for name, line in lines.items()}
    direction = torch.tensor([[3.0, 4.0]])
    inside = torch.tensor([[3.0, 0.0]])
    moved = {name: np.ones((2, 3)) for name in ("refusal direction", "SARSteer", "random, as long")}
    return [
        figures.push_figure([0, 0.1], {"harmful": lines}, n=1),
        figures.controls_figure(planes, [0, 0.1], n=3, title="Two pushes"),
        figures.removal_figure(direction, inside, 1.0, layer=0, k=1),
        figures.divergence_figure((0.1, 0.2), moved, told=0.1),
    ]


def test_the_parts_of_the_method_have_one_colour_in_every_figure() -> None:
    """The refusal direction is never drawn in the colour of what ablation leaves of it."""
    part_of = {
        "refusal direction": "direction",
        "not ablated": "direction",
        "ablated": "vectors",
        "SARSteer": "vectors",
        "after ablation, lambda = 1": "vectors",
        "random, as long": "control",
    }
    for fig in pushes_drawn():
        parts = set()
        for line in [line for ax in fig.axes for line in ax.lines]:
            part = part_of.get(str(line.get_label()).partition("\n")[0])
            if part is not None:
                assert to_rgb(line.get_color()) == to_rgb(palette.METHOD[part]), line.get_label()
                parts.add(part)
        assert parts >= {"direction", "vectors"}, fig.get_suptitle()


def test_panels_in_the_browser_have_the_same_colours() -> None:
    css = (COURSE / "widgets" / "views" / "views.css").read_text("utf-8")
    first = css[: css.index("}")]  # the colours on light ground
    found = {name: to_rgb(colour) for name, colour in re.findall(r"--([\w-]+): (#\w+);", first)}
    for looks in (palette.LABELS, palette.FORMS):
        for name, look in looks.items():
            assert found[name] == to_rgb(look[0]), name
    for name in ("refused", "broken"):
        assert found[name] == to_rgb(palette.OUTCOMES[name][0]), name
    for name in ("direction", "inside", "vectors"):
        assert found[name] == to_rgb(palette.METHOD[name]), name


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_figure_names_a_colour_of_its_own(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 2:
            named = is_color_like(node.value) and node.value != "none"
            assert not named, f"line {node.lineno}: {node.value!r} belongs into course.palette"
        if isinstance(node, ast.keyword) and node.arg in ("cmap", "color", "facecolor"):
            assert not isinstance(node.value, ast.Constant), f"line {node.value.lineno}"


def test_the_search_finds_a_colour() -> None:
    assert is_color_like("#0072B2") and is_color_like("white") and not is_color_like("harmful")
    assert len(DRAWING) > 15 and figures.__file__ is not None
