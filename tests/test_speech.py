"""Clips of every kind, written as real files: what is refused, what is handled, and what is said
about it."""

import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from sarsteer_lab.containers import finished, flaw
from sarsteer_lab.speech import (
    MIN_SECONDS,
    SAMPLE_RATE,
    SILENCE_RMS,
    ClipError,
    check_waveform,
    clip_seconds,
    read_clip,
)


def tone(
    seconds: float = 1.0, rate: int = SAMPLE_RATE, hertz: float = 440.0, height: float = 0.3
) -> np.ndarray:
    return (height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def loudest_hertz(samples: np.ndarray, rate: int = SAMPLE_RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def refusal(path: Path, **options: float) -> str:
    """The message with which a clip is refused; it always names the file."""
    with pytest.raises(ClipError) as caught:
        read_clip(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("clip.wav", {"subtype": "PCM_16"}, 1e-4),
        ("clip.wav", {"subtype": "FLOAT"}, 1e-7),
        ("clip.wav", {"subtype": "PCM_U8"}, 2e-2),
        ("clip.flac", {}, 1e-4),
        ("clip.ogg", {"format": "OGG", "subtype": "VORBIS"}, 5e-2),
        ("clip.opus", {"format": "OGG", "subtype": "OPUS"}, 5e-2),
        ("clip.mp3", {"format": "MP3"}, None),
    ],
)
def test_every_common_format_reads_as_the_same_tone(
    tmp_path: Path, name: str, options: dict[str, str], tolerance: float | None
) -> None:
    written = tone()
    soundfile.write(tmp_path / name, written, SAMPLE_RATE, **options)
    read = read_clip(tmp_path / name)
    assert read.dtype == np.float32 and read.ndim == 1
    assert loudest_hertz(read) == pytest.approx(440, abs=2)
    if tolerance is not None:
        assert len(read) == len(written)
        assert np.sqrt(np.mean((read - written) ** 2)) < tolerance


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["clip.m4a", "clip.aac", "clip.webm", "clip.mp4"])
def test_formats_that_only_ffmpeg_reads(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(rate=48000), 48000)
    path = tmp_path / name
    convert = ["ffmpeg", "-v", "error", "-i", tmp_path / "clip.wav", path]
    subprocess.run(convert, check=True)
    for source in (path, path.open("rb")):
        read = read_clip(source)
        assert loudest_hertz(read) == pytest.approx(440, abs=2)
        assert len(read) == pytest.approx(SAMPLE_RATE, rel=0.05)
        assert np.std(read) == pytest.approx(np.std(tone()), rel=0.05)
    path.write_bytes(path.read_bytes()[:-200])
    assert "ffmpeg cannot read it whole" in refusal(path)


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.m4a", b"\0\0\0\x1cftypM4A "), ("a.webm", b"\x1a\x45\xdf\xa3"), ("a.aac", b"\xff\xf1\x50")],
)
def test_formats_that_only_ffmpeg_reads_without_it(
    tmp_path: Path, name: str, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).write_bytes(start + bytes(100))
    assert refusal(tmp_path / name).endswith("install ffmpeg, or convert the clip to WAV")


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled_without_shifting_or_scaling(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(rate=rate), rate, subtype="FLOAT")
    read = read_clip(str(tmp_path / "clip.wav"))
    assert len(read) == SAMPLE_RATE
    middle = slice(1000, -1000)  # the resampling filter rings at the ends
    np.testing.assert_allclose(read[middle], tone()[middle], atol=2e-3)


def test_resampling_filters_what_16_khz_cannot_hold(tmp_path: Path) -> None:
    mixture = tone(rate=44100) + tone(rate=44100, hertz=15000)
    soundfile.write(tmp_path / "clip.wav", mixture, 44100, subtype="FLOAT")
    read = read_clip(tmp_path / "clip.wav")
    # Unfiltered, 15 kHz would come back as 1 kHz.
    np.testing.assert_allclose(read[1000:-1000], tone()[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    left = tone()
    stereo = np.stack([left * weight for weight in range(1, channels + 1)], axis=1) / channels
    soundfile.write(tmp_path / "clip.wav", stereo, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(
        read_clip(tmp_path / "clip.wav"), left * (channels + 1) / 2 / channels, atol=1e-6
    )


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.wav")


def test_folder(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stub.flac", b"fLaC\0"),
        ("header.wav", b"RIFF\x24\x00\x00\x00WAVE"),
        ("noise.raw", bytes(range(256)) * 100),
        ("noise.bin", bytes(range(256)) * 100),
    ],
)
def test_not_audio(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert "cannot be read as audio" in message and "convert it to WAV or FLAC" in message


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"Buy milk, call the garage, water the plants.\n" * 50, "is text"),
        (b"fLaC", "is text"),
        (b"", "is empty"),
        (POINTER, "is a Git LFS pointer"),
        (b"<html><body>404 Not Found</body></html>", "is an HTML page"),
        (b"\n<!DOCTYPE html>\n<html>\xe9</html>", "is an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML"),
        (b'{"error": "Repository not found"}', "is JSON"),
        (b"PK\x03\x04" + bytes(range(256)), "is a ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(range(256)), "is compressed"),
    ],
)
def test_what_is_saved_in_a_clips_place_is_said(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "clip.wav").write_bytes(content)
    message = refusal(tmp_path / "clip.wav")
    assert kind in message and "cannot be read as audio" in message and "ffmpeg" not in message
    with pytest.raises(ClipError, match=kind):
        read_clip(BytesIO(content))


def test_open_files_without_bytes_to_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(), SAMPLE_RATE)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_clip(file), read_clip(path))
    with pytest.raises(ClipError, match="clip.wav: is closed"):
        read_clip(file)
    with path.open(encoding="latin-1") as text, pytest.raises(ClipError, match="is open as text"):
        read_clip(text)
    with (tmp_path / "other.wav").open("wb") as file:
        with pytest.raises(ClipError, match="is open for writing"):
            read_clip(file)


COMPRESSED = {
    "clip.opus": {"format": "OGG", "subtype": "OPUS"},
    "clip.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "clip.flac": {},
    "clip.mp3": {"format": "MP3"},
}
PLAIN = {
    "clip.wav": {},
    "rf64.wav": {"format": "RF64"},
    "clip.w64": {},
    "clip.aiff": {},
    "clip.au": {},
}


def noise(path: Path, options: dict[str, str]) -> bytes:
    soundfile.write(
        path, np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE * 3), SAMPLE_RATE, **options
    )
    assert len(read_clip(path)) == pytest.approx(SAMPLE_RATE * 3, rel=0.05)
    return path.read_bytes()


@pytest.mark.parametrize("name", [*PLAIN, *COMPRESSED])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_clip_that_was_cut_off(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    content = noise(path, (PLAIN | COMPRESSED)[name])
    path.write_bytes(content[: int(len(content) * kept)])
    message = refusal(path)
    assert "is cut off" in message or (name == "clip.flac" and "cannot be read as audio" in message)


OTHERS = [
    *[("NIST", subtype) for subtype in ("PCM_16", "ULAW")],
    *[("MAT5", subtype) for subtype in ("PCM_16", "FLOAT")],
    *[(kind, "PCM_16") for kind in ("AVR", "SVX", "MAT4", "MPC2K", "VOC", "CAF", "SDS")],
    *[("CAF", "ALAC_16"), ("AVR", "PCM_S8"), ("SVX", "PCM_S8"), ("SDS", "PCM_S8")],
    *[(kind, "GSM610") for kind in ("WAV", "AIFF", "W64")],
    *[("WAV", "G721_32"), ("AU", "G721_32"), ("AU", "G723_24"), ("WAV", "NMS_ADPCM_32")],
    ("WVE", "ALAW"),
]


@pytest.mark.parametrize(("kind", "subtype"), OTHERS)
def test_rarer_containers_and_telephone_codecs(tmp_path: Path, kind: str, subtype: str) -> None:
    path = tmp_path / "clip.bin"
    rate = 8000 if kind == "WVE" else SAMPLE_RATE
    soundfile.write(path, tone(rate=rate), rate, format=kind, subtype=subtype)
    read = read_clip(path)
    assert len(read) == pytest.approx(SAMPLE_RATE, rel=0.02)
    assert loudest_hertz(read) == pytest.approx(440, abs=8)
    content = path.read_bytes()
    for kept in (0.6, 0.9):
        path.write_bytes(content[: int(len(content) * kept)])
        message = refusal(path)
        assert "is cut off" in message or "cannot be read as audio" in message
    assert clip_seconds(path) >= 0.0


@pytest.mark.parametrize("kind", ["IRCAM", "PVF", "PAF"])
def test_containers_that_cannot_say_whether_they_are_whole(tmp_path: Path, kind: str) -> None:
    subtypes = ["PCM_16"]
    if "PCM_24" in soundfile.available_subtypes(kind):
        subtypes.append("PCM_24")
    for subtype in subtypes:
        soundfile.write(tmp_path / "clip", tone(), SAMPLE_RATE, format=kind, subtype=subtype)
        message = refusal(tmp_path / "clip")
        assert f"kind {kind}" in message and "does not say how long it is" in message
        assert "stream" not in message


# libsndfile asks Python for bytes that are in memory: an interrupt there was swallowed, and what
# had been read until then taken for a clip that was cut off.
READING = """
import signal, sys, time
from io import BytesIO
from sarsteer_lab.speech import ClipError, read_clip

content = open(sys.argv[1], "rb").read()
swallowed = 0
for seconds in [number / 1000 for number in range(1, 40, 2)]:
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        late = time.monotonic() + seconds + 1
        while time.monotonic() < late:
            read_clip(BytesIO(content))
        swallowed += 1
    except KeyboardInterrupt:
        pass
    except ClipError as error:
        sys.exit(str(error))
print(swallowed)
"""


def test_an_interrupt_while_a_clip_is_read_is_one(tmp_path: Path) -> None:
    noise(tmp_path / "clip.flac", {})
    handler = "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
    command = [sys.executable, "-c", handler + READING, str(tmp_path / "clip.flac")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    # Python itself drops an interrupt that falls into a `__del__`, such as soundfile's: a rare one.
    assert int(done.stdout) <= 2, done.stderr


def test_a_home_folder_and_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    soundfile.write(tmp_path / "clip.wav", tone(), SAMPLE_RATE)
    for path in ("~/clip.wav", Path("~/clip.wav")):
        assert len(read_clip(path)) == SAMPLE_RATE
        assert clip_seconds(path) == 1.0
    for url in ("https://example.org/a.wav", Path("https://example.org/a.wav"), "s3://b/a.wav"):
        with pytest.raises(ClipError, match="(https|s3)://.*: is a URL, not a file; download"):
            read_clip(url)


@pytest.mark.parametrize("name", ["clip.wav", "clip.opus", "clip.ogg"])
def test_no_beginning_of_a_clip_is_whole(tmp_path: Path, name: str) -> None:
    """Cut anywhere, also exactly between two pages; only a WAV's header alone says nothing of
    samples."""
    content = noise(tmp_path / name, (PLAIN | COMPRESSED)[name])
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    assert flaw(content) is None and (len(pages) > 3 or name == "clip.wav")
    for length in {*range(44, len(content), 97), *pages[1:], len(content) - 1}:
        assert "is cut off" in (flaw(content[:length]) or ""), length


@given(
    content=st.binary(max_size=99),
    start=st.sampled_from([b"RIFF", b"FORM", b"riff", b".snd", b"OggS", b"ID3"]),
)
@example(content=b"\0" * 8 + b"ds64" + b"\xff" * 40, start=b"RF64")
def test_no_bytes_are_too_odd_to_be_looked_at(content: bytes, start: bytes) -> None:
    assert flaw(start + content) is None or "again" in str(flaw(start + content))
    assert len(finished(start + content)) == len(start + content)


@pytest.mark.parametrize("name", COMPRESSED)
def test_two_recordings_in_one_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(noise(path, COMPRESSED[name]) * 2)
    assert "several recordings" in refusal(path)


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"APETAGEX" + b"x" * 9000])
def test_tags_around_an_mp3_are_no_second_recording(tmp_path: Path, tag: bytes) -> None:
    path = tmp_path / "clip.mp3"
    content = noise(path, COMPRESSED[path.name])
    expected = read_clip(path)
    path.write_bytes(b"ID3\x03\0\0\0\0\x01\0" + bytes(128) + content + tag)
    np.testing.assert_array_equal(read_clip(path), expected)


@pytest.mark.parametrize(
    ("whole", "data"),
    [(0, 0), (36, 0), (0xFFFFFFFF, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000)],
)
def test_a_wav_whose_header_was_never_finished_is_read(
    tmp_path: Path, whole: int, data: int
) -> None:
    path = tmp_path / "clip.wav"
    content = noise(path, {})
    expected = read_clip(path)
    sizes = [number.to_bytes(4, "little") for number in (whole, data)]
    path.write_bytes(content[:4] + sizes[0] + content[8:40] + sizes[1] + content[44:])
    np.testing.assert_array_equal(read_clip(path), expected)


def test_a_flac_stream_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    content = noise(path, {})
    path.write_bytes(content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:])
    assert "does not say how long it is" in refusal(path, max_seconds=8.0)


def test_chunks_behind_no_samples_are_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    header = noise(path, {})[8:40]
    tail = b"LIST" + (6000).to_bytes(4, "little") + b"INFO" + bytes(range(250)) * 24
    path.write_bytes(b"RIFF" + (36 + len(tail)).to_bytes(4, "little") + header + bytes(4) + tail)
    assert "is empty" in refusal(path)
    content = noise(path, {})  # and behind samples they may stand
    expected = read_clip(path)
    path.write_bytes(content + tail)
    np.testing.assert_array_equal(read_clip(path), expected)


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.zeros(0), SAMPLE_RATE)
    assert "is empty" in refusal(tmp_path / "clip.wav")


def test_too_short(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(MIN_SECONDS * 0.9), SAMPLE_RATE)
    assert "too short" in refusal(tmp_path / "clip.wav")
    soundfile.write(tmp_path / "clip.wav", tone(MIN_SECONDS), SAMPLE_RATE)
    assert len(read_clip(tmp_path / "clip.wav")) == SAMPLE_RATE * MIN_SECONDS


def test_silence_is_refused_at_the_stated_level_and_quiet_speech_is_not(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "zero.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    assert "silent" in refusal(tmp_path / "zero.wav")
    for factor, name in ((0.9, "under.wav"), (1.1, "over.wav")):
        soundfile.write(
            tmp_path / name,
            tone(height=SILENCE_RMS * 2**0.5 * factor),
            SAMPLE_RATE,
            subtype="FLOAT",
        )
    assert f"{SILENCE_RMS:.0e}" in refusal(tmp_path / "under.wav")
    assert len(read_clip(tmp_path / "over.wav")) == SAMPLE_RATE


def test_channels_that_cancel_are_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.stack([tone(), -tone()], axis=1), SAMPLE_RATE)
    assert "2 channels cancel" in refusal(tmp_path / "clip.wav")


@pytest.mark.parametrize("decibels", [-100, -60, -40, -25])
@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_nearly_cancel_leave_no_words(decibels: float, channels: int) -> None:
    """One is the other upside down, but for a rest: what is left of the mean is that rest."""
    rest = 0.3 * 10 ** (decibels / 20) * np.random.default_rng(0).normal(size=SAMPLE_RATE)
    pair = np.stack([tone() + rest, -tone()] * (channels // 2), axis=1)
    with pytest.raises(ClipError, match=f"its {channels} channels cancel"):
        check_waveform(pair, SAMPLE_RATE)


def test_channels_that_differ_do_not_cancel() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (SAMPLE_RATE, 6))
    assert len(check_waveform(noise, SAMPLE_RATE)) == SAMPLE_RATE
    for channels in (2, 6):  # a voice in one of them
        alone = np.zeros((SAMPLE_RATE, channels))
        alone[:, 0] = tone()
        np.testing.assert_allclose(check_waveform(alone, SAMPLE_RATE), tone() / channels, atol=1e-6)
    delayed = np.stack([tone(), np.roll(tone(), 9)], axis=1)
    assert len(check_waveform(delayed, SAMPLE_RATE)) == SAMPLE_RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    samples = tone()
    samples[7:10] = value
    soundfile.write(tmp_path / "clip.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert "3 samples are NaN or infinite" in refusal(tmp_path / "clip.wav")


def test_unscaled_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone() * 32768, SAMPLE_RATE, subtype="FLOAT")
    assert "scale them to [-1, 1]" in refusal(tmp_path / "clip.wav")


def test_too_long_for_the_model(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(8.5), SAMPLE_RATE)
    message = refusal(tmp_path / "clip.wav", max_seconds=8.0)
    assert "lasts 8.5 s" in message and "at most 8 s" in message
    assert len(read_clip(tmp_path / "clip.wav")) == 8.5 * SAMPLE_RATE
    # The limit is on time, not on samples: the same number of samples at twice the rate is short
    # enough.
    soundfile.write(tmp_path / "clip.wav", tone(8.5), SAMPLE_RATE * 2)
    assert len(read_clip(tmp_path / "clip.wav", max_seconds=8.0)) == 4.25 * SAMPLE_RATE


def test_waveforms_in_memory_take_the_same_path() -> None:
    written = tone()
    np.testing.assert_array_equal(check_waveform(written, SAMPLE_RATE), written)
    np.testing.assert_array_equal(check_waveform(written[:, None], SAMPLE_RATE), written)
    np.testing.assert_allclose(
        check_waveform(written.astype(np.float64), SAMPLE_RATE), written, atol=1e-7
    )
    np.testing.assert_allclose(
        check_waveform((written * 32768).astype(np.int16), SAMPLE_RATE), written, atol=4e-5
    )
    assert check_waveform(written, SAMPLE_RATE) is not written


@pytest.mark.parametrize(
    ("x", "rate", "reason"),
    [
        (np.zeros((2, SAMPLE_RATE)), SAMPLE_RATE, "transpose"),
        (np.zeros((3, 2, 2)), SAMPLE_RATE, "shape"),
        (np.float32(0.5), SAMPLE_RATE, "shape"),
        (np.zeros(0), SAMPLE_RATE, "is empty"),
        (np.zeros((0, 2)), SAMPLE_RATE, "is empty"),
        (np.zeros(SAMPLE_RATE), SAMPLE_RATE, "silent"),
        (tone(), 0, "sampling rate"),
        (tone(), -16000, "sampling rate"),
        (tone(), None, "sampling rate of None"),
        (tone(), "16000", "sampling rate of '16000'"),
        ((tone() * 32767).astype(np.int64), SAMPLE_RATE, "int64, whose full scale is not known"),
        ((tone() * 32767).astype(np.int32), SAMPLE_RATE, "are these 16-bit values in int32"),
        (tone() * np.nan, SAMPLE_RATE, "NaN"),
        (np.full(SAMPLE_RATE, "a"), SAMPLE_RATE, "floats"),
        (tone() > 0, SAMPLE_RATE, "floats"),
        (tone().astype(complex), SAMPLE_RATE, "floats"),
    ],
)
def test_waveforms_that_are_refused(x: np.ndarray, rate: Any, reason: str) -> None:
    with pytest.raises(ClipError, match=reason) as caught:
        check_waveform(x, rate, name="microphone")
    assert str(caught.value).startswith("microphone: ")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in refusal(tmp_path / "pipe.wav")
    assert clip_seconds(tmp_path / "pipe.wav") == 0.0


def test_what_16_khz_cannot_hold_and_a_constant_are_silent() -> None:
    for samples, rate in (
        (tone(rate=48000, hertz=20000), 48000),
        (np.full(SAMPLE_RATE, 0.3), SAMPLE_RATE),
    ):
        with pytest.raises(ClipError, match="is silent"):
            check_waveform(samples, rate)


def test_seconds_of_a_clip_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    assert clip_seconds(path) == 0.0
    for seconds, rate in ((1.5, 8000), (2.5, 16000)):
        soundfile.write(path, tone(seconds, rate), rate)
        assert clip_seconds(path) == seconds
    path.write_bytes(b"no clip")
    assert clip_seconds(path) == 0.0


def test_a_take_recorded_over_another_within_a_clocks_step_is_the_one_that_is_heard(
    tmp_path: Path,
) -> None:
    path = tmp_path / "take.wav"
    soundfile.write(path, tone(hertz=440.0), SAMPLE_RATE)
    before = path.stat()
    first = read_clip(path)
    soundfile.write(path, tone(hertz=660.0), SAMPLE_RATE)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_ino == before.st_ino
    assert np.abs(read_clip(path) - first).max() > 0.1
