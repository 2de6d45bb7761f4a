"""Audio that cannot be what it says: refused in one sentence, before anything is computed."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sarsteer_lab.evaluation.data_files import read_csv, read_json_lines
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.evaluation.text_files import PromptFileError
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import ClipError, check_waveform, read_clip

VOICE = np.random.default_rng(0).normal(size=16000).astype(np.float32) / 10


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0, -16000, 1, 1e9])
def test_sampling_rates_that_no_speech_has(rate: float) -> None:
    """Not a number made the resampler run for ever; 1 Hz was a clip of hours."""
    with pytest.raises(ClipError, match="makes no sense"):
        check_waveform(VOICE, rate)


def test_a_header_with_a_rate_of_1_hz(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", VOICE, 1)
    with pytest.raises(ClipError, match=r"slow\.wav: a sampling rate of 1 Hz"):
        read_clip(tmp_path / "slow.wav")


def test_a_container_without_a_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.xi", VOICE, 16000, format="XI", subtype="DPCM_16")
    with pytest.raises(ClipError, match="does not say its sampling rate"):
        read_clip(tmp_path / "voice.xi")


def test_masked_samples_and_what_is_no_clip() -> None:
    with pytest.raises(ClipError, match="masked"):
        check_waveform(np.ma.array(VOICE, mask=VOICE > 0), 16000)
    for thing in (b"RIFF", 3):
        with pytest.raises(TypeError, match=type(thing).__name__):
            read_clip(thing)  # type: ignore[arg-type]
    assert len(read_clip(io.BytesIO(wav(VOICE)))) == len(VOICE)


def test_an_empty_audio_cell_is_no_typed_prompt() -> None:
    with pytest.raises(TypeError, match="neither bytes nor a path"):
        Prompt("Answer.", {"bytes": None, "path": None})


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return file.getvalue()


def test_a_column_or_a_key_that_is_there_twice(tmp_path: Path) -> None:
    """The last one would count, whichever that is."""
    table = tmp_path / "two.csv"
    table.write_text("request,label,label\nHow do I bake bread?,harmful,harmless\n")
    with pytest.raises(PromptFileError, match="names 'label' twice"):
        read_csv(table, ["request"])
    lines = tmp_path / "two.jsonl"
    lines.write_text('{"request": "How do I bake bread?", "request": "Another?"}\n')
    with pytest.raises(PromptFileError, match=r"line 1.*key 'request' twice"):
        read_json_lines(lines)


def test_clips_are_found_however_their_suffix_is_written(tmp_path: Path) -> None:
    for name in ("bake bread.Wav", "plant a tree.WAV", "fix a bike.wav"):
        (tmp_path / name).write_bytes(wav(VOICE))
    found = read_set(f"folder-harmless:{tmp_path}").prompts
    requests = sorted(request.request for request in found)
    assert requests == ["bake bread", "fix a bike", "plant a tree"]
