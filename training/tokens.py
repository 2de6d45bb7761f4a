"""Texts as tokens, and rows of tokens side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of `text` alone, with none that mark its beginning or end."""
    return tokenizer(text, add_special_tokens=False).input_ids


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a turn; it pads, too."""
    return tokenizer.convert_tokens_to_ids("<|im_end|>")


def padded(
    rows: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    *,
    left: bool = False,
    cached: int = 0,
) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row cached+token"]]:
    """`rows` filled up with `pad` behind them (`left`: before them), and the attention mask.

    The mask begins with `cached` ones, for the positions that a cache holds already.
    """
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    read = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        start = width - len(row) if left else 0
        stop = start + len(row)
        ids[number, start:stop] = torch.tensor(row)
        read[number, start:stop] = 1
    known = torch.ones(len(rows), cached, dtype=torch.long)
    mask = torch.cat([known, read], 1)
    return ids.to(device), mask.to(device)
