"""Batch sizes by the memory that is free, and glibc's settings so that freed memory is kept."""

import ctypes
import sys

from sarsteer_lab.checkpoints import free_memory
from sarsteer_lab.lalm import LALM

MOST_ROWS = 128
"""Rows of the largest batch: on two CPU cores (Xeon, AVX-512) the pocket model decodes 128 rows at
2.0 ms a row and step, 64 at 2.4, 32 at 3.2, 16 at 4.7, and 8 at 7.6."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Settings of `mallopt`, from glibc's malloc.h."""


def rows_that_fit(lalm: LALM, length: float, new_tokens: int) -> int:
    """How many prompts of a `length` fit with answers of `new_tokens`, 1 to `MOST_ROWS`.

    `length` is that of `Encoded.length`. Keys and values of a batch, three times (as read first,
    under another text, and with room for the answers), and what a layer computes while a prompt is
    read take at most a quarter of the free memory.
    """
    free = free_memory(str(lalm.device))
    if free is None:
        return MOST_ROWS
    row = (length + new_tokens) * position_bytes(lalm)
    return max(1, min(MOST_ROWS, int(free / 4 / row)))


def position_bytes(lalm: LALM) -> int:
    """Bytes that a position of a batch takes in the model's dtype, for `rows_that_fit`."""
    config = lalm.text_config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or lalm.d_model // config.num_attention_heads
    layer = 3 * getattr(config, "intermediate_size", 4 * lalm.d_model) + 4 * lalm.d_model
    return (6 * lalm.n_layers * heads * width + layer) * lalm.dtype.itemsize


def keep_freed_memory() -> None:
    """Let glibc keep the memory that large tensors give back, up to 2 GB, for the next ones.

    Otherwise each tensor of some megabytes is mapped anew, page by page, and unmapped when it goes;
    where that is slow (some virtual machines) the pocket model decodes ten times as slowly. Only
    with glibc.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
