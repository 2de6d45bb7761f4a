"""The size of a push against states by hand, and what it moves against logits by hand."""

import pytest
import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.probe.findings import push_report
from sarsteer_lab.steering import SteeringVectors, steer


@pytest.fixture
def vectors(tiny) -> SteeringVectors:
    return SteeringVectors(torch.randn(4, 32, generator=torch.Generator().manual_seed(5)))


def test_shares_and_moves_are_those_by_hand(tiny, prompts, vectors):
    prompts = prompts[:3]
    report = push_report(tiny, prompts, vectors, alpha=-0.5, layers=[-1, 1])
    states = capture(tiny, prompts)
    for layer in (3, 1):
        by_hand = sorted(
            float(0.5 * vectors[layer].norm() / state[layer].norm()) for state in states
        )
        assert report.shares[layer] == pytest.approx(by_hand[1])
    assert list(report.shares) == [3, 1]
    plain = tiny.next_token_logits(prompts)
    with steer(tiny, vectors, -0.5, layers=[3, 1]):
        pushed = tiny.next_token_logits(prompts)
    assert report.moved == float((pushed - plain).abs().max()) > 0
    first, second = (torch.distributions.Categorical(logits=logits) for logits in (plain, pushed))
    kl = torch.distributions.kl_divergence(first, second).mean()
    assert report.divergence == pytest.approx(float(kl), rel=1e-4)
    share = 50 * (report.shares[3] + report.shares[1])
    line = f"the push is {share:.2g}% of the state (median over layers); "
    line += f"logits move by up to {report.moved:.2g}"
    assert str(report).startswith(line) and "\n" not in str(report)


def test_a_push_that_moves_nothing_says_so(tiny, prompts, vectors):
    report = push_report(tiny, prompts, vectors, alpha=0.0)
    assert report.moved == report.divergence == 0 and set(report.shares.values()) == {0.0}
    assert "NOTHING moved" in str(report)


def test_a_push_that_is_thrown_away_moves_nothing(tiny, prompts, vectors, monkeypatch):
    """The commonest complaint: a hook that edits a copy."""
    monkeypatch.setattr("sarsteer_lab.steering.residual_stream", lambda output, _: output.clone())
    report = push_report(tiny, prompts, vectors, alpha=1.0)
    assert min(report.shares.values()) > 0.01 and "NOTHING moved" in str(report)
