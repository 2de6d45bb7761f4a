"""Figures of refusal texts and of the bound of uniform pushes: they draw the numbers they are given."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sarsteer_lab.course.figures import prediction_figure, prompted_figure, push_size_figure, roc_figure
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


def test_each_text_is_a_point() -> None:
    fig = prediction_figure({"paper": 0.2, "own": 0.9}, {"paper": 0.3, "own": 0.6}, bank=["paper"], alpha=0.1)
    [ax] = fig.axes
    assert [tuple(line.get_xydata()[0]) for line in ax.lines] == [(0.2, 0.3), (0.9, 0.6)]
    assert ax.lines[1].get_markerfacecolor() == "white" != ax.lines[0].get_markerfacecolor()


def test_area_under_the_drawn_curve() -> None:
    rng = np.random.default_rng(0)
    own = {"harmful": rng.random(9) + 0.3, "harmless": rng.random(7), "pseudo-harmful": rng.random(5)}
    fig = roc_figure({"spoken": own})
    fig.draw_without_rendering()
    for ax, kind in zip(fig.axes, ("harmless", "pseudo-harmful"), strict=True):
        x, y = ax.lines[0].get_xydata().T
        labels = np.r_[np.ones(9), np.zeros(len(own[kind]))]
        expected = roc_auc_score(labels, np.r_[own["harmful"], own[kind]])
        assert np.trapezoid(y, x) == pytest.approx(expected)
        assert f"n = 9 + {len(own[kind])}" in ax.get_title("left")


def test_push_is_drawn_as_a_share_of_the_state() -> None:
    states, vectors = torch.ones(3, 4, 16) * 2, torch.ones(4, 16)
    fig = push_size_figure(states, vectors, [0.1, 0.5])
    _, right = fig.axes
    np.testing.assert_allclose(right.lines[1].get_ydata(), np.full(4, 0.25))
