"""Directions against the float64 reference and their definitions, on made-up states."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sarsteer_lab.activations import capture
from sarsteer_lab.directions import (
    difference_in_means,
    random_like,
    text_refusal_direction,
)
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.safe_space import ablate, principal_space

INSTRUCTION = "Answer the request in the audio."
REFUSAL = " I cannot assist with that."


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states(n=12, layers=3, width=8):
    finite = st.floats(-100, 100, width=32)
    return hnp.arrays(np.float32, (n, layers, width), elements=finite).map(torch.from_numpy)


def test_sarsteer_vectors_of_a_model_agree_with_the_reference(lalm, make_clip):
    clips = [make_clip(0.6 + 0.1 * i, i) for i in range(12)]
    base = capture(lalm, [Prompt(INSTRUCTION, clip) for clip in clips[:6]])
    refusal = capture(lalm, [Prompt(INSTRUCTION + REFUSAL, clip) for clip in clips[:6]])
    harmless = capture(lalm, [Prompt(INSTRUCTION, clip) for clip in clips[6:]])
    alone = [
        torch.cat([capture(lalm, [Prompt(INSTRUCTION + text, clip)]) for clip in part]).numpy()
        for text, part in (("", clips[:6]), (REFUSAL, clips[:6]), ("", clips[6:]))
    ]
    direction = text_refusal_direction(base, refusal)
    vectors = ablate(direction, principal_space(harmless, k=3), lam=1.0)
    for ours, theirs in zip(
        (direction, vectors), reference.sarsteer(*alone, k=3, lam=1.0), strict=True
    ):
        error = np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs)
        assert error <= 1e-5, f"relative error {error:.1e}"


@settings(max_examples=25, deadline=None)
@given(
    base=states(), refusal=states(), harmless=states(), k=st.integers(1, 11), lam=st.floats(0, 2)
)
def test_sarsteer_vectors_of_any_states_agree_with_the_reference(base, refusal, harmless, k, lam):
    assume(not torch.equal(base, refusal))  # refused: there is no direction
    # A space is only defined down to its last direction if that is set apart from the next one.
    spectrum = np.linalg.svd(
        np.moveaxis(harmless.double().numpy(), 1, 0) - harmless.double().numpy().mean(0)[:, None]
    )[1]
    padded = np.pad(spectrum, ((0, 0), (0, 12)))
    well_defined = (padded[:, k - 1] - padded[:, k] > 1e-3 * padded[:, 0]).all() or k >= 8
    direction = text_refusal_direction(base, refusal)
    d, v = reference.sarsteer(base, refusal, harmless, k, lam)
    np.testing.assert_allclose(direction, d, rtol=1e-5, atol=1e-4)
    if well_defined and (padded[:, min(k, 8) - 1] > 1e-3 * padded[:, 0]).all():
        ours = ablate(direction, principal_space(harmless, k), lam)
        np.testing.assert_allclose(ours, v, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(d).max() * 10))


def test_text_direction_is_the_plain_mean_shift_and_is_not_normalised():
    base, shift = gaussian(5, 2, 4), gaussian(2, 4, seed=1)
    torch.testing.assert_close(text_refusal_direction(base, base + 3 * shift), 3 * shift)
    half = text_refusal_direction(base.bfloat16(), (base + shift).bfloat16())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 2, 3), (5, 1, 3), (5, 2, 4), (5, 2)])
def test_unpaired_states_are_refused(shape):
    with pytest.raises(ValueError, match="not pairs"):
        text_refusal_direction(torch.zeros(5, 2, 3), torch.zeros(shape))


def test_difference_in_means_needs_no_pairs():
    harmful, harmless = gaussian(5, 2, 4), gaussian(7, 2, 4, seed=1)
    expected = harmful.double().numpy().mean(0) - harmless.double().numpy().mean(0)
    np.testing.assert_allclose(
        difference_in_means(harmful, harmless), expected, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="cannot be compared"):
        difference_in_means(harmful, harmless[:0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), shared=st.booleans())
def test_random_controls_have_the_same_length_and_depend_on_the_seed_only(seed, shared):
    direction = gaussian(3, 50) * torch.tensor([[0.01], [1.0], [300.0]])
    control = random_like(direction, seed, shared=shared)
    torch.testing.assert_close(control.norm(dim=-1), direction.norm(dim=-1))
    assert torch.equal(control, random_like(direction, seed, shared=shared))
    assert not torch.equal(control, random_like(direction, seed + 1, shared=shared))


def test_a_random_control_is_one_direction_in_all_layers_unless_told_otherwise():
    direction = gaussian(6, 400)
    ways = torch.nn.functional.normalize(random_like(direction, 0), dim=-1)
    torch.testing.assert_close(ways @ ways.T, torch.ones(6, 6))
    apart = torch.nn.functional.normalize(random_like(direction, 0, shared=False), dim=-1)
    off_diagonal = (apart @ apart.T) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.3
    # Pushes of layers that point the same way add up; those of random ones mostly cancel.
    shared, own = random_like(direction, 0), random_like(direction, 0, shared=False)
    assert shared.sum(0).norm() > 2 * own.sum(0).norm()
