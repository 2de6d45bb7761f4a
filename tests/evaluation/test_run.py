"""The runner: nothing is lost, doubled or changed when a run is killed, grows, or goes to a
cluster."""

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from spoken_set import write_set

from sarsteer_lab import keys
from sarsteer_lab.activations import capture
from sarsteer_lab.cli import main
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation import answering, asking
from sarsteer_lab.evaluation.cluster import model_of, on_cluster
from sarsteer_lab.evaluation.defences import (
    ConditionalDefence,
    Defence,
    GatedDefence,
    PromptDefence,
    SteeringDefence,
)
from sarsteer_lab.evaluation.evaluate import evaluate as evaluate_plainly
from sarsteer_lab.evaluation.gates import Condition, NullSpaceGate
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import EvaluationError, _differences, batch_size_for, run
from sarsteer_lab.evaluation.table import evaluation_table
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Request
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import SteeringVectors, steer

FILES = ("manifest.json", "responses.jsonl", "outcomes.jsonl")


@pytest.fixture(scope="module")
def sets(
    make_clip: Callable[[float, int], np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Request]]:
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, list[Request]] = {}
    for label, count in (("harmful", 7), ("harmless", 5), ("pseudo-harmful", 3)):
        made[label] = []
        for i in range(count):
            clip = folder / f"{label}{i}.wav"
            soundfile.write(clip, make_clip(0.4 + 0.1 * (i % 3), 10 * len(made) + i), 16000)
            made[label].append(
                Request(f"{label}{i}", f"Request {i}?", label, "privacy", "test", clip)
            )
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
    lalm: LALM, defences: list[Defence], sets: dict[str, list[Request]], folder: Path
) -> pd.DataFrame:
    return evaluation_table(
        lalm, defences, sets, [PhraseJudge()], folder, max_new_tokens=6, batch_size=3
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def finished(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, pd.DataFrame]:
    """An uninterrupted run, and its table."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    return folder, _run(tiny, defences, sets, folder)


def test_everything_is_asked_once(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
) -> None:
    folder, table = finished
    records = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
    keys = [(record["defence"], record["set"], record["id"]) for record in records]
    assert sorted(keys) == sorted(
        (d.name, name, p.id) for d in defences for name in sets for p in sets[name]
    )
    assert len(table) == 9 and (table["n"] == [7] * 3 + [5] * 3 + [3] * 3).all()
    assert (table["tokens_per_second"] > 0).all()
    # The responses are the model's own: batches of three, longest clip first.
    harmful = sorted(sets["harmful"], key=lambda request: -len(tiny.waveform(request.spoken())))[:3]
    assert [r["response"] for r in records[:3]] == tiny.generate(
        [request.spoken() for request in harmful], max_new_tokens=6
    )
    assert [r["id"] for r in records[:3]] == [request.id for request in harmful]


def _pieces(folder: Path) -> list[Path]:
    return sorted((folder / "parts").rglob("*.json"))


def test_a_finished_run_is_only_read_and_a_cut_one_goes_on(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "run")
    expected = _bytes(folder)
    whole = _pieces(folder)
    assert len(whole) == 3 * (7 + 5 + 3)
    # Some pieces are lost, one is damaged: these run again, and no other.
    (folder / "responses.jsonl").unlink()
    for piece in whole[::5]:
        piece.unlink()
    damaged = whole[1].read_text().replace("text", "test")
    whole[1].write_text(damaged)
    before = {path: path.stat().st_mtime_ns for path in _pieces(folder)}
    with pytest.warns(UserWarning, match="damaged"):
        _run(tiny, defences, sets, folder)
    assert _bytes(folder) == expected
    changed = [path for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert changed == [whole[1]]

    written = (folder / "responses.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(LALM, "announce", None)  # whatever runs the model now fails
    pd.testing.assert_frame_equal(
        _run(tiny, defences, sets, folder), _run(tiny, defences, sets, folder)
    )
    assert (folder / "responses.jsonl").stat().st_mtime_ns == written
    # Fewer defences are read as well, and that leaves the others where they are.
    fewer = run(tiny, defences[1:2], sets, folder, max_new_tokens=6, batch_size=3)
    assert {response.defence for response in fewer} == {"reminder"}
    assert len(_pieces(folder)) == len(whole)


def test_another_evaluation_is_refused(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
    make_clip: Callable[[float, int], np.ndarray],
    tmp_path: Path,
) -> None:
    folder, _ = finished
    before = _bytes(folder)
    steering = defences[2]
    assert isinstance(steering, SteeringDefence)
    stronger = [*defences[:2], SteeringDefence("steer", steering.vectors, 2.0)]
    # The same numbers, for other layers; and the same clip's name with another sound in it.
    shifted = SteeringVectors(steering.vectors.values, layers=(0, 1, 3, 2))
    elsewhere = [*defences[:2], SteeringDefence("steer", shifted, 1.0, layers=(0, 1, 2, 3))]
    other = tmp_path / "other.wav"
    soundfile.write(other, make_clip(0.4, 99), 16000)
    first = sets["harmful"][0]
    changed = [Request(**{**vars(first), "clip": other}), *sets["harmful"][1:]]
    for change, complaint in (
        ({"max_new_tokens": 7}, "max_new_tokens was 6, now 7"),
        ({"batch_size": 4}, "batch_size was 3, now 4"),
        ({"form": "typed"}, "form was 'spoken', now 'typed'"),
        ({"defences": stronger}, "defences steer alpha was 1.0, now 2.0"),
        ({"defences": elsewhere}, "defences steer vectors layers, entry 3 was 2, now 3"),
        ({"sets": {**sets, "harmful": sets["harmful"][:-1]}}, "sets harmful"),
        (
            {"sets": {**sets, "harmful": changed}},
            "sets harmful, request 'harmful0': its clip's content was",
        ),
    ):
        options = {
            "defences": defences,
            "sets": sets,
            "max_new_tokens": 6,
            "batch_size": 3,
        } | change
        with pytest.raises(EvaluationError, match=complaint):
            run(tiny, options.pop("defences"), options.pop("sets"), folder, **options)
    assert _bytes(folder) == before

    (tmp_path / "responses.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"no manifest\.json"):
        _run(tiny, defences, sets, tmp_path)


@pytest.mark.parametrize("package", ["torch", "transformers", "sarsteer-lab"])
def test_a_run_of_other_versions_is_refused_and_says_which_changed(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
    package: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = finished
    before = _bytes(folder)
    plain = keys.version
    monkeypatch.setattr(keys, "version", lambda name: "99" if name == package else plain(name))
    change = f"versions {package} was '{plain(package)}', now '99'"
    with pytest.raises(EvaluationError, match=re.escape(change)):
        _run(tiny, defences, sets, folder)
    assert _bytes(folder) == before


def test_a_steered_model_is_refused(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[Request]], tmp_path: Path
) -> None:
    vectors = SteeringVectors(torch.ones(tiny.n_layers, tiny.d_model))
    with pytest.raises(HookedModelError), steer(tiny, vectors, 1.0):
        run(tiny, defences, sets, tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_have_to_be_distinct(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[Request]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="twice: none"):
        run(tiny, [defences[0], defences[0]], sets, tmp_path)
    with pytest.raises(ValueError, match="twice: harmful0"):
        run(tiny, defences, {"s": sets["harmful"] + sets["harmful"][:1]}, tmp_path)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        run(tiny, defences, {"s": []}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child process that starts at once")
def test_kills_change_nothing(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
    tmp_path: Path,
) -> None:
    """An evaluation killed with SIGKILL at three random moments and continued leaves the same
    bytes."""
    chance = random.Random(0)
    counts = []
    for _ in range(3):
        before = len(_pieces(tmp_path))
        child = os.fork()
        if child == 0:
            # The parent's OpenMP threads are not in the child, which would wait for them forever.
            torch.set_num_threads(1)
            _run(tiny, defences, sets, tmp_path)
            os._exit(0)
        while len(_pieces(tmp_path)) < before + 2:  # something new is there
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        counts.append(len(_pieces(tmp_path)))
    assert counts == sorted(set(counts)) and not (tmp_path / "responses.jsonl").exists()
    _run(tiny, defences, sets, tmp_path)
    assert _bytes(tmp_path) == _bytes(finished[0])


@pytest.fixture(scope="module")
def many(tiny: LALM, defences: list[Defence], sets: dict[str, list[Request]]) -> list[Defence]:
    """Defences of every kind."""
    noise = torch.randn(3, tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(4))
    gate = NullSpaceGate(0.05 * noise[0], SteeringVectors(noise[1]))
    requests = [r for found in sets.values() for r in found]
    states = capture(tiny, [r.spoken() for r in requests], layers=[1])[:, 0]
    condition = Condition(1, states.mean(0), noise[2, 0], 0.0, 0.5)
    assert 0 < condition.fires(states).float().mean() < 1
    return [
        *defences,
        SteeringDefence("other", SteeringVectors(noise[1]), 0.7, layers=(0, -1)),
        ConditionalDefence("conditional", SteeringVectors(noise[2]), 1.0, condition=condition),
        GatedDefence("gated", SteeringVectors(noise[1]), 1.0, gate=gate),
    ]


def test_several_defences_share_a_batch(
    tiny: LALM,
    many: list[Defence],
    sets: dict[str, list[Request]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of several defences in one batch answer as each defence alone, and a cut run goes on
    alike."""
    options = {"max_new_tokens": 6}
    apart = run(tiny, many, sets, tmp_path / "apart", batch_size=3, **options)
    sizes: list[int] = []
    original = answering.under_each
    monkeypatch.setattr(
        answering,
        "under_each",
        lambda r, p, s: sizes.append(len(p) * len(r.prompts)) or original(r, p, s),
    )

    def shared(folder: Path, chosen: list[Defence]) -> bytes:
        run(tiny, chosen, sets, folder, batch_size=14, **options)
        return (folder / "responses.jsonl").read_bytes()

    whole = shared(tmp_path / "shared", many)
    assert max(sizes) == 14, "two defences on the seven harmful requests"
    lines = [json.loads(line) for line in whole.splitlines()]
    assert {(r["defence"], r["id"]): r["response"] for r in lines} == {
        (r.defence, r.id): r.response for r in apart
    }
    # Pieces are lost: what shared a batch with them runs along, and the same bytes come out.
    for piece in _pieces(tmp_path / "shared")[::3]:
        piece.unlink()
    (tmp_path / "shared" / "responses.jsonl").unlink()
    assert shared(tmp_path / "shared", many) == whole
    # A grid that grows runs only what is new, and holds the same responses.
    shared(tmp_path / "grown", many[:4])
    before = {path: path.stat().st_mtime_ns for path in _pieces(tmp_path / "grown")}
    grown = [json.loads(line) for line in shared(tmp_path / "grown", many).splitlines()]
    assert grown == lines
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_task_answers_its_groups_in_whatever_order(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[Request]]
) -> None:
    """A cluster's workers are given some groups: those that ask alike follow each other, or not."""
    requests = sets["harmful"][:2]
    variants = [[d.prompt(request) for request in requests] for d in defences[:2]]
    order = ((0, 0), (0, 2), (1, 1), (0, 0))
    groups = [answering.Group(variant, [defences[number]], []) for variant, number in order]
    task = answering.Task(
        answering.Asked(6), [tiny.encode(prompts) for prompts in variants], groups
    )
    texts = []
    for of_group in answering.answer(tiny, task):
        assert not tiny.watchers, "nothing steers while others are at work"
        texts.append([said["text"] for said in of_group])
    assert texts[0] == texts[3] and texts[1] != texts[0] != texts[2]
    for of_group, (variant, number) in zip(texts, order, strict=True):
        with defences[number].applied(tiny, variants[variant]):
            assert of_group == tiny.generate(variants[variant], max_new_tokens=6)


def test_no_defence_pays_for_what_is_read_for_all(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class SlowToRead(PreparedBatch):
        def __init__(self, *prompts: Any) -> None:
            time.sleep(2)
            super().__init__(*prompts)

    monkeypatch.setattr(answering, "PreparedBatch", SlowToRead)
    prompts = tiny.encode([defences[0].prompt(request) for request in sets["harmful"][:2]])
    groups = [answering.Group(0, [defences[number]], []) for number in (0, 2)]
    task = answering.Task(answering.Asked(2), [prompts], groups)
    for of_group in answering.answer(tiny, task):
        assert 0 < sum(said["seconds"] for said in of_group) < 1.5


def test_the_runner_gives_what_the_plain_path_gives(
    tiny: LALM, many: list[Defence], sets: dict[str, list[Request]], tmp_path: Path
) -> None:
    judge = PhraseJudge()
    plain = evaluate_plainly(tiny, many, sets, judge=judge, max_new_tokens=6)
    pairs = list(zip(plain["request"], plain["response"], strict=True))
    assert list(plain["outcome"]) == judge.judge_all(pairs)
    assert plain.groupby("defence")["response"].agg(tuple).nunique() == len(many)
    responses = run(tiny, many, sets, tmp_path, max_new_tokens=6, batch_size=14)
    found = {(r.defence, r.set, r.id, r.label, r.request, r.response) for r in responses}
    columns = ["defence", "set", "id", "label", "request", "response"]
    assert found == set(plain[columns].itertuples(index=False, name=None))


def test_a_prompt_that_is_in_two_sets_is_asked_once(
    tiny: LALM, defences: list[Defence], sets: dict[str, list[Request]], tmp_path: Path
) -> None:
    twice = {"one": sets["harmful"][:2], "other": sets["harmful"][1:3]}
    responses = run(tiny, defences, twice, tmp_path, max_new_tokens=4)
    assert len(responses) == 3 * 4 and len(_pieces(tmp_path)) == 3 * 3


def test_batches_that_fit_keep_their_size_when_memory_changes(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def ask() -> pd.DataFrame:
        fitting = batch_size_for(tiny, defences, sets, tmp_path, 4)
        options = {"max_new_tokens": 4, "batch_size": fitting}
        return evaluation_table(tiny, defences, sets, [PhraseJudge()], tmp_path, **options)

    first = ask()
    size = json.loads((tmp_path / "manifest.json").read_text())["batch_size"]
    assert size > max(map(len, sets.values()))
    monkeypatch.setattr("sarsteer_lab.engine.memory.free_memory", lambda device: 1)
    assert batch_size_for(tiny, defences, sets, tmp_path / "elsewhere", 4) == 1
    pd.testing.assert_frame_equal(first, ask())


def test_sweep_from_the_command_line(
    make_clip: Callable[[float, int], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    spec = f"prompts:{write_set(tmp_path / 'set', make_clip)}"
    arguments = ["sweep", "--model", "replica:qwen2_audio", "--set", spec, "--derive", spec]
    arguments += ["--split", "test", "--tokens", "4", "--k", "3", "--folder", str(tmp_path / "out")]
    assert main([*arguments, "--alpha", "0.1,1"]) == 0
    out = capsys.readouterr().out
    out = out.replace("&#124;", "|")  # as a Markdown table holds it
    assert "lam=0 | layers all | alpha=0.1" in out and "lam=1 k=3 | layers all | alpha=1" in out
    rows = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    assert len(rows) == 10 * (1 + 2 * 2) and set(rows["alpha"]) == {0.0, 0.1, 1.0}
    assert (tmp_path / "out" / "table.csv").is_file()
    assert main([*arguments, "--layers", "9"]) == 2
    assert "layers '9'" in capsys.readouterr().err


@pytest.mark.late
def test_a_cluster_that_loses_a_worker_half_way_gives_the_same_bytes(
    sets: dict[str, list[Request]],
    defences: list[Defence],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    lalm = load_lalm("replica:qwen2_audio", device="cpu")
    options = {"max_new_tokens": 24, "batch_size": 3}
    run(lalm, defences, sets, tmp_path / "here", **options)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sarsteer_lab.evaluation.cluster.GROUPS_PER_TASK", 1)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    write = asking.Store.write

    def alive() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    def write_and_lose_a_worker(self: asking.Store, key: str, value: object) -> object:
        write(self, key, value)
        if nodes:  # once, when the first result is there and both workers are busy
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()
            while alive() > 2:  # the head, and the worker that is left
                time.sleep(0.1)
        return value

    monkeypatch.setattr(asking.Store, "write", write_and_lose_a_worker)
    try:
        run(lalm, defences, sets, tmp_path / "there", ray=cluster.address, **options)
        assert alive() == 2 and not nodes
    finally:
        ray.shutdown()
        cluster.shutdown()
    for name in ("manifest.json", "responses.jsonl"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_worker_with_another_model_is_refused() -> None:
    model_of.cache_clear()
    with pytest.raises(ValueError, match="another model than here"):
        model_of("replica:qwen2_audio", (), torch.float32, "0" * 64)


def test_what_has_changed_is_named_entry_by_entry(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    finished: tuple[Path, pd.DataFrame],
) -> None:
    folder, _ = finished
    before = _bytes(folder)
    steering = defences[2]
    assert isinstance(steering, SteeringDefence)
    other = replace(steering, vectors=steering.vectors * 1.5)
    harmless = sets["harmless"]
    new = replace(harmless[0], id="harmless9", request="Another?")
    long = "The same words many times over, " * 9
    changes: list[tuple[list[Defence], list[Request], str]] = [
        (defences, [*harmless, new], "has the new request 'harmless9' (5 requests before, 6 now)"),
        (defences, harmless[1:], "no longer has the request 'harmless0' (5 requests before, 4"),
        (defences, [replace(harmless[0], request="Another?"), *harmless[1:]], "its words was"),
        (defences, [replace(harmless[0], label="everyday"), *harmless[1:]], "its label was"),
        (defences, [replace(harmless[0], clip=harmless[1].clip), *harmless[1:]], "clip's content"),
        (defences, harmless[::-1], "has its requests in another order"),
        ([*defences[:2], other], harmless, "defences steer vectors values was"),
    ]
    for changed, requests, words in changes:
        with pytest.raises(EvaluationError, match=re.escape(words)) as error:
            _run(tiny, changed, {**sets, "harmless": requests}, folder)
        was, _, now = str(error.value).partition(" was ")[2].partition(", now ")
        assert (was != now.partition(". Use a new folder")[0]) or "request" in words
    assert _bytes(folder) == before
    shown = list(_differences({"a": long + "x"}, {"a": long + "y"}))
    assert "over, x" in shown[0] and "over, y" in shown[0] and len(shown[0]) < 160


DATED = "{{- 'Today is ' + strftime_now('%d %B %Y') + '.\\n' -}}"


def test_a_run_that_was_begun_yesterday_goes_on_today(
    defences: list[Defence],
    sets: dict[str, list[Request]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a chat template that writes the day, as Granite's does."""
    lalm = replica()
    lalm.processor.chat_template = DATED + lalm.processor.chat_template
    today, yesterday = lalm.day, lalm.day - timedelta(days=1)
    lalm.day = yesterday
    whole = _run(lalm, defences, sets, tmp_path / "whole")
    _run(lalm, defences[:1], sets, tmp_path / "cut")
    said = capsys.readouterr().err
    assert f"writes a date into every prompt: {yesterday}, on which this run began" in said
    lalm.day = today
    table = _run(lalm, defences, sets, tmp_path / "cut")
    assert f"{yesterday}, on which this run began" in capsys.readouterr().err
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole") and lalm.day == today
    columns = ["defence", "set", "n", "refused", "answered"]
    pd.testing.assert_frame_equal(table[columns], whole[columns])
    _run(lalm, defences[:1], sets, tmp_path / "new")
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["day"] == today.isoformat()


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--defence", "none", "--defence", "SARSteer"],
        ["sweep", "--split", "test", "--alpha", "0.5"],
    ],
)
def test_a_command_that_was_begun_yesterday_goes_on_today(
    command: list[str],
    make_clip: Callable[[float, int], np.ndarray],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its vectors, too, are derived from prompts that hold the date on which it began."""
    lalm = replica()
    lalm.processor.chat_template = DATED + lalm.processor.chat_template
    lalm.model.save_pretrained(tmp_path / "model")
    lalm.processor.save_pretrained(tmp_path / "model")
    counts = {"derive": {"harmful": 3, "harmless": 3}, "test": {"harmful": 1, "harmless": 1}}
    spec = f"prompts:{write_set(tmp_path / 'set', make_clip, counts)}"
    command = [*command, "--model", str(tmp_path / "model"), "--set", spec, "--derive", spec]
    command += ["--k", "2", "--tokens", "4", "--folder"]

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date.today() + timedelta(days=1)

    assert main([*command, str(tmp_path / "out")]) == 0
    written = _bytes(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("sarsteer_lab.lalm.date", Tomorrow)
        assert main([*command, str(tmp_path / "out")]) == 0
        assert main([*command, str(tmp_path / "new")]) == 0
    assert _bytes(tmp_path / "out") == written
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["day"] == Tomorrow.today().isoformat()


def test_templates_without_a_date_say_nothing_of_it(
    tiny: LALM,
    defences: list[Defence],
    sets: dict[str, list[Request]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(tiny, defences[:1], sets, tmp_path)
    assert "began" not in capsys.readouterr().err
    assert "day" not in json.loads((tmp_path / "manifest.json").read_text())


def test_a_cluster_that_does_not_answer_is_named_at_once(tiny: LALM) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(ConnectionError, match=f"no Ray cluster answers at '{address}'"):
            next(on_cluster(address, tiny, []))


@pytest.mark.parametrize("content", ["[" * 100000, "{", "\0"])
def test_a_manifest_that_is_none_is_named(
    tiny: LALM, spoken: list[Request], tmp_path: Path, content: str
) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(EvaluationError, match="manifest.json: is damaged"):
        run(tiny, [Defence("none")], {"set": spoken}, tmp_path, max_new_tokens=2)
