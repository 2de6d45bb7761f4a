"""Captured states land where there is room, and are the same wherever that is."""

import gc
from pathlib import Path

import pytest
import torch

from sarsteer_lab.activations import ActivationCache, capture
from sarsteer_lab.engine.buffers import StateBuffer


@pytest.mark.parametrize("budget", [None, 0])
def test_rows_and_layers_in_any_order(budget: int | None, tmp_path: Path) -> None:
    wanted = torch.randn(5, 3, 4)
    buffer = StateBuffer(5, 3, 4, torch.device("cpu"), folder=tmp_path, budget=budget)
    assert buffer.place == ("cpu" if budget is None else "disk")
    assert len(list(tmp_path.iterdir())) == (0 if budget is None else 1)
    for layer in (2, 0, 1):
        for rows in ([4, 1], [0, 2, 3]):
            buffer.put(rows, layer, wanted[rows, layer])
    states = buffer.finish()
    assert torch.equal(states, wanted)


def test_the_scratch_file_goes_with_the_tensor_and_not_before(tmp_path: Path) -> None:
    buffer = StateBuffer(2, 2, 3, torch.device("cpu"), folder=tmp_path, budget=47)
    states = buffer.finish()
    del buffer
    gc.collect()
    states.fill_(1.5)
    assert (states == 1.5).all() and len(list(tmp_path.iterdir())) == 1
    part = states[:, 1]
    del states
    gc.collect()
    assert (part == 1.5).all()
    del part
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_bfloat16_states_are_kept_in_float32() -> None:
    buffer = StateBuffer(1, 1, 2, torch.device("cpu"))
    buffer.put([0], 0, torch.tensor([[1.0, 2.5]], dtype=torch.bfloat16))
    assert buffer.finish().dtype == torch.float32 and buffer.states.tolist() == [[[1.0, 2.5]]]


def test_capture_past_its_budget_gives_the_same_states(tiny, prompts, tmp_path: Path) -> None:
    plain = capture(tiny, prompts)
    assert torch.equal(capture(tiny, prompts, budget=0), plain)
    cache = ActivationCache(tmp_path)
    for _ in range(2):
        assert torch.equal(capture(tiny, prompts, cache=cache, budget=0), plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_states_of_a_gpu_past_its_budget_go_to_pinned_memory() -> None:
    device, wanted = torch.device("cuda"), torch.randn(6, 2, 8)
    buffer = StateBuffer(6, 2, 8, device)
    assert buffer.place.startswith("cuda")
    host = StateBuffer(6, 2, 8, torch.device("cpu"))
    host.place, host._device = "pinned memory", device
    host.states = host.states.pin_memory()
    for layer in range(2):
        host.put(range(6), layer, wanted[:, layer].to(device))
    assert torch.equal(host.finish(), wanted)
