"""Figures of single requests: what arrows, bounds and conditions are drawn from."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from sklearn.metrics import roc_auc_score

from sarsteer_lab.course import figures
from sarsteer_lab.course.palette import BUILT_IN, LABELS
from sarsteer_lab.evaluation.separation import beyond_bound, uniform_bound

BEFORE = {
    "harmful": np.array([0.2, 0.9, 0.4]),
    "harmless": np.array([0.1, 0.3]),
    "pseudo-harmful": np.array([0.05, 0.00001]),
}
AFTER = {name: np.clip(values * 1.05, 0, 1) for name, values in BEFORE.items()}


def arrows(fig: Figure) -> list[tuple[float, float, str]]:
    """From where to where each arrow goes, and its colour."""
    found = []
    for text in fig.axes[0].texts:
        if isinstance(text, Annotation) and text.arrow_patch is not None:
            (end, _), (start, _) = text.xy, text.get_position()
            colour = to_hex(text.arrow_patch.get_edgecolor()).upper()
            found.append((float(start), float(end), colour))
    return found


def test_each_request_has_an_arrow_from_before_to_after() -> None:
    drawn = arrows(figures.moves_figure(BEFORE, AFTER, (0.5, 0.5)))
    expected = []
    for label, values in BEFORE.items():
        for row in np.argsort(values):
            start, end = (max(float(side[label][row]), 1e-4) for side in (BEFORE, AFTER))
            expected.append((pytest.approx(start), pytest.approx(end), LABELS[label][0]))
    assert drawn == expected


def test_both_cut_edges_of_a_readiness_axis_are_marked() -> None:
    moves = figures.moves_figure(BEFORE, AFTER, (0.5, 0.5))
    readiness = figures.readiness_figure(BEFORE)
    for ax in (moves.axes[0], readiness.axes[0]):
        marks = [text.get_text() for text in ax.get_xticklabels()]
        assert marks[0] == "0.01%\nor less" and marks[-1] == "99.99%\nor more"
        assert ax.get_xticks()[0] == 1e-4 and ax.get_xscale() == "logit"


def test_the_bound_is_that_of_the_order_and_the_star_stands_where_the_push_came() -> None:
    fig = figures.moves_figure(BEFORE, AFTER, (0.25, 0.75))
    benign = np.concatenate([BEFORE["harmless"], BEFORE["pseudo-harmful"]])
    lines = {line.get_label(): line for line in fig.axes[1].lines}
    np.testing.assert_allclose(
        lines["bound, from the order before"].get_xydata(),
        uniform_bound(BEFORE["harmful"], benign),
    )
    [star] = lines["the push, answers judged"].get_xydata()
    assert tuple(star) == (0.25, 0.75)
    area = roc_auc_score([1] * 3 + [0] * 4, np.r_[BEFORE["harmful"], benign])
    assert f"from {area:.2f} to" in fig.get_suptitle()


def test_beyond_the_bound_is_what_is_answered_less_what_the_order_allows() -> None:
    harmful, benign = np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.5, 0.05, 0.3, 0.85])
    refused = np.array([True, True, False, False])
    answered = np.array([True, True, True, False])
    # A threshold that half of the harmful ones reach is 0.8; three of four benign ones lie below.
    difference, low, high = beyond_bound(harmful, benign, refused, answered, resamples=200)
    assert difference == pytest.approx(0.0) and low <= difference <= high
    fewer = beyond_bound(harmful, benign, refused, np.zeros(4, bool), resamples=200)
    assert fewer[0] == pytest.approx(-0.75)


def test_conditions_show_each_request_and_where_they_fire() -> None:
    scores = {"own": BEFORE, "cast: cosine": AFTER}
    fig = figures.gates_figure(scores, {"cast: cosine": 0.35}, {"own": 0.8, "cast: cosine": 0.9})
    assert "by own with 0.80, by cast with 0.90" in fig.get_suptitle()
    own, cast = fig.axes
    assert (own.get_xlabel(), cast.get_xlabel()) == ("", "cosine")
    for ax, by_label in ((own, BEFORE), (cast, AFTER)):
        for cloud, values in zip(ax.collections, by_label.values(), strict=True):
            np.testing.assert_allclose(cloud.get_offsets()[:, 0], values)
    dotted = [line for line in cast.lines if line.get_linestyle() == ":"]
    assert [float(line.get_xdata()[0]) for line in dotted] == [0.35]
    assert not [line for line in own.lines if line.get_linestyle() == ":"]


def test_the_drawing_takes_off_what_ablation_takes_off() -> None:
    """Its arrow v is at a right angle to the safe space, and what is taken off lies in it."""
    fig = figures.idea_figure(0.25)
    ablation = fig.axes[2]
    ends = []
    for text in ablation.texts:
        if isinstance(text, Annotation) and text.arrow_patch is not None:
            ends.append(np.array(text.xy) - np.array(text.get_position()))
    direction, inside, left = ends
    np.testing.assert_allclose(direction, inside + left)
    assert inside @ left == pytest.approx(0, abs=1e-9)
    words = " ".join(text.get_text() for ax in fig.axes for text in ax.texts)
    assert "+ 0.25 v" in words and words.count("instruction") == 2


def test_the_adapters_layers_are_shaded_once_named_and_only_where_there_are_any() -> None:
    lines = {"a": torch.arange(6.0)}
    fig = figures.layer_curves_figure(lines, ylabel="y", title="t", built_in=[2, 3, 4])
    [ground] = fig.axes[0].patches
    assert to_hex(ground.get_facecolor()).upper() == BUILT_IN
    assert ground.get_x() == 1.5 and ground.get_width() == 3
    assert [text.get_text() for text in fig.axes[0].texts].count("safety adapter") == 1
    assert not figures.layer_curves_figure(lines, ylabel="y", title="t").axes[0].patches
