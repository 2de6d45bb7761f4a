"""`sarsteer-lab doctor MODEL --dry-run`: what a model is and takes, from its configuration alone.

The model is built without memory (torch's device "meta"), so its parts are found and counted as
they are.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.initialization import no_init_weights

from sarsteer_lab.checkpoints import explained, free_memory, model_class
from sarsteer_lab.engine.memory import position_bytes
from sarsteer_lab.families import missing_packages
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import shipped_table
from sarsteer_lab.probe.doctor import Finding, Report, in_bytes, parts

ROWS, POSITIONS, STATES = 4, 30 * 25 + 60 + 48, 500
"""A batch of 4 clips of 30 s in the chat format (some 60 tokens), with answers of 48 tokens (an
evaluation takes as many as fit); prompts whose states are kept."""

WEIGHTS = {"float32": 32, "bfloat16": 16, "8 bits": 8, "4 bits": 4}
"""Bits of a weight; of quantised models those of the linear layers, all others stay at 16."""


def foresee(name: str | Path, *, hub: bool = False) -> Report:
    """What a checkpoint is and what it takes: `name` is an id, a folder or the path of a
    config.json.

    Reads the local cache alone, or with `hub` fetches config.json (some KB). Raises
    FileNotFoundError and PermissionError for a configuration that is not there, ImportError for a
    package that the model needs.
    """
    try:
        with explained(name):
            config = hf.AutoConfig.from_pretrained(
                Path(name).expanduser(), local_files_only=not hub
            )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or fetch its config.json alone with --hub") from error
    lalm = LALM(meta_model(config), SimpleNamespace(pad_token=""), name=str(name))
    found = [*_described(lalm), *parts(lalm)]
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    free = {device: free_memory(device) or 0 for device in devices}
    for kind in WEIGHTS:
        each = memory(lalm, kind)
        fits = [
            f"{place} ({in_bytes(room)} free)" for place, room in free.items() if sum(each) <= room
        ]
        detail = "{} of weights + {} of captured states + {} for a batch".format(
            *map(in_bytes, each)
        )
        detail += f" = {in_bytes(sum(each))}: fits {', '.join(fits) or 'nowhere here'}"
        found.append(Finding(kind, "ok" if fits else "note", detail))
        if kind == "bfloat16" and not fits:
            known = shipped_table("models.toml").items()  # recommended ones, the smallest first
            smaller = [model for model, row in known if row["memory"] * 1e9 <= max(free.values())]
            found.append(
                Finding("would fit", "note", f"{', '.join(smaller) or 'pocket'}, in bfloat16")
            )
    return Report(f"{name}: {type(lalm.model).__name__}, from its configuration alone", found)


def _described(lalm: LALM) -> Iterator[Finding]:
    family, config = lalm.family, lalm.core.config
    needs = (
        [f"to load it: pip install {' '.join(missing)}"]
        if (missing := missing_packages(family))
        else []
    )
    more = "; ".join(["", *needs, *filter(None, [family.note])])
    yield Finding("family", "ok", f"{family.name} ({lalm.model.config.model_type}){more}")
    # Of Whisper's kind: two frames of 10 ms make a position.
    frames = getattr(getattr(config, "audio_config", None), "max_source_positions", None)
    heard = f"windows of {frames / 50:g} s" if frames else "a length that its processor sets"
    heard += f"; a clip is token {lalm.audio_token_id}, repeated"
    text = lalm.audio_token_id is None
    yield Finding("audio", "ok", "a text model: only typed prompts can be used" if text else heard)
    writer = "tokenizer" if text else "processor"
    yield Finding(
        "chat format",
        "ok",
        f"{family.render.__name__}: its {writer}'s template, which comes with it",
    )


def meta_model(config: Any) -> Any:
    """The model of a configuration without its weights."""
    maker = model_class(config)
    with torch.device("meta"), no_init_weights():
        return (
            maker.from_config(config)
            if hasattr(maker, "from_config")
            else maker._from_config(config)
        )


def memory(lalm: LALM, kind: str) -> tuple[int, int, int]:
    """Bytes of a model's weights in a kind of `WEIGHTS`, of captured states, and of what a batch
    computes."""
    bits, rest = WEIGHTS[kind], max(WEIGHTS[kind], 16)
    head = lalm.core.get_output_embeddings()
    linear = [
        part for part in lalm.model.modules() if isinstance(part, nn.Linear) and part is not head
    ]
    quantised = sum(part.weight.numel() for part in linear)
    others = sum(weight.numel() for weight in lalm.model.parameters()) - quantised
    states = STATES * lalm.n_layers * lalm.d_model * 4
    batch = ROWS * POSITIONS * position_bytes(lalm) // lalm.dtype.itemsize * rest // 8
    return (quantised * bits + others * rest) // 8, states, batch
