"""The study's figures show the numbers that they are given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sarsteer_lab import plots_study
from sarsteer_lab.ablation_study import MATCHED, PAIRS
from sarsteer_lab.evaluation import markdown, tabulate


def texts(fig: Figure) -> str:
    return " ".join(t.get_text() for ax in fig.axes for t in [*ax.texts, *ax.get_xticklabels(), ax.title])


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = []
    for defence, refused in (("none", 3), ("SARSteer", 9)):
        for label in ("harmful", "pseudo-harmful"):
            for i in range(10):
                outcome = "refused" if i < refused else "broken" if i == 9 else "answered"
                rows.append((defence, label, label, f"{label}{i}", "phrases", outcome))
    columns = ["defence", "set", "label", "id", "judge", "outcome"]
    return tabulate(pd.DataFrame(rows, columns=columns)).assign(skipped=0)


def test_defences_figure(table: pd.DataFrame) -> None:
    fig = plots_study.defences_figure(table, {"ASR": 0.05, "over-refusal": 0.1})
    assert len(fig.axes) == 2
    assert all(count in texts(fig) for count in ("6/10", "0/10", "3/10", "9/10"))
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert list(lines["target"].get_xdata()) == [0.05, 0.05]
    assert list(lines["share broken"].get_xdata()) == [0.1, 0.1]


def test_markdown_has_counts_and_only_what_says_something(table: pd.DataFrame) -> None:
    text = markdown(table)
    lines = text.splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert "6/10 = 60%" in lines[2] and "ASR" in lines[2]
    assert "-60% [" in text and "McNemar p" in text
    assert "judge" not in text and "skipped" not in text and "tokens/s" not in text and "nan" not in text
    assert "skipped" in markdown(table.assign(skipped=2))


def test_choice_figure() -> None:
    rows = [
        {"method": m, "space": s, "alpha": a, "score": a + 1, "within": a < 0.15, "chosen": a == 0.1}
        for m, s in (("SARSteer", "lam=1 k=5"), ("SARSteer", "lam=1 k=10"), ("other", ""))
        for a in (0.1, 0.2)
    ]
    rows.append({"method": "none", "space": "", "alpha": 0, "score": 2, "within": True, "chosen": True})
    fig = plots_study.choice_figure(pd.DataFrame(rows), 12)
    left, right = fig.axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["lam=1 k=5", "lam=1 k=10", "no steering"]
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["other", "no steering"]
    curve = right.lines[0]
    assert list(curve.get_xdata()) == [0.1, 0.2] and list(curve.get_ydata()) == [1.1, 1.2]


@pytest.mark.parametrize("dials", [(1.0, 0.4), (float("nan"),)])
def test_curves_and_differences(dials: tuple[float, ...]) -> None:
    rows, compared = [], []
    for dial in dials:
        for variant in ("not ablated", "ablated"):
            for alpha, refused in ((0.0, 2), (0.1, 8)):
                row = {"variant": variant, "alpha": alpha, "dial": dial}
                for label in ("harmful", "harmless", "pseudo-harmful"):
                    row |= {f"{label} refused": refused, f"{label} answered": 10 - refused}
                    row |= {f"{label} broken": 0}
                rows.append(row)
        for first, second in PAIRS:
            for statistic in ("area, benign: both", MATCHED):
                value = 0.1 if statistic != MATCHED else float("nan")
                compared.append((first, second, statistic, value, value - 0.05, value + 0.05, dial))
    fig = plots_study.curves_figure(pd.DataFrame(rows))
    assert len(fig.axes) == 2 * len(dials)
    curve = next(line for line in fig.axes[0].lines if line.get_label() == "not ablated")
    assert np.allclose(curve.get_xdata(), [0.8, 0.2]) and np.allclose(curve.get_ydata(), [0.2, 0.8])
    columns = ["first", "second", "statistic", "difference", "low", "high", "dial"]
    fig = plots_study.differences_figure(pd.DataFrame(compared, columns=columns))
    assert len(fig.axes) == 2
    assert "right: first is better" in fig.axes[0].get_xlabel()
    assert "left: first is better" in fig.axes[1].get_xlabel()


def test_cosines_figure() -> None:
    fig = plots_study.cosines_figure(pd.DataFrame({"a, b": [0.1, 0.5], "c, d": [-0.4, 0.2], "layer": [0, 1]}))
    assert list(fig.axes[0].lines[0].get_ydata()) == [0.1, 0.5]
    assert fig.axes[0].get_ylim()[0] < -0.4
