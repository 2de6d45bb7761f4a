"""A recorded model gives what was kept of it, has no weights, and says what it was not asked."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from replicas import replica

from sarsteer_lab.activations import capture, capture_answer, capture_positions
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.cached_answers import answers as kept_answers
from sarsteer_lab.evaluation.cached_answers import refusal_probability
from sarsteer_lab.evaluation.defences import ConditionalDefence, SteeringDefence
from sarsteer_lab.evaluation.gates import fit_condition
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.recorded import CLOSE, NotRecorded
from sarsteer_lab.probe.tape import (
    Sketch,
    Tape,
    TapeStore,
    apart,
    begin,
    compact,
    finish,
    read_manifest,
    sketched,
)
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import steer
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors

MODEL = "replica:qwen2_audio"


def clip(seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(16000)).astype(np.float32)


SPOKEN = [Prompt("Answer.", clip(seed)) for seed in range(3)]
TYPED = Prompt("Name a fruit.")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, torch.Tensor]]:
    """A finished recording of the replica, and the states that it kept; the cache stays empty."""
    folder = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(folder / "cache"))
        begin(load_lalm(MODEL), MODEL, folder / "out")
        model = load_lalm(f"recording:{folder / 'out'}")
        states = kept(capture)(model, [*SPOKEN, TYPED])
        kept(capture_positions)(model, SPOKEN[:1], positions="audio", layers=[1])
        plain = (model.generate(SPOKEN, max_new_tokens=3), model.next_token_logits([TYPED]))
        with steer(model, SteeringVectors(states[0])):
            model.generate([TYPED], max_new_tokens=5)  # under hooks: not kept
        unrecorded = load_lalm(MODEL)
        assert plain[0] == unrecorded.generate(SPOKEN, max_new_tokens=3)
        assert torch.equal(plain[1], unrecorded.next_token_logits([TYPED]))
        assert not list((folder / "cache").rglob("*.safetensors"))
        finish(folder / "out")
    yield folder / "out", states


@pytest.fixture
def replay(recording: tuple[Path, torch.Tensor], cache: Path) -> LALM:
    return load_lalm(f"recorded:{recording[0]}")


def test_a_recorded_model_is_the_model_but_for_its_weights(replay: LALM) -> None:
    model = load_lalm(MODEL)
    assert replay.name == f"recorded {MODEL}" and replay.family is model.family
    for name in ("n_layers", "d_model", "audio_token_id", "dtype", "max_audio_seconds", "safety"):
        assert getattr(replay, name) == getattr(model, name)
    assert replay.text_config.to_dict() == model.text_config.to_dict()
    assert torch.equal(replay.ends, model.ends) and replay.device == torch.device("cpu")
    assert replay.fingerprint() == model.fingerprint()
    assert replay.key("anything", 1) == model.key("anything", 1)
    ours, theirs = replay.encode(SPOKEN), model.encode(SPOKEN)
    assert [prompt.key for prompt in ours] == [prompt.key for prompt in theirs]
    assert torch.equal(replay.inputs(SPOKEN)["input_ids"], model.inputs(SPOKEN)["input_ids"])
    assert all(weight.is_meta for weight in replay.model.parameters())


def test_what_was_kept_is_read(replay: LALM, recording: tuple[Path, torch.Tensor]) -> None:
    assert torch.equal(kept(capture)(replay, [*SPOKEN, TYPED]), recording[1])
    assert torch.equal(kept(capture)(replay, SPOKEN[::-1]), recording[1][:3].flip(0))
    [positions] = kept(capture_positions)(replay, SPOKEN[:1], positions="audio", layers=[1])
    assert positions.shape[1:] == (1, replay.d_model)


def test_plain_answers_and_logits_are_read_too(replay: LALM) -> None:
    model = load_lalm(MODEL)
    assert replay.generate(SPOKEN, max_new_tokens=3) == model.generate(SPOKEN, max_new_tokens=3)
    assert torch.equal(replay.next_token_logits([TYPED]), model.next_token_logits([TYPED]))
    with pytest.raises(NotRecorded, match="generate of 'Name a fruit.' .max_new_tokens=5."):
        replay.generate([TYPED], max_new_tokens=5)
    with pytest.raises(NotRecorded, match="next_token_logits of 'Answer.' with a clip"):
        replay.next_token_logits(SPOKEN)


def test_steered_answers_are_found_where_the_vectors_differ_by_rounding(
    tmp_path: Path, cache: Path
) -> None:
    """Recorded on one machine, derived anew from the recorded states on another."""
    begin(load_lalm(MODEL), MODEL, tmp_path / "out")
    model = load_lalm(f"recording:{tmp_path / 'out'}")
    states = kept(capture)(model, SPOKEN)
    vectors = SteeringVectors(states[1:].mean(0) - states[0])
    condition = fit_condition(torch.randn(6, 4, 32) + 1, torch.randn(6, 4, 32))

    def ask(lalm: LALM, vectors: SteeringVectors, threshold: float, alpha: float) -> object:
        fitted = replace(condition, threshold=threshold)
        plain = SteeringDefence("push", vectors, alpha)
        defences = [plain, ConditionalDefence("when", vectors, alpha, condition=fitted)]
        questions = [(SPOKEN, defence) for defence in defences]
        said = kept_answers(lalm, questions, max_new_tokens=3)
        return said, [values.tolist() for values in refusal_probability(lalm, questions)]

    recorded = ask(model, vectors, 0.25, 2.0)
    manifest = finish(tmp_path / "out")
    assert len(manifest.pushes) == 2
    replayed = load_lalm(f"recorded:{tmp_path / 'out'}")
    assert ask(replayed, vectors, 0.25, 2.0) == recorded
    noise = torch.randn(vectors.values.shape) * vectors.values.norm() * 1e-5
    rounded = SteeringVectors(vectors.values + noise)
    assert ask(replayed, rounded, 0.25 + 1e-8, 2.0) == recorded
    for others in ((vectors * 1.01, 0.25, 2.0), (vectors, 0.26, 2.0), (vectors, 0.25, 2.02)):
        with pytest.raises(NotRecorded, match="answers of 'Answer.' with a clip of 1.0 s"):
            ask(replayed, *others)
    # A model with weights takes them for others, as ever.
    told_apart = load_lalm(MODEL)
    ask(told_apart, vectors, 0.25, 2.0)
    before = len(list(cache.rglob("*.json")))
    ask(told_apart, rounded, 0.25, 2.0)
    assert len(list(cache.rglob("*.json"))) > before


def test_wherever_a_store_lies_the_recording_is_read(
    replay: LALM, recording: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    assert torch.equal(kept(capture, Store(tmp_path / "own"))(replay, SPOKEN), recording[1][:3])
    assert not (tmp_path / "own").exists()


def test_what_was_not_asked_is_said_in_words(replay: LALM) -> None:
    with pytest.raises(NotRecorded) as error:
        kept(capture)(replay, [TYPED, Prompt("A new sentence.")])
    for words in ("capture of 'A new sentence.'", "default settings", f"MODEL = {MODEL!r}"):
        assert words in str(error.value)
    with pytest.raises(NotRecorded, match="'Answer.' with a clip of 1.0 s .*layers=.2.*default"):
        kept(capture)(replay, SPOKEN, layers=[2])
    with pytest.raises(NotRecorded, match="positions='audio', layers=.1."):
        kept(capture_positions)(replay, SPOKEN, positions="all")


@pytest.mark.parametrize(
    "use",
    [
        lambda lalm: capture(lalm, SPOKEN),
        lambda lalm: capture_answer(lalm, [TYPED]),
        lambda lalm: lalm.model(**lalm.inputs([TYPED])),
        lambda lalm: lalm.layers[1](torch.zeros(1, 2, lalm.d_model)),
        lambda lalm: logit_lens(lalm, torch.zeros(1, lalm.d_model)),
        lambda lalm: PreparedBatch(lalm, SPOKEN),
    ],
)
def test_nothing_runs(replay: LALM, use: Callable[[LALM], object]) -> None:
    with pytest.raises(NotRecorded, match="has no weights"):
        use(replay)


def test_hooks_are_refused_as_on_any_model(replay: LALM) -> None:
    vectors = SteeringVectors(torch.ones(replay.n_layers, replay.d_model))
    with steer(replay, vectors, 1.0):
        with pytest.raises(HookedModelError):
            kept(capture)(replay, SPOKEN)
        with pytest.raises(NotRecorded, match="has no weights"):
            replay.generate(SPOKEN, max_new_tokens=3)
    assert kept(capture)(replay, SPOKEN).shape[0] == 3


def test_two_models_in_one_process_do_not_see_each_other(
    replay: LALM, recording: tuple[Path, torch.Tensor], cache: Path
) -> None:
    """Equal weights, so equal keys: what one keeps, the other must not read."""
    model = load_lalm(MODEL)
    new = [Prompt("A new sentence.")]
    states = kept(capture)(model, new)
    assert list(cache.rglob("*.safetensors"))
    with pytest.raises(NotRecorded):
        kept(capture)(replay, new)
    assert torch.equal(kept(capture)(model, new), states)
    before = sorted(recording[0].rglob("*"))
    computed = kept(capture)(model, SPOKEN)
    torch.testing.assert_close(computed, recording[1][:3], rtol=1e-4, atol=1e-4)
    assert len(list(cache.rglob("*.safetensors"))) == 4
    assert sorted(recording[0].rglob("*")) == before
    assert model.generate(new, max_new_tokens=2) == load_lalm(MODEL).generate(new, max_new_tokens=2)


def test_the_dial_stands_where_it_was_recorded(tmp_path: Path) -> None:
    lalm = replica()
    weight = lalm.layers[0].mlp.up_proj.weight
    plain = weight.detach().clone()

    def turn(_model: object, dials: Mapping[str, float]) -> None:
        weight.data.copy_(plain * (1 + dials["safety"] + 10 * dials["understanding"]))

    dials = {"safety": 0.0, "understanding": 0.0}
    with_dial = LALM(lalm.model, lalm.processor, name="dialled", dials=dials, turn=turn)
    begin(with_dial, "dialled", tmp_path)
    with_dial.results = Tape(tmp_path, with_dial)
    fingerprints, states = {}, {}
    for scale in (0.0, 1):
        with_dial.set_safety(scale)
        states[scale] = kept(capture)(with_dial, [TYPED])
        fingerprints[scale] = with_dial.fingerprint()
    finish(tmp_path)
    replayed = load_lalm(f"recorded:{tmp_path}", safety=1)
    for scale in (1, 0.0):
        replayed.set_safety(scale)
        assert replayed.fingerprint() == fingerprints[scale]
        assert torch.equal(kept(capture)(replayed, [TYPED]), states[scale])
    with pytest.raises(NotRecorded, match="safety 0.5, understanding 0.0, only at safety 0.0"):
        replayed.set_safety(0.5)
    with pytest.raises(NotRecorded, match="safety 1.0, understanding 1.0, only at"):
        replayed.set_dials(safety=1, understanding=1)
    assert load_lalm(f"recorded:{tmp_path}").safety == 0.0


def test_options_of_models_with_weights_are_refused(
    recording: tuple[Path, torch.Tensor],
) -> None:
    for options in ({"safety": 0.5}, {"bits": 8}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            load_lalm(f"recorded:{recording[0]}", **options)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_damage_is_one_sentence(recording: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder = copied(recording[0], tmp_path)
    states = sorted((folder / "results").rglob("*.safetensors"))
    whole = states[0].read_bytes()
    states[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="is missing or damaged: copy the recording again"):
        load_lalm(f"recorded:{folder}")
    states[0].unlink()
    with pytest.raises(ValueError, match="is missing or damaged"):
        load_lalm(f"recorded:{folder}")
    with pytest.raises(FileNotFoundError, match="holds no recording"):
        load_lalm(f"recorded:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "is no manifest"),
        ("[]", "is no manifest"),
        ("{", "is damaged"),
        ('{"format": "sarsteer-lab recording 1"}', "of the format 'sarsteer-lab recording 1'"),
        ('{"format": "sarsteer-lab recording 2"}', "of the format 'sarsteer-lab recording 2'"),
        ('{"format": "sarsteer-lab recording 3"}', "lacks model, name"),
    ],
)
def test_a_manifest_that_is_none_is_one_sentence(
    recording: tuple[Path, torch.Tensor], tmp_path: Path, content: str, words: str
) -> None:
    folder = copied(recording[0], tmp_path)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        load_lalm(f"recorded:{folder}")
    assert "\n" not in str(error.value) and "manifest.json" in str(error.value)


@pytest.mark.parametrize("name", ["files", "fingerprints", "versions", "pushes", "asked"])
@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_manifest_without_its_records_is_one_sentence(
    recording: tuple[Path, torch.Tensor], tmp_path: Path, name: str, value: object
) -> None:
    folder = copied(recording[0], tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, name: value}))
    with pytest.raises(ValueError, match=f"manifest.json: has no record of {name}"):
        load_lalm(f"recorded:{folder}")


def test_a_recording_writes_the_day_on_which_it_was_made(
    recording: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    """In a chat template that writes the day, as Granite's does."""
    folder = copied(recording[0], tmp_path)
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.day == date.today().isoformat()
    replace(manifest, day="2026-02-28").write(folder / "manifest.json")
    replayed = load_lalm(f"recorded:{folder}")
    dated = "{{- strftime_now('%d %B %Y') -}}"
    replayed.processor.chat_template = dated + replayed.processor.chat_template
    assert replayed.chat(Prompt("Hi")).startswith("28 February 2026")


def test_another_version_is_named_where_something_is_missing(
    recording: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    folder = copied(recording[0], tmp_path)
    manifest = read_manifest(folder / "manifest.json")
    assert manifest.versions["transformers"] == hf.__version__
    manifest.versions["transformers"] = "4.0"
    manifest.write(folder / "manifest.json")
    replayed = load_lalm(f"recorded:{folder}")
    with pytest.raises(NotRecorded, match=rf"transformers 4.0 .here: {hf.__version__}."):
        kept(capture)(replayed, ["A new sentence."])


def test_the_folder_holds_no_weights(recording: tuple[Path, torch.Tensor]) -> None:
    weights = [path for path in (recording[0] / "model").rglob("*") if path.stat().st_size > 1e5]
    assert not weights and sum(p.stat().st_size for p in recording[0].rglob("*")) < 500_000


def test_states_take_half_the_room_where_nothing_is_lost(tmp_path: Path) -> None:
    store = TapeStore(tmp_path)
    exact = torch.randn(4, 32).bfloat16().float()
    for name, values, dtype in (
        ("a", exact, torch.bfloat16),
        ("b", torch.randn(4, 32).half().float(), torch.float16),
        ("c", torch.randn(4, 32), torch.float32),
        ("d", torch.arange(5), torch.int64),
    ):
        assert compact(values).dtype == dtype
        assert store.write(name, values) is values
        assert torch.equal(store.read(name), values) and store.read(name).dtype == values.dtype
    assert store.write("e", {"text": "hi"}) == store.read("e") == {"text": "hi"}


def test_pushes_are_alike_up_to_rounding_alone() -> None:
    values = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))

    def push(values: torch.Tensor, alpha: float = 0.5, threshold: float = 0.25) -> Sketch:
        return sketched({"kind": "push", "values": values, "alpha": alpha, "at": [threshold]})

    one = push(values)
    assert apart(one, push(values)) == 0
    noise = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    rounded = values + 1e-6 * noise
    assert 0 < apart(one, push(rounded, threshold=0.25 + 1e-8)) < 1e-4
    assert apart(one, push(values + 0.02 * noise)) > CLOSE
    assert apart(one, push(values * 1.01)) == pytest.approx(0.01, rel=0.1)
    for other in (push(values, alpha=0.51), push(values, threshold=0.3), push(values[:5])):
        assert apart(one, other) == float("inf")
    for first, second in (({"a": 1}, {"b": 1}), ([1], [1, 2]), ("x", "y"), ([[], 1], [1, []])):
        assert apart(sketched(first), sketched(second)) == float("inf")
