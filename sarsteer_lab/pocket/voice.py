"""Sentences spoken by a small voice."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from sarsteer_lab.speech import check_waveform

VOICES: dict[str, float] = {
    "hibari": 1.0,
    "hibari-deep": 0.8,
    "hibari-low": 0.9,
    "hibari-high": 1.12,
    "hibari-bright": 1.25,
}
"""Voices of `synthesise` and the factor by which each scales hibari's pitch and formants."""


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
