"""The bound of uniform pushes: areas under ROC curves, and what a threshold leaves answered."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from spoken_set import write_set

from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.defences import GatedDefence, PromptDefence, SteeringDefence
from sarsteer_lab.evaluation.gates import NullSpaceGate
from sarsteer_lab.evaluation.intervals import bootstrap, with_interval
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.evaluation.separation import (
    best_benign_rate,
    refusal_probability_rows,
    roc_area,
    separation,
    uniform_bound,
)
from sarsteer_lab.evaluation.table import evaluation_table
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors, steer

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=12).map(
    np.array
)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_area_is_the_share_of_pairs_in_the_right_order(
    harmful: np.ndarray, benign: np.ndarray
) -> None:
    pairs = [(h > b) + 0.5 * (h == b) for h in harmful for b in benign]
    assert roc_area(harmful, benign) == pytest.approx(np.mean(pairs))
    labels = np.r_[np.ones(len(harmful)), np.zeros(len(benign))]
    assert roc_area(harmful, benign) == pytest.approx(roc_auc_score(labels, np.r_[harmful, benign]))


@settings(deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_best_rate_is_that_of_the_best_threshold(
    harmful: np.ndarray, benign: np.ndarray, refused: float
) -> None:
    thresholds = [*harmful, *benign, 2.0]
    allowed = [t for t in thresholds if (harmful >= t).mean() >= refused - 1e-9]
    assert best_benign_rate(harmful, benign, refused) == max((benign < t).mean() for t in allowed)


@settings(deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_the_bound_runs_over_every_threshold(
    harmful: np.ndarray, benign: np.ndarray, refused: float
) -> None:
    kept, share = uniform_bound(harmful, benign).T
    assert (np.diff(kept) >= 0).all() and (np.diff(share) <= 0).all()
    assert (kept[0], share[0]) == (0.0, 1.0) and (kept[-1], share[-1]) == (1.0, 0.0)
    assert kept[share >= refused - 1e-9].max() == best_benign_rate(harmful, benign, refused)


def test_each_kind_is_resampled_by_itself() -> None:
    rng = np.random.default_rng(0)
    harmful, benign = rng.normal(1, 1, 60), rng.normal(0, 1, 80)
    area, low, high = with_interval(roc_area, harmful, benign)
    assert area == roc_area(harmful, benign) and low < area < high
    # Hanley & McNeil (1982): the standard error of an area.
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + 59 * (q1 - area**2) + 79 * (q2 - area**2)
    assert (high - low) / 2 == pytest.approx(1.96 * (variance / 4800) ** 0.5, rel=0.15)
    # With one kind held fixed the interval is narrower.
    fixed = bootstrap(lambda rows: roc_area(harmful[rows], benign), 60)
    assert fixed[1] - fixed[0] < high - low
    with pytest.raises(ValueError, match="harmful and benign"):
        roc_area(harmful, np.array([]))


def test_there_is_no_bound_without_requests_of_either_kind() -> None:
    some, none = np.array([0.2, 0.7]), np.array([])
    for kinds in ((some, none), (none, some), (none, none)):
        with pytest.raises(ValueError, match="harmful and benign"):
            best_benign_rate(*kinds)


def test_a_single_harmful_request_has_an_interval_that_holds_its_value() -> None:
    harmful, benign = np.array([0.5]), np.linspace(0, 1, 21)
    area, low, high = with_interval(roc_area, harmful, benign)
    assert area == roc_area(harmful, benign) and low < area < high
    # The area is a mean over the others, which alone are resampled.
    error = ((harmful > benign) + 0.5 * (harmful == benign)).std() / 21**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_one_request_of_each_kind_has_no_interval() -> None:
    value, *ends = with_interval(roc_area, np.array([0.5]), np.array([0.2]))
    assert value == 1.0 and np.isnan(ends).all()


@pytest.fixture
def sets(
    cache: Path,
    make_clip: Callable[[float, int], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, list[Request]]:
    """Four requests of each kind, a cache of their own, and openings that the replica may say."""
    monkeypatch.setattr(
        "sarsteer_lab.engine.openings.refusing_openings", lambda: ("Ia", "I b", "S")
    )
    monkeypatch.setattr("sarsteer_lab.engine.openings.NEGLIGIBLE", 0.0)
    found = read_set(f"prompts:{write_set(tmp_path / 'set', make_clip)}").prompts
    return {label: [p for p in found if p.label == label][:4] for label in ("harmful", "harmless")}


def test_probabilities_and_separation_of_defences(
    tiny: LALM, sets: dict[str, list[Request]]
) -> None:
    vectors = SteeringVectors(3 * torch.randn(tiny.n_layers, tiny.d_model))
    defences = [
        PromptDefence("none"),
        PromptDefence("kind", before="Be kind."),
        SteeringDefence("push", vectors),
    ]
    probabilities = refusal_probability_rows(tiny, defences, sets)
    assert len(probabilities) == 3 * sum(map(len, sets.values()))
    table = separation(probabilities)
    assert list(table["defence"]) == ["none", "kind", "push"] and set(table["set"]) == {"harmless"}
    own = (
        probabilities[probabilities["defence"] == "push"]
        .groupby("label")["refusal_probability"]
        .apply(np.array)
    )
    assert table["area"].iloc[2] == roc_area(own["harmful"], own["harmless"])
    typed = refusal_probability_rows(tiny, defences, sets, form="typed")
    by_defence = {}
    for defence in defences:
        rows = typed[typed["defence"] == defence.name]
        by_defence[defence.name] = rows["refusal_probability"].to_numpy()
        for row in rows.itertuples():
            [request] = [one for one in sets[row.set] if one.id == row.id]
            words = request.request
            prompt = Prompt(f"Be kind. {words}" if defence.name == "kind" else words)
            ready = PreparedBatch(tiny, [prompt])
            with steer(tiny, vectors, 0.1 if defence.name == "push" else 0.0):
                [expected] = refusal_probability(ready, ("Ia", "I b", "S"), negligible=0)
            assert row.refusal_probability == pytest.approx(float(expected), rel=1e-3)
    for name in ("kind", "push"):
        assert not np.allclose(by_defence[name], by_defence["none"], rtol=1e-2)


def test_a_set_with_harmful_requests_has_its_bound_beside_the_others(
    tiny: LALM, sets: dict[str, list[Request]], tmp_path: Path
) -> None:
    """Harmful requests are what the others are compared with, and are compared with nothing."""
    draw = torch.Generator().manual_seed(3)
    vectors = SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model, generator=draw))
    defences = [PromptDefence("none"), SteeringDefence("push", vectors, 3.0)]
    options = {"max_new_tokens": 2, "roc": True}
    mixed = {"mine": sets["harmful"] + sets["harmless"]}
    bounds = ["area", "area_low", "area_high", "best_rate"]
    judges = [PhraseJudge()]
    together = evaluation_table(tiny, defences, mixed, judges, tmp_path / "mixed", **options)
    apart = evaluation_table(tiny, defences, sets, judges, tmp_path / "apart", **options)
    assert together[together["label"] == "harmful"][bounds].isna().all(axis=None)
    benign = together[together["label"] == "harmless"][["defence", *bounds]]
    expected = apart[apart["set"] == "harmless"][["defence", *bounds]]
    assert len(benign) == 2 and benign["area"].notna().all()
    pd.testing.assert_frame_equal(
        benign.reset_index(drop=True), expected.reset_index(drop=True), atol=1e-3
    )


def test_an_evaluation_reads_openings_where_it_answers(
    tiny: LALM, sets: dict[str, list[Request]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ROC columns no clip is read more often, and they are `refusal_probability_rows`'."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, tiny.n_layers, tiny.d_model, generator=generator)
    vectors = SteeringVectors(3 * noise[0])
    gate = NullSpaceGate(0.05 * noise[1], vectors)
    defences = [
        PromptDefence("none"),
        PromptDefence("kind", before="Be kind."),
        SteeringDefence("push", vectors),
        GatedDefence("gated", vectors, gate=gate),
    ]
    reads: list[int] = []
    batch = tiny.batch
    monkeypatch.setattr(
        tiny, "batch", lambda prompts, rows: reads.append(len(rows)) or batch(prompts, rows)
    )

    def asked(folder: str, **options: bool) -> tuple[pd.DataFrame, int]:
        reads.clear()
        ways = {"max_new_tokens": 4, "batch_size": 8, **options}
        return evaluation_table(
            tiny, defences, sets, [PhraseJudge()], tmp_path / folder, **ways
        ), sum(reads)

    plain, usual = asked("plain")
    table, with_roc = asked("roc", roc=True)
    assert with_roc == usual > 0
    pd.testing.assert_frame_equal(
        table[plain.columns[:-2]], plain[plain.columns[:-2]]
    )  # but for its speed
    expected = separation(refusal_probability_rows(tiny, defences, sets)).set_index("defence")
    for column in ("area", "best_rate"):  # resamples of their intervals go by the order of the rows
        assert table[table["set"] == "harmful"][column].isna().all()
        own = table[table["set"] == "harmless"].set_index("defence")[column]
        np.testing.assert_allclose(own, expected[column], atol=1e-6)
    # What was asked without them is asked again, once, and then both ways are only read.
    again, missing = asked("plain", roc=True)
    assert missing == usual and again["area"].equals(table["area"])
    written = (tmp_path / "plain" / "responses.jsonl").read_bytes()
    assert asked("plain")[1] == 0 == asked("plain", roc=True)[1]
    assert (tmp_path / "plain" / "responses.jsonl").read_bytes() == written
