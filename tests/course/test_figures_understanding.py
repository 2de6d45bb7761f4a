"""Chapter 8's figures: defences look as everywhere, and the title leaves out no best setting."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sarsteer_lab.course import figures
from sarsteer_lab.course.palette import DEFENCES, FORMS
from sarsteer_lab.evaluation.separation import uniform_bound

SPOKEN = {"0": 0.6, "0.5": 0.7, "1": 0.8, "1, safety 0.3": 0.9, "1, safety 1": 0.85}
PLACES = ("typed", "spoken")
NAMES = ("none", "SARSteer, chosen", "self-reminder after", "conditional (CAST), inspect")
SHARES = ((0.3, 0.9), (0.8, 0.5), (0.9, 0.4), (0.7, 0.6))


def forms(spoken: dict[str, float] = SPOKEN) -> pd.DataFrame:
    rows = []
    for place, (setting, area) in enumerate(spoken.items()):
        for form, value in (("typed", 0.95), ("spoken", area)):
            row = {"setting": setting, "form": form, "area": value, "n": 40, "refused": 5 + place}
            rows.append(row | {"low": value - 0.1, "high": value + 0.03})
    return pd.DataFrame(rows)


def best() -> pd.DataFrame:
    rows = []
    for step, setting in enumerate(("0", "1, safety 0.3")):
        for name, (refused, answered) in zip(NAMES, SHARES, strict=True):
            row = {"setting": setting, "defence": name, "group": figures.group_of(name)}
            rows.append(row | {"refused": refused + 0.1 * step, "answered": answered})
    return pd.DataFrame(rows)


def named(ax: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in ax.lines if line.get_label()[0] != "_"}


def has_look(line: Line2D, group: str) -> bool:
    return (line.get_color(), line.get_marker()) == DEFENCES[group]


def drawn(spoken: dict[str, float] = SPOKEN) -> Figure:
    return figures.understanding_figure(forms(spoken), best())


def test_defences_look_as_their_groups_do_in_every_plane() -> None:
    plane = named(drawn().axes[2])
    groups = ("no defence", "uniform pushes", "prompts", "conditional pushes")
    assert list(plane) == list(NAMES)
    for (name, line), group in zip(plane.items(), groups, strict=True):
        assert has_look(line, group), name
        refused, answered = SHARES[NAMES.index(name)]
        expected = [[answered, refused], [answered, refused + 0.1]]
        np.testing.assert_allclose(line.get_xydata(), expected)
    labels = [text.get_text() for text in drawn().axes[2].get_legend().get_texts()]
    assert labels == list(NAMES)


def test_the_title_names_first_best_and_last() -> None:
    told = "0.60 at first (0), 0.90 at best (1, safety 0.3), 0.85 at last (1, safety 1)"
    assert drawn().get_suptitle() == f"The area under the ROC curve of spoken requests is {told}"
    rising = {"0": 0.6, "1": 0.7}
    assert drawn(rising).get_suptitle().endswith("is 0.60 at first (0), 0.70 at last (1)")
    assert drawn({"0": 0.6}).get_suptitle().endswith("is 0.60 at first (0)")


def test_settings_of_the_second_dial_stand_apart_from_the_line_of_the_first() -> None:
    areas, refusals, _ = drawn().axes
    for ax in (areas, refusals):
        of_spoken = [line for line in ax.lines if line.get_color() == FORMS["spoken"][0]]
        places = [list(line.get_xdata()) for line in of_spoken if len(line.get_xdata())]
        assert [0, 1, 2] in places and [3, 4] in places
        assert [text.get_text() for text in ax.get_xticklabels()] == list(SPOKEN)
    [first, second] = [line for line in areas.lines if line.get_color() == FORMS["spoken"][0]][:2]
    assert [*first.get_ydata(), *second.get_ydata()] == list(SPOKEN.values())


def test_a_push_stands_beside_the_bound_of_its_own_place() -> None:
    generator = np.random.default_rng(0)
    bounds, rows = {}, []
    for number, place in enumerate(PLACES):
        bounds[place] = uniform_bound(generator.random(9), generator.random(7))
        for name, (refused, answered) in list(zip(NAMES, SHARES, strict=True))[:2]:
            row = {"place": place, "defence": name, "group": figures.group_of(name)}
            rows.append(row | {"refused": refused + 0.1 * number, "answered": answered})
    along = {"typed": [(0.9, 0.3), (0.7, 0.6), (0.4, 0.9)]}
    fig = figures.reach_figure(pd.DataFrame(rows), bounds, along)
    for number, (ax, place) in enumerate(zip(fig.axes, PLACES, strict=True)):
        lines = named(ax)
        assert ax.get_title(loc="left") == place
        np.testing.assert_allclose(lines["bound of a uniform push"].get_xydata(), bounds[place])
        assert has_look(lines["none"], "no defence")
        assert has_look(lines["SARSteer, chosen"], "uniform pushes")
        [point] = lines["SARSteer, chosen"].get_xydata()
        np.testing.assert_allclose(point, [0.5, 0.8 + 0.1 * number])
    curve = named(fig.axes[0])["at other strengths"]
    np.testing.assert_allclose(curve.get_xydata(), along["typed"])
    assert "at other strengths" not in named(fig.axes[1])
    assert "80% and 50% (typed), 90% and 50% (spoken)" in fig.get_suptitle()
