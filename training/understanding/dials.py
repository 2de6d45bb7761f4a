"""The pocket model with any delta of understanding, learnt or in the making."""

from pathlib import Path

from safetensors.torch import load_file

from sarsteer_lab.checkpoints import load_parts
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import Factors, assemble_pocket, delta_factors, factors_of
from sarsteer_lab.pocket.dial import pocket_deltas


def read_delta(path: Path) -> Factors:
    """A delta that training has written; the LoRA scale is already inside B."""
    factors = factors_of(load_file(path))
    return {f"{module}.weight": pair for module, pair in factors.items()}


def pocket_with(learnt: Factors) -> LALM:
    """The pocket model, its safety dial at 1, and `learnt` as its understanding, its dial at 0."""
    folder = assemble_pocket()
    model, processor = load_parts(folder, name="pocket", device="auto", dtype="auto", family=None)
    deltas = {"safety": delta_factors("safety"), "understanding": learnt}
    turn = pocket_deltas(model, folder, deltas).apply
    dials = {"safety": 0.0, "understanding": 0.0}
    lalm = LALM(model, processor, name="pocket", dials=dials, turn=turn)
    lalm.set_dials(safety=1.0, understanding=0.0)
    return lalm
