"""Running moments against the batch computation, over any split into batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer_lab.moments import Moments
from sarsteer_lab.safe_space import principal_angles, principal_space


def states(n: int, layers: int = 2, width: int = 12, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    spread = torch.linspace(4, 0.2, width)
    return torch.randn(n, layers, width, generator=draw) * spread + 30


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda s: sum(s) >= 2))
def test_any_split_gives_the_space_of_the_whole(sizes: list[int]) -> None:
    every = states(sum(sizes))
    moments = Moments()
    for part in every.split(sizes):
        moments.add(part)
    assert moments.count == len(every)
    torch.testing.assert_close(moments.mean, every.double().mean(0).float())
    found, wanted = moments.principal_space(5), principal_space(every, 5)
    torch.testing.assert_close(
        found.explained_variance_ratio, wanted.explained_variance_ratio, atol=1e-5, rtol=1e-4
    )
    assert torch.equal(found.directions.norm(dim=-1) > 0.5, wanted.directions.norm(dim=-1) > 0.5)
    # The planes agree, whatever the signs; of a space of lower rank only the part that is there.
    rank = min(5, len(every) - 1)
    assert principal_angles(found.first(rank), wanted.first(rank)).max() < 2e-3


def test_directions_themselves_agree_with_the_batch_result() -> None:
    every = states(400)
    moments = Moments()
    for part in every.split(64):
        moments.add(part)
    torch.testing.assert_close(
        moments.principal_space(6).directions, principal_space(every, 6).directions, atol=1e-4, rtol=0
    )


def test_memory_does_not_grow() -> None:
    moments = Moments()
    sizes = []
    for seed in range(5):
        moments.add(states(50, seed=seed))
        sizes.append(sum(t.numel() for t in vars(moments).values() if isinstance(t, torch.Tensor)))
    assert len(set(sizes)) == 1


def test_what_cannot_be_is_refused() -> None:
    moments = Moments(scatter=False)
    with pytest.raises(ValueError, match="no states"):
        _ = moments.mean
    moments.add(states(3))
    with pytest.raises(ValueError, match="scatter"):
        moments.principal_space(2)
    with pytest.raises(ValueError, match="do not go with"):
        moments.add(states(3, width=5))
    with pytest.raises(ValueError, match="k >= 1"):
        Moments().principal_space(0)
