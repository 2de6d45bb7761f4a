"""How alike typed and spoken answers are: divergence against torch's own, answers by hand."""

import torch

from sarsteer_lab.pocket.training.measure import divergence, own_answer_found


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
