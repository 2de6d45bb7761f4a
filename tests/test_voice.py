"""Sentences spoken by the small voice."""

import numpy as np
import pytest

from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.voice import synthesise, unspeakable


def test_synthesised_speech_is_repeatable() -> None:
    sentence = "How do I bake bread at home?"
    normal = synthesise(sentence)
    np.testing.assert_allclose(normal, synthesise(sentence), atol=1e-4)
    assert normal.dtype == np.float32 and 1.0 < len(normal) / SAMPLE_RATE < 3.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How do I say 你好 and Привет?", ["你好", "Привет?"]),
        ("नमस्ते says hello.", ["नमस्ते"]),
        ("What is 17 * 3, or 17 - 3?", ["*", "-"]),
        ("A tea for 10€ or 10 $?", ["10€", "$?"]),
        ("Is x ≤ √2? \U0001f600 α ०", ["≤", "√2?", "\U0001f600", "α", "०"]),
        (r"Print C:\tmp", [r"C:\tmp"]),
        ("مرحبا", ["مرحبا"]),
    ],
)
def test_what_the_voice_cannot_say_is_named_word_by_word(text: str, words: list[str]) -> None:
    assert unspeakable(text) == words
    with pytest.raises(ValueError, match="words that the English voice cannot say") as caught:
        synthesise(text)
    assert all(repr(word) in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "text",
    [
        "Is the café in Škoda street naïve?",
        "Take $5, 10% of 3 × 4 + 2 = x², at -5°C; or £ 3!",
        "It's a well-known “quote” (really): 12:30 – 1/2, #1 & a@b.com…",
    ],
)
def test_what_the_voice_can_say(text: str) -> None:
    assert unspeakable(text) == []


@pytest.mark.parametrize("text", ["", "?!... "])
def test_what_cannot_be_spoken(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to speak"):
        synthesise(text)
