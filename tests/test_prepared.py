"""Prompts kept ready give the answers that the plain way gives, under every kind of steering."""

import pytest
import torch

from sarsteer_lab.defenses import SteeringDefence
from sarsteer_lab.gates import NullSpaceGate, steer_gated
from sarsteer_lab.lalm import LALM, Prompt
from sarsteer_lab.prepared import PreparedBatch
from sarsteer_lab.prompts import SpokenPrompt, load_prompts
from sarsteer_lab.responses import collect_responses
from sarsteer_lab.steering import SteeringError, SteeringVectors, steer


def some_vectors(lalm: LALM, size: float = 1.0) -> SteeringVectors:
    generator = torch.Generator().manual_seed(5)
    return SteeringVectors(size * torch.randn(lalm.n_layers, lalm.d_model, generator=generator))


def test_answers_are_those_of_generate(lalm: LALM, prompts: list[Prompt]) -> None:
    batch = PreparedBatch(lalm, prompts)
    vectors = some_vectors(lalm)
    plain = lalm.generate(prompts, max_new_tokens=8)
    assert batch.generate(8) == plain
    for alpha in (0.05, 1.0):
        with steer(lalm, vectors, alpha):
            # Twice: what was decoded before must not stay.
            assert batch.generate(8) == lalm.generate(prompts, max_new_tokens=8) == batch.generate(8)
    assert batch.generate(8) == plain


def test_strengths_of_rows(tiny: LALM, prompts: list[Prompt]) -> None:
    batch = PreparedBatch(tiny, prompts)
    alphas = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.0, 2.0])
    with steer(tiny, some_vectors(tiny), alphas):
        assert batch.generate(6) == tiny.generate(prompts, max_new_tokens=6)
    with steer(tiny, some_vectors(tiny), alphas[:3]), pytest.raises(SteeringError, match="one value per"):
        batch.generate(6)


def test_gates(tiny: LALM, prompts: list[Prompt]) -> None:
    weights = 0.05 * torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(1))
    gate = NullSpaceGate(weights, some_vectors(tiny))
    batch = PreparedBatch(tiny, prompts)
    with steer_gated(tiny, gate, 1.0):
        found, expected = batch.generate(6), tiny.generate(prompts, max_new_tokens=6)
    assert found == expected != tiny.generate(prompts, max_new_tokens=6)


@pytest.mark.parametrize("positions", ["all", "audio"])
def test_positions_that_have_run_already_are_refused(tiny: LALM, prompts: list[Prompt], positions) -> None:
    batch = PreparedBatch(tiny, prompts)
    with steer(tiny, some_vectors(tiny), 1.0, positions=positions):
        with pytest.raises(SteeringError, match="not all here"):
            batch.generate(3)
    assert batch.generate(3) == tiny.generate(prompts, max_new_tokens=3)


def test_answers_end_where_the_model_ends_them(tiny: LALM, prompts: list[Prompt], monkeypatch) -> None:
    """With a likely token as the end, answers have different lengths, and nothing follows their ends."""
    full = tiny.generate(prompts, max_new_tokens=12)
    end = tiny.tokenizer.convert_tokens_to_ids(full[1][3])
    monkeypatch.setattr(tiny.core.generation_config, "eos_token_id", [end])
    found = PreparedBatch(tiny, prompts).generate(12)
    assert found == tiny.generate(prompts, max_new_tokens=12)
    assert len(found[1]) < len(full[1])


@pytest.mark.pocket
def test_a_shared_reading_gives_the_same_responses(pocket: LALM, tmp_path) -> None:
    vectors = some_vectors(pocket, 0.1)
    defences = [SteeringDefence(f"alpha={alpha}", vectors, alpha) for alpha in (0.0, 0.05, 0.5)]
    sets: dict[str, list[SpokenPrompt]] = {"few": load_prompts("validation")[:6]}
    options = {"max_new_tokens": 6, "batch_size": 4}
    apart = collect_responses(pocket, defences, sets, tmp_path / "apart", **options)
    shared = collect_responses(pocket, defences, sets, tmp_path / "shared", share_reading=True, **options)
    assert {(r.defence, r.id): r for r in apart} == {(r.defence, r.id): r for r in shared}
