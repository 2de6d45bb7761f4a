"""`sarsteer-lab doctor MODEL --dry-run`: what a model is and takes, from its configuration alone.

The model is built without memory (torch's device "meta"): its parts are found and counted there.
"""

import re
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
from sarsteer_lab.probe.findings import Finding, Report, in_bytes, parts

_MADE_HERE = re.compile("pocket|(replica|recorded)(:.*)?")
"""Names of models that are made, or read, on this machine (see `loading.load_lalm`)."""

ROWS, POSITIONS, STATES = 4, 30 * 25 + 60 + 48, 500
"""A batch of 4 clips of 30 s in the chat format (some 60 tokens), with answers of 48 tokens (an
evaluation takes as many as fit); prompts whose states are kept."""

WEIGHTS = {"float32": 32, "bfloat16": 16, "8 bits": 8, "4 bits": 4}
"""Bits of a weight; of quantised models those of the linear layers, all others stay at 16."""


def foresee(name: str | Path, *, hub: bool = False) -> Report:
    """What a checkpoint is and takes: `name` is an id, a folder or the path of a config.json.

    Reads the local cache alone, or with `hub` fetches config.json (some KB), and never runs code
    that a checkpoint brings. Raises FileNotFoundError and PermissionError for a configuration that
    is not there, ImportError for a package that the model needs, ValueError for one that only its
    authors' code can read, and for a name of what is no checkpoint ("replica:...").
    """
    if isinstance(name, str) and _MADE_HERE.fullmatch(name):
        reason = "is no checkpoint with a config.json"
        raise ValueError(
            f"{name} {reason}: sarsteer-lab doctor {name}, without --dry-run, tries it"
        )
    place = Path(name).expanduser()
    try:
        with explained(name):
            # Said outright: left open, transformers asks in the terminal, and runs it.
            options = {"local_files_only": not hub, "trust_remote_code": False}
            config = hf.AutoConfig.from_pretrained(place, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; or fetch its config.json alone with --hub") from error
    lalm = LALM(meta_model(config), SimpleNamespace(pad_token=""), name=str(name))
    title = f"{name}: {type(lalm.model).__name__}, from its configuration alone"
    findings = [*_described(lalm), *parts(lalm), *_fitting(lalm)]
    return Report(title, findings)


def _described(lalm: LALM) -> Iterator[Finding]:
    family = lalm.family
    remarks = [f"{family.name} ({lalm.model.config.model_type})"]
    if missing := missing_packages(family):
        remarks.append(f"to load it: pip install {' '.join(missing)}")
    if family.note:
        remarks.append(family.note)
    yield Finding("family", "ok", "; ".join(remarks))
    template = f"{family.render.__name__}: its {{}}'s template, which comes with it"
    if lalm.audio_token_id is None:
        yield Finding("audio", "ok", "a text model: only typed prompts can be used")
        yield Finding("chat format", "ok", template.format("tokenizer"))
        return
    # Of Whisper's kind: two frames of 10 ms make a position.
    tower = getattr(lalm.core.config, "audio_config", None)
    frames = getattr(tower, "max_source_positions", None)
    heard = f"windows of {frames / 50:g} s" if frames else "a length that its processor sets"
    yield Finding("audio", "ok", f"{heard}; a clip is token {lalm.audio_token_id}, repeated")
    yield Finding("chat format", "ok", template.format("processor"))


def _fitting(lalm: LALM) -> Iterator[Finding]:
    """What a model takes in every kind of weights, and where here it fits."""
    free = {"cpu": free_memory("cpu") or 0}
    for number in range(torch.cuda.device_count()):
        device = f"cuda:{number}"
        free[device] = free_memory(device) or 0
    for kind in WEIGHTS:
        weights, states, batch = memory(lalm, kind)
        total = weights + states + batch
        amounts = f"{in_bytes(weights)} of weights + {in_bytes(states)} of captured states"
        amounts += f" + {in_bytes(batch)} for a batch = {in_bytes(total)}"
        fits = []
        for place, room in free.items():
            if total <= room:
                fits.append(f"{place} ({in_bytes(room)} free)")
        if fits:
            yield Finding(kind, "ok", f"{amounts}: fits {', '.join(fits)}")
            continue
        yield Finding(kind, "note", f"{amounts}: fits nowhere here")
        if kind == "bfloat16":
            yield Finding("would fit", "note", f"{recommended(max(free.values()))}, in bfloat16")


def recommended(room: int) -> str:
    """The recommended models that fit in so many bytes, the smallest first, or the pocket model."""
    fitting = []
    for model, row in shipped_table("models.toml").items():
        if row["memory"] * 1e9 <= room:
            fitting.append(model)
    return ", ".join(fitting) or "pocket"


def meta_model(config: Any) -> Any:
    """The model of a configuration without its weights."""
    maker = model_class(config)
    build = maker.from_config if hasattr(maker, "from_config") else maker._from_config
    with torch.device("meta"), no_init_weights():
        return build(config)


def memory(lalm: LALM, kind: str) -> tuple[int, int, int]:
    """Bytes of weights in a kind of `WEIGHTS`, of captured states, and of what a batch computes."""
    linear_bits = WEIGHTS[kind]
    other_bits = max(linear_bits, 16)
    head = lalm.core.get_output_embeddings()
    linear = 0
    for part in lalm.model.modules():
        if isinstance(part, nn.Linear) and part is not head:
            linear += part.weight.numel()
    others = sum(weight.numel() for weight in lalm.model.parameters()) - linear
    weights = (linear * linear_bits + others * other_bits) // 8
    states = STATES * lalm.n_layers * lalm.d_model * 4
    numbers = ROWS * POSITIONS * position_bytes(lalm) // lalm.dtype.itemsize
    return weights, states, numbers * other_bits // 8
