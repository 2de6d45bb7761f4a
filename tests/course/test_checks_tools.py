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
