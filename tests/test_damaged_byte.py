"""A byte is damaged in every kind of file that is kept: what is read afterwards is what it was, or
is refused by name."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sarsteer_lab import voice
from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation.data_files import _kept_clip
from sarsteer_lab.evaluation.defences import PromptDefence, SteeringDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.report import evaluate_into, write_report
from sarsteer_lab.evaluation.run import EvaluationError
from sarsteer_lab.keeping import kept
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.tape import begin, finish
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import ClipError, read_clip
from sarsteer_lab.vectors import SteeringVectors

PLACES = (0.0, 0.31, 0.5, 0.77, 0.999)
"""Where in a file a byte is damaged, as a share of its length."""

MODEL = "replica:qwen2_audio"


def damage(path: Path, place: float, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= mask
    path.write_bytes(content)


def evaluated(folder: Path, spoken) -> None:
    lalm = load_lalm(MODEL, device="cpu")
    generator = torch.Generator().manual_seed(0)
    vectors = SteeringVectors(torch.randn(lalm.n_layers, lalm.d_model, generator=generator))
    defences = [PromptDefence("none"), SteeringDefence("steer", vectors, 1.0)]
    options = {"max_new_tokens": 4, "batch_size": 2}
    evaluate_into(folder, lalm, defences, {"mine": spoken}, [PhraseJudge()], **options)


RESULTS = ("responses.jsonl", "outcomes.jsonl", "table.csv", "table.md", "about.json")


def told(folder: Path) -> dict[str, bytes]:
    """A run's results, without the speed at which they came."""
    results = {name: (folder / name).read_bytes() for name in RESULTS[:2]}
    table = pd.read_csv(folder / "table.csv").drop(columns="tokens_per_second")
    return {**results, "table.csv": table.to_csv().encode()}


@pytest.fixture(scope="module")
def run(tmp_path_factory, spoken) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("runs") / "run"
        evaluated(folder, spoken)
        return folder


def kinds(folder: Path) -> list[str]:
    """A file of each kind that a run keeps."""
    parts = sorted((folder / "parts").rglob("*.json"))
    found = [path.name for path in folder.iterdir() if path.is_file()]
    return [*sorted(found), str(parts[0].relative_to(folder))]


def test_a_run_goes_on_from_a_damaged_byte_to_the_same_results(run, spoken, cache, tmp_path):
    names = kinds(run)
    assert {"manifest.json", "timings.jsonl", *RESULTS} < set(names) and "parts" in names[-1]
    refused = 0
    for number, name in enumerate(names):
        for place in PLACES[number % 2 :: 2]:
            folder = Path(shutil.copytree(run, tmp_path / f"{number} {place}"))
            damage(folder / name, place)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # "is damaged: ... is computed again"
                    evaluated(folder, spoken)
            except EvaluationError as error:
                refused += 1
                assert name == "manifest.json" and str(folder) in str(error)
                continue
            assert told(folder) == told(run), (name, place)
            write_report([folder], folder / "page.html")
    assert refused <= len(PLACES)


def test_a_page_of_a_run_with_a_damaged_byte_is_the_same_or_refused(run, tmp_path):
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    refused = 0
    for name in kinds(run):
        for place in PLACES:
            folder = Path(shutil.copytree(run, tmp_path / "copies" / run.name))
            damage(folder / name, place)
            try:
                write_report([folder], tmp_path / "again.html")
            except ValueError as error:
                refused += 1
                assert str(folder) in str(error) and "\n" not in str(error)
            else:
                assert (tmp_path / "again.html").read_bytes() == page, (name, place)
            shutil.rmtree(folder)
    assert refused >= 4 * len(PLACES)  # about.json, table.csv, responses.jsonl, outcomes.jsonl


def test_an_answer_that_was_edited_is_not_shown(run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    lines = (folder / "responses.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps(first | {"response": "As you like it."})
    (folder / "responses.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="responses.jsonl was damaged or edited"):
        write_report([folder], tmp_path / "page.html")


@pytest.mark.parametrize("place", PLACES)
def test_a_spoken_clip_with_a_damaged_byte_is_spoken_again(cache, place):
    clip = voice.spoken_clip("Name a fruit.")
    spoken = read_clip(clip)
    assert voice.spoken_clip("Name a fruit.") == clip
    damage(clip, place, 64)
    with pytest.warns(UserWarning, match="is damaged: it is made again"):
        assert voice.spoken_clip("Name a fruit.") == clip
    # Not bit for bit: on some processors a sum comes out otherwise in its last digits.
    np.testing.assert_allclose(read_clip(clip), spoken, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        voice.spoken_clip("Name a fruit.")


@pytest.mark.parametrize("place", PLACES)
def test_a_data_sets_clip_with_a_damaged_byte_is_taken_out_again(cache, place):
    content = bytes(range(256)) * 9
    clip = _kept_clip(content, ".wav", lambda file: file.write_bytes(content))
    damage(clip, place)
    with pytest.warns(UserWarning, match="is damaged: it is made again"):
        again = _kept_clip(content, ".wav", lambda file: file.write_bytes(content))
    assert again == clip and clip.read_bytes() == content


def test_the_clips_checksum_may_be_the_damaged_one(cache):
    clip = voice.spoken_clip("Name a fruit.")
    spoken = read_clip(clip)
    [path] = (clip.parent / "sums").rglob("*.json")
    damage(path, 0.5)
    with pytest.warns(UserWarning, match="is damaged"):
        voice.spoken_clip("Name a fruit.")
    np.testing.assert_allclose(read_clip(clip), spoken, atol=1e-4)


def test_steering_vectors_with_a_damaged_byte_are_refused(tmp_path):
    path = tmp_path / "vectors.safetensors"
    SteeringVectors(torch.randn(4, 32), {"model": "mine"}).save(path)
    whole = path.read_bytes()
    for number in range(0, len(whole), 7):
        path.write_bytes(whole)
        damage(path, number / (len(whole) - 1), 1 << number % 8)
        if path.read_bytes() != whole:
            with pytest.raises(ValueError, match=r"vectors.safetensors cannot be read"):
                SteeringVectors.load(path)


def test_a_recording_with_a_damaged_byte_is_refused_or_the_same(cache, tmp_path):
    prompts = [Prompt("Name a fruit."), Prompt("Name a town.")]
    begin(load_lalm(MODEL), MODEL, tmp_path / "out")
    model = load_lalm(f"recording:{tmp_path / 'out'}")
    states, answers = kept(capture)(model, prompts), model.generate(prompts, max_new_tokens=3)
    finish(tmp_path / "out")
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    suffixes = {path.suffix for path in files}
    assert {".json", ".safetensors"} <= suffixes
    for path in files:
        whole = path.read_bytes()
        for place in PLACES:
            damage(path, place)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    replay = load_lalm(f"recorded:{tmp_path / 'out'}")
                    read = kept(capture)(replay, prompts)
                    said = replay.generate(prompts, max_new_tokens=3)
            except (ValueError, RuntimeError) as error:
                assert "\n" not in str(error)
                assert str(path) in str(error), (path, place, str(error))
            else:
                assert torch.equal(read, states) and said == answers, (path, place)
            path.write_bytes(whole)


def test_a_clip_of_ones_own_with_a_damaged_header_is_refused(tmp_path, make_clip):
    """A byte of the samples cannot be noticed in a WAV: a manifest's key of the clip tells."""
    import soundfile

    path = tmp_path / "clip.flac"
    soundfile.write(path, make_clip(1.0), 16000)
    whole, heard = path.read_bytes(), read_clip(path)
    for place in (0.0, 0.31, 0.5, 0.77):
        path.write_bytes(whole)
        damage(path, place)
        with pytest.raises(ClipError, match="clip.flac"):
            read_clip(path)
    path.write_bytes(whole)
    assert (read_clip(path) == heard).all()
