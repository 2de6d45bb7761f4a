"""Figures of refusal texts and of the bound of uniform pushes: they draw the numbers they are
given."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from sklearn.metrics import roc_auc_score

from sarsteer_lab.course.figures import (
    prediction_figure,
    prompted_figure,
    push_size_figure,
    readiness_figure,
    roc_figure,
)
from sarsteer_lab.course.palette import PAPER
from sarsteer_lab.evaluation.precondition import refused_shares


def test_shares_of_texts_stand_in_their_rows() -> None:
    rows = [
        (form, text, label, f"{label}{i}", "refused" if i < count else "answered")
        for form in ("typed", "spoken")
        for text, counts in {"none": (1, 0), "paper": (3, 1)}.items()
        for label, count in zip(("harmful", "harmless"), counts, strict=True)
        for i in range(4)
    ]
    shares = refused_shares(pd.DataFrame(rows, columns=["form", "text", "label", "id", "outcome"]))
    fig = prompted_figure(shares)
    fig.draw_without_rendering()
    typed, spoken = fig.axes
    assert [tick.get_text() for tick in typed.get_yticklabels()] == ["none", "paper"]
    assert (typed.get_title("left"), spoken.get_title("left")) == ("typed", "spoken")
    assert [text.get_text() for text in spoken.texts] == ["1/4", "3/4", "0/4", "1/4"]
    points = [line.get_xydata() for line in spoken.lines if len(line.get_xydata()) == 2]
    np.testing.assert_allclose(points[0][:, 0], [0.25, 0.75])
    assert fig.get_suptitle() == (
        "Of the spoken harmful requests the model refuses 1 of 4 without a text, "
        "3 of 4 with 'paper'"
    )


def test_each_text_is_a_point() -> None:
    fig = prediction_figure(
        {"paper": 0.2, "own": 0.9}, {"paper": 0.3, "own": 0.6}, bank=["paper"], alpha=0.1, bare=0.25
    )
    [ax] = fig.axes
    *points, down, across = ax.lines
    assert [tuple(line.get_xydata()[0]) for line in points] == [(0.2, 0.3), (0.9, 0.6)]
    assert set(down.get_xdata()) == set(across.get_ydata()) == {0.25}
    assert ax.lines[1].get_markerfacecolor() == PAPER != ax.lines[0].get_markerfacecolor()


def test_area_under_the_drawn_curve() -> None:
    rng = np.random.default_rng(0)
    own = {
        "harmful": rng.random(9) + 0.3,
        "harmless": rng.random(7),
        "pseudo-harmful": rng.random(5),
    }
    fig = roc_figure({"spoken": own})
    fig.draw_without_rendering()
    for ax, kind in zip(fig.axes, ("harmless", "pseudo-harmful"), strict=True):
        x, y = ax.lines[0].get_xydata().T
        labels = np.r_[np.ones(9), np.zeros(len(own[kind]))]
        expected = roc_auc_score(labels, np.r_[own["harmful"], own[kind]])
        assert np.trapezoid(y, x) == pytest.approx(expected)
        assert f"n = 9 + {len(own[kind])}" in ax.get_title("left")
        assert ax.get_legend().get_texts()[0].get_text() == f"spoken: {expected:.2f}"
    assert (
        readiness_figure(own)
        .get_suptitle()
        .endswith(f"pseudo-harmful one {expected:.0%} of the time")
    )
    points = readiness_figure(own).axes[0].collections[1].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.clip(own["harmless"], 1e-4, 1 - 1e-4))


def test_names_of_points_hide_no_point_and_no_other_name() -> None:
    rng = np.random.default_rng(1)
    prompted, steered = (
        {f"text {i}": float(v) for i, v in enumerate(rng.random(9) / 4)} for _ in "xy"
    )
    fig = prediction_figure(prompted, steered, bank=[], alpha=0.1, bare=0.1)
    fig.draw_without_rendering()
    [ax] = fig.axes
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list(prompted)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    points = ax.transData.transform([(prompted[name], steered[name]) for name in prompted])
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_push_is_drawn_beside_the_state_that_it_moves() -> None:
    states, vectors = torch.ones(3, 4, 16) * 2, torch.ones(4, 16)
    steered = {0.1: states + 0.1, 0.5: states + torch.arange(1, 5)[:, None] / 2}
    fig = push_size_figure(states, vectors, steered)
    left, right = fig.axes
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    np.testing.assert_allclose(lines["state"], np.full(4, 8.0))
    np.testing.assert_allclose(lines["one push"], np.full(4, 2.0))
    np.testing.assert_allclose(lines["pushes so far"], [2, 4, 6, 8])
    np.testing.assert_allclose(lines["state moved"], [2, 4, 6, 8], rtol=1e-6)
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.25, 0.5, 0.75, 1.0])
    assert fig.get_suptitle() == (
        "At alpha 0.5 a layer adds 25% of the state's length; at the end it has moved by 100%"
    )
