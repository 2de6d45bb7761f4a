"""Keys, the checksum of weights, and what is kept on disk: nothing may be taken for something else."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sarsteer_lab import store
from sarsteer_lab.store import Store, atomic_write, change_sums, content_key, weights_checksum


def test_a_key_tells_apart_whatever_is_different():
    x = np.arange(6, dtype=np.float32)
    parts = [
        (),
        ("",),
        ("", ""),
        ("ab",),
        ("a", "b"),
        (["a", "b"],),
        (["a"], "b"),
        (b"ab",),
        (1,),
        (1.0,),
        (True,),
        ("1",),
        (None,),
        ("None",),
        (0.1,),
        (np.nextafter(0.1, 1),),
        (-0.0,),
        (0.0,),
        (float("nan"),),
        (10**30,),
        ({},),
        ([],),
        ({"a": 1},),
        ({"a": [1]},),
        ({"b": 1},),
        (["a", 1],),
        ([["a", 1]],),
        (x,),
        (x.reshape(2, 3),),
        (x.reshape(3, 2),),
        (x.astype(np.float64),),
        (x.view(np.int32),),
        (x[:-1], x[-1:]),
        (torch.from_numpy(x),),
        (torch.from_numpy(x).bfloat16(),),
        (torch.from_numpy(x).half(),),
        (torch.tensor(1.0),),
        (torch.zeros(0),),
        (torch.zeros(0, 1),),
        ("\ud800",),
    ]
    assert len({content_key(*some) for some in parts}) == len(parts)
    assert all(len(content_key(*some)) == 32 for some in parts)


def test_a_key_depends_on_content_alone():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [
        (({"a": 1, "b": [2]},), ({"b": (2,), "a": 1},)),
        ((x.T,), (x.T.copy(),)),
        ((torch.from_numpy(x).T,), (torch.from_numpy(x.T.copy()),)),
        ((np.float32(0.5), np.int64(3), np.bool_(True)), (0.5, 3, True)),
        ((nn.Parameter(torch.ones(2)),), (torch.ones(2),)),
    ]
    for one, other in same:
        assert content_key(*one) == content_key(*other)
    # As in another process, another version, another year.
    assert content_key("a", 1, [None, 0.5]) == "7fafe949fe2ca1db2f892cfd34a5b252"


@pytest.mark.parametrize("part", [Path("clip.wav"), object(), {1, 2}, np.array([None]), 1j])
def test_a_key_is_not_made_of_what_says_nothing_about_content(part):
    with pytest.raises(TypeError, match="a key is made of"):
        content_key("a", [part])


def model() -> nn.Module:
    """Parameters and buffers of all kinds: tied, 0-d, empty, not contiguous, not saved, of several types."""
    torch.manual_seed(0)
    parts = nn.ModuleDict({"first": nn.Linear(3, 5), "second": nn.Linear(3, 5), "norm": nn.BatchNorm1d(5)})
    parts["second"].weight = parts["first"].weight
    parts["norm"].half()
    parts["second"].bias = nn.Parameter(torch.randn(5, 5)[:, 2])
    parts.register_parameter("scale", nn.Parameter(torch.tensor(0.5)))
    parts.register_buffer("passing", torch.arange(7), persistent=False)
    parts.register_buffer("kept", torch.randn(9).bfloat16())
    parts.register_buffer("mask", torch.tensor([True, False, True]))
    parts.register_buffer("empty", torch.empty(0))
    return parts


@torch.no_grad()
def test_any_element_of_any_tensor_counts():
    plain, changed = weights_checksum(model()), model()
    assert weights_checksum(changed) == plain
    tensors = [*changed.parameters(), *changed.buffers()]
    seen = {plain}
    for tensor in tensors:
        for index in np.ndindex(tensor.shape):
            before = tensor[index].clone()
            tensor.data[index] = ~before if tensor.dtype == torch.bool else before + 1
            seen.add(weights_checksum(changed))
            tensor.data[index] = before
    # The tied weight is one tensor, and every change of any element gives another sum.
    assert len(seen) == 1 + sum(tensor.numel() for tensor in tensors)
    assert weights_checksum(changed) == plain


def swap(weight: nn.Parameter) -> None:
    weight.data = weight.data[[1, 0, *range(2, len(weight))]]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: setattr(w, "data", w.data * 2),
        lambda w: w.data.mul_(3),
        lambda w: w.data.copy_(w.data.flip(0)),
        lambda w: setattr(w, "data", w.data.half().float()),
        lambda w: setattr(w, "data", w.data.half()),
        lambda w: w.data.neg_(),
        swap,
    ],
    ids=["assigned", "multiplied", "copied", "rounded", "halved", "negated", "swapped"],
)
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_changes_that_leave_no_trace_in_the_version_are_seen(change, as_on_a_gpu):
    layer = nn.Linear(4, 6)
    seen = (lambda m: change_sums(list(m.parameters()))) if as_on_a_gpu else weights_checksum
    before, version = seen(layer), layer.weight._version
    change(layer.weight)
    assert layer.weight._version == version and seen(layer) != before


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
def test_every_single_element_of_a_large_weight_counts(as_on_a_gpu):
    """A sample with a stride saw 16 of these 4,096 columns, and of 32 attention heads only the even ones."""
    weight = torch.zeros(4096, 4096, dtype=torch.bfloat16)
    seen = (lambda: change_sums([weight])) if as_on_a_gpu else (lambda: weights_checksum([weight]))
    sums = [seen()]
    for row, column in [(0, 0), (0, 1), (129, 77), (1, 4095), (4095, 0), (4095, 4095)]:
        weight[row, column] = 1
        sums.append(seen())
        weight[row, column] = 0
    weight[128 * 3 : 128 * 4] = 1
    sums.append(seen())
    assert len({str(each) for each in sums}) == len(sums)


@torch.no_grad()
def test_the_sum_made_on_a_gpu_sees_every_bit_and_place():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(store.CHUNK + 11, generator=generator),
        torch.randint(0, 256, (13,), generator=generator).to(torch.uint8),
        torch.tensor(1.0).half(),
        torch.empty(0),
    ]
    sums = [change_sums(tensors)]
    large = tensors[0].view(torch.int32)
    for place in (0, 1, 2, 3, 2 * 1000, len(large) - 1, len(large) - 2):
        for bit in (0, 15, 30, 31):
            flip = torch.tensor(1 << bit).to(torch.int32)
            large[place] ^= flip
            sums.append(change_sums(tensors))
            large[place] ^= flip
    # Two signs at once, in the same place of their words and in others: they must not cancel out.
    for one, other in [(1, 3), (1, 5), (0, 2), (0, 1), (101, 100001)]:
        tensors[0][[one, other]] *= -1
        sums.append(change_sums(tensors))
        tensors[0][[one, other]] *= -1
    tensors[0][[0, 2]] = tensors[0][[2, 0]]
    sums.append(change_sums(tensors))
    tensors[0][[0, 2]] = tensors[0][[2, 0]]
    for place in range(13):
        tensors[1][place] ^= 128
        sums.append(change_sums(tensors))
        tensors[1][place] ^= 128
    assert len({str(each) for each in sums}) == len(sums)
    assert change_sums(tensors) == sums[0]


def test_weights_on_a_gpu_come_to_the_host_only_after_a_change(monkeypatch):
    layer, other = nn.Linear(4, 6), nn.Linear(4, 6)
    other.load_state_dict(layer.state_dict())
    plain = weights_checksum(layer)
    hashed = []
    monkeypatch.setattr(store, "SUMMED", ("cpu",))
    monkeypatch.setattr(
        store, "_hashes", lambda tensors, plain=store._hashes: hashed.append(1) or plain(tensors)
    )
    assert weights_checksum(layer) == weights_checksum(layer) == weights_checksum(other) == plain
    assert len(hashed) == 1
    layer.weight.data.mul_(2)
    assert weights_checksum(layer) == weights_checksum(layer) != plain and len(hashed) == 2


def test_the_checksum_of_tensors_knows_types_shapes_and_order():
    a, b = torch.ones(4), torch.zeros(4)
    sums = [
        weights_checksum(some) for some in ([a, b], [b, a], [a], [a, b, b], [a.view(2, 2), b], [a.int(), b])
    ]
    assert len(set(sums)) == len(sums) and weights_checksum(iter([a, b])) == sums[0]


VALUES = ["caf\u00e9\nline", 0.1, float("inf"), 3, True, [1.5, None, "x"], {"a": {"b": [1]}}, ""]


def test_a_store_gives_back_what_it_was_given(tmp_path):
    kept = Store(tmp_path / "some" / "folder")
    assert kept.read(content_key("nothing")) is None and not kept.folder.exists()
    tensors = [torch.randn(2, 3), torch.tensor(2), torch.ones(4, dtype=torch.bfloat16), torch.randn(3, 2).T]
    for number, value in enumerate(VALUES):
        kept.write(content_key(number), value)
        assert Store(kept.folder).read(content_key(number)) == value
    for number, tensor in enumerate(tensors):
        kept.write(content_key("tensor", number), tensor)
        found = Store(kept.folder).read(content_key("tensor", number))
        assert torch.equal(found, tensor) and found.dtype == tensor.dtype
    kept.write(content_key(0), "another")
    assert kept.read(content_key(0)) == "another"
    assert not list(tmp_path.rglob("*.tmp"))
    for wrong, error in ((None, ValueError), (object(), TypeError)):
        with pytest.raises(error):
            kept.write(content_key("wrong"), wrong)


def test_a_folder_may_go_at_any_time(tmp_path, monkeypatch):
    import shutil

    kept = Store(tmp_path / "folder")
    kept.write("ab" * 16, 1)
    shutil.rmtree(kept.folder)
    assert kept.read("ab" * 16) is None
    rename, gone = store.os.replace, []

    def delete_first(scratch, path):
        if not gone:
            gone.append(1)
            shutil.rmtree(kept.folder)
        rename(scratch, path)

    monkeypatch.setattr(store.os, "replace", delete_first)
    kept.write("ab" * 16, 2)
    assert gone and kept.read("ab" * 16) == 2


@pytest.mark.parametrize("value", [torch.randn(5, 3), ["yes", 0.25]], ids=["tensor", "value"])
def test_no_damaged_entry_is_read(tmp_path, value):
    kept, key = Store(tmp_path), content_key("it")
    kept.write(key, value)
    [path] = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"7", b"[]", b"{}", whole[:-3], whole[: len(whole) // 2], rng.bytes(200)]
    for place in rng.choice(len(whole), 40, replace=False):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = kept.read(key)
        if found is None:
            [warning] = caught
            assert "is damaged" in str(warning.message) and str(path) in str(warning.message)
            assert warning.filename == __file__
        else:  # a bit that means nothing, as in the header's padding
            assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    kept.write(key, value)
    # A file under another entry's name is none of it.
    other = content_key("other")
    (tmp_path / other[:2]).mkdir()
    path.rename(tmp_path / other[:2] / f"{other}{path.suffix}")
    with pytest.warns(UserWarning, match="is damaged"):
        assert kept.read(other) is None


def test_a_flipped_bit_in_a_kept_tensor_is_noticed(tmp_path):
    kept, key = Store(tmp_path), content_key("it")
    kept.write(key, torch.zeros(100))
    [path] = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="checksum"):
        assert kept.read(key) is None


KILLED = """
import os, sys, torch
from sarsteer_lab import store
store.os.replace = lambda *args: os._exit(9)
store.Store(sys.argv[1]).write("ab" * 16, torch.ones(3) if sys.argv[2] == "tensor" else 1)
"""


@pytest.mark.parametrize("kind", ["tensor", "value"])
def test_a_writer_killed_midway_leaves_no_entry(tmp_path, kind):
    """The rename is the last step, so whatever a killed process leaves is not an entry."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind], check=False)
    assert done.returncode == 9
    assert Store(tmp_path).read("ab" * 16) is None
    Store(tmp_path).write("ab" * 16, 2)
    assert Store(tmp_path).read("ab" * 16) == 2


MANY = """
import sys
from sarsteer_lab.store import Store, content_key
kept = Store(sys.argv[1])
for turn in range(40):
    for number in range(5):
        kept.write(content_key(number), [number] * 1000)
        assert kept.read(content_key(number)) == [number] * 1000
"""


def test_several_processes_share_a_folder(tmp_path):
    jobs = [subprocess.Popen([sys.executable, "-W", "error", "-c", MANY, str(tmp_path)]) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    with atomic_write(path) as scratch:
        scratch.write_text("[1]")
        assert not path.exists() and scratch.parent == path.parent
    assert json.loads(path.read_text()) == [1]
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as scratch:
        scratch.write_text("[2")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == [1] and list(path.parent.iterdir()) == [path]
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file"):
        with atomic_write(tmp_path):
            raise AssertionError("nothing may be written")
