"""The method as one function, against the independent lines of `reference.sarsteer`."""

import pytest
import reference
import torch

from sarsteer_lab.derivation import derive


def states(seed: int, prompts: int, d_model: int = 24) -> torch.Tensor:
    return torch.randn(prompts, 3, d_model, generator=torch.Generator().manual_seed(seed)) + 2.0


@pytest.mark.parametrize(("lam", "k"), [(1.0, 10), (1.0, 3), (0.7, 5), (0.0, 4), (1.0, 40)])
def test_derivation_is_the_reference(lam: float, k: int) -> None:
    base, refusing, harmless = states(0, 6), states(1, 6), states(2, 12)
    found = derive(base, refusing, harmless, lam, k, {"model": "m"})
    # Twelve states span eleven dimensions once their mean is gone: a larger k has nothing more to
    # take.
    direction, vectors = reference.sarsteer(base, refusing, harmless, min(k, 11), lam)
    torch.testing.assert_close(
        found.direction.values.double(), torch.from_numpy(direction), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        found.vectors.values.double(), torch.from_numpy(vectors), rtol=1e-5, atol=1e-5
    )
    assert found.space.directions.shape == (3, k, 24)
    if lam == 1:
        inside = torch.einsum("lkd,ld->lk", found.space.directions, found.vectors.values)
        assert inside.abs().max() < 1e-5
    assert found.vectors.provenance == {"method": "SARSteer", "lam": lam, "k": k, "model": "m"}
    assert found.direction.provenance["model"] == "m"


def test_half_precision_states_are_computed_in_float32() -> None:
    made = [states(seed, 5).bfloat16() for seed in range(3)]
    found = derive(*made, k=2)
    exact = derive(*(part.double() for part in made), k=2)
    assert found.vectors.values.dtype == torch.float32
    torch.testing.assert_close(found.vectors.values, exact.vectors.values, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_derived_is_said() -> None:
    with pytest.raises(ValueError, match="at least 1 harmful and 2 harmless"):
        derive(states(0, 3), states(1, 3), states(2, 1))
    with pytest.raises(ValueError, match="same layers"):
        derive(states(0, 3), states(1, 3), states(2, 4, d_model=8))
    with pytest.raises(ValueError, match="not pairs"):
        derive(states(0, 3), states(1, 4), states(2, 4))
    with pytest.raises(ValueError, match="k=0"):
        derive(states(0, 3), states(1, 3), states(2, 4), k=0)
