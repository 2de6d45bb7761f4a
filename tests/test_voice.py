"""Sentences spoken by the small voice."""

import numpy as np
import pytest

from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.voice import synthesise


def test_synthesised_speech_is_repeatable() -> None:
    sentence = "How do I bake bread at home?"
    normal = synthesise(sentence)
    np.testing.assert_array_equal(normal, synthesise(sentence))
    assert normal.dtype == np.float32 and 1.0 < len(normal) / SAMPLE_RATE < 3.5


@pytest.mark.parametrize("text", ["", "?!... "])
def test_what_cannot_be_spoken(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to speak"):
        synthesise(text)
