"""A model recorded and replayed: the same answers from names alone, and a plain word where there are none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sarsteer_lab.activations import activation_store, capture
from sarsteer_lab.course.record import begin, pack
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.evaluation.defences import default_defences
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.absent import Absent
from sarsteer_lab.probe.recorded import NotRecorded, load_recorded
from sarsteer_lab.prompts import REFUSAL, Prompt, load_prompts
from sarsteer_lab.steering import SteeringVectors, project_out, steer
from sarsteer_lab.store import Store


def clip(seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(16000)).astype(np.float32)


SPOKEN = [Prompt("Answer.", clip(seed)) for seed in range(3)]
TYPED = Prompt("Name a fruit.")


def ask(lalm: LALM) -> dict[str, Any]:
    """What chapters ask a model, by the library and by hand."""
    found: dict[str, Any] = {}
    states = capture(lalm, SPOKEN, cache=activation_store())
    vectors = SteeringVectors(states[1:].mean(0) - states[0])
    found["norm"] = f"{states.norm():.3f}"
    found["plain"] = lalm.generate([*SPOKEN, TYPED], max_new_tokens=5)
    logits = lalm.next_token_logits(SPOKEN)
    with steer(lalm, vectors, 2.0):
        found["steered"] = lalm.generate(SPOKEN, max_new_tokens=5)
        moved = lalm.next_token_logits(SPOKEN)
        found["under"] = float(capture(lalm, SPOKEN).norm())
    with project_out(lalm, vectors[2]):
        found["without"] = lalm.next_token_logits(SPOKEN).max(-1).values.tolist()

    def add(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            output[:, -1] += 2.0 * vectors[layer].to(output)

        return hook

    handles = [layer.register_forward_hook(add(at)) for at, layer in enumerate(lalm.layers)]
    by_hand = lalm.next_token_logits(SPOKEN)
    for handle in handles:
        handle.remove()
    found["alike"] = torch.allclose(by_hand, moved, atol=1e-4), torch.equal(logits, moved)
    p, q = logits.softmax(-1), moved.softmax(-1)
    found["divergence"] = (p * (p.log() - q.log())).sum(-1).numpy().round(6).tolist()
    found["entropy"] = -sum(float(a) * float(a.log()) for a in p[0] if a > 0)
    found["lens"] = logit_lens(lalm, states[:, 1]).topk(3).indices.tolist()
    table = lalm.core.get_input_embeddings().weight.detach()
    found["nearest"] = (states[0, -1] @ table.T).argmax().item()
    live = LivePrompt(lalm, SPOKEN[0])
    with steer(lalm, vectors, 1.0):
        found["live"] = live.answer(4), live.refusal_probability(["(", "I c"])
    several = PreparedBatch(lalm, SPOKEN)
    found["several"] = several.generate(6), several.opening_probabilities(["(", "I c"]).tolist()
    return found


def at_stage(work: Path, about: dict[str, Any], stage: str) -> None:
    """As the recording's command leaves its folder before the run `stage`."""
    (work / "about.json").write_text(json.dumps(about | {"stage": stage}))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """A finished recording of the replica, and what the model said in both runs."""
    folder = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(folder / "cache"))
        about = begin("replica:qwen2_audio", folder / "bundle" / "work")
        said = []
        for stage in ("live", "calls"):
            at_stage(folder / "bundle" / "work", about, stage)
            said.append(ask(load_recorded(str(folder / "bundle"), safety=1.0)))
        Store.recording = None
        pack(folder / "bundle", about, "tables")
    yield folder / "bundle", said


@pytest.fixture
def replay(recorded: tuple[Path, Any], cache: Path) -> Iterator[LALM]:
    yield load_recorded(str(recorded[0]), safety=1.0)
    Store.recording = None


def test_a_replay_says_what_the_model_said_without_its_weights(
    replay: LALM, recorded: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, calls = recorded[1]
    assert ask(replay) == calls
    assert calls.keys() == live.keys() and [
        calls[each] for each in ("plain", "steered", "lens", "several")
    ] == [live[each] for each in ("plain", "steered", "lens", "several")]
    weights = [*replay.model.parameters(), *replay.model.buffers()]
    assert all(isinstance(part, Absent) and part.behind.value is None for part in weights)
    assert all(part.behind.meta.is_meta for part in weights) and replay.device.type == "cpu"


def test_what_nobody_asked_is_not_recorded(replay: LALM) -> None:
    with pytest.raises(NotRecorded, match="load the model itself .MODEL = 'replica:qwen2_audio'."):
        replay.generate([Prompt("A new sentence.")], max_new_tokens=3)
    with pytest.raises(NotRecorded):
        replay.generate([Prompt("Answer.", clip(9))], max_new_tokens=3)
    states = capture(replay, SPOKEN, cache=activation_store())
    vectors = SteeringVectors(states[1:].mean(0) - states[0])
    with steer(replay, vectors, 2.02), pytest.raises(NotRecorded):
        replay.generate(SPOKEN, max_new_tokens=5)
    # Rounded as on another machine, it is the same push.
    with steer(replay, vectors * (1 + 1e-4), 2.0):
        assert len(replay.generate(SPOKEN, max_new_tokens=5)) == 3


def test_the_folder_holds_no_weights_and_notices_damage(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    folder = recorded[0]
    assert not (folder / "work").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"] == "replica:qwen2_audio" and {"torch", "transformers"} <= set(
        manifest["versions"]
    )
    with safe_open(folder / "states.safetensors", "pt") as file:
        names = [*file.keys()]
        assert "F16" in {file.get_slice(name).get_dtype() for name in names}
        assert not any("." in name for name in names)
    assert not [path for path in (folder / "model").rglob("*") if path.suffix in (".safetensors", ".bin")]
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 500_000
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="missing or damaged"):
        load_recorded(str(copy), safety=1.0)
    with pytest.raises(FileNotFoundError, match="holds no recording"):
        load_recorded(str(tmp_path), safety=1.0)


def test_what_is_made_of_kept_states_is_the_same_in_both_runs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, or the second run finds no evaluation of the first: its key holds all settings."""
    monkeypatch.setattr(Store, "recording", None)  # and again afterwards
    about, made = begin("replica:qwen2_audio", tmp_path / "work"), []
    asked = [prompt for label in ("harmful", "harmless") for prompt in load_prompts("derive", label)[:12]]
    for stage in ("live", "calls"):
        at_stage(tmp_path / "work", about, stage)
        lalm = load_recorded(str(tmp_path), safety=1.0)
        states = collect_states(lalm, asked, refusals={"paper": REFUSAL}, cache=activation_store())
        made.append({d.name: d.settings() for d in default_defences(states, alpha=0.1, refusal="paper")})
    assert {"condition", "gate"} <= set().union(*made[0].values())
    assert made[0] == made[1]


def test_a_loop_over_a_vector_is_one_note(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "recording", None)  # and again afterwards
    about = begin("replica:qwen2_audio", tmp_path / "work")
    at_stage(tmp_path / "work", about, "calls")
    lalm = load_recorded(str(tmp_path), safety=1.0)
    p = LivePrompt(lalm, SPOKEN[0]).next_token()
    before = len(list((tmp_path / "work").glob("??/*")))
    entropy = -sum(float(a) * float(a.log()) for a in p if a > 0)
    assert len(list((tmp_path / "work").glob("??/*"))) == before + 1
    assert entropy == pytest.approx(float(torch.special.entr(p).sum()), rel=1e-4)


def test_an_edit_through_a_view_renames_all_that_share_its_memory(replay: LALM) -> None:
    weight = replay.core.get_input_embeddings().weight
    copy = weight.clone()
    again, row, part = weight.clone(), copy[2], copy.T[:, 2:4]
    before = [each.behind.name for each in (copy, row, part)]
    assert again.behind.name == before[0] and copy[2].behind.name == before[1]
    row += 1.0
    after = [each.behind.name for each in (copy, row, part)]
    assert not set(before) & set(after) and copy[2].behind.name == after[1]
    again[2] += 1.0
    assert again.behind.name != before[0] and weight.clone().behind.name == before[0]
    real = torch.zeros(3, weight.shape[1])
    real[1:] = weight[:2]
    assert isinstance(real, Absent) and real.shape == (3, weight.shape[1]) and real.dtype == weight.dtype
