"""Prompts, typed and spoken, and the set of them that is shipped."""

import importlib.util
import io
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import data_folder
from sarsteer_lab.prompts import (
    INSTRUCTION,
    LABELS,
    REFUSAL,
    SPLITS,
    Prompt,
    Request,
    as_prompt,
    in_a_list,
    load_prompts,
)
from sarsteer_lab.speech import SAMPLE_RATE, ClipError, read_clip
from sarsteer_lab.steering import steer
from sarsteer_lab.vectors import SteeringVectors

# --- prompts ---


def test_a_prompt_typed_and_spoken() -> None:
    prompt = Request("a", "How do I read a bill?", "harmless", "fraud", "test", Path("a.wav"))
    assert (prompt.typed().text, prompt.typed().audio) == ("How do I read a bill?", None)
    assert prompt.typed("I refuse.").text == "How do I read a bill? I refuse."
    assert (prompt.spoken().text, prompt.spoken().audio) == (INSTRUCTION, Path("a.wav"))
    assert prompt.spoken(refusal=REFUSAL).text == f"{INSTRUCTION} {REFUSAL}"
    assert prompt.spoken(instruction="").text == ""


def test_a_prompt_without_a_clip_cannot_be_spoken() -> None:
    with pytest.raises(ValueError, match="'a' has no clip"):
        Request("a", "How do I read a bill?", "harmless", "fraud", "test").spoken()


class Decoder:
    """What torchcodec documents of its AudioDecoder, the cell of a dataset's clips."""

    def __init__(self, path: Path) -> None:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        self.samples = SimpleNamespace(data=torch.from_numpy(samples.T), sample_rate=rate)

    def get_all_samples(self) -> SimpleNamespace:
        return self.samples


def test_a_waveform_with_its_own_rate_is_brought_to_16_khz(tmp_path: Path) -> None:
    x = (0.1 * np.sin(np.arange(8000) / 5)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", x, 8000, subtype="FLOAT")
    expected = read_clip(tmp_path / "x.wav")
    content = (tmp_path / "x.wav").read_bytes()
    with (tmp_path / "x.wav").open("rb") as file:
        for audio in (
            (x, 8000),
            (torch.from_numpy(x), 8000),
            {"array": x, "sampling_rate": 8000, "path": None},
            {"bytes": content, "path": "x.wav"},
            Decoder(tmp_path / "x.wav"),
            io.BytesIO(content),
            file,
        ):
            np.testing.assert_array_equal(Prompt("x", audio).audio, expected)
    assert len(expected) == SAMPLE_RATE
    assert Prompt("x", {"bytes": None, "path": "x.wav"}).audio == "x.wav"


def test_a_tensor_is_taken_like_an_array_and_other_types_are_refused() -> None:
    x = np.linspace(-0.5, 0.5, SAMPLE_RATE, dtype=np.float32)
    assert Prompt("x", x).audio is x
    np.testing.assert_array_equal(Prompt("x", torch.from_numpy(x)).audio, x)
    for audio, name in ((b"RIFF", "bytes"), (3, "int"), ([0.1], "list"), ({"array": x}, "dict")):
        with pytest.raises(TypeError, match=f"audio is a {name};"):
            Prompt("x", audio)


def test_strings_in_a_list_are_typed_prompts() -> None:
    prompts = ["hello", Prompt("x", "a.wav")]
    assert in_a_list(prompts) == prompts and in_a_list(tuple(prompts)) == prompts
    assert as_prompt("hello", 0) == Prompt("hello") and as_prompt(prompts[1], 1) is prompts[1]
    for alone, shown in (
        ("hello", r"\['hello'\]"),
        (Prompt("hello"), r"\[Prompt\(text='hello', .*\)\]"),
    ):
        with pytest.raises(TypeError, match=shown):
            in_a_list(alone)
    spoken = Request("a", "How do I read a bill?", "harmless", "fraud", "test")
    with pytest.raises(TypeError, match="prompt 1 is a Request.*spoken"):
        as_prompt(spoken, 1)


# --- the shipped set ---


def test_the_shipped_set_is_large_paired_and_split() -> None:
    prompts = load_prompts()
    by_id = {prompt.id: prompt for prompt in prompts}
    assert len(by_id) == len(prompts)
    count = {split: [len(load_prompts(split, label)) for label in LABELS] for split in SPLITS}
    assert count == {
        "derive": [60, 60, 10, 10],
        "validation": [30, 30, 20, 20],
        "test": [100, 100, 80, 80],
    }
    for prompt in prompts:
        if prompt.label == "harmful":
            assert prompt.twin is not None
            twin = by_id[prompt.twin]
            assert (twin.label, twin.topic, twin.split, twin.twin) == (
                "harmless",
                prompt.topic,
                prompt.split,
                prompt.id,
            )
    topics = {prompt.topic for prompt in prompts if prompt.label == "harmful"}
    expected = {
        "illegal_activity",
        "hate",
        "malware",
        "physical_harm",
        "fraud",
        "adult_content",
        "privacy",
    }
    assert topics == expected


def test_the_splits_of_the_shipped_set_share_no_request() -> None:
    requests = [prompt.request.lower().strip(" ?.!") for prompt in load_prompts()]
    assert len(set(requests)) == len(requests)


def test_the_shipped_set_by_split_and_label() -> None:
    parts = [load_prompts(split, label) for split in SPLITS for label in LABELS]
    assert all(parts)
    assert sum(map(len, parts)) == len(load_prompts())
    assert {(p.split, p.label) for p in load_prompts("derive", "harmful")} == {
        ("derive", "harmful")
    }
    with pytest.raises(ValueError, match="derive, validation, test"):
        load_prompts("train")
    with pytest.raises(ValueError, match="pseudo-harmful"):
        load_prompts(label="unsafe")


def test_every_shipped_clip_lies_with_the_prompts_and_can_be_heard() -> None:
    folder = (data_folder() / "prompts" / "clips").resolve()
    clips = [prompt.clip.resolve() for prompt in load_prompts() if prompt.clip is not None]
    assert set(clips) == set(folder.iterdir()) and len(clips) == len(load_prompts())
    for clip in clips:
        wave = read_clip(clip, max_seconds=8)
        assert len(wave) >= SAMPLE_RATE and np.abs(wave).max() < 1, clip
        assert (soundfile.info(clip).samplerate, soundfile.info(clip).channels) == (SAMPLE_RATE, 1)


def test_prompts_with_waveforms_are_compared_and_hashed_by_content() -> None:
    wave = np.linspace(-0.5, 0.5, 4000, dtype=np.float32)
    other = wave.copy()
    other[7] += 1e-3
    prompt = Prompt("Hi", wave)
    assert prompt == Prompt("Hi", wave.copy()) == Prompt("Hi", torch.from_numpy(wave))
    assert hash(prompt) == hash(Prompt("Hi", wave.copy()))
    different = [
        prompt,
        Prompt("Hi", other),
        Prompt("Hi", wave[:-1]),
        Prompt("Hi", wave.astype(np.float64)),
        Prompt("Hi", wave.reshape(2, -1)),
        Prompt("Ho", wave),
        Prompt("Hi", wave, "Be kind."),
        Prompt("Hi"),
        Prompt("Hi", "clip.wav"),
    ]
    assert len(set(different)) == len(different) and prompt not in different[1:]
    assert different.index(Prompt("Hi", wave.copy())) == 0
    assert prompt != "Hi" and replace(prompt, text="Ho") == different[5]
    assert len({(prompt, "none"): 1, (Prompt("Hi", wave.copy()), "none"): 2}) == 1


def loaded_again(name: str) -> ModuleType:
    """A module of the package as autoreload makes it: of the same name, with classes of its own."""
    module = importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, again)
        spec.loader.exec_module(again)
    assert sys.modules[name] is module
    return again


def test_prompts_and_vectors_of_a_module_that_was_loaded_again_are_taken(tiny: LALM) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    old = loaded_again("sarsteer_lab.prompts")
    prompt = old.Prompt("Hi", wave, "Be kind.")
    assert not isinstance(prompt, Prompt)
    assert as_prompt(prompt, 0) == Prompt("Hi", wave, "Be kind.")
    assert torch.equal(capture(tiny, [prompt]), capture(tiny, [Prompt("Hi", wave, "Be kind.")]))
    request = old.Request("a", "Why?", "harmless", "fraud", "test")
    with pytest.raises(TypeError, match="prompt 3 is a Request.*call its spoken"):
        as_prompt(request, 3)
    encoded = loaded_again("sarsteer_lab.batch").Encoded([], "Hi", None)
    with pytest.raises(TypeError, match="prompt 0 is a Encoded, .*autoreload"):
        capture(tiny, [encoded])
    values = torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(0))
    with steer(tiny, SteeringVectors(values), 1.0):
        expected = tiny.next_token_logits(["Hi"])
    with steer(tiny, loaded_again("sarsteer_lab.vectors").SteeringVectors(values), 1.0):
        assert torch.equal(tiny.next_token_logits(["Hi"]), expected)


@pytest.mark.parametrize("rate", [None, "16000", float("nan")])
def test_a_cell_without_a_sampling_rate_is_refused_by_that_name(rate: object) -> None:
    cell = {"array": np.ones(16000, dtype=np.float32), "sampling_rate": rate}
    with pytest.raises(ClipError, match="a sampling rate of"):
        Prompt("Hi", cell)
