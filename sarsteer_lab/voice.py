"""Text to speech: sentences spoken by a small voice."""

import re
import unicodedata
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from sarsteer_lab.keys import content_key
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform
from sarsteer_lab.store import kept_file

VOICE = "hibari-tts"

_SIGNS = frozenset("#%&+/<=>@^~\u00d7\u00f7\u00b1\u00b0\u20ac\u00a3$\u2192|`\u00b5")
"""Signs that it says, or that are silent; of all others but punctuation it says nothing."""

_DROPPED = re.compile(r"[*\\\u2022]|[$\u20ac\u00a3](?!\s?\d)|(?<=\d\s)-(?=\s\d)")
"""Punctuation that it leaves out though people say it: currencies behind a number, a minus."""


def synthesise(text: str) -> Float[np.ndarray, "samples"]:
    """Speak an English sentence with hibari-tts, about 100 times faster than real time on one core.

    The same text always gives the same float32 16 kHz waveform (but for the last digits of its
    samples, on some processors). Raises ValueError for a text with nothing to speak, or with words
    that the voice cannot say, naming them (`unspeakable`).
    """
    if dropped := unspeakable(text):
        words = ", ".join(map(repr, dropped[:10]))
        raise ValueError(
            f"the text {text!r:.80} has words that the English voice cannot say: {words}; write "
            "them out in English, or give a clip"
        )
    if not any(character.isalnum() for character in text):
        raise ValueError(f"the text {text!r} has nothing to speak; write at least one word")
    hibari = _hibari()
    return check_waveform(hibari(text, seed=0), hibari.sample_rate, name=f"speech for {text!r}")


def unspeakable(text: str) -> list[str]:
    """The words of a text that the voice would leave out or spell: other scripts, most signs."""
    dropped = {match.start() for match in _DROPPED.finditer(text)}
    words = []
    for word in re.finditer(r"\S+", text):
        is_dropped = not dropped.isdisjoint(range(*word.span()))
        if is_dropped or not all(map(_is_said, word[0])):
            words.append(word[0])
    return words


def _is_said(character: str) -> bool:
    kind = unicodedata.category(character)[0]
    if kind == "L":
        return "LATIN" in unicodedata.name(character, "") or character in _SIGNS
    if kind == "N":
        return all(part.isascii() or part == "\u2044" for part in _plain_form(character))
    return kind != "S" or character in _SIGNS


def _plain_form(character: str) -> str:
    return unicodedata.normalize("NFKC", character)


def spoken_clip(text: str) -> Path:
    """The file of a sentence that is spoken once, and then kept in the user's cache.

    Raises ValueError as `synthesise` does, and ImportError where there is no voice.
    """
    try:
        key = content_key(VOICE, version(VOICE), text)
    except PackageNotFoundError:
        raise ImportError(
            f"a request without a clip needs a voice: pip install {VOICE}, or record it"
        ) from None

    def speak(scratch: Path) -> None:
        soundfile.write(scratch, synthesise(text), SAMPLE_RATE, "FLOAT", format="WAV")

    return kept_file(cache_folder() / "clips", key, ".wav", speak)


@lru_cache(maxsize=1)
def _hibari() -> Any:
    """The loaded voice; half a second the first time, which is why it is kept and imported late."""
    from hibari import Hibari

    return Hibari()
