"""The figures of chapters 00 to 03: they show the numbers they are given, and nothing overlaps in
words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from sarsteer_lab.course import figures
from sarsteer_lab.course.figures import save_figure
from sarsteer_lab.course.palette import BUILT_IN

LAYERS, N = 30, 40


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def clip() -> Figure:
    wave = np.sin(np.arange(16000 * 2) / 20).astype(np.float32) * np.hanning(32000).astype(
        np.float32
    )
    return figures.clip_figure(
        wave, rand(80, 200), torch.randn(50, 64), words="How do birds find their way?"
    )


def dial() -> Figure:
    refused = {"harmful": [1, 4, 15, 20], "harmless": [0, 1, 1, 2]}
    return figures.dial_figure(
        [0, 0.3, 0.6, 1], refused, {"harmful": 20, "harmless": 20}, form="typed"
    )


def curves() -> Figure:
    lines = {f"curve {i}": rand(LAYERS, seed=i) for i in range(3)}
    return figures.layer_curves_figure(
        lines, ylabel="accuracy", title="Harm", reference=(0.5, "chance"), as_percent=True
    )


def maps() -> Figure:
    maps = {"PCA": rand(4 * N, 2).numpy(), "UMAP": rand(4 * N, 2, seed=1).numpy()}
    forms = ["typed"] * 2 * N + ["spoken"] * 2 * N
    return figures.maps_figure(maps, forms, (["harmful"] * N + ["harmless"] * N) * 2, layer=12)


def push() -> Figure:
    lines = {
        name: rand(4, seed=i) for i, name in enumerate(["text-derived", "means, typed", "random"])
    }
    return figures.push_figure(
        [0, 0.1, 0.2, 0.4], {"harmful, spoken": lines, "harmless, spoken": lines}, n=16
    )


def share() -> Figure:
    ks = [1, 2, 5, 10, 20]
    shares = rand(5, LAYERS).cumsum(0) / 5
    return figures.share_figure(shares, ks, torch.tensor(ks) / 60, layer=14, built_in=range(10, 30))


def controls() -> Figure:
    start = torch.tensor([0.1])
    lines = {
        name: (
            torch.cat([start, rand(3, seed=i).sort().values]),
            torch.cat([start, rand(3, seed=i + 9)]),
        )
        for i, name in enumerate(
            ["not ablated", "ablated", "ablated, full length", "random space ablated"]
        )
    }
    return figures.controls_figure(
        lines, [0, 0.1, 0.2, 0.4], n=16, title="Ablated 52%, not ablated 50%"
    )


ALL: list[Callable[[], Figure]] = [
    clip, dial, curves, maps, push, share, controls
]  # fmt: skip


def texts(fig: Figure) -> str:
    found = []
    for ax in fig.axes:
        found += [ax.get_title(loc="left"), ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
        found += [text.get_text() for text in ax.texts]
        found += [
            text.get_text() for text in (ax.get_legend().get_texts() if ax.get_legend() else [])
        ]
    for legend in fig.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return "\n".join([*found, fig.get_suptitle()])


@pytest.mark.parametrize("draw", ALL, ids=lambda f: f.__name__)
def test_a_figure_is_saved_twice_alike(draw: Callable[[], Figure], tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = save_figure(draw(), tmp_path / "a", draw.__name__)
    torch.manual_seed(0)
    second = save_figure(draw(), tmp_path / "b", draw.__name__)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5000


def test_the_dial_shows_shares_intervals_and_counts() -> None:
    fig = dial()
    line = fig.axes[0].containers[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [0.05, 0.2, 0.75, 1.0])
    assert "harmful 1 \u2192 20 of 20" in fig.get_suptitle()


def test_curves_show_their_values_and_the_reference() -> None:
    ax = curves().axes[0]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), rand(LAYERS, seed=1))
    assert ax.lines[-1].get_label() == "chance" and set(ax.lines[-1].get_ydata()) == {0.5}
    some = figures.layer_curves_figure({"a": rand(3)}, ylabel="", title="", layers=[0, 5, 9]).axes[
        0
    ]
    assert list(some.lines[0].get_xdata()) == [0, 5, 9]


def test_maps_tell_form_from_harm_and_check_their_input() -> None:
    fig = maps()
    assert [len(ax.collections) for ax in fig.axes] == [4, 4]
    assert f"spoken, harmful ({N})" in texts(fig)
    harmful, harmless = fig.axes[0].collections[:2]
    assert len(harmful.get_facecolors()) and not len(harmless.get_facecolors())
    with pytest.raises(ValueError, match="do not fit"):
        figures.maps_figure({"PCA": rand(3, 2).numpy()}, ["typed"] * 2, ["harmful"] * 3, layer=0)


def test_shares_and_trade_off_show_their_numbers() -> None:
    np.testing.assert_allclose(
        share().axes[1].lines[0].get_ydata(), (rand(5, LAYERS).cumsum(0) / 5)[:, 14]
    )
    ax = controls().axes[0]
    assert ax.lines[0].get_xdata()[0] == pytest.approx(0.1)
    assert ax.lines[-1].get_label() == "unsteered"
    assert "n = 16" in texts(push())


def test_layers_that_were_built_to_refuse_are_shaded_above_the_shares() -> None:
    left = share().axes[0]
    [strip] = left.patches
    assert (strip.get_x(), strip.get_x() + strip.get_width()) == (9.5, 29.5)
    top_of_the_picture = left.images[0].get_extent()[3]
    assert strip.get_y() == top_of_the_picture and to_rgb(strip.get_facecolor()) == to_rgb(BUILT_IN)
    assert "safety adapter" in [text.get_text() for text in left.texts]
    plain = figures.share_figure(rand(2, 4), [1, 2], rand(2), layer=1).axes[0]
    assert not plain.patches


def test_titles_say_what_was_measured() -> None:
    lines = {"ablated": torch.tensor([0.1, 0.2])}
    one = figures.push_figure([0, 1], {"harmful": lines}, n=1, title="One request moves")
    assert one.get_suptitle() == "One request moves" and "mean" not in one.axes[0].get_ylabel()
    rises = {"a": [0.1, 0.2], "b": [0.1, 0.9]}
    kinds = {
        kind: {name: torch.tensor(values) for name, values in rises.items()} for kind in ("x", "y")
    }
    assert (
        figures.push_figure([0, 1], kinds, n=3)
        .get_suptitle()
        .endswith("'b' for x requests (10% \u2192 90%), from 'b' for y requests (10% \u2192 90%)")
    )
    points = np.array([[0, 0], [0, 1], [9, 0], [9, 1]], dtype=float)
    forms, labels = ["typed", "typed", "spoken", "spoken"], ["harmful", "harmless"] * 2
    [ax] = figures.maps_figure({"PCA": points}, forms, labels, layer=1).axes
    assert ax.get_title("left") == "PCA: 100% same form, 0% same label"
    told = "100% (PCA) of the states lie nearest to one of their own form"
    assert ax.figure.get_suptitle() == f"At layer 1, {told}"


@pytest.mark.parametrize(
    "lines", [{"a": [0, 1], "b": [1, 1]}, {f"curve {i}": [i, 0.5] for i in range(5)}]
)
def test_names_stand_at_their_lines_and_touch_no_other(
    lines: dict[str, list[float]], tmp_path: Path
) -> None:
    drawn = {name: torch.tensor(values) for name, values in lines.items()}
    fig = figures.layer_curves_figure(drawn, ylabel="", title="", reference=(0.5, "chance"))
    save_figure(fig, tmp_path, "figure")
    fig.draw_without_rendering()
    names = {text.get_text(): Text.get_window_extent(text) for text in fig.axes[0].texts}
    assert set(names) == {*lines, "chance"}
    boxes = list(names.values())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(box.x0 > fig.axes[0].bbox.x1 and box.x1 <= fig.bbox.x1 for box in boxes)
    at_end = sorted(lines, key=lambda name: lines[name][-1])
    assert names[at_end[0]].y0 <= names[at_end[-1]].y0


def test_pictures_in_the_plane() -> None:
    states = torch.cat([rand(20, 6), rand(20, 6, seed=1) + 30])
    points = figures.project_2d(states)
    assert points.shape == (40, 2)
    assert (points[:20, 0].max() < points[20:, 0].min()) or (
        points[:20, 0].min() > points[20:, 0].max()
    )
    with pytest.raises(ValueError, match="one layer"):
        figures.project_2d(rand(4, 2, 3))
    with pytest.raises(ValueError, match="'pca' or 'umap'"):
        figures.project_2d(states, method="tsne")  # type: ignore[arg-type]


@pytest.mark.slow
def test_umap_pictures_depend_on_the_seed_only() -> None:
    states = torch.cat([rand(20, 6), rand(20, 6, seed=1) + 30])
    points = figures.project_2d(states, method="umap")
    assert points.shape == (40, 2) and np.isfinite(points).all()
    np.testing.assert_array_equal(points, figures.project_2d(states, method="umap"))
