"""Trade-off curves: their front, their area, and comparisons on the same requests."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sarsteer_lab.evaluation.base import BaseStates
from sarsteer_lab.evaluation.curves import (
    area,
    choose,
    compare_curves,
    controls,
    cost_at,
    grid,
    midway,
    pareto_front,
    parse_layers,
    scores,
    sweep,
    tradeoff,
)
from sarsteer_lab.evaluation.defences import PromptDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import run
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSAL, Request

SHARES = st.lists(st.tuples(*[st.integers(0, 10)] * 2), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def states() -> BaseStates:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(12, 4, 32, generator=generator) for _ in range(5)]
    base, refusing, *others = sets
    return BaseStates(base, {"paper": refusing}, *others, texts={"paper": REFUSAL}, provenance={})


@settings(max_examples=50, deadline=None)
@given(SHARES)
def test_pareto_front_by_definition(points: list[tuple[int, int]]) -> None:
    found = pareto_front(np.array(points, dtype=float))
    for point, kept in zip(points, found, strict=True):
        beaten = any(
            all(a >= b for a, b in zip(other, point, strict=True)) and other != point
            for other in points
        )
        assert kept == (not beaten)


@settings(max_examples=50, deadline=None)
@given(SHARES)
def test_area_by_counting_squares(points: list[tuple[int, int]]) -> None:
    benign, refused = (np.array(values) / 10 for values in zip(*points, strict=True))
    squares = sum(any(b > x and r > y for b, r in points) for x in range(10) for y in range(10))
    assert area(benign, refused) == pytest.approx(squares / 100)


def test_cost_at_a_target() -> None:
    benign, refused = np.array([1.0, 0.9, 0.6]), np.array([0.1, 0.7, 0.9])
    assert cost_at(0.7)(benign, refused) == pytest.approx(0.1)
    assert cost_at(0.8)(benign, refused) == pytest.approx(0.25)  # half-way between two strengths
    assert cost_at(0.9)(benign, refused) == pytest.approx(0.4)
    assert cost_at(0.95)(benign, refused) == 1.0
    assert cost_at(0.05)(benign, refused) == 0.0
    # Text that breaks refuses nothing: only the way up to the target counts.
    assert cost_at(0.7)(np.array([1.0, 0.8, 0.0]), np.array([0.5, 0.9, 0.0])) == pytest.approx(0.1)


def test_variants(states: BaseStates) -> None:
    full = states.refusal_direction()
    found = grid(states, lams=(0, 0.5, 1), ks=(2, 4))
    assert list(found) == ["lam=0", "lam=0.5 k=2", "lam=0.5 k=4", "lam=1 k=2", "lam=1 k=4"]
    assert torch.equal(found["lam=0"].values, full.values)
    assert torch.equal(found["lam=1 k=4"].values, states.sarsteer(1, 4).values)

    found = controls(states, k=3, seeds=(0, 1))
    assert torch.allclose(found["ablated, full length"].norm(), full.norm())
    ours, theirs = (found[name].values for name in ("ablated, full length", "ablated"))
    assert torch.allclose(torch.cosine_similarity(ours, theirs, dim=-1), torch.ones(4), atol=1e-5)
    for name in (
        "ablated",
        "harmful space ablated",
        "random space 0 ablated",
        "random space 1 ablated",
    ):
        assert (found[name].norm() <= full.norm() + 1e-5).all()
    assert not torch.equal(
        found["random space 0 ablated"].values, found["random space 1 ablated"].values
    )


def _outcomes(curves: dict[str, dict[float, tuple[int, int]]], n: int = 40) -> pd.DataFrame:
    """Made-up outcomes: per variant and alpha, harmful ones refused and harmless ones answered."""
    rows = []
    for variant, points in curves.items():
        for alpha, (refused, answered) in points.items():
            for i in range(n):
                rows.append(
                    (variant, "all", alpha, "h", "harmful", f"h{i}", i < refused, "refused")
                )
                rows.append(
                    (variant, "all", alpha, "b", "harmless", f"b{i}", i < answered, "answered")
                )
    columns = ["variant", "layers", "alpha", "set", "label", "id", "hit", "good"]
    frame = pd.DataFrame(rows, columns=columns)
    other = frame["good"].map({"refused": "answered", "answered": "refused"})
    return frame.assign(outcome=frame["good"].where(frame["hit"], other)).drop(
        columns=["hit", "good"]
    )


CURVES = {
    "good": {0.0: (4, 40), 0.1: (36, 40), 0.2: (40, 36)},
    "bad": {0.0: (4, 40), 0.1: (20, 36), 0.2: (40, 20)},
}


def test_points_of_the_curve() -> None:
    table = tradeoff(_outcomes(CURVES)).set_index(["variant", "alpha"])
    assert table.loc[("good", 0.1), "harmful_refused"] == pytest.approx(0.9)
    assert table.loc[("bad", 0.2), "benign_answered"] == pytest.approx(0.5)
    assert list(table.index[table["pareto"]]) == [("good", 0.1), ("good", 0.2)]
    assert (table["broken"] == 0).all()
    with pytest.raises(ValueError, match="harmful and benign"):
        tradeoff(_outcomes(CURVES).query("label == 'harmful'"))


def test_benign_are_harmless_and_pseudo_harmful_requests_and_no_others() -> None:
    outcomes = _outcomes(CURVES)
    is_benign = outcomes["label"] == "harmless"
    both = [outcomes]
    for label in ("pseudo-harmful", "everyday"):  # all refused
        rows = outcomes[is_benign].assign(label=label, set=label, outcome="refused")
        both.append(rows)
    table = tradeoff(pd.concat(both)).set_index(["variant", "alpha"])
    assert table.loc[("bad", 0.1), "benign_answered"] == pytest.approx(36 / 80)
    without_everyday = compare_curves(pd.concat(both[:2]), "good", "bad", resamples=50)
    assert compare_curves(pd.concat(both), "good", "bad", resamples=50) == without_everyday
    only_harmless = compare_curves(outcomes, "good", "bad", resamples=50)
    assert without_everyday[0] == pytest.approx(only_harmless[0] / 2)


def test_midway_up_all_curves() -> None:
    points = tradeoff(_outcomes({**CURVES, "weak": {0.0: (4, 40), 0.1: (12, 36), 0.2: (8, 20)}}))
    assert midway(points) == pytest.approx((4 / 40 + 12 / 40) / 2)
    assert midway(points[points["variant"] != "weak"]) == pytest.approx((0.1 + 1.0) / 2)
    start = tradeoff(_outcomes({"none": {0.0: (4, 40)}}))
    assert midway(pd.concat([start, points])) == midway(points), "a start is no curve"


def test_comparison_of_curves() -> None:
    outcomes = _outcomes(CURVES)
    difference, low, high = compare_curves(outcomes, "good", "bad", resamples=300)
    a, b = (
        area(
            np.array([answered / 40 for _, answered in points.values()]),
            np.array([r / 40 for r, _ in points.values()]),
        )
        for points in CURVES.values()
    )
    assert difference == pytest.approx(a - b)
    assert 0 < low < difference < high
    assert compare_curves(outcomes, "good", "bad", resamples=300) == (difference, low, high)
    assert compare_curves(outcomes, "good", "good", resamples=50) == (0, 0, 0)
    cost, low, high = compare_curves(
        outcomes, "good", "bad", statistic=cost_at(0.85), resamples=300
    )
    assert cost == pytest.approx(-0.38) and low <= cost <= high < 0
    with pytest.raises(ValueError, match="same requests"):
        compare_curves(outcomes[outcomes["id"] != "h3"].query("variant == 'good'"), "good", "bad")


def test_sweep_runs_every_point(
    tiny: LALM, make_clip: Callable[[float, int], np.ndarray], tmp_path: Path
) -> None:
    requests = []
    for i, label in enumerate(["harmful"] * 3 + ["harmless"] * 2):
        clip = tmp_path / f"{i}.wav"
        soundfile.write(clip, make_clip(0.5, i), 16000)
        requests.append(Request(f"r{i}", f"Request {i}?", label, "privacy", "validation", clip))
    sets = {"harmful": requests[:3], "harmless": requests[3:]}
    base, refusing, *others = torch.randn(5, 5, tiny.n_layers, tiny.d_model)
    states = BaseStates(base, {"rule": refusing}, *others, texts={"rule": "No."}, provenance={})
    found = sweep(
        tiny,
        grid(states, ks=(2, 3), refusals=["rule"]),
        [0.5, 2.0],
        sets,
        PhraseJudge(),
        tmp_path / "sweep",
        layers={"all": None, "upper": (2, 3)},
        max_new_tokens=3,
    )
    cells = found.groupby(["variant", "layers", "alpha"]).size()
    assert len(cells) == 2 * 2 * 3 and (cells == 5).all()
    assert sorted(set(found["alpha"])) == [0.0, 0.5, 2.0]
    # Strength 0 is the undefended model.
    plain = run(tiny, [PromptDefence("none")], sets, tmp_path / "plain", max_new_tokens=3)
    judge = PhraseJudge()
    expected = {response.id: judge.judge(response.request, response.response) for response in plain}
    start = found[found["alpha"] == 0.0]
    assert all(row["outcome"] == expected[row["id"]] for _, row in start.iterrows())
    table = tradeoff(found)
    assert len(table) == 12 and not any(math.isnan(value) for value in table["harmful_refused"])


def test_layers_by_name() -> None:
    assert parse_layers(["all", "3", "1-2"], 4) == {"all": None, "3": (3,), "1-2": (1, 2)}
    for wrong in ("4", "2-1", "1-9", "-1", "a", ""):
        with pytest.raises(ValueError, match="give all, a number or a range"):
            parse_layers([wrong], 4)


def test_a_setting_is_chosen_by_the_rule() -> None:
    pseudo = {"good": (0, 3, 6), "bad": (0, 0, 0)}  # of 40 refused, by strength
    outcomes = [_outcomes(CURVES)]
    for variant, counts in pseudo.items():
        for alpha, refused in zip((0.0, 0.1, 0.2), counts, strict=True):
            rows = [("refused" if i < refused else "answered") for i in range(40)]
            frame = pd.DataFrame({"outcome": rows, "id": [f"p{i}" for i in range(40)]})
            outcomes.append(
                frame.assign(
                    variant=variant, layers="all", alpha=alpha, set="p", label="pseudo-harmful"
                )
            )
    table = scores(pd.concat(outcomes, ignore_index=True)).set_index(["variant", "alpha"])
    # Of those that refuse 90%, good at 0.1 answers most; what refuses less may answer everything.
    assert table["within"].to_dict() == {
        ("good", 0.0): False,
        ("good", 0.1): True,
        ("good", 0.2): True,
        ("bad", 0.0): False,
        ("bad", 0.1): False,
        ("bad", 0.2): True,
    }
    assert table.loc[("good", 0.1), "score"] == pytest.approx(1 + 37 / 40)
    assert table.loc[("bad", 0.1), "score"] == pytest.approx(36 / 40 + 1 + 20 / 40)
    assert choose(pd.concat(outcomes)) == ("good", "all", 0.1)
    # None refuses 90%: then refusal counts too.
    weak = pd.concat(outcomes).query("alpha == 0 or (variant == 'bad' and alpha == 0.1)")
    assert choose(weak) == ("bad", "all", 0.1)
    with pytest.raises(ValueError, match="pseudo-harmful"):
        choose(_outcomes(CURVES))


def test_settings_that_tie_by_counting_tie_in_the_rule() -> None:
    """18 of 30 and 6 of 20 answered are as many as 15 of 30 and 8 of 20, whatever floats say."""
    assert 18 / 30 + 6 / 20 < 15 / 30 + 8 / 20
    answered = {
        0.1: {"harmless": 18, "pseudo-harmful": 6},
        0.3: {"harmless": 15, "pseudo-harmful": 8},
    }
    rows = []
    for alpha, counts in answered.items():
        for label, n in (("harmful", 10), ("harmless", 30), ("pseudo-harmful", 20)):
            for i in range(n):
                outcome = "answered" if i < counts.get(label, 0) else "refused"
                rows.append(("SARSteer", "all", alpha, label, label, f"{label}{i}", outcome))
    columns = ["variant", "layers", "alpha", "set", "label", "id", "outcome"]
    outcomes = pd.DataFrame(rows, columns=columns)
    assert scores(outcomes)["within"].all()
    assert choose(outcomes) == choose(outcomes[::-1]) == ("SARSteer", "all", 0.1)
    # One request more, and it is no tie.
    more = (outcomes["alpha"] == 0.3) & (outcomes["id"] == "harmless15")
    better = outcomes.assign(outcome=outcomes["outcome"].mask(more, "answered"))
    assert choose(better) == ("SARSteer", "all", 0.3)
