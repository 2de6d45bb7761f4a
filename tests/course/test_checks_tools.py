"""Checks say what is wrong, and never raise."""

import pytest
import torch

from sarsteer_lab.course.checks import tools


def test_a_check_tells_and_never_raises() -> None:
    @tools.check
    def check_double(function: object) -> str:
        """Whether a function doubles."""
        tools.need(tools.call(function, 2) == 4, "2 does not become 4")
        return "well done"

    def breaks(_: int) -> int:
        raise ZeroDivisionError("oh")

    assert check_double(lambda x: 2 * x) and check_double(lambda x: 2 * x).message == "well done"
    for wrong, message in (
        (..., "blank"),
        (None, "blank"),
        (lambda x: x, "2 does not become 4"),
        (lambda x: None, "returns nothing"),
        (lambda x: ..., "returns nothing"),
        (breaks, "stops with ZeroDivisionError: oh"),
        (3, "a function is wanted"),
    ):
        result = check_double(wrong)
        assert not result and message in result.message and repr(result).startswith("not yet")
    shown = check_double(...)._repr_mimebundle_()
    assert shown[tools.CHECK_MIME] == {"check": "check_double", "passed": False}


def test_needed_tensors_are_described() -> None:
    assert tools.need_tensor(torch.ones(2, 3), (2, 3), "it").shape == (2, 3)
    for value, message in (
        ([1.0], "should be a tensor, but is a list"),
        (torch.ones(3, 2), r"shape \(2, 3\), but has \(3, 2\)"),
        (torch.full((2, 3), torch.nan), "not finite"),
    ):
        with pytest.raises(tools.Wrong, match=message):
            tools.need_tensor(value, (2, 3), "it")


def test_answers_are_compared_and_mistakes_named() -> None:
    right, mistakes = (
        torch.tensor([1.0, 2.0]),
        {"the sign": torch.tensor([-1.0, -2.0]), "halved": [0.5, 1.0]},
    )
    tools.need_close([1.0, 2.00009], right, "other", mistakes)
    for found, message in (([-1.0, -2.0], "the sign"), ([0.5, 1], "halved"), ([1, 2.01], "other")):
        with pytest.raises(tools.Wrong, match=message):
            tools.need_close(found, right, "other", mistakes)
    # What is right is right, whatever mistake would give the same.
    tools.need_close(0.0, 0.0, "other", {"the sign": -0.0})


def test_a_number_is_needed_for_each_name() -> None:
    assert tools.need_each({"a": torch.tensor(1.0), "b": 2}, ["a", "b"], "share", "space") == {
        "a": 1,
        "b": 2,
    }
    for given, message in (([1], "one share for each space"), ({"a": ...}, "no share for a, b")):
        with pytest.raises(tools.Wrong, match=message):
            tools.need_each(given, ["a", "b"], "share", "space")
