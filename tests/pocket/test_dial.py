"""The pocket model's dials: weights depend on where they stand, and on nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.pocket.dial import LowRankDeltas
from sarsteer_lab.probe.replica import replica

NAMES = (
    "model.language_model.layers.1.mlp.up_proj.weight",
    "model.language_model.layers.2.mlp.up_proj.weight",
    "model.language_model.layers.3.self_attn.q_proj.weight",
)
DIALS = {"safety": NAMES[:2], "understanding": NAMES[1:]}
"""Which weights each dial changes: one of them is changed by both."""

Factors = dict[str, dict[str, tuple[Tensor, Tensor]]]


@pytest.fixture
def factors() -> Factors:
    """A random delta of rank 2 for each dial."""
    lalm = replica()
    generator = torch.Generator().manual_seed(0)
    deltas: Factors = {}
    for dial, names in DIALS.items():
        deltas[dial] = {}
        for name in names:
            rows, columns = lalm.model.get_parameter(name).shape
            a = torch.randn(2, columns, generator=generator)
            deltas[dial][name] = (a, torch.randn(rows, 2, generator=generator))
    return deltas


@pytest.fixture
def lalm(tmp_path: Path, factors: Factors) -> LALM:
    """A replica with two dials, its pristine weights in a file."""
    model = replica()
    pristine = {name: model.model.get_parameter(name).detach().clone() for name in NAMES}
    save_file(pristine, tmp_path / "w.safetensors")
    deltas = LowRankDeltas(tmp_path / "w.safetensors", {name: name for name in NAMES}, factors)
    dials = {"safety": 0.0, "understanding": 0.0}
    return LALM(model.model, model.processor, name="dials", dials=dials, turn=deltas.apply)


def test_weights_are_the_pristine_ones_and_the_scaled_deltas(lalm: LALM, factors: Factors):
    pristine = {name: lalm.model.get_parameter(name).double().clone() for name in NAMES}
    for safety, understanding in ((1.0, 0.0), (0.3, 0.5), (0.0, -2.0), (0.0, 1.0)):
        lalm.set_dials(safety=safety, understanding=understanding)
        assert lalm.dials == {"safety": safety, "understanding": understanding}
        for name in NAMES:
            expected = pristine[name]
            for dial, scale in lalm.dials.items():
                if name in factors[dial]:
                    a, b = factors[dial][name]
                    expected = expected + scale * b.double() @ a.double()
            weight = lalm.model.get_parameter(name).double()
            torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-6)


def test_the_way_to_a_setting_leaves_no_trace(lalm: LALM):
    untouched = lalm.fingerprint()
    lalm.set_safety(1.0)
    with_safety = lalm.fingerprint()
    for scale in (0.3, -2.0, 0.7):
        lalm.set_dials(understanding=scale)
        lalm.set_safety(scale)
    lalm.set_dials(understanding=0.0)
    lalm.set_safety(1.0)
    assert lalm.fingerprint() == with_safety != untouched
    lalm.set_safety(0.0)
    assert lalm.fingerprint() == untouched


@pytest.fixture
def stand_in(
    tmp_path: Path, factors: Factors, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Factors], None]:
    """Makes "pocket" a small checkpoint of the same architecture, with hub names and these."""
    small = replica()
    small.model.save_pretrained(tmp_path)
    small.processor.save_pretrained(tmp_path)
    monkeypatch.setattr("sarsteer_lab.pocket.dial.assemble_pocket", lambda: tmp_path)

    def use(deltas: Factors) -> None:
        monkeypatch.setattr("sarsteer_lab.pocket.dial.delta_factors", deltas.__getitem__)
        # Only a turned understanding dial reads them.
        monkeypatch.setattr("sarsteer_lab.pocket.dial.projector_parts", lambda dial: {})

    use(factors)
    return use


def test_a_turned_dial_equals_a_fresh_load(stand_in: Callable[[Factors], None], factors: Factors):
    lalm = load_lalm("pocket", device="cpu", safety=0.3)
    assert lalm.dials == {"safety": 0.3, "understanding": 0.0, "spoken_safety": 0.0}
    lalm.set_safety(1.0)
    assert lalm.fingerprint() == load_lalm("pocket", device="cpu").fingerprint()
    lalm.set_safety(0.0)
    assert lalm.fingerprint() == replica().fingerprint()
    stand_in({"safety": {"lm_head.weight": next(iter(factors["safety"].values()))}})
    with pytest.raises(ValueError, match="no pristine copy of lm_head.weight"):
        load_lalm("pocket", device="cpu")


@pytest.mark.pocket
def test_the_pocket_models_dial_equals_a_fresh_load(pocket: LALM):
    pocket.set_safety(0.3)
    turned = pocket.fingerprint()
    pocket.set_safety(1.0)
    fresh = load_lalm("pocket", device="cpu")
    assert turned != pocket.fingerprint() == fresh.fingerprint()
