"""Keys, the checksum of weights, and what is kept on disk: nothing may be taken for something
else."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from sarsteer_lab import store
from sarsteer_lab.keys import content_key
from sarsteer_lab.store import Store, atomic_write

VALUES = ["caf\u00e9\nline", 0.1, float("inf"), 3, True, [1.5, None, "x"], {"a": {"b": [1]}}, ""]


def test_a_store_gives_back_what_it_was_given(tmp_path):
    kept = Store(tmp_path / "some" / "folder")
    assert kept.read(content_key("nothing")) is None and not kept.folder.exists()
    tensors = [
        torch.randn(2, 3),
        torch.tensor(2),
        torch.ones(4, dtype=torch.bfloat16),
        torch.randn(3, 2).T,
    ]
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
from sarsteer_lab.keys import content_key
from sarsteer_lab.store import Store
kept = Store(sys.argv[1])
for turn in range(40):
    for number in range(5):
        kept.write(content_key(number), [number] * 1000)
        assert kept.read(content_key(number)) == [number] * 1000
"""


def test_several_processes_share_a_folder(tmp_path):
    jobs = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", MANY, str(tmp_path)])
        for _ in range(2)
    ]
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
