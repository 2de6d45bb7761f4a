"""Hooks are seen; so is code that stands in for a model's own: neither read nor kept."""

from functools import partial, wraps
from types import MethodType

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from replicas import OTHERS, TINY, replica
from torch import nn

from sarsteer_lab.activations import capture
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.keeping import kept
from sarsteer_lab.own_code import replaced_code
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import SteeringError
from sarsteer_lab.store import Store


class Wrapper(nn.Module):
    """A layer in a wrapper, as control vectors put them there."""

    def __init__(self, layer, scale):
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, *args, **kwargs):
        return self.scale * self.layer(*args, **kwargs)


def doubled(plain):
    @wraps(plain)
    def forward(*args, **kwargs):
        return 2 * plain(*args, **kwargs)

    return forward


def wrap(lalm):
    lalm.layers[1] = Wrapper(lalm.layers[1], 2.0)


def patch_layer(lalm):
    lalm.layers[1].forward = doubled(lalm.layers[1].forward)


def patch_inside(lalm):
    lalm.layers[2].mlp.forward = partial(doubled(lalm.layers[2].mlp.forward))


def patch_method(lalm):
    projector = lalm.trunk.multi_modal_projector
    projector.forward = doubled(projector.forward)


def patch_bound(lalm):
    plain = lalm.layers[0].forward
    lalm.layers[0].forward = MethodType(lambda _self, *a, **k: 2 * plain(*a, **k), lalm.layers[0])


def change_class(lalm):
    kind = type(lalm.layers[3])
    lalm.layers[3].__class__ = type("Other", (kind,), {"forward": doubled(kind.forward)})


CHANGES = [wrap, patch_layer, patch_inside, patch_method, patch_bound, change_class]


@pytest.mark.parametrize("change", CHANGES)
def test_replaced_layers_and_patched_methods_are_neither_read_nor_kept(change, prompts, tmp_path):
    lalm, store = replica(), Store(tmp_path)
    batch = PreparedBatch(lalm, prompts)
    kept(capture, store)(lalm, prompts)
    before = sorted(tmp_path.rglob("*"))
    change(lalm)
    with pytest.raises(HookedModelError, match="runs other code .*: load it anew") as error:
        kept(capture, store)(lalm, prompts)
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before
    for ask in (lambda: batch.generate(3), lambda: PreparedBatch(lalm, prompts)):
        with pytest.raises(SteeringError, match="runs other code"):
            ask()
    capture(lalm, prompts)  # which keeps nothing, is as free as ever


def test_a_patched_class_is_seen(prompts, monkeypatch):
    lalm = replica()
    kind = type(lalm.layers[0])
    monkeypatch.setattr(kind, "forward", doubled(kind.forward))
    with pytest.raises(HookedModelError, match=f"{kind.__name__}, whose forward is replaced"):
        lalm.key()


@pytest.mark.parametrize("family", [*TINY, *OTHERS])
def test_a_model_as_it_is_loaded_runs_its_own_code(family, prompts):
    lalm = replica(family)
    remember_clips(lalm)
    assert list(replaced_code(lalm.model)) == []
    lalm.key()


def test_parts_on_several_devices_are_the_models_own():
    lalm = replica()
    accelerate.dispatch_model(lalm.model, {"": "cpu"}, force_hooks=True)
    assert hasattr(lalm.layers[0], "_hf_hook") or hasattr(lalm.model, "_hf_hook")
    assert list(replaced_code(lalm.model)) == []


def test_a_patched_tower_is_not_remembered(prompts):
    lalm = replica()
    memory = remember_clips(lalm)
    spoken = prompts[1:2]
    first = lalm.next_token_logits(spoken)
    tower = lalm.trunk.audio_tower
    tower.layers[0].forward = doubled(tower.layers[0].forward)
    assert not torch.equal(lalm.next_token_logits(spoken), first) and memory.encoded == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_refused_by_name(tiny, prompts, tmp_path, dtype):
    batch = PreparedBatch(tiny, prompts)
    calls = [
        lambda: capture(tiny, prompts),
        lambda: kept(capture, Store(tmp_path))(tiny, prompts),
        lambda: tiny.next_token_logits(prompts),
        lambda: tiny.generate(prompts, max_new_tokens=2),
        lambda: batch.generate(2),
        tiny.key,
    ]
    kind = str(dtype).removeprefix("torch.")
    with torch.autocast("cpu", dtype):
        for call in calls:
            with pytest.raises(HookedModelError, match=f"autocast .{kind}.*dtype='{kind}'"):
                call()
    assert not list(tmp_path.iterdir())
    with torch.autocast("cpu", dtype, enabled=False):
        tiny.key()


def test_a_model_that_accelerate_has_prepared_is_refused_by_name(prompts):
    lalm = replica()
    accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(lalm.model)
    AcceleratorState._reset_state(reset_partial_state=True)
    for ask in (lalm.key, lambda: capture(lalm, prompts), lambda: lalm.next_token_logits(prompts)):
        with pytest.raises(HookedModelError, match="forward .*is replaced|whose forward is"):
            ask()
