"""Keys, the checksum of weights, and what is kept on disk: nothing may be taken for something
else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sarsteer_lab.keys import content_key


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
