"""The figures: they show the numbers they are given, in the one look, and are the same file every
time."""

from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from sarsteer_lab.course import figures
from sarsteer_lab.course.figures import base as plots
from sarsteer_lab.course.figures.names import name_points
from sarsteer_lab.course.palette import FORMS
from sarsteer_lab.evaluation.intervals import wilson

N, LAYERS, SEEDS = 20, 6, 3


def gap() -> Figure:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(N, LAYERS, generator=generator)
    centred = cosine - 0.4
    return figures.gap_figure(
        cosine,
        centred,
        torch.linspace(5, 2, LAYERS),
        torch.linspace(0.5, 1.5, LAYERS),
        0.9 + 0.1 * torch.rand(LAYERS, SEEDS, generator=generator),
    )


def states_map() -> Figure:
    points = torch.randn(4 * N, 2, generator=torch.Generator().manual_seed(0)).numpy()
    forms = ["typed"] * 2 * N + ["spoken"] * 2 * N
    return figures.maps_figure(
        {"PCA": points}, forms, (["harmful"] * N + ["harmless"] * N) * 2, layer=3
    )


LABELS = ["harmful"] * 50 + ["harmless"] * 40 + ["everyday"] * 10


def found(refused: float) -> list[str]:
    """Of every label's requests this share refused, the others answered."""
    counts = {label: LABELS.count(label) for label in dict.fromkeys(LABELS)}
    return [
        o
        for n in counts.values()
        for o in ["refused"] * round(refused * n) + ["answered"] * (n - round(refused * n))
    ]


def outcomes() -> Figure:
    return figures.outcomes_figure(LABELS, {"typed": found(0.9), "spoken": found(0.5)})


KINDS = ("harmful", "harmless", "pseudo-harmful")


def readiness(shift: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {kind: 1 / (1 + np.exp(-rng.normal(shift, 2, 12))) for kind in KINDS}


def moves() -> Figure:
    return figures.moves_figure(readiness(-1), readiness(1), (0.4, 0.7))


def gates() -> Figure:
    scores = {"own readiness": readiness(0), "CAST: cosine": readiness(1)}
    return figures.gates_figure(scores, {"CAST: cosine": 0.5}, dict.fromkeys(scores, 0.7))


def idea() -> Figure:
    return figures.idea_figure(0.1)


def shaded() -> Figure:
    return figures.layer_curves_figure(
        {"a": torch.ones(LAYERS), "b": torch.zeros(LAYERS)},
        ylabel="share",
        title="Two lines lie apart",
        built_in=range(2, LAYERS),
    )


FIGURES = [gap, states_map, outcomes, moves, gates, idea, shaded]


@pytest.mark.parametrize("draw", FIGURES)
def test_saved_twice_is_the_same_file_without_a_date(draw, tmp_path: Path) -> None:
    first = plots.save_figure(draw(), tmp_path / "a", "figure")
    second = plots.save_figure(draw(), tmp_path / "b", "figure")
    assert first.name == "figure.png" and list(first.parent.iterdir()) == [first]
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert set(picture.info) == {"dpi"}  # no date, no version


@pytest.mark.parametrize("draw", FIGURES)
def test_letters_are_readable_when_projected(draw, tmp_path: Path) -> None:
    fig = draw()
    plots.save_figure(fig, tmp_path, "figure")
    sizes = [text.get_fontsize() for text in fig.findobj(Text) if text.get_text().strip()]
    assert min(sizes) >= 12 and fig.get_figwidth() <= 13


@pytest.mark.parametrize("draw", FIGURES)
def test_no_text_is_cut_off_or_hidden_under_another_panel(draw, tmp_path: Path) -> None:
    fig = draw()
    plots.save_figure(fig, tmp_path, "figure")
    whole = fig.bbox
    boxes = [ax.get_tightbbox() for ax in fig.axes if ax.axison]
    for box in boxes:
        assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1
        assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1
    overlaps = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    assert not any(overlaps)


@pytest.mark.parametrize("draw", [gap, outcomes])
def test_every_axis_says_what_it_shows(draw) -> None:
    fig = draw()
    panels = [ax for ax in fig.axes if ax.axison]
    for ax in panels:
        assert ax.get_title(loc="left")
    assert any(ax.get_xlabel() for ax in panels)


LONG = "How much more is said here than one line of the figure holds. " * 4


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.panels(1, (8, 4), LONG)[0],
        lambda: figures.layer_curves_figure({"a": torch.ones(3)}, ylabel="share", title=LONG),
    ],
)
def test_a_long_title_is_wrapped_above_the_panels(draw, tmp_path: Path) -> None:
    fig = draw()
    plots.save_figure(fig, tmp_path, "figure")
    fig.draw_without_rendering()  # saved at other dots per inch, the title was wrapped for those
    title = fig.get_suptitle() and fig._suptitle.get_tightbbox()
    assert title.x1 <= fig.bbox.x1 and title.y1 <= fig.bbox.y1
    assert title.y0 >= fig.axes[0].get_tightbbox().y1


def test_figures_leave_no_trace_in_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    gap()
    outcomes()
    assert dict(matplotlib.rcParams) == before


def test_bars_are_shares_and_whiskers_wilsons_intervals() -> None:
    panels = [ax for ax in outcomes().axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == [
        "harmful requests (n = 50)",
        "harmless requests (n = 40)",
        "everyday requests (n = 10)",
    ]
    for ax, n in zip(panels, (50, 40, 10), strict=True):
        counts = [round(0.9 * n), n - round(0.9 * n), 0, round(0.5 * n), n - round(0.5 * n), 0]
        # The first condition stands on top, and a bar's number is its count.
        assert ax.get_ylim()[0] > ax.get_ylim()[1]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(
            [count / n for count in counts]
        )
        whiskers = np.concatenate(
            [segment[:, 0] for c in ax.collections for segment in c.get_segments()]
        )
        assert whiskers == pytest.approx([end for count in counts for end in wilson(count, n)])
        assert [text.get_text() for text in ax.texts] == list(map(str, counts))
    assert (
        outcomes().get_suptitle() == "Of 50 harmful requests the model refuses: typed 45, spoken 25"
    )


def test_answers_about_something_else_have_bars_of_their_own() -> None:
    found = ["refused"] * 3 + ["on topic"] * 2 + ["off topic"] * 5
    fig = figures.outcomes_figure(["harmful"] * 10, {"typed": ["refused"] * 10, "spoken": found})
    [ax] = [ax for ax in fig.axes if ax.axison]
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["refused", "on topic", "off topic", "broken"]
    assert [text.get_text() for text in ax.texts] == ["10", "0", "0", "0", "3", "2", "5", "0"]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert np.mean(middles[:4]) == pytest.approx(0) and np.mean(middles[4:]) == pytest.approx(1)
    assert max(middles[:4]) < min(middles[4:])


def test_what_has_no_bar_does_not_take_other_bars_away() -> None:
    found = ["refused"] * 3 + ["answered"] * 6 + ["not heard"]
    fig = figures.outcomes_figure(["harmful"] * 10, {"spoken": found})
    [ax] = [ax for ax in fig.axes if ax.axison]
    assert [text.get_text() for text in ax.texts] == ["3", "6", "0"]


def test_the_map_marks_harmful_filled_and_harmless_hollow() -> None:
    fig = states_map()
    ax, labels = fig.axes[0], [text.get_text() for text in fig.legends[0].get_texts()]
    assert labels == [
        "typed, harmful (20)",
        "typed, harmless (20)",
        "spoken, harmful (20)",
        "spoken, harmless (20)",
    ]
    filled = [bool(len(cloud.get_facecolors())) for cloud in ax.collections]
    assert filled == [True, False, True, False]
    assert to_hex(ax.collections[0].get_edgecolors()[0]).upper() == FORMS["typed"][0]
    assert ax.get_aspect() == 1


def test_the_gap_shows_medians_distances_and_accuracy() -> None:
    fig = gap()
    left, middle, right = fig.axes
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(N, LAYERS, generator=generator)
    assert left.lines[0].get_ydata() == pytest.approx(np.median(cosine.numpy(), axis=0), abs=1e-6)
    assert middle.lines[0].get_ydata() == pytest.approx(np.linspace(5, 2, LAYERS), abs=1e-5)
    accuracy = 0.9 + 0.1 * torch.rand(LAYERS, SEEDS, generator=generator)
    assert right.lines[0].get_ydata() == pytest.approx(accuracy.mean(1).numpy(), abs=1e-6)
    form, harm = (middle.lines[number].get_ydata() for number in (0, 1))
    ratio = np.prod(form / harm) ** (1 / LAYERS)
    told = f"typed and spoken states lie {ratio:.1f} times as far apart as those of harmful"
    assert told in fig.get_suptitle()
    assert "20 requests" in fig.get_suptitle()


def test_a_name_stands_nearest_to_its_own_point() -> None:
    """Two points hardly apart: the lower one's name must not lie beside the upper one."""
    names = ["lower", "upper", "right", "below"]
    places = np.array([(0.29, 0.28), (0.292, 0.303), (0.34, 0.333), (0.341, 0.309)])
    fig, [ax] = plots.panels(1, (9.5, 6.4))
    ax.set(xlim=(-0.03, 1.15), ylim=(-0.03, 1.05))
    name_points(ax, names, places, ["black"] * 4)
    fig.draw_without_rendering()
    points = ax.transData.transform(places)
    for i, text in enumerate(ax.texts):
        assert text.get_text() == names[i]
        box = Text.get_window_extent(text)
        nearest = np.clip(points, box.min, box.max)
        away = np.linalg.norm(points - nearest, axis=1)
        assert 1.2 * away[i] < np.delete(away, i).min(), names[i]


def test_a_name_does_not_stand_at_the_height_of_another_point_beside_it() -> None:
    """Chapter 7's two points: the long name must not end where the star begins."""
    names = ["SARSteer as in the paper", "none"]
    places = np.array([(0.875, 0.325), (0.8875, 0.3)])
    fig, [ax] = plots.panels(1, (11, 6.4))
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05))
    name_points(ax, names, places, ["black"] * 2)
    fig.draw_without_rendering()
    points = ax.transData.transform(places)
    for i, text in enumerate(ax.texts):
        box = Text.get_window_extent(text)
        off_level = np.abs(points[:, 1] - (box.y0 + box.y1) / 2)
        assert off_level[i] <= off_level[1 - i], names[i]


def test_no_name_is_written_over_another() -> None:
    """The appendix's defences, which crowd along the bound."""
    crowd = {
        "refusal examples": (0, 1),
        "self-reminder before": (0.233, 0.91),
        "self-reminder after": (0.305, 0.89),
        "inspect the audio": (0.211, 0.78),
        "SARSteer, chosen": (0.439, 0.81),
        "refusal direction, inspect": (0.422, 0.86),
        "typed difference-in-means": (0.489, 0.84),
        "spoken difference-in-means": (0.489, 0.85),
        "conditional (CAST), inspect": (0.55, 0.72),
        "null-space (AlphaSteer), inspect": (0.572, 0.76),
    }
    share = np.linspace(0, 0.6, 60)
    bound = np.column_stack([share, 1 - share**2 / 1.4])
    fig, [ax] = plots.panels(1, (11, 6.8))
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05))
    name_points(ax, list(crowd), np.array(list(crowd.values())), ["black"] * 10, bound)
    fig.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    for first, second in combinations(boxes, 2):
        assert not first.overlaps(second)
