"""Prompts, typed and spoken, and the set of them that is shipped."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

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
from sarsteer_lab.speech import SAMPLE_RATE, read_clip

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
