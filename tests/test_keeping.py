"""What is kept of prompts: read where it is there, under keys that tell everything apart."""

import os
import warnings

import pytest
import torch

from sarsteer_lab import keys
from sarsteer_lab.activations import capture, capture_positions
from sarsteer_lab.keeping import activation_store, kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import steer
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_cache_reads_what_it_wrote(tiny, prompts, tmp_path, monkeypatch):
    cache = Store(tmp_path)
    first = kept(capture, cache)(tiny, prompts[:4])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    grown = kept(capture, cache)(tiny, prompts)
    assert torch.equal(grown[:4], first)

    def fail(*args, **kwargs):
        raise AssertionError("computed although cached")

    monkeypatch.setattr(LALM, "announce", fail)
    assert torch.equal(kept(capture, cache)(tiny, prompts[::-1]), grown.flip(0))


def test_ragged_states_are_cached_too(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    first = kept(capture_positions, cache)(tiny, prompts, positions="all")
    again = kept(capture_positions, cache)(tiny, prompts, positions="all")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_kept_states_are_found_for_the_same_layers_positions_and_clips_only(
    tiny, make_clip, tmp_path
):
    cache, clip = Store(tmp_path), make_clip(1.0)
    other = clip.copy()
    other[-1] += 1e-3

    def lacks(lalm, prompt, layers=(0, 1), function=capture):
        before = len(list(tmp_path.rglob("*.safetensors")))
        kept(function, cache)(lalm, [prompt], layers=layers)
        return len(list(tmp_path.rglob("*.safetensors"))) > before

    kept(capture, cache)(tiny, [Prompt("Hi", clip)], layers=[0, 1])
    assert not lacks(replica(), Prompt("Hi", clip.copy()))
    assert lacks(tiny, Prompt("Hi", clip), layers=(1, 0)) and lacks(
        tiny, Prompt("Hi", clip), layers=(0,)
    )
    assert lacks(tiny, Prompt("Hi", clip), function=capture_positions) and lacks(
        tiny, Prompt("Hi", other)
    )
    assert lacks(replica(seed=1), Prompt("Hi", clip))


def test_damaged_entries_are_computed_again_with_a_warning(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    first = kept(capture, cache)(tiny, prompts)
    damaged = sorted(tmp_path.rglob("*.safetensors"))[:3]
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[:-7])
    damaged[2].write_bytes(os.urandom(200))
    with pytest.warns(UserWarning, match="is damaged"):
        assert_close(kept(capture, cache)(tiny, prompts), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept(capture, cache)(tiny, prompts)
    assert not list(tmp_path.rglob("*.tmp"))


def test_steered_states_are_neither_written_nor_read(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    plain = kept(capture, cache)(tiny, prompts)
    vectors = SteeringVectors(torch.ones(tiny.n_layers, tiny.d_model))
    with steer(tiny, vectors, alpha=0.5), pytest.raises(HookedModelError, match="outside of"):
        kept(capture, cache)(tiny, prompts)
    assert torch.equal(kept(capture, cache)(tiny, prompts), plain)


def test_one_flipped_bit_has_a_state_computed_again(tiny, prompts, tmp_path):
    cache = Store(tmp_path)
    plain = kept(capture, cache)(tiny, prompts)
    path = min(tmp_path.rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="computed again"):
        again = kept(capture, cache)(tiny, prompts)
    assert_close(again, plain)
    assert torch.equal(kept(capture, cache)(tiny, prompts), again)


def test_states_of_an_edited_model_are_not_those_that_were_kept(prompts, tmp_path):
    """As by weight orthogonalisation: the weight's version does not move."""
    lalm, cache = replica(), Store(tmp_path)
    plain = kept(capture, cache)(lalm, prompts)
    weight = lalm.layers[0].mlp.down_proj.weight
    weight.data = weight.data * 2
    assert not torch.allclose(kept(capture, cache)(lalm, prompts), plain)
    weight.data.div_(2)
    assert torch.equal(kept(capture, cache)(lalm, prompts), plain)


def test_the_store_of_states_lies_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path))
    assert activation_store().folder == tmp_path / "activations"


@pytest.mark.parametrize("package", ["torch", "transformers", "sarsteer-lab"])
def test_what_other_versions_have_computed_is_not_read(tiny, prompts, tmp_path, package):
    """The next version of a package, as its metadata will say."""
    store = Store(tmp_path)
    kept(capture, store)(tiny, prompts)
    before = set(tmp_path.rglob("*.safetensors"))
    with pytest.MonkeyPatch.context() as patch:
        plain = keys.version
        patch.setattr(keys, "version", lambda name: plain(name) + (".1" if name == package else ""))
        kept(capture, store)(tiny, prompts)
    assert len(set(tmp_path.rglob("*.safetensors"))) == 2 * len(before) == 2 * len(prompts)
    kept(capture, store)(tiny, prompts)
    assert len(set(tmp_path.rglob("*.safetensors"))) == 2 * len(prompts)


states_of = capture  # the package's, whatever those below are called


def twice_written():
    def capture(lalm, prompts, **settings):
        return 2 * states_of(lalm, prompts, **settings)

    return capture


def thrice_written():
    def capture(lalm, prompts, **settings):
        return 3 * states_of(lalm, prompts, **settings)

    return capture


def test_functions_of_ones_own_are_kept_apart_whatever_they_are_called(tiny, prompts, tmp_path):
    """One that is written anew under its name, in a notebook's cell, is another function."""
    store, plain = Store(tmp_path), capture(tiny, prompts)
    for _ in range(2):  # once computed, once read
        assert torch.equal(kept(capture, store)(tiny, prompts), plain)
        for times, function in ((2, twice_written()), (3, thrice_written())):
            assert torch.equal(kept(function, store)(tiny, prompts), times * plain)
        assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * len(prompts)
    with pytest.raises(ValueError, match="a lambda has no name"):
        kept(lambda lalm, prompts: plain, store)(tiny, prompts)
