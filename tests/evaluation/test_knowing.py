"""The first row of doctor's findings: does this model know harm, typed and spoken?"""

import pytest
import replicas
from sklearn.metrics import roc_auc_score

from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.knowing import examine_knowledge, knowledge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import load_prompts


def test_areas_are_those_of_the_models_own_readiness(tiny: LALM) -> None:
    table = knowledge(tiny, requests=5).set_index("form")
    assert list(table.index) == ["typed", "spoken"]
    for form, row in table.iterrows():
        asked = []
        for label in ("harmful", "harmless"):
            asked += load_prompts("validation", label)[:5]
        prompts = [getattr(request, str(form))() for request in asked]
        scores = [float(refusal_probability(PreparedBatch(tiny, [p]))[0]) for p in prompts]
        harmful = [request.label == "harmful" for request in asked]
        assert row["area"] == pytest.approx(roc_auc_score(harmful, scores), abs=0.041)
        assert row["area_low"] <= row["area"] <= row["area_high"]
        assert row["harmful"] == row["harmless"] == 5


def test_it_is_said_in_words_with_what_was_counted(tiny: LALM) -> None:
    told = examine_knowledge(tiny, requests=3)
    assert "| spoken (3 harmful, 3 harmless) | " in told
    best = knowledge(tiny, requests=3).set_index("form").loc["spoken", "best_rate"]
    assert told.endswith(f"leaves at most {best:.0%} of harmless ones answered.")


def test_a_model_whose_answers_cannot_be_followed_is_not_asked() -> None:
    for name in ("qwen2_5_omni", "gemma3n"):
        told = examine_knowledge(replicas.replica(name), requests=2)
        assert told.startswith("does the model know harm? Not asked: its answers cannot be")
