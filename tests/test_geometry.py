"""Gap measures and probes on states whose geometry is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from sarsteer_lab.activations import capture
from sarsteer_lab.geometry import (
    centroid_distance,
    linear_cka,
    logit_lens,
    measure_gap,
    pair_cosine,
    transfer_accuracy,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_pair_cosine_sees_through_a_common_offset_only_when_centred():
    typed = gaussian(30, 2, 8)
    offset = 20 * gaussian(2, 8, seed=1)
    assert (pair_cosine(typed, typed + offset) > 0.9999).all()
    assert pair_cosine(typed, typed + offset, center=False).mean() < 0.9
    assert (pair_cosine(typed, -typed) < -0.9999).all()
    # Unrelated requests under one large common mean look alike unless it is taken off.
    unrelated = pair_cosine(typed + offset, gaussian(30, 2, 8, seed=2) + offset, center=False)
    assert (unrelated.mean(0) > 0.9).all()
    with pytest.raises(ValueError, match="not pairs"):
        pair_cosine(typed, typed[:5])


def test_centroid_distance_is_in_units_of_the_spread():
    first = gaussian(4000, 1, 5)
    second = first + torch.tensor([3.0, 0, 0, 0, 0])
    assert centroid_distance(first, second).item() == pytest.approx(3 / math.sqrt(5), rel=0.02)
    torch.testing.assert_close(
        centroid_distance(first * 7, second * 7), centroid_distance(first, second)
    )
    assert centroid_distance(first, first[:100] * 1).shape == (1,)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_cka_ignores_rotation_scale_and_offset(seed, scale):
    states = gaussian(20, 1, 6, seed=seed)
    rotation = torch.from_numpy(ortho_group.rvs(6, random_state=seed)).float()
    torch.testing.assert_close(
        linear_cka(states, scale * states @ rotation + 3), torch.ones(1), rtol=0, atol=1e-4
    )


def test_cka_equals_its_definition_by_feature_covariances():
    x, y = gaussian(25, 2, 6), gaussian(25, 2, 9, seed=1) + gaussian(25, 2, 9, seed=2)
    y[..., :6] += x
    for layer in range(2):
        a = x[:, layer].double().numpy() - x[:, layer].double().numpy().mean(0)
        b = y[:, layer].double().numpy() - y[:, layer].double().numpy().mean(0)
        by_features = np.linalg.norm(b.T @ a) ** 2 / (
            np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
        )
        assert linear_cka(x, y)[layer].item() == pytest.approx(by_features, rel=1e-5)


def test_probes_read_what_is_there_and_nothing_else():
    labels = [0, 1] * 30
    states = gaussian(60, 2, 10)
    states[:, 1, 0] += 8 * torch.tensor(labels)
    accuracy = transfer_accuracy(states, states, labels, seed=1)
    assert accuracy.shape == (2,)
    assert accuracy[1] > 0.95 and accuracy[0] < 0.75
    assert torch.equal(accuracy, transfer_accuracy(states, states, labels, seed=1))


def test_grouped_probes_cannot_win_by_recognising_the_request():
    # Each request has its own random label and four nearly equal states: only recognition can help.
    requests = np.repeat(np.arange(30), 4)
    states = (gaussian(30, 1, 40)[requests] + 0.01 * gaussian(120, 1, 40, seed=1)).float()
    labels = np.random.default_rng(0).integers(0, 2, 30)[requests].tolist()
    free = transfer_accuracy(states, states, labels)
    grouped = transfer_accuracy(states, states, labels, groups=[str(r) for r in requests])
    assert free.item() > 0.9 and grouped.item() < 0.7


def test_logit_lens_of_the_last_layer_is_the_models_own_answer(
    lalm: LALM, prompts: list[Prompt]
) -> None:
    states = capture(lalm, prompts[:3])
    own = lalm.next_token_logits(prompts[:3])
    found = logit_lens(lalm, states)
    assert (
        found.shape == (3, lalm.n_layers, lalm.text_config.vocab_size)
        and found.dtype == torch.float32
    )
    # Equal up to the model's own rounding (the norm's input has passed through float32 here).
    torch.testing.assert_close(found[:, -1], own, rtol=0, atol=1e-2 * own.abs().max().item())
    assert (found[:, -1].argmax(-1) == own.argmax(-1)).all()
    assert not torch.allclose(found[:, 0], own, atol=0.1 * own.abs().max().item())


def test_logit_lens_needs_a_final_norm(tiny: LALM) -> None:
    bare = LALM.__new__(LALM)
    bare.__dict__ |= tiny.__dict__ | {"decoder": torch.nn.Linear(2, 2)}
    with pytest.raises(ValueError, match="no final `norm`"):
        logit_lens(bare, torch.zeros(32))


def test_transfer_accuracy_reads_the_other_form_and_sees_through_a_shift():
    labels = ["a", "b"] * 20
    signal = torch.tensor([1.0, -1.0]).repeat(20)[:, None, None] * torch.tensor([[[3.0, 0, 0, 0]]])
    first = signal + 0.3 * gaussian(40, 1, 4)
    shifted = first + torch.tensor([20.0, 0, 0, 0])
    assert transfer_accuracy(first, first, labels).item() == 1
    assert transfer_accuracy(first, shifted, labels).item() == 0.5
    assert transfer_accuracy(first, shifted, labels, center=True).item() == 1
    noise = transfer_accuracy(first, gaussian(40, 1, 4, seed=5), labels).item()
    assert 0.2 < noise < 0.8
    with pytest.raises(ValueError, match="not pairs"):
        transfer_accuracy(first, first[:5], labels)


def test_transfer_accuracy_keeps_groups_on_one_side():
    # Twins lie close together and have opposite labels, and nothing else tells the labels apart.
    twins = 5 * gaussian(30, 1, 8).repeat(2, 1, 1) + 0.01 * gaussian(60, 1, 8, seed=1)
    labels, groups = ["harmful"] * 30 + ["harmless"] * 30, [str(i) for i in range(30)] * 2
    assert transfer_accuracy(twins, twins, labels).item() < 0.4
    assert 0.4 <= transfer_accuracy(twins, twins, labels, groups=groups).item() <= 0.6


def test_transfer_accuracy_does_not_train_on_the_requests_it_tests():
    # Every request has a direction of its own and labels are random: whoever sees a request wins.
    states = torch.eye(40)[:, None] * 5
    labels = torch.randint(2, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    assert transfer_accuracy(states, states, labels).item() < 0.75


def test_the_gap_is_made_of_these_measures():
    harm = 6 * torch.tensor([0.0, 1.0])[:, None] * gaussian(1, 8, seed=3)  # layer 1 alone knows it
    typed = gaussian(20, 2, 8)
    typed[:10] += harm
    spoken = typed + torch.tensor([30.0, *[0.0] * 7]) + 0.1 * gaussian(20, 2, 8, seed=1)
    gap = measure_gap(typed, spoken, 10)
    assert gap.layer == 1
    assert torch.equal(gap.cosine, pair_cosine(typed, spoken, center=False))
    assert (gap.centred_cosine > 0.95).all() and (gap.cosine < 0.95).all()
    assert torch.equal(gap.distance, centroid_distance(typed, spoken))
    assert torch.equal(gap.harm_distance, centroid_distance(typed[:10], typed[10:]))
    assert gap.probe.shape == (2, 3) and gap.probe.eq(1).all()
    with pytest.raises(ValueError, match="not pairs"):
        measure_gap(typed, spoken[:5], 3)
    for n_harmful in (0, len(typed)):  # the distance of no states is none, and no layer's the best
        with pytest.raises(ValueError, match="cannot be compared"):
            measure_gap(typed, spoken, n_harmful)
