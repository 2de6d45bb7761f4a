"""Sentences spoken by the small voice."""

import numpy as np
import pytest

from sarsteer_lab.pocket.voice import VOICES, synthesise
from sarsteer_lab.speech import SAMPLE_RATE


def test_synthesised_speech_is_repeatable_and_paced() -> None:
    sentence = "How do I bake bread at home?"
    normal = synthesise(sentence)
    np.testing.assert_array_equal(normal, synthesise(sentence))
    assert normal.dtype == np.float32 and 1.0 < len(normal) / SAMPLE_RATE < 3.5
    assert len(synthesise(sentence, speed=1.5)) < 0.8 * len(normal)


def test_voices_differ_in_pitch_but_not_in_pace() -> None:
    sentence = "How do I bake bread at home?"
    spoken = {voice: synthesise(sentence, voice=voice) for voice in VOICES}
    lengths = [len(samples) for samples in spoken.values()]
    assert max(lengths) < 1.25 * min(lengths)

    def brightness(samples: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(samples)) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum() / len(samples))

    assert (
        brightness(spoken["hibari-deep"]) < brightness(spoken["hibari"]) < brightness(spoken["hibari-bright"])
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"text": "hello", "voice": "parrot"}, "hibari-deep"),
        ({"text": "hello", "speed": 3.0}, "between"),
        ({"text": ""}, "nothing to speak"),
        ({"text": "?!... "}, "nothing to speak"),
    ],
)
def test_what_cannot_be_spoken(arguments: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        synthesise(**arguments)
