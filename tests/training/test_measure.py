"""How alike typed and spoken answers are: divergence against torch's own, answers by hand."""

import pytest
import torch

from training.measure import divergence, own_answer_found
from training.yardstick import TEXTS, VOICES, Utterance, cells, load_yardstick


def test_divergence_is_torchs() -> None:
    typed, spoken = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0)) * 4
    expected = torch.nn.functional.kl_div(
        spoken.log_softmax(-1), typed.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(divergence(typed, spoken), expected)
    assert divergence(typed, typed + 3).abs().max() < 1e-6


def test_own_answer_found() -> None:
    typed = ["Rain is water.", "Paris is a city.", "I cannot help.", "I cannot help."]
    spoken = ["It is water from rain", "Paris", "Sorry, I cannot help", ""]
    assert own_answer_found(typed, spoken).tolist() == [1, 1, 0.5, 0]
    assert own_answer_found(spoken, typed).shape == (4,)
    assert own_answer_found(["?", ""], ["", "!"]).tolist() == [0, 0]


def test_cells_count_words_and_clips_apart() -> None:
    utterances = load_yardstick()
    assert all(utterance.clip.is_file() for utterance in utterances)
    heard = [utterance.request for utterance in utterances]
    assert [cell["word_error_rate"] for cell in cells(utterances, heard).values()] == [0, 0, 0, 0]

    def said(text: str, engines: str, label: str = "") -> Utterance:
        return Utterance("one two three four", text, engines, "v", utterances[0].clip, label)

    own = [said(text, engines) for text in TEXTS for engines in VOICES]
    found = cells(
        [*own, said("course", VOICES[0], "harmful")], [*["one two three four"] * 4, "one two"]
    )
    course = found[f"course, {VOICES[0]}"]
    assert (
        course["n"] == 2
        and course["right"] == 1
        and course["word_error_rate"] == pytest.approx(2 / 8)
    )
    assert course["word_error_rate_harmful"] == pytest.approx(2 / 4)
    assert found[f"open, {VOICES[1]}"]["right"] == 1
