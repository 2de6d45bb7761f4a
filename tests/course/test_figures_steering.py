"""Figures of chapters 04 and 07 and of the panels: they draw the numbers they are given, and
nothing else."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from sarsteer_lab.course.figures import (
    curves_figure,
    divergence_figure,
    live_figure,
    removal_figure,
    save_figure,
    sweep_figure,
    tradeoff_figure,
)
from sarsteer_lab.course.figures.defences import group_of
from sarsteer_lab.course.palette import METHOD, OUTCOMES, PAPER
from sarsteer_lab.evaluation.intervals import wilson

ALPHAS = (0.0, 0.1, 0.3)
REFUSED = {"harmful": (2, 9, 4), "harmless": (0, 3, 2)}


def sweep() -> Figure:
    rows = []
    for label, refused in REFUSED.items():
        for alpha, count in zip(ALPHAS, refused, strict=True):
            broken = 6 if alpha == 0.3 else 0
            for outcome, value in (
                ("refused", count),
                ("answered", 10 - count - broken),
                ("broken", broken),
            ):
                rows.append((label, alpha, outcome, value, 10))
    table = pd.DataFrame(rows, columns=["label", "alpha", "outcome", "count", "n"])
    return sweep_figure(table, "alpha", "strength alpha")


def divergence() -> Figure:
    return divergence_figure(
        (0.1, 0.2), {"SARSteer": np.array([[0.1, 0.2, 0.4], [1.0, 2.0, 3.0]])}, told=0.1
    )


TABLE = pd.DataFrame(
    [
        ("none", "harmful", 10, 2, 8),
        ("none", "harmless", 10, 1, 9),
        ("refusal examples", "harmful", 10, 9, 1),
        ("refusal examples", "harmless", 10, 6, 4),
        ("mine", "harmful", 10, 1, 9),
        ("mine", "harmless", 10, 2, 8),
        ("conditional (CAST)", "harmful", 10, 8, 2),
        ("conditional (CAST)", "harmless", 10, 3, 7),
    ],
    columns=["defence", "label", "n", "refused", "answered"],
)


def tradeoff() -> Figure:
    return tradeoff_figure(TABLE)


def live() -> Figure:
    return live_figure(
        {
            "typed": [(0.0, 0.1, "answered"), (1.0, 0.9, "refused")],
            "spoken": [(0.0, 0.2, "broken")],
        },
        "dial",
    )


def removal() -> Figure:
    direction = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    inside = direction * torch.tensor([1.0, 0.0])
    return removal_figure(direction, inside, 1.0, layer=0, k=1)


def whole_curves() -> Figure:
    rows = [("not ablated", 0.0, 0.2, 0.9), ("ablated", 0.0, 0.2, 0.9)]
    rows += [
        ("not ablated", 0.3, 0.8, 0.5),
        ("not ablated", 0.1, 0.4, 0.7),
        ("ablated", 0.1, 0.3, 0.9),
    ]
    columns = ["variant", "alpha", "harmful_refused", "benign_answered"]
    points = pd.DataFrame(rows, columns=columns)
    settings = {"paper, dial 1": points, "paper, dial 0.6": points[points["alpha"] < 0.3]}
    return curves_figure(settings, "Ablation saves nothing")


FIGURES = [whole_curves, sweep, divergence, tradeoff, live, removal]


@pytest.mark.parametrize("make", FIGURES)
def test_figures_are_saved_the_same_every_time(make: object, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    contents = []
    for folder in ("a", "b"):
        path = save_figure(make(), tmp_path / folder, "figure")  # type: ignore[operator]
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert dict(matplotlib.rcParams) == before


def test_whole_curves_go_by_strength_from_one_start() -> None:
    fig = whole_curves()
    assert fig.get_suptitle() == "Ablation saves nothing"
    whole, lower = fig.axes
    assert whole.get_title(loc="left") == "paper, dial 1\nalpha 0, 0.1, 0.3"
    assert lower.get_title(loc="left") == "paper, dial 0.6\nalpha 0, 0.1"
    lines = {line.get_label(): line for line in whole.get_lines()}
    assert lines["not ablated"].get_xdata().tolist() == [0.9, 0.7, 0.5]
    assert lines["not ablated"].get_ydata().tolist() == [0.2, 0.4, 0.8]
    assert (lines["no push"].get_xdata()[0], lines["no push"].get_ydata()[0]) == (0.9, 0.2)
    # What they mean elsewhere: the direction, and what ablation leaves of it.
    assert lines["not ablated"].get_color() == METHOD["direction"]
    assert lines["ablated"].get_color() == METHOD["vectors"]
    assert len(lower.get_lines()[0].get_xdata()) == 2 and lower.get_xlim() == whole.get_xlim()


def test_sweep_draws_shares_and_their_intervals() -> None:
    fig = sweep()
    for ax, (label, refused) in zip(fig.axes, REFUSED.items(), strict=True):
        top = max(refused)
        told = f"{label} {refused[0]} \u2192 {top} of 10 at {ALPHAS[refused.index(top)]:g}"
        assert told in fig.get_suptitle() and ax.get_title(loc="left") == f"{label} requests"
        lines = {line.get_label(): line for line in ax.get_lines()}
        assert set(lines) == set(OUTCOMES)
        np.testing.assert_allclose(lines["refused"].get_xdata(), ALPHAS)
        np.testing.assert_allclose(lines["refused"].get_ydata(), np.array(refused) / 10)
        total = sum(np.asarray(line.get_ydata()) for line in lines.values())
        np.testing.assert_allclose(total, 1)
        band = ax.collections[0].get_paths()[0].vertices
        low, high = wilson(refused[0], 10)
        at_start = band[band[:, 0] == 0.0][:, 1]
        np.testing.assert_allclose((at_start.min(), at_start.max()), (low, high))
        # Told apart without colour.
        assert len({line.get_linestyle() for line in lines.values()}) == 3


def test_divergence_draws_medians() -> None:
    ax = divergence().axes[0]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [0.2, 2.0])
    assert "nats" in ax.get_ylabel() and "n = 3" in ax.texts[0].get_text()


def test_divergence_says_in_a_sentence_which_moves_furthest_and_which_least() -> None:
    moved = {
        "refusal direction": np.array([[9.0, 9.0, 9.0], [0.5, 0.7, 0.9]]),
        "SARSteer": np.array([[9.0, 9.0, 9.0], [0.1, 0.2, 0.3]]),
        "random, as long": np.array([[1.0, 1.0, 1.0], [0.4, 0.4, 0.4]]),
    }
    assert divergence_figure((0.05, 0.1), moved, told=0.1).get_suptitle() == (
        "At alpha 0.1 the first token moves furthest under 'refusal direction' "
        "(0.7 nats, median), least under 'SARSteer' (0.2)"
    )


def test_tradeoff_places_defences_in_their_groups() -> None:
    ax = tradeoff().axes[0]
    assert [text.get_text() for text in ax.texts] == list(dict.fromkeys(TABLE["defence"]))
    points = [tuple(np.ravel(line.get_data())) for line in ax.lines]
    assert points == [(0.9, 0.2), (0.4, 0.9), (0.8, 0.1), (0.7, 0.8)]
    [legend] = tradeoff().legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["no defence", "prompts", "others", "conditional pushes"]
    assert tradeoff().get_suptitle() == "3 of 4 are beaten by no other in both respects"
    beyond = tradeoff_figure(TABLE, np.array([(0.0, 1.0), (0.5, 0.8), (0.9, 0.2), (1.0, 0.0)]))
    assert beyond.get_suptitle() == "2 of 4 lie beyond the bound of a uniform push"
    alone = tradeoff_figure(TABLE, np.array([(0.0, 1.0), (0.5, 0.8), (0.95, 0.85), (1.0, 0.0)]))
    assert alone.get_suptitle() == "1 of 4 lies beyond the bound of a uniform push"
    # Two at one place share a name; a third elsewhere keeps its own.
    twice = pd.concat([TABLE, TABLE[TABLE["defence"] == "mine"].assign(defence="yours")])
    shown = [text.get_text() for text in tradeoff_figure(twice).axes[0].texts]
    assert "mine = yours" in shown and len(shown) == 4
    with pytest.raises(ValueError, match="harmful and benign"):
        tradeoff_figure(TABLE[TABLE["label"] == "harmful"])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("self-reminder after", "prompts"),
        ("SARSteer, examples", "uniform pushes"),
        ("null-space (AlphaSteer)", "conditional pushes"),
        ("mine", "others"),
    ],
)
def test_defences_belong_to_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def test_live_markers_tell_outcomes() -> None:
    ax = live().axes[0]
    points = [
        line
        for line in ax.get_lines()
        if len(line.get_xdata()) == 1 and line.get_label() != "spoken"
    ]
    assert [line.get_marker() for line in points] == ["o", "o", "X"]
    assert points[0].get_markerfacecolor() == PAPER != points[1].get_markerfacecolor()


def test_removal_draws_the_triangle() -> None:
    fig = removal()
    np.testing.assert_allclose([bar.get_height() for bar in fig.axes[0].patches[:2]], [9 / 25, 1.0])
    ends = [annotation.xy for annotation in fig.axes[1].texts]
    assert ends == [(3.0, 4.0), (0.0, 4.0)]
