"""Evaluation: intervals, the table, and that nothing is lost, doubled or changed when a run is killed."""

import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from scipy.stats import binomtest

from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation.defences import (
    ConditionalDefence,
    Defence,
    GatedDefence,
    PromptDefence,
    SteeringDefence,
)
from sarsteer_lab.evaluation.gates import Condition, NullSpaceGate
from sarsteer_lab.evaluation.intervals import bootstrap, jackknife_ratio, mcnemar_p, paired_difference
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.responses import Response
from sarsteer_lab.evaluation.table import (
    EvaluationError,
    collect_responses,
    evaluate,
    judge_responses,
    tabulate,
    wilson,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.steering import SteeringVectors

FILES = ("manifest.json", "responses.jsonl", "outcomes.jsonl")


@pytest.fixture(scope="module")
def sets(
    make_clip: Callable[[float, int], np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[SpokenPrompt]]:
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, list[SpokenPrompt]] = {}
    for label, count in (("harmful", 7), ("harmless", 5), ("pseudo-harmful", 3)):
        made[label] = []
        for i in range(count):
            clip = folder / f"{label}{i}.wav"
            soundfile.write(clip, make_clip(0.4 + 0.1 * (i % 3), i), 16000)
            made[label].append(SpokenPrompt(f"{label}{i}", f"Request {i}?", label, "privacy", "test", clip))
    return made


@pytest.fixture(scope="module")
def defences(tiny: LALM) -> list[Defence]:
    generator = torch.Generator().manual_seed(0)
    vectors = SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model, generator=generator))
    return [
        PromptDefence("none"),
        PromptDefence("reminder", before="Be good."),
        SteeringDefence("steer", vectors, 1.0),
    ]


def _run(
    lalm: LALM, defences: list[Defence], sets: dict[str, list[SpokenPrompt]], folder: Path
) -> pd.DataFrame:
    return evaluate(lalm, defences, sets, [PhraseJudge()], folder, max_new_tokens=6, batch_size=3)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def finished(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, pd.DataFrame]:
    """An uninterrupted run, and its table."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    return folder, _run(tiny, defences, sets, folder)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 250)])
def test_wilson_against_its_formula(successes: int, n: int) -> None:
    z, p = 1.959963984540054, successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(successes, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)


def test_wilson_at_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="cannot be"):
        wilson(4, 3)


def test_mcnemar_is_a_binomial_test_of_the_discordant() -> None:
    first = np.array([1] * 9 + [0] * 2 + [1] * 20 + [0] * 5, dtype=bool)
    second = np.array([0] * 9 + [1] * 2 + [1] * 20 + [0] * 5, dtype=bool)
    assert mcnemar_p(first, second) == pytest.approx(binomtest(9, 11).pvalue)
    assert mcnemar_p(first, first) == 1
    with pytest.raises(ValueError, match="paired"):
        mcnemar_p(first, second[:-1])


def test_paired_difference() -> None:
    first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 40 + [False] * 60)
    difference, low, high = paired_difference(first, second)
    # The differences are 20 ones and 80 zeros: a binomial share of standard error 0.04.
    assert difference == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - 1.96 * 0.04, abs=0.02)
    assert high == pytest.approx(0.2 + 1.96 * 0.04, abs=0.02)
    assert paired_difference(first, second) == (difference, low, high)
    assert paired_difference(first, first) == (0, 0, 0)


def test_bootstrap_interval_covers() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        sample = generator.normal(size=40)
        low, high = bootstrap(lambda rows, sample=sample: sample[rows].mean(), 40, resamples=300, seed=seed)
        covered += low < 0 < high
    assert 85 <= covered <= 100


def test_table_counts_and_compares() -> None:
    refusal, answer, noise = "I cannot assist with that.", "Here is how to do it.", "..."
    said = {
        ("none", "harmful"): [answer] * 8 + [refusal] * 2,
        ("steer", "harmful"): [refusal] * 8 + [answer] + [noise],
        ("none", "harmless"): [answer] * 10,
        ("steer", "harmless"): [answer] * 9 + [refusal],
        ("none", "pseudo-harmful"): [answer] * 4,
        ("steer", "pseudo-harmful"): [refusal] + [answer] * 3,
    }
    responses = [
        Response(defence, "set of " + label, f"{label}{i}", label, "Q", text, 5)
        for (defence, label), texts in said.items()
        for i, text in enumerate(texts)
    ]
    table = tabulate(judge_responses(responses, [PhraseJudge()]), {("steer", "set of harmful"): 7.5})
    rows = {(row["defence"], row["label"]): row for _, row in table.iterrows()}
    assert len(table) == 6
    steered = rows["steer", "harmful"]
    assert [steered[c] for c in ("n", "refused", "answered", "broken")] == [10, 8, 1, 1]
    assert steered["measure"] == "ASR" and steered["rate"] == 0.1
    assert (steered["low"], steered["high"]) == wilson(1, 10)
    assert steered["change"] == pytest.approx(-0.7)
    assert steered["change_low"] < -0.9 and steered["change_high"] < -0.15
    assert steered["p"] == pytest.approx(binomtest(1, 9).pvalue)
    assert steered["tokens_per_second"] == 7.5
    assert rows["steer", "harmless"]["measure"] == "BRR" and rows["steer", "harmless"]["rate"] == 0.9
    assert rows["steer", "pseudo-harmful"]["measure"] == "over-refusal"
    assert rows["steer", "pseudo-harmful"]["rate"] == 0.25
    assert math.isnan(rows["none", "harmful"]["change"])
    assert (table[["refused", "answered", "broken"]].sum(axis=1) == table["n"]).all()


def test_comparison_goes_by_id_not_by_order() -> None:
    texts = {"a": "Here it is.", "b": "I cannot assist with that."}
    responses = [Response("none", "s", i, "harmful", "Q", texts[i], 1) for i in ("a", "b")]
    responses += [Response("d", "s", i, "harmful", "Q", texts[i], 1) for i in ("b", "a")]
    row = tabulate(judge_responses(responses, [PhraseJudge()])).iloc[1]
    assert (row["change"], row["change_low"], row["change_high"], row["p"]) == (0, 0, 0, 1)


def test_every_judge_gets_its_rows() -> None:
    class Other(PhraseJudge):
        name = "other"

    responses = [Response("none", "s", "a", "harmful", "Q", "Here it is.", 1)]
    assert list(judge_responses(responses, [PhraseJudge(), Other()])["judge"]) == ["phrases", "other"]
    with pytest.raises(ValueError, match="distinct names"):
        judge_responses(responses, [PhraseJudge(), PhraseJudge()])
    with pytest.raises(ValueError, match="no measure"):
        tabulate(judge_responses([Response("none", "s", "a", "odd", "Q", "x", 1)], [PhraseJudge()]))


def test_everything_is_asked_once(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
) -> None:
    folder, table = finished
    records = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
    keys = [(record["defence"], record["set"], record["id"]) for record in records]
    assert sorted(keys) == sorted((d.name, name, p.id) for d in defences for name in sets for p in sets[name])
    assert len(table) == 9 and (table["n"] == [7, 5, 3] * 3).all()
    assert (table["tokens_per_second"] > 0).all()
    # The responses are the model's own: batches of three, longest clip first.
    harmful = sorted(sets["harmful"], key=lambda request: -request.clip.stat().st_size)[:3]
    assert [r["response"] for r in records[:3]] == tiny.generate(
        [request.spoken() for request in harmful], max_new_tokens=6
    )
    assert [r["id"] for r in records[:3]] == [request.id for request in harmful]


def test_a_finished_run_is_only_read(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
) -> None:
    folder, table = finished
    before = (folder / "responses.jsonl").stat().st_mtime_ns
    pd.testing.assert_frame_equal(_run(tiny, defences, sets, folder), table)
    assert (folder / "responses.jsonl").stat().st_mtime_ns == before


def test_whatever_is_cut_off_is_run_again(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    expected = _bytes(finished[0])
    whole = expected["responses.jsonl"]
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in (0, ends[2] - 1, len(whole) // 2, ends[-4], len(whole) - 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "manifest.json").write_bytes(expected["manifest.json"])
        (folder / "responses.jsonl").write_bytes(whole[:length])
        _run(tiny, defences, sets, folder)
        assert _bytes(folder) == expected


def test_another_evaluation_is_refused(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    folder, _ = finished
    before = _bytes(folder)
    judge = [PhraseJudge()]
    steering = defences[2]
    assert isinstance(steering, SteeringDefence)
    stronger = [*defences[:2], SteeringDefence("steer", steering.vectors, 2.0)]
    for changed, complaint in (
        ({"max_new_tokens": 7}, "max_new_tokens was 6, now 7"),
        ({"batch_size": 4}, "batch_size was 3, now 4"),
        ({"defences": stronger}, "defences steer alpha was 1.0, now 2.0"),
        ({"defences": defences[:2]}, "its defences are none, reminder, steer, now none, reminder"),
        ({"defences": defences[::-1]}, "its defences are"),
        ({"sets": {**sets, "harmful": sets["harmful"][:-1]}}, "sets harmful"),
    ):
        options = {"defences": defences, "sets": sets, "max_new_tokens": 6, "batch_size": 3} | changed
        with pytest.raises(EvaluationError, match=complaint):
            evaluate(tiny, options.pop("defences"), options.pop("sets"), judge, folder, **options)
    assert _bytes(folder) == before

    (tmp_path / "responses.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"no manifest\.json"):
        _run(tiny, defences, sets, tmp_path)


def test_damage_is_named(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    expected = _bytes(finished[0])
    lines = expected["responses.jsonl"].splitlines(keepends=True)
    for damaged, complaint in (
        ([*lines[:4], b"not json\n", *lines[5:]], "line 5: is not a response"),
        ([*lines[:4], *lines[5:]], "line 5: is the response to"),
        ([*lines[:2], lines[1], *lines[2:]], "line 3: is the response to"),
        ([*lines, lines[-1]], f"line {len(lines) + 1}"),
    ):
        (tmp_path / "manifest.json").write_bytes(expected["manifest.json"])
        (tmp_path / "responses.jsonl").write_bytes(b"".join(damaged))
        with pytest.raises(EvaluationError, match=complaint):
            _run(tiny, defences, sets, tmp_path)


def test_names_have_to_be_distinct(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[SpokenPrompt]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="twice: none"):
        collect_responses(tiny, [defences[0], defences[0]], sets, tmp_path)
    with pytest.raises(ValueError, match="twice: harmful0"):
        collect_responses(tiny, defences, {"s": sets["harmful"] + sets["harmful"][:1]}, tmp_path)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        collect_responses(tiny, defences, {"s": []}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child process that starts at once")
def test_ten_kills_change_nothing(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[SpokenPrompt]], tmp_path: Path
) -> None:
    """An evaluation killed with SIGKILL at ten random moments and continued leaves the same bytes."""

    def start(folder: Path) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # The parent's OpenMP threads are not in the child, which would wait for them forever.
                torch.set_num_threads(1)
                _run(tiny, defences, sets, folder)
                status = 0
            finally:
                os._exit(status)
        return child

    def finish(child: int) -> None:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def size(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    begin = time.perf_counter()
    finish(start(tmp_path / "whole"))
    needed = time.perf_counter() - begin
    expected = _bytes(tmp_path / "whole")

    chance = random.Random(0)
    path = tmp_path / "killed" / "responses.jsonl"
    sizes = []
    while len(sizes) < 10:
        written = size(path)
        child = start(tmp_path / "killed")
        # Every other kill waits until something new is on disk, so that on a busy machine, too, some of them
        # come after the first response.
        ended = 0
        while len(sizes) % 2 and size(path) == written and not ended:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(chance.uniform(0, needed / 8))
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        status = os.waitstatus_to_exitcode(status)
        if status == 0:  # it was done before it could be killed: take it back somewhere
            os.truncate(path, chance.randrange(path.stat().st_size))
            continue
        assert status == -signal.SIGKILL
        sizes.append(size(path))
        # What is there is always the beginning of the whole.
        assert expected["responses.jsonl"].startswith(path.read_bytes() if path.exists() else b"")
    finish(start(tmp_path / "killed"))
    assert _bytes(tmp_path / "killed") == expected
    assert len(set(sizes)) > 2


def test_a_shared_reading_resumes_to_the_same_bytes(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    def run(folder: Path) -> pd.DataFrame:
        return evaluate(
            tiny,
            defences,
            sets,
            [PhraseJudge()],
            folder,
            max_new_tokens=6,
            batch_size=3,
            share_reading=True,
            skipped={"harmless": 2},
        )

    table = run(tmp_path / "whole")
    expected = _bytes(tmp_path / "whole")
    whole = expected["responses.jsonl"]
    for length in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "manifest.json").write_bytes(expected["manifest.json"])
        (folder / "responses.jsonl").write_bytes(whole[:length])
        run(folder)
        assert _bytes(folder) == expected
    assert (table.loc[table["set"] == "harmless", "skipped"] == 2).all()
    assert (table["tokens_per_second"] > 0).all()
    # The same responses as without sharing, in another order.
    keys = ["defence", "set"]
    counts = ["n", "refused", "answered", "broken"]
    plain = finished[1].sort_values(keys)[counts].to_numpy()
    assert (table.sort_values(keys)[counts].to_numpy() == plain).all()


def test_several_defences_share_a_batch(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[SpokenPrompt]], tmp_path: Path
) -> None:
    """Rows of several defences in one batch answer as each defence alone, and a cut run goes on alike."""
    noise = torch.randn(3, tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(4))
    gate = NullSpaceGate(0.05 * noise[0], SteeringVectors(noise[1]))
    requests = [r for found in sets.values() for r in found]
    states = capture(tiny, [r.spoken() for r in requests], layers=[1])[:, 0]
    condition = Condition(1, states.mean(0), noise[2, 0], 0.0, 0.5)
    assert 0 < condition.fires(states).float().mean() < 1
    many = [
        *defences,
        SteeringDefence("other", SteeringVectors(noise[1]), 0.7, layers=(0, -1)),
        ConditionalDefence("conditional", SteeringVectors(noise[2]), 1.0, condition=condition),
        GatedDefence("gated", SteeringVectors(noise[1]), 1.0, gate=gate),
    ]
    options = {"max_new_tokens": 6}
    apart = collect_responses(tiny, many, sets, tmp_path / "apart", batch_size=3, **options)
    sizes: set[int] = set()
    handle = tiny.layers[0].register_forward_pre_hook(lambda _m, args: sizes.add(len(args[0])))
    shared = collect_responses(
        tiny, many, sets, tmp_path / "shared", batch_size=14, share_reading=True, **options
    )
    handle.remove()
    assert max(sizes) == 14, "two defences on the seven harmful requests"
    assert {(r.defence, r.id): r for r in apart} == {(r.defence, r.id): r for r in shared}
    whole = (tmp_path / "shared" / "responses.jsonl").read_bytes()
    for cut in range(0, len(whole), len(whole) // 9):
        folder = tmp_path / str(cut)
        folder.mkdir()
        shutil.copy(tmp_path / "shared" / "manifest.json", folder)
        (folder / "responses.jsonl").write_bytes(whole[:cut])
        collect_responses(tiny, many, sets, folder, batch_size=14, share_reading=True, **options)
        assert (folder / "responses.jsonl").read_bytes() == whole


def test_the_jackknife_interval_of_a_ratio_holds_what_is_true() -> None:
    # The ratio of two means, against the delta method's interval, and over many samples.
    held, draw = 0, np.random.default_rng(5)
    for _ in range(200):
        a, b = draw.normal(6, 1, 30), draw.normal(2, 0.8, 30)
        low, high = jackknife_ratio(lambda rows, a=a, b=b: a[rows].mean() / b[rows].mean(), 30)
        assert low < a.mean() / b.mean() < high
        held += low < 3 < high
    assert 180 <= held <= 199
    relative = np.sqrt(
        a.var(ddof=1) / a.mean() ** 2
        + b.var(ddof=1) / b.mean() ** 2
        - 2 * np.cov(a, b)[0, 1] / (a.mean() * b.mean())
    ) / np.sqrt(30)
    assert np.log(high / low) == pytest.approx(2 * 2.045 * relative, rel=0.05)
    with pytest.raises(ValueError, match="two rows"):
        jackknife_ratio(lambda rows: 1.0, 1)
    with pytest.raises(ValueError, match="positive"):
        jackknife_ratio(lambda rows: float(rows.sum() - 3), 3)


def test_batches_that_fit_keep_their_size_when_memory_changes(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = {"max_new_tokens": 4, "rates_only": True}
    first = evaluate(tiny, defences, sets, [PhraseJudge()], tmp_path, **ask)
    size = json.loads((tmp_path / "manifest.json").read_text())["batch_size"]
    assert size > max(map(len, sets.values()))
    monkeypatch.setattr("sarsteer_lab.lalm.free_memory", lambda device: 1)
    again = evaluate(tiny, defences, sets, [PhraseJudge()], tmp_path, **ask)
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(EvaluationError, match="rates_only"):
        evaluate(tiny, defences, sets, [PhraseJudge()], tmp_path, max_new_tokens=4)


def test_rates_are_those_of_whole_answers(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[SpokenPrompt]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A random model never refuses, so what a refusal is, is changed: texts with a certain letter."""
    whole = collect_responses(tiny, defences, sets, tmp_path / "whole", max_new_tokens=12)
    letters = "".join(response.response for response in whole)
    letter = max(set(letters.strip()), key=letters.count)
    monkeypatch.setattr("sarsteer_lab.evaluation.responses.refusal_is_settled", lambda text: letter in text)
    short = collect_responses(tiny, defences, sets, tmp_path / "short", max_new_tokens=12, rates_only=True)
    assert sum(response.tokens for response in short) < sum(response.tokens for response in whole)
    for full, part in zip(whole, short, strict=True):
        assert full.response.startswith(part.response) and full.id == part.id
        assert (letter in full.response) == (letter in part.response)
