"""The pocket model with what is learnt for its understanding, and the files that ship it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarsteer_lab.checkpoints import load_parts
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import assemble_pocket, deltas_folder
from sarsteer_lab.pocket.dial import with_dials
from sarsteer_lab.pocket.soft_tokens import Context, SoftTokens
from sarsteer_lab.store import atomic_write
from training.ctc import head_file
from training.tokens import plain_tokens


def trained_token_head(tokenizer: Any) -> dict[str, Tensor]:
    """The CTC head of the shipped ears, as the understanding dial holds it.

    A blank is said as a space.
    """
    head = load_file(head_file(deltas_folder()))
    [silence] = plain_tokens(tokenizer, " ")
    return head | {"ids": head["ids"].int(), "silence": torch.tensor(silence)}


def fresh_context(d_model: int) -> dict[str, Tensor]:
    """A context that adds nothing yet."""
    torch.manual_seed(0)
    return dict(Context(d_model).state_dict())


def pocket_with(context: Mapping[str, Tensor] | None) -> LALM:
    """The pocket model, its safety dial at 1, and a learnt context (None: a fresh one) as its
    spoken safety; this dial and that of understanding at 0.
    """
    folder = assemble_pocket()
    model, processor = load_parts(folder, name="pocket", device="auto", dtype="auto", family=None)
    head = trained_token_head(processor.tokenizer)
    if context is None:
        context = fresh_context(model.config.text_config.hidden_size)
    soft_tokens = SoftTokens(model.model.multi_modal_projector, head, context)
    lalm = with_dials(model, processor, folder, soft_tokens)
    lalm.set_dials(safety=1.0)
    return lalm


def ship(learnt: Path, folder: Path, tokenizer: Any) -> None:
    """Write a learnt context, and the head that it reads, as `load_lalm` finds them."""
    with safe_open(learnt, "pt") as file:
        metadata = file.metadata()
    with atomic_write(folder / "understanding.safetensors") as part:
        save_file(trained_token_head(tokenizer), part)
    with atomic_write(folder / "spoken_safety.safetensors") as part:
        save_file(load_file(learnt), part, metadata=metadata)
