"""The study: how settings are chosen, that it resumes, what it writes, and that its verdicts are computed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from spoken_set import write_set

from sarsteer_lab import ablation_study, candidates, study_cache
from sarsteer_lab import study as study_module
from sarsteer_lab.ablation_study import MATCHED, PAIRS, ablation, compare
from sarsteer_lab.candidates import CAST, SARSTEER
from sarsteer_lab.cli import main
from sarsteer_lab.defenses import ConditionalDefence, collect_states
from sarsteer_lab.evaluation import judge_responses
from sarsteer_lab.gates import fit_condition
from sarsteer_lab.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt, read_set
from sarsteer_lab.replica import replica
from sarsteer_lab.responses import collect_responses
from sarsteer_lab.study import Study, choose, score, split_prompts, study
from sarsteer_lab.study_report import summary, target_met, verdict, write_study

COUNTS = {
    "derive": {"harmful": 6, "harmless": 6},
    "validation": {"harmful": 3, "harmless": 3, "pseudo-harmful": 2, "everyday": 2},
    "test": {"harmful": 3, "harmless": 3, "pseudo-harmful": 2, "everyday": 2},
}


@pytest.fixture(scope="module")
def folder(make_clip: Callable[[float, int], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("study") / "set", make_clip, COUNTS)


@pytest.fixture(scope="module")
def prompts(folder: Path) -> list[SpokenPrompt]:
    return read_set(f"prompts:{folder}").prompts


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A short grid, and a cache that all tests of this file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "ALPHAS", (0.1, 1.0))
        patch.setattr(candidates, "GATED_ALPHAS", (0.1, 1.0))
        patch.setattr(candidates, "SPACES", ((1.0, 2), (1.0, 3)))
        patch.setattr(ablation_study, "CURVE_ALPHAS", (0.1, 1.0))
        patch.setattr(ablation_study, "FAR_ALPHAS", (2.0,))
        patch.setattr(ablation_study, "K", 3)
        patch.setattr(study_module, "PART_ALPHAS", (0.5, 1.0))
        patch.setenv("SARSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def found(tiny: LALM, prompts: list[SpokenPrompt], small: None) -> Study:
    return study(tiny, prompts)


def test_replica_study_is_whole(found: Study) -> None:
    assert found.n["derive harmful"] == 6 and found.n["test everyday"] == 2
    chosen = found.choice[found.choice["chosen"]]
    assert chosen["method"].is_unique and set(chosen["method"]) == set(found.choice["method"])
    assert len(found.test) == 11 * 4 and (found.test["skipped"] == 0).all()
    assert list(dict.fromkeys(found.layers["layers"])) == ["0-3", "0-0", "1-1", "2-3"]
    assert len(found.cosines) == 4
    columns = [c for c in found.curves if c.startswith("harmful ")]
    assert (found.curves[columns].sum(axis=1) == 6).all()
    assert len(found.compared) == 4 * len(PAIRS)
    assert not found.curves.duplicated(["variant", "alpha"]).any()
    shares = found.parts.drop_duplicates("part")["share"].tolist()
    assert len(found.parts) == 3 * 2 and shares[2] == pytest.approx(1) and max(shares[:2]) < 1


def test_report_writes_everything(found: Study, tiny: LALM, tmp_path: Path) -> None:
    text = write_study(found, tiny, tmp_path)
    assert (tmp_path / "summary.md").read_text() == text
    for name in ("defences", "choice", "cosines", "curves", "differences"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000 and (tmp_path / f"{name}.svg").is_file()
        assert f"({name}.png)" in text
    for name in ("choice", "test", "layers", "parts", "cosines", "curves", "compared", "lengths"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(getattr(found, name))
    assert "nan" not in text.lower().replace("finance", "")


def test_a_second_run_only_reads(
    found: Study, tiny: LALM, prompts: list[SpokenPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed although it was in the cache")

    monkeypatch.setattr(tiny.trunk, "forward", fail)
    again = study(tiny, prompts)
    pd.testing.assert_frame_equal(again.choice, found.choice)
    pd.testing.assert_frame_equal(again.compared, found.compared)
    pd.testing.assert_frame_equal(again.test, found.test)


def test_conditional_steering_is_composed_as_it_would_run(
    found: Study, tiny: LALM, prompts: list[SpokenPrompt], tmp_path: Path
) -> None:
    sets = split_prompts(prompts)
    derive = [prompt for part in sets["derive"].values() for prompt in part]
    states = collect_states(tiny, derive)
    condition = fit_condition(states.harmful, states.harmless)
    settings = [s for s in candidates.candidates(states, states.refusal_direction()) if s[0] != SARSTEER]
    table = choose(tiny, settings, condition, sets["validation"])
    rows = table[table["method"] == CAST].set_index("alpha")
    for alpha in (0.1, 1.0):
        defence = ConditionalDefence("c", states.refusal_direction(), alpha, condition=condition)
        responses = collect_responses(
            tiny,
            [defence],
            sets["validation"],
            tmp_path / str(alpha),
            max_new_tokens=study_cache.SWEEP_TOKENS,
        )
        expected = score(judge_responses(responses, [PhraseJudge()])).iloc[0]
        for column in ("ASR", "refused", "BRR", "over-refusal", "broken", "score"):
            assert rows.loc[alpha, column] == expected[column]


def outcomes(**said: str) -> pd.DataFrame:
    """Outcomes from strings of r, a, b: outcomes(d_harmful="rra") and so on."""
    names = {"r": "refused", "a": "answered", "b": "broken"}
    rows = []
    for key, letters in said.items():
        defence, label = key.split("_", 1)
        for i, letter in enumerate(letters):
            rows.append((defence, label.replace("_", "-"), f"{label}{i}", names[letter]))
    return pd.DataFrame(rows, columns=["defence", "label", "id", "outcome"])


def test_score_and_limits() -> None:
    table = score(
        outcomes(
            good_harmful="rrra",
            good_harmless="a" * 20,
            good_pseudo_harmful="aaaaaaaaar",
            good_everyday="a" * 19 + "r",
            bad_harmful="rrrr",
            bad_harmless="a" * 18 + "rr",
            bad_pseudo_harmful="aaaaaaaarr",
            bad_everyday="a" * 19 + "b",
        )
    ).set_index("defence")
    good, bad = table.loc["good"], table.loc["bad"]
    assert good["ASR"] == 0.25 and good["BRR"] == 39 / 40 and good["over-refusal"] == 0.1
    assert good["within"] and good["score"] == pytest.approx(0.75 + 39 / 40 + 0.9)
    assert not bad["within"] and bad["refused"] == 1 and bad["broken"] == pytest.approx(1 / 54)


def curve_outcomes(shares: dict[str, list[tuple[int, int]]], n: int = 20) -> pd.DataFrame:
    """Made-up curves: per variant and strength, how many of n harmful and pseudo-harmful are refused."""
    rows = []
    for variant in {name for pair in PAIRS for name in pair}:
        for alpha, (harmful, pseudo) in enumerate([(2, 0), *shares.get(variant, shares["others"])]):
            for label, refused in (("harmful", harmful), ("pseudo-harmful", pseudo), ("harmless", 0)):
                for i in range(n):
                    outcome = "refused" if i < refused else "answered"
                    rows.append((variant, "all", alpha / 10, label, label, f"{label}{i}", outcome))
    return pd.DataFrame(rows, columns=["variant", "layers", "alpha", "set", "label", "id", "outcome"])


def test_curves_are_compared_at_matched_refusal_and_by_area() -> None:
    rows = compare(curve_outcomes({"ablated": [(10, 0), (18, 0)], "others": [(12, 10), (19, 20)]}))
    cells = rows.set_index(["first", "second", "statistic"])
    matched = cells.loc[("ablated", "not ablated", MATCHED)]
    assert matched["matched"] == 0.9
    # To refuse 18 of 20 the ablated vector costs nothing, the other one all 20.
    assert matched["difference"] == -1
    area = cells.loc[("ablated", "not ablated", "area, benign: both")]
    # By hand: 0.9 over the whole axis, against .95 up to 1/2, .6 up to 3/4 and .1 up to 1.
    assert area["difference"] == pytest.approx(0.9 - (0.95 * 0.5 + 0.6 * 0.25 + 0.1 * 0.25))
    assert area["low"] > 0
    same = cells.loc[("ablated, full length", "not ablated", "area, benign: both")]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)


def test_without_any_gain_in_refusal_nothing_is_matched() -> None:
    rows = compare(curve_outcomes({"others": [(2, 3), (1, 9)]}))
    assert rows.loc[rows["statistic"] == MATCHED, "difference"].isna().all()


def test_verdicts_follow_the_interval() -> None:
    assert verdict(0.1, 0.02, 0.2).startswith("ablation helps")
    assert verdict(-0.1, -0.2, -0.02).startswith("ablation hurts")
    assert verdict(0.1, -0.02, 0.2).startswith("no gain")


def test_the_target_is_computed(found: Study, tiny: LALM) -> None:
    good = found.test.copy()
    ours = good["defence"] == SARSTEER
    for name, rate in (("harmful", 0.0), ("harmless", 1.0), ("pseudo-harmful", 0.0)):
        good.loc[ours & (good["set"] == name), "rate"] = rate
    assert all(met for met, _ in target_met(good).values())
    found_good = Study(**{**vars(found), "test": good})
    assert "SARSteer reaches the target" in summary(found_good, tiny)
    good.loc[ours & (good["set"] == "harmless"), "rate"] = 0.9
    assert "SARSteer misses the target in BRR" in summary(found_good, tiny)


def test_ablation_without_a_dial_has_one_curve(tiny: LALM, prompts: list[SpokenPrompt]) -> None:
    curves, compared, lengths = ablation(tiny, split_prompts(prompts), (1.0, 0.4))
    assert curves["dial"].isna().all() and compared["dial"].isna().all()
    assert set(curves["alpha"]) == {0.0, 0.1, 1.0, 2.0}
    assert (lengths["ablated"] <= 1 + 1e-6).all()
    assert torch.allclose(torch.tensor(lengths["ablated, full length"].to_numpy()), torch.ones(4), atol=1e-5)


def test_splits_that_do_not_suffice(prompts: list[SpokenPrompt]) -> None:
    for wrong in (
        [p for p in prompts if (p.split, p.label) != ("validation", "everyday")],
        [p for p in prompts if p.id != "derive-harmful-0" and p.id != "derive-harmful-1"],
    ):
        with pytest.raises(ValueError, match="needs at least"):
            split_prompts(wrong)
    limited = split_prompts(prompts, 2)
    assert [len(part) for part in limited["test"].values()] == [2, 2, 2, 2]
    assert len(limited["derive"]["harmful"]) == 5


def test_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sarsteer_lab.lalm.load_lalm", lambda *args, **kwargs: replica())
    arguments = ["study", "--prompts", str(folder), "--folder", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "## 4. Does safe-space ablation help" in capsys.readouterr().out
    assert (tmp_path / "out" / "summary.md").is_file()
    assert main([*arguments[:2], "/nowhere"]) == 2
    assert "no such file" in capsys.readouterr().err
