"""Speech in and out: clips read, checked and brought to 16 kHz mono, and sentences spoken by a small voice.

Audio processors of LALMs neither resample nor look at what they are given: a 44.1 kHz clip is simply heard
2.8 times too slow, and a NaN becomes a NaN in every hidden state. So every waveform passes through here
first.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

SAMPLE_RATE = 16000
"""Samples per second of every waveform in this package (what Whisper-style audio towers expect)."""

SILENCE_RMS = 1e-4
"""A clip whose root mean square is below this (-80 dB of full scale) counts as silent."""

MIN_SECONDS = 0.1
"""A shorter clip holds no syllable; below 0.03 s Whisper-style towers yield no audio token at all."""

MAX_PEAK = 10.0
"""Full scale is 1.0. Float clips overshoot it a little; beyond this they hold unscaled integers."""

VOICES: dict[str, float] = {
    "hibari": 1.0,
    "hibari-deep": 0.8,
    "hibari-low": 0.9,
    "hibari-high": 1.12,
    "hibari-bright": 1.25,
}
"""Voices of `synthesise` and the factor by which each scales hibari's pitch and formants."""


class ClipError(ValueError):
    """A clip cannot be used. The message names the clip and the reason, and says what to do."""


def read_clip(path: Path | str, *, max_seconds: float | None = None) -> Float[np.ndarray, "samples"]:
    """Read an audio file (WAV, FLAC, Ogg Vorbis/Opus, MP3, ...) as a float32 mono 16 kHz waveform in [-1, 1].

    Several channels are averaged, other sampling rates are resampled (soxr, high quality).

    Raises ClipError, naming the file, if it is missing, a folder, not audio, cut off, empty, shorter than
    `MIN_SECONDS`, longer than `max_seconds` (both in seconds), silent (RMS below `SILENCE_RMS`), holds NaN or
    infinite samples, or is not scaled to [-1, 1].
    """
    path = Path(path)
    if path.is_dir():
        raise ClipError(f"{path}: this is a folder, not an audio file; give one clip")
    if not path.exists():
        raise ClipError(f"{path}: there is no such file; check the path")
    stat = path.stat()
    return _decoded(str(path), (stat.st_ino, stat.st_mtime_ns, stat.st_size), max_seconds).copy()


@lru_cache(maxsize=4096)
def clip_seconds(path: Path | str) -> float:
    """How long an audio file lasts by its header; 0 if it cannot be read: `read_clip` says why."""
    if not Path(path).is_file():
        return 0.0
    try:
        found = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError, TypeError):
        return 0.0
    return found.frames / found.samplerate


@lru_cache(maxsize=512)
def _decoded(
    path: str, state: tuple[int, int, int], max_seconds: float | None
) -> Float[np.ndarray, "samples"]:
    """`read_clip` of a file in this state (inode, time of change, size): read once, as keys of caches and
    batches ask for the same clips again and again.
    """
    try:
        with soundfile.SoundFile(path) as clip:
            rate, frames = clip.samplerate, clip.frames
            # Before reading, so that an hour-long recording costs no memory.
            _check_length(frames / rate, max_seconds, path)
            samples = clip.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a headerless .raw file
        raise ClipError(
            f"{path}: cannot be read as audio ({error}); convert it to WAV or FLAC, "
            "for instance with `ffmpeg -i INPUT output.wav`"
        ) from error
    if len(samples) < frames:
        raise ClipError(
            f"{path}: is cut off ({len(samples)} of {frames} samples could be read); copy or export it again"
        )
    return check_waveform(samples, rate, name=path, max_seconds=max_seconds)


def check_waveform(
    x: Any, sampling_rate: int, *, name: str = "waveform", max_seconds: float | None = None
) -> Float[np.ndarray, "samples"]:
    """The same checks and handling as `read_clip`, for samples that are already in memory.

    `x` has shape "samples" or "samples channels", is scaled to [-1, 1] if it holds floats and to its type's
    range if it holds integers; `sampling_rate` is in Hz. Returns a new float32 mono 16 kHz array. Raises
    ClipError, naming `name`, for whatever `read_clip` refuses, and for other shapes and types.
    """
    samples = np.asarray(x)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and 0 < samples.shape[0] < samples.shape[1]):
        raise ClipError(
            f"{name}: has shape {samples.shape}, expected (samples,) or (samples, channels); "
            "transpose or index it first"
        )
    if sampling_rate <= 0:
        raise ClipError(f"{name}: a sampling rate of {sampling_rate} Hz makes no sense; pass the true one")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ClipError(f"{name}: holds {samples.dtype}; pass floats in [-1, 1] or signed integers")
    _check_length(len(samples) / sampling_rate, max_seconds, name)

    if not np.isfinite(samples).all():
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise ClipError(f"{name}: {bad} samples are NaN or infinite; export the recording again")
    if (peak := float(np.abs(samples).max())) > MAX_PEAK:
        raise ClipError(f"{name}: samples reach {peak:.4g}; scale them to [-1, 1] (16-bit values: / 32768)")
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    mono = samples.reshape(len(samples), channels).mean(axis=1, dtype=np.float64)
    if (rms := float(np.sqrt(np.mean(mono**2)))) < SILENCE_RMS:
        mixed = f" after averaging {channels} channels" if channels > 1 else ""
        raise ClipError(
            f"{name}: is silent{mixed} (RMS {rms:.1e}, at least {SILENCE_RMS:.0e} is needed); "
            "record it louder or check the microphone"
        )
    if sampling_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sampling_rate, SAMPLE_RATE)
    return np.ascontiguousarray(mono, dtype=np.float32)


def synthesise(text: str, *, voice: str = "hibari", speed: float = 1.0) -> Float[np.ndarray, "samples"]:
    """Speak an English sentence with hibari-tts (about 100 times faster than real time on one CPU core).

    The voices other than "hibari" are the same voice, pitch and formants scaled by the factor in `VOICES`;
    `speed` (0.7 to 1.6) is the tempo, whatever the voice. The same arguments always give the same float32 16
    kHz waveform. Raises ValueError for an unknown voice, a speed out of range, or a text with nothing to
    speak.
    """
    if voice not in VOICES:
        raise ValueError(f"unknown voice {voice!r}; choose one of {', '.join(VOICES)}")
    if not 0.7 <= speed <= 1.6:
        raise ValueError(f"speed is {speed}, but has to lie between 0.7 and 1.6")
    if not any(character.isalnum() for character in text):
        raise ValueError(f"the text {text!r} has nothing to speak; write at least one word")
    factor = VOICES[voice]
    hibari = _hibari()
    # Declaring another sampling rate scales pitch and tempo alike, so the tempo is undone beforehand.
    samples = hibari(text, speed=speed / factor, seed=0)
    return check_waveform(samples, round(hibari.sample_rate * factor), name=f"speech for {text!r}")


@lru_cache(maxsize=1)
def _hibari() -> Any:
    """The loaded voice; half a second the first time, which is why it is kept and imported late."""
    from hibari import Hibari

    return Hibari()


def _check_length(seconds: float, max_seconds: float | None, name: str) -> None:
    if seconds == 0:
        raise ClipError(f"{name}: is empty (no samples); record or export it again")
    if seconds < MIN_SECONDS:
        raise ClipError(f"{name}: lasts {seconds:.3f} s, too short to hold a word (at least {MIN_SECONDS} s)")
    if max_seconds is not None and seconds > max_seconds:
        raise ClipError(
            f"{name}: lasts {seconds:.1f} s, but the model hears at most {max_seconds:g} s; cut or split it"
        )
