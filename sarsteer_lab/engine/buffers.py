"""Where captured states are gathered: one preallocated tensor, on the fastest place that has room for it."""

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor


class StateBuffer:
    """Room for float32 states of `prompts`, filled in any order, a layer and some prompts at a time.

    The tensor lies on `device` if it fits into the budget there. Past it, states of a GPU go to pinned host
    memory by asynchronous copies, which overlap with the forward pass; past the host's budget the tensor is a
    file in `folder` mapped into memory, deleted when the tensor is. A budget is in bytes, by default half of
    what is free when the buffer is made.
    """

    def __init__(
        self,
        prompts: int,
        layers: int,
        d_model: int,
        device: torch.device,
        *,
        folder: Path | None = None,
        budget: int | None = None,
    ) -> None:
        shape = (prompts, layers, d_model)
        size = 4 * prompts * layers * d_model
        if device.type != "cpu" and size <= (budget if budget is not None else _free(device) // 2):
            self.states, self.place = torch.empty(shape, device=device), str(device)
        elif size <= (budget if budget is not None else _free(torch.device("cpu")) // 2):
            self.states = torch.empty(shape, pin_memory=device.type == "cuda")
            self.place = "pinned memory" if device.type == "cuda" else "cpu"
        else:
            self.states, self.place = _mapped(shape, folder), "disk"
        self._device = device

    def put(self, rows: Sequence[int], layer: int, values: Float[Tensor, "row d_model"]) -> None:
        """Keep `values` as the states of the prompts `rows` in the `layer`-th of the kept layers."""
        if self.place == "pinned memory":
            for row, value in zip(rows, values.float(), strict=True):
                self.states[row, layer].copy_(value, non_blocking=True)
        else:
            index = torch.tensor(rows, device=self.states.device)
            self.states[index, layer] = values.to(self.states.device, torch.float32)

    def finish(self) -> Float[Tensor, "prompt layer d_model"]:
        """All states, once every copy under way has arrived."""
        if self.place == "pinned memory":
            torch.cuda.synchronize(self._device)
        return self.states


def _free(device: torch.device) -> int:
    """Free bytes on a device; of the host, what the operating system could give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:  # no Linux: physical memory, of which half is still a fair budget
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _mapped(shape: tuple[int, int, int], folder: Path | None) -> Float[Tensor, "prompt layer d_model"]:
    """A tensor whose memory is a scratch file."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".states")
    os.close(handle)
    size = shape[0] * shape[1] * shape[2]
    states = torch.from_file(name, shared=True, size=size, dtype=torch.float32).view(shape)
    weakref.finalize(states.untyped_storage(), Path(name).unlink, missing_ok=True)
    return states
