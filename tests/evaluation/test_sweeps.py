"""Sweeps: independent tasks, kept as Parquet, the same here and on a cluster whose workers die."""

import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from spoken_set import write_set

from sarsteer_lab.cli import main
from sarsteer_lab.evaluation import sweeps
from sarsteer_lab.evaluation.defences import SteeringDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.evaluation.responses import collect_responses
from sarsteer_lab.evaluation.sweeps import Source, outcomes_of, parse_layers, settings_of, sweep_grid
from sarsteer_lab.evaluation.table import judge_responses
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.steering import SteeringVectors

SETS = ("harmful", "harmless")
TOKENS = 48


@pytest.fixture(scope="module")
def folder(make_clip, tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sweep") / "set", make_clip)


@pytest.fixture(scope="module")
def sets(folder):
    prompts = read_set(f"prompts:{folder}").prompts
    return {label: [p for p in prompts if p.split == "test" and p.label == label] for label in SETS}


@pytest.fixture(scope="module")
def variants():
    draw = torch.Generator().manual_seed(3)
    return {name: SteeringVectors(torch.randn(4, 32, generator=draw)) for name in ("one", "other")}


@pytest.fixture(scope="module")
def settings(variants):
    return settings_of(variants, parse_layers(["all", "1-2"], 4), [0.0, 0.5, 3.0])


@pytest.fixture(scope="module")
def table(tiny, variants, settings, sets, tmp_path_factory) -> pd.DataFrame:
    return sweep_grid(
        tiny, variants, settings, sets, tmp_path_factory.mktemp("local"), batch_size=2, max_new_tokens=TOKENS
    )


def test_rows_are_those_of_an_evaluation(tiny, variants, settings, sets, table, tmp_path):
    assert len(settings) == 1 + 2 * 2 * 2
    assert len(table) == len(settings) * 6
    defences = [
        SteeringDefence(s.name, variants.get(s.variant, variants["one"]), s.alpha, s.indices)
        for s in settings
    ]
    responses = collect_responses(tiny, defences, sets, tmp_path, max_new_tokens=TOKENS, batch_size=2)
    expected = judge_responses(responses, [PhraseJudge()])
    keys = ["defence", "set", "label", "id", "judge"]
    found = outcomes_of(table).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(
        found, expected.sort_values(keys, ignore_index=True)[found.columns], check_dtype=False
    )
    said = {(r.defence, r.id): r.response for r in responses}
    names = outcomes_of(table)["defence"]
    assert [said[key] for key in zip(names, table["id"], strict=True)] == table["response"].tolist()
    assert table["response"].nunique() > len(settings), "steering has to change something"


def test_what_is_there_is_not_computed_again(tiny, variants, settings, sets, table, tmp_path, monkeypatch):
    sweep_grid(tiny, variants, settings[:3], sets, tmp_path, batch_size=2, max_new_tokens=TOKENS)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 3 * 4 and all(path.suffix == ".parquet" for path in files)
    lost = sorted(files)[0]
    lost.unlink()
    whole = sweep_grid(tiny, variants, settings, sets, tmp_path, batch_size=2, max_new_tokens=TOKENS)
    keys = ["variant", "layers", "alpha", "id"]
    pd.testing.assert_frame_equal(
        whole.sort_values(keys, ignore_index=True), table.sort_values(keys, ignore_index=True)
    )
    assert all(path.stat().st_mtime_ns == time for path, time in files.items() if path != lost)

    def fail(*args, **kwargs):
        raise AssertionError("computed although it was there")

    monkeypatch.setattr(tiny.trunk, "forward", fail)
    pd.testing.assert_frame_equal(
        sweep_grid(tiny, variants, settings, sets, tmp_path, batch_size=2, max_new_tokens=TOKENS), whole
    )
    with pytest.raises(AssertionError, match="computed"):  # other vectors, other files
        other = {"one": variants["other"], "other": variants["one"]}
        sweep_grid(tiny, other, settings, sets, tmp_path, batch_size=2, max_new_tokens=TOKENS)


def test_layers_by_name():
    assert parse_layers(["all", "3", "1-2"], 4) == {"all": None, "3": (3,), "1-2": (1, 2)}
    for wrong in ("4", "2-1", "1-9", "-1", "a", ""):
        with pytest.raises(ValueError, match="give all, a number or a range"):
            parse_layers([wrong], 4)


def test_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    spec = f"prompts:{folder}"
    arguments = [
        "sweep",
        "--model",
        "replica:qwen2_audio",
        "--set",
        spec,
        "--derive",
        spec,
        "--split",
        "test",
    ]
    arguments += ["--alpha", "0.1", "1", "--k", "3", "--folder", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "lam=0 | layers all | alpha=0.1" in out and "lam=1 k=3 | layers all | alpha=1" in out
    assert (tmp_path / "out" / "table.csv").is_file()
    assert main([*arguments, "--layers", "9"]) == 2
    assert "layers '9'" in capsys.readouterr().err


def test_a_cluster_that_loses_a_worker_half_way_gives_the_same_rows(
    tiny, variants, settings, sets, table, tmp_path, monkeypatch
):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sweeps, "SETTINGS_PER_TASK", 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    write = sweeps._write

    def alive() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    def write_and_lose_a_worker(table: pd.DataFrame, path: Path) -> None:
        write(table, path)
        if nodes:  # once, when the first result is there and both workers are busy
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()
            while alive() > 2:  # the head, and the worker that is left
                time.sleep(0.1)

    monkeypatch.setattr(sweeps, "_write", write_and_lose_a_worker)
    try:
        source = Source("replica:qwen2_audio", 1.0, tiny.fingerprint)
        found = sweep_grid(
            tiny,
            variants,
            settings,
            sets,
            tmp_path,
            max_new_tokens=TOKENS,
            batch_size=2,
            cluster=(cluster.address, source),
        )
        assert alive() == 2 and not nodes
    finally:
        ray.shutdown()
        cluster.shutdown()
    pd.testing.assert_frame_equal(found, table)


def test_a_worker_with_another_model_is_refused(tiny):
    sweeps._model.cache_clear()
    with pytest.raises(ValueError, match="another model than here"):
        sweeps._model(Source("replica:qwen2_audio", 1.0, "0" * 64))
    assert replica().fingerprint == tiny.fingerprint
