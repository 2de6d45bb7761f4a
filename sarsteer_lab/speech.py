"""Clips read, checked and brought to 16 kHz mono: every waveform passes through here.

Audio processors of LALMs neither resample nor look at what they are given: a 44.1 kHz clip is
simply heard 2.8 times too slow, and a NaN becomes a NaN in every hidden state.
"""

import re
import subprocess
from functools import lru_cache
from io import TextIOBase
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from sarsteer_lab import containers
from sarsteer_lab.contents import strange_kind
from sarsteer_lab.keys import content_key

SAMPLE_RATE = 16000
"""Samples per second of every waveform in this package (what Whisper-style audio towers expect)."""

CANCELLED = 0.1
"""Channels cancel if their mean has less than this share (-20 dB) of what it would have of channels
that have nothing in common: 1 / sqrt(n) of the loudest of n."""

SILENCE_RMS = 1e-4
"""A clip whose root mean square is below this (-80 dB of full scale) counts as silent."""

MIN_SECONDS = 0.1
"""A shorter clip holds no syllable; below 0.03 s Whisper-style towers give no audio token."""

SLOWEST, FASTEST = 1_000, 4_000_000
"""Sampling rates in Hz of what can be speech: telephones have 8,000, no converter 4 million."""

MAX_PEAK = 10.0
"""Full scale is 1.0. Float clips overshoot it a little; beyond this they hold unscaled integers."""

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])", re.IGNORECASE)
"""The beginning of a URL; a `Path` has lost one of its slashes, or two."""

# Files that libsndfile does not read, by how they begin: the readers that ffmpeg has for them.
_FOREIGN = re.compile(
    rb"(?P<mov>.{4}ftyp)|(?P<matroska>\x1a\x45\xdf\xa3)|(?P<aac>\xff[\xf0\xf1\xf8\xf9])", re.S
)


class ClipError(ValueError):
    """A clip cannot be used. The message names the clip and the reason, and says what to do."""


def read_clip(
    path: Path | str | BinaryIO, *, max_seconds: float | None = None
) -> Float[np.ndarray, "samples"]:
    """Read an audio file (WAV, FLAC, Ogg, MP3, ...) as a float32 mono 16 kHz waveform in [-1, 1].

    `path` may also be an open binary file, and begin with "~"; m4a, webm and AAC are read where
    ffmpeg is installed. Several channels are averaged, other sampling rates are resampled (soxr,
    high quality). A WAV whose header was never finished is read to its end.

    Raises ClipError, naming the file, if it is missing, a URL, a folder, not audio, cut off,
    several recordings in one file (chained Ogg, joined FLAC or MP3), empty, shorter than
    `MIN_SECONDS`, longer than `max_seconds`, silent (RMS below `SILENCE_RMS`), holds NaN or
    infinite samples, is not scaled to [-1, 1], or has channels that cancel (`CANCELLED`).
    """
    if not isinstance(path, Path | str):
        if not callable(getattr(path, "seek", None)):
            kind = type(path).__name__
            raise TypeError(f"a clip is a path or an open binary file, not a {kind}")
        name = str(getattr(path, "name", "the open file"))
        _check_open(path, name)
        return _read(path, name, max_seconds)
    if told := url_told(str(path)):
        raise ClipError(told)
    path = Path(path).expanduser()
    if path.is_dir():
        raise ClipError(f"{path}: this is a folder, not an audio file; give one clip")
    if not path.exists():
        raise ClipError(f"{path}: there is no such file; check the path")
    if not path.is_file():  # opening a named pipe would wait for ever
        raise ClipError(
            f"{path}: is not a regular file (but a pipe or device); save the clip first"
        )
    try:
        content = content_key(path.read_bytes())
    except OSError as error:
        raise ClipError(f"{path}: cannot be read ({error.strerror}); check its rights") from error
    return _read_once(path, content, max_seconds).copy()


def url_told(path: str) -> str | None:
    """What to say of a clip's `path` that is a URL; None: it is none."""
    scheme = _URL.match(path)
    if scheme is None:
        return None
    if scheme[1].lower() == "file":
        own = "/" + path[scheme.end() :]
        return f"file://{own}: is a URL; give the path alone, {own}"
    url = re.sub(":/+", "://", path, count=1)
    return f"{url}: is a URL, not a file; download the clip first"


def _check_open(file: BinaryIO, name: str) -> None:
    """Raise ClipError, naming `name`, for an open file from which no bytes can be read."""
    if getattr(file, "closed", False):
        raise ClipError(
            f"{name}: is closed already; give its path, or read it inside of the `with`"
        )
    if isinstance(file, TextIOBase):
        raise ClipError(f"{name}: is open as text; open it with mode 'rb', or give its path")
    if callable(getattr(file, "readable", None)) and not file.readable():
        raise ClipError(f"{name}: is open for writing alone; close it, and give its path")


def clip_seconds(path: Path | str) -> float:
    """How long a clip lasts by its header, in seconds; 0.0 for what is no readable clip.

    For planning only: `read_clip` says what is wrong with a file.
    """
    try:
        path = Path(path).expanduser()
        return float(soundfile.info(path).duration) if path.is_file() else 0.0
    except (soundfile.SoundFileError, OSError, TypeError, ValueError, ZeroDivisionError):
        return 0.0


@lru_cache(maxsize=512)
def _read_once(
    path: Path, _content: str, max_seconds: float | None
) -> Float[np.ndarray, "samples"]:
    """`read_clip` of a file of this content, for keys and batches ask for the same clip often.

    Its times and size would not tell: a take may be recorded over another within a clock's step.
    """
    with open(path, "rb") as file:
        return _read(file, str(path), max_seconds)


def _read(file: BinaryIO, name: str, max_seconds: float | None) -> Float[np.ndarray, "samples"]:
    """`read_clip` of an open file that errors call `name`."""
    content = b""
    try:
        file.seek(0)
        content = file.read()
        if foreign := _FOREIGN.match(content[:12]):
            content = _as_wav(content, str(foreign.lastgroup), name)
        content = containers.finished(content)
        if reason := containers.flaw(content):
            raise ClipError(f"{name}: {reason}")
        with containers.in_a_file(content) as copy, soundfile.SoundFile(copy) as clip:
            if clip.format == "XI":
                raise ClipError(f"{name}: an XI file does not say its sampling rate; export WAV")
            # Before decoding, so that an hour costs no memory.
            _check_length(clip.frames / clip.samplerate, max_seconds, name)
            # So many: telephone codecs cannot be asked how many are left.
            samples = clip.read(clip.frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError, MemoryError) as error:
        if kind := strange_kind(content, "audio"):
            raise ClipError(f"{name}: cannot be read as audio, for it {kind}") from error
        cause = getattr(error, "error_string", error)
        raise ClipError(
            f"{name}: cannot be read as audio ({cause}); "
            "convert it to WAV or FLAC, for instance with `ffmpeg -i INPUT output.wav`"
        ) from error
    if len(samples) < clip.frames:
        there = f"{len(samples)} of {clip.frames} samples could be read"
        raise ClipError(f"{name}: is cut off ({there}); copy or export it again")
    return check_waveform(samples, clip.samplerate, name=name, max_seconds=max_seconds)


def _as_wav(content: bytes, reader: str, name: str) -> bytes:
    """What libsndfile does not read, through ffmpeg's `reader`. Raises ClipError, naming `name`."""
    ffmpeg = which("ffmpeg")
    if ffmpeg is None:
        advice = "install ffmpeg, or convert the clip to WAV"
        raise ClipError(f"{name}: only ffmpeg reads this format; {advice}")
    # Local files only, and no reader of its own choice: playlists would read others.
    source = f"-v error -nostdin -protocol_whitelist file -f {reader} -i clip"
    command = [ffmpeg, *source.split(), *"-vn -c:a pcm_f32le clip.wav".split()]
    with TemporaryDirectory() as folder:
        Path(folder, "clip").write_bytes(content)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode or done.stderr:
            reason = done.stderr.strip().rpartition("\n")[2]
            advice = "copy or export it again"
            raise ClipError(f"{name}: ffmpeg cannot read it whole ({reason}); {advice}")
        return Path(folder, "clip.wav").read_bytes()


def check_waveform(
    x: Any, sampling_rate: float, *, name: str = "waveform", max_seconds: float | None = None
) -> Float[np.ndarray, "samples"]:
    """The same checks and handling as `read_clip`, for samples that are already in memory.

    `x` has shape "samples" or "samples channels", is scaled to [-1, 1] if it holds floats and to
    its type's range if it holds integers; `sampling_rate` is in Hz. Returns a new float32 mono 16
    kHz array. Raises ClipError, naming `name`, for whatever `read_clip` refuses, and for other
    shapes and types.
    """
    given = _by_channel(x, name)
    is_number = isinstance(sampling_rate, int | float | np.integer | np.floating)
    if not is_number or not SLOWEST <= sampling_rate <= FASTEST:  # also NaN
        raise ClipError(f"{name}: a sampling rate of {sampling_rate!r} Hz makes no sense")
    samples = _scaled(given, name)
    _check_length(len(samples) / sampling_rate, max_seconds, name)
    broken = np.count_nonzero(~np.isfinite(samples))
    if broken:
        raise ClipError(f"{name}: {broken} samples are NaN or infinite; export the recording again")
    peak = np.abs(samples).max()
    if peak > MAX_PEAK:
        advice = "scale them to [-1, 1] (16-bit values: / 32768)"
        raise ClipError(f"{name}: samples reach {peak:.4g}; {advice}")
    mono = _mono(samples, name)
    if sampling_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sampling_rate, SAMPLE_RATE)
    # What a model could hear: neither a constant offset nor what 16 kHz cannot hold is sound, and
    # the click with which such a tone sets in and stops (10 ms at the ends) does not count either.
    edge = SAMPLE_RATE // 100
    rms = np.std(mono[edge:-edge])
    if rms < SILENCE_RMS:
        advice = "record it louder or check the microphone"
        if given.dtype == np.int32 and peak > 0:
            advice += "; or are these 16-bit values in int32? Then pass astype(np.int16)"
        raise ClipError(
            f"{name}: is silent (RMS {rms:.1e}, at least {SILENCE_RMS:.0e} is needed); {advice}"
        )
    return np.ascontiguousarray(mono, dtype=np.float32)


def _by_channel(x: Any, name: str) -> np.ndarray:
    """Samples in memory with shape "samples channels". Raises ClipError, naming `name`."""
    if isinstance(x, np.ma.MaskedArray):
        raise ClipError(f"{name}: is a masked array; fill or cut out what is masked")
    if callable(getattr(x, "detach", None)):  # a tensor, which may be of a type that numpy has not
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() else x
    samples = np.asarray(x)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or 0 < len(samples) < samples.shape[1]:
        wanted = "expected (samples,) or (samples, channels); transpose or index it first"
        raise ClipError(f"{name}: has shape {samples.shape}, {wanted}")
    return samples


def _scaled(
    samples: Float[np.ndarray, "samples channels"], name: str
) -> Float[np.ndarray, "samples channels"]:
    """Samples in [-1, 1]. Raises ClipError, naming `name`, for types that tell no scale."""
    kind = samples.dtype
    if kind == np.int64:
        # What numpy makes of plain integers: no converter gives it, so its range says nothing.
        advice = "16-bit values: astype(np.int16), 32-bit ones: astype(np.int32)"
        raise ClipError(f"{name}: holds int64, whose full scale is not known; {advice}")
    if np.issubdtype(kind, np.signedinteger):
        return samples / -float(np.iinfo(kind).min)
    if not np.issubdtype(kind, np.floating):
        raise ClipError(f"{name}: holds {kind}; pass floats in [-1, 1] or signed integers")
    return samples


def _mono(
    samples: Float[np.ndarray, "samples channels"], name: str
) -> Float[np.ndarray, "samples"]:
    """The channels' mean. Raises ClipError, naming `name`, for channels that cancel."""
    mono = samples.mean(axis=1, dtype=np.float64)  # samples
    loudest = samples.std(axis=0, dtype=np.float64).max()
    if loudest >= SILENCE_RMS and np.std(mono) < CANCELLED * loudest / samples.shape[1] ** 0.5:
        raise ClipError(
            f"{name}: its {samples.shape[1]} channels cancel when they are averaged (one is the "
            "other upside down); export one of them"
        )
    return mono


def _check_length(seconds: float, max_seconds: float | None, name: str) -> None:
    if seconds == 0:
        raise ClipError(f"{name}: is empty (no samples); record or export it again")
    if seconds < MIN_SECONDS:
        least = f"(at least {MIN_SECONDS} s)"
        raise ClipError(f"{name}: lasts {seconds:.3f} s, too short to hold a word {least}")
    if max_seconds is not None and seconds > max_seconds:
        heard = f"the model hears at most {max_seconds:g} s"
        raise ClipError(f"{name}: lasts {seconds:.1f} s, but {heard}; cut or split it")
