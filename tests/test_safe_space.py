"""The invariants of the safe space (method.md), for any states."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sarsteer_lab import safe_space
from sarsteer_lab.safe_space import (
    SafeSpace,
    ablate,
    principal_angles,
    principal_space,
    random_space,
    share_in_space,
)

some_states = st.builds(
    lambda n, layers, width, scale, seed: (
        torch.randn(n, layers, width, generator=torch.Generator().manual_seed(seed)) * scale
    ),
    st.integers(2, 14),
    st.integers(1, 3),
    st.integers(2, 20),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.integers(0, 2**31),
)


def vector_for(states, seed=1):
    return torch.randn(states.shape[1:], generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(states=some_states, k=st.integers(1, 25))
def test_directions_are_orthonormal_and_cover_what_there_is(states, k):
    space = principal_space(states, k)
    assert space.directions.shape == (states.shape[1], k, states.shape[2]) and space.k == k
    rank = min(k, states.shape[0] - 1, states.shape[2])
    expected = torch.diag(torch.arange(k) < rank).float().expand(states.shape[1], -1, -1)
    torch.testing.assert_close(
        space.directions @ space.directions.transpose(1, 2), expected, rtol=0, atol=1e-5
    )
    ratio = space.explained_variance_ratio
    assert (ratio.diff(dim=1) <= 1e-7).all() and (ratio.sum(1) <= 1 + 1e-5).all()
    if k >= min(states.shape[0] - 1, states.shape[2]):
        torch.testing.assert_close(ratio.sum(1), torch.ones(len(ratio)))


@settings(max_examples=40, deadline=None)
@given(states=some_states, k=st.integers(1, 10))
def test_nothing_of_an_ablated_vector_is_left_in_the_space(states, k):
    space, d = principal_space(states, k), vector_for(states)
    v = ablate(d, space)
    left = torch.einsum("lkd,ld->lk", space.directions, v)
    assert (left.abs() <= 1e-5 * d.norm()).all()
    assert (share_in_space(v, space) <= 1e-9).all() or (v.norm() <= 1e-4 * d.norm())
    torch.testing.assert_close(ablate(v, space), v, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(states=some_states, k=st.integers(1, 10), lam=st.floats(-1, 2))
def test_lambda_scales_what_is_removed(states, k, lam):
    space, d = principal_space(states, k), vector_for(states)
    assert torch.equal(ablate(d, space, lam=0.0), d)
    torch.testing.assert_close(
        d - ablate(d, space, lam), lam * (d - ablate(d, space)), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(states=some_states, extra=st.integers(0, 5))
def test_a_space_of_full_rank_removes_all_that_lies_in_the_span(states, extra):
    assume(len(states) > 2)
    space = principal_space(states, k=len(states) - 1 + extra)
    weights = torch.randn(len(states), 1, 1, generator=torch.Generator().manual_seed(3))
    in_span = ((states - states.mean(0)) * weights).sum(0)
    assert (ablate(in_span, space).norm(dim=-1) <= 1e-4 * in_span.norm(dim=-1) + 1e-9).all()
    torch.testing.assert_close(
        share_in_space(in_span, space), torch.ones(states.shape[1]), rtol=0, atol=1e-4
    )


def test_directions_are_those_of_the_reference_up_to_sign():
    states = torch.randn(30, 3, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(
        3, 0.1, 12
    )
    space = principal_space(states, k=5)
    for ours, theirs in zip(space.directions.numpy(), reference.safe_space(states, 5), strict=True):
        np.testing.assert_allclose(np.abs(np.sum(ours * theirs.T, axis=1)), 1, atol=1e-6)


def test_moving_all_states_changes_nothing():
    states = torch.randn(10, 2, 8, generator=torch.Generator().manual_seed(0))
    moved = principal_space(states + 5, 3)
    torch.testing.assert_close(
        moved.directions, principal_space(states, 3).directions, rtol=1e-4, atol=1e-5
    )


def test_share_in_space_goes_from_none_to_all():
    space = principal_space(torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0]))[:, None], k=2)
    inside, outside = torch.tensor([[3.0, 4, 0, 0]]), torch.tensor([[0.0, 0, 1, 1]])
    rows = torch.stack([inside, outside, inside + 5 * outside / math.sqrt(2), 0 * inside])
    torch.testing.assert_close(
        share_in_space(rows, space)[:, 0], torch.tensor([1.0, 0.0, 0.5, 0.0])
    )


def test_the_first_directions_make_the_smaller_space():
    states = torch.randn(20, 2, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        principal_space(states, 8).first(3).directions, principal_space(states, 3).directions
    )
    assert principal_space(states, 4).first(0).k == 0
    with pytest.raises(ValueError, match="4 directions"):
        principal_space(states, 4).first(5)


def test_random_spaces_have_the_same_rank_and_depend_on_the_seed_only():
    states = torch.randn(4, 2, 30, generator=torch.Generator().manual_seed(0))
    space = principal_space(states, k=5)
    control = random_space(space, seed=1)
    gram = control.directions @ control.directions.transpose(1, 2)
    torch.testing.assert_close(
        gram, torch.diag(torch.tensor([1.0, 1, 1, 0, 0])).expand(2, -1, -1), rtol=0, atol=1e-5
    )
    assert torch.equal(control.directions, random_space(space, seed=1).directions)
    assert not torch.equal(control.directions, random_space(space, seed=2).directions)


def test_principal_angles_of_spaces_known_by_construction():
    def space(*rows):
        directions = torch.tensor([rows])
        return SafeSpace(directions, torch.zeros(1, len(rows)))

    e = torch.eye(4).tolist()
    tilted = [0.0, math.cos(0.3), math.sin(0.3), 0.0]
    angles = principal_angles(space(e[0], e[1]), space(tilted, e[0]))
    torch.testing.assert_close(angles, torch.tensor([[0.0, 0.3]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        principal_angles(space(e[0]), space(e[2], e[3])), torch.tensor([[math.pi / 2]])
    )


@pytest.mark.parametrize(("shape", "k"), [((1, 2, 3), 1), ((5, 2, 3), 0), ((5, 3), 1)])
def test_unusable_states_are_refused(shape, k):
    with pytest.raises(ValueError, match="at least 2 states"):
        principal_space(torch.zeros(shape), k)


def test_linear_algebra_goes_to_the_cpu_where_a_device_has_no_float64(monkeypatch):
    """As on Apple's MPS; "meta" stands for it, since values cannot be computed there at all."""
    assert "mps" in safe_space.WITHOUT_FLOAT64 and "cuda" not in safe_space.WITHOUT_FLOAT64
    monkeypatch.setattr(safe_space, "WITHOUT_FLOAT64", ("meta",))
    moved = []
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self: moved.append(self) or torch.ones(self.shape)
    )
    states = torch.empty(6, 2, 5, device="meta")
    assert (
        safe_space.exact(states).device.type == "cpu"
        and safe_space.exact(states).dtype == torch.float64
    )
    space = principal_space(states, k=2)
    assert len(moved) == 3
    for part in (
        space.directions,
        space.explained_variance_ratio,
        principal_angles(space, space),
    ):
        assert part.device.type == "meta" and part.dtype == torch.float32
