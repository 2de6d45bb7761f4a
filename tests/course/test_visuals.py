"""The playground, the X-ray, the ladder and the strip: their numbers against a few plain lines each."""

import math

import pytest
import torch

from sarsteer_lab.course.widgets import playground


@pytest.mark.parametrize(
    ("angle", "k", "lam", "alpha"), [(20, 2, 1.0, 1.0), (-60, 1, 0.5, 2.0), (0, 0, 1.0, 0.0)]
)
def test_playground_ablates_and_counts(angle: int, k: int, lam: float, alpha: float) -> None:
    panel = playground(seed=3)
    panel.angle.value, panel.k.value, panel.lam.value, panel.alpha.value = angle, k, lam, alpha
    turn, depth = math.radians(angle), math.radians(35)
    flat = [math.cos(turn), math.sin(turn) * math.cos(depth), math.sin(turn) * math.sin(depth)]
    d = 1.5 * torch.tensor(flat)
    states = panel.clouds["harmless"]
    u = torch.linalg.svd(states - states.mean(0), full_matrices=False).Vh[:k]
    v = d - lam * u.T @ (u @ d)
    found = panel.vectors()
    torch.testing.assert_close(found["v"][0], v, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["control"][0], d / d.norm() * v.norm(), rtol=1e-4, atol=1e-5)
    for name, push in (("no push", 0 * d), ("d", d), ("v", v)):
        counts = {
            label: int((cloud[:, 0] + alpha * push[0] > 1.6).sum()) for label, cloud in panel.clouds.items()
        }
        assert panel.over()[name] == counts
    assert not panel.runner.message.value and "<img" in panel.static()


def test_playground_draws_every_corner_and_repeats_itself() -> None:
    panel = playground()
    assert torch.equal(panel.clouds["harmful"], playground(seed=0).clouds["harmful"])
    assert not torch.equal(panel.clouds["harmful"], playground(seed=1).clouds["harmful"])
    before = panel.view.value
    for panel.k.value in (3, 0):
        for panel.moved.value in ("d", "control"):
            assert not panel.runner.message.value
    assert panel.view.value != before and panel.over()["v"] == panel.over()["d"]
