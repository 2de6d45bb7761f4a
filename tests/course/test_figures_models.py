"""The figure that sets models side by side."""

import torch
from matplotlib.colors import to_hex

from sarsteer_lab.course.figures import depth_figure
from sarsteer_lab.course.palette import BUILT_IN


def test_each_model_is_a_line_over_relative_depth_in_every_panel():
    curves = {"shallow": torch.tensor([1.0, 2.0, 3.0]), "deep": torch.linspace(0, 1, 11)}
    fig = depth_figure(
        {"Gap": curves, "Size": curves},
        ylabels={"Gap": "spreads", "Size": "share"},
        title="Two models",
    )
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes] == ["Gap", "Size"]
    for ax, label in zip(fig.axes, ("spreads", "share"), strict=True):
        assert ax.get_ylabel() == label
        assert [line.get_label() for line in ax.lines] == list(curves)
        shallow, deep = ax.lines
        assert list(shallow.get_xdata()) == [0, 0.5, 1] and list(shallow.get_ydata()) == [1, 2, 3]
        assert len(deep.get_xdata()) == 11 and max(deep.get_xdata()) == 1
        # Told apart without colour as well.
        assert (
            shallow.get_marker() != deep.get_marker()
            and shallow.get_linestyle() != deep.get_linestyle()
        )


def test_a_model_of_one_layer_is_drawn():
    fig = depth_figure(
        {"Gap": {"one": torch.tensor([1.0])}}, ylabels={"Gap": "spreads"}, title="One"
    )
    assert list(fig.axes[0].lines[0].get_xdata()) == [0]


def test_layers_that_were_taught_to_refuse_are_shaded_at_their_depth():
    curves = {"shallow": torch.tensor([1.0, 2.0, 3.0]), "deep": torch.linspace(0, 1, 11)}
    taught = {"deep": range(4, 11), "shallow": ()}
    measures = {"Gap": curves, "Size": curves}
    fig = depth_figure(measures, ylabels=dict.fromkeys(measures, ""), title="", taught=taught)
    for ax in fig.axes:
        [ground] = ax.patches
        ends = ground.get_x(), ground.get_x() + ground.get_width()
        assert ends == (0.4, 1.0) and to_hex(ground.get_facecolor()).upper() == BUILT_IN
    assert "deep: safety adapter" in [text.get_text() for text in fig.legends[0].get_texts()]
    assert not depth_figure(measures, ylabels=dict.fromkeys(measures, ""), title="").axes[0].patches
