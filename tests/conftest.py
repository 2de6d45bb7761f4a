"""Fixtures shared by the tests: a tiny random LALM, the pocket model where it is there, and made-up
clips."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import address, browser
from installed import install
from spoken_set import write_set

from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import data_folder
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt, Request

__all__ = ["address", "browser"]  # fixtures

# Tests run beside other work and use tiny models, for which threads only cost.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def tiny() -> LALM:
    """The tiny random replica; its answers are noise."""
    return replica("qwen2_audio", size="tiny")


@pytest.fixture(scope="session")
def pocket() -> LALM:
    """The pocket model; the test is skipped where its weights do not ship or cannot be
    assembled."""
    for name in ("audio.safetensors", "safety.safetensors"):
        if not (data_folder() / "pocket" / name).is_file():
            pytest.skip(f"data/pocket/{name} is not there")
    return load_lalm("pocket", device="cpu")


@pytest.fixture(
    params=["tiny", pytest.param("pocket", marks=[pytest.mark.pocket, pytest.mark.late])]
)
def lalm(request: pytest.FixtureRequest) -> Iterator[LALM]:
    """Each test once on the replica and, late, on the pocket model if it is there (dial at 1)."""
    model = request.getfixturevalue(request.param)
    yield model
    if model.safety is not None:
        model.set_safety(1.0)


@pytest.fixture(scope="session")
def make_clip() -> Callable[[float, int], np.ndarray]:
    """A clip of noise whose loudness changes like speech, from its length in seconds and a seed."""

    def make(seconds: float, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        t = np.arange(int(16000 * seconds)) / 16000
        tone = np.sin(2 * np.pi * (150 + 100 * rng.random()) * t * (1 + 0.3 * np.sin(3 * t + seed)))
        loudness = 0.2 + 0.15 * np.sin(2 * np.pi * (2 + rng.random()) * t)
        return (loudness * (0.6 * tone + 0.4 * rng.standard_normal(len(t)))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def prompts(make_clip: Callable[[float, int], np.ndarray]) -> list[Prompt]:
    """Typed and spoken prompts of mixed lengths."""
    instruction = "Answer the request in the audio."
    return [
        Prompt("Name a fruit."),
        Prompt(instruction, make_clip(1.0, 1)),
        Prompt("Hi", make_clip(2.3, 2)),
        Prompt("", make_clip(0.4, 3)),
        Prompt("Tell me how rain is made, in a few words.", system="You are a calm teacher."),
        Prompt(instruction, make_clip(1.7, 4)),
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def spoken(
    tmp_path_factory: pytest.TempPathFactory, make_clip: Callable[[float, int], np.ndarray]
) -> list[Request]:
    """Four requests whose clips are noise."""
    return read_set(f"prompts:{write_set(tmp_path_factory.mktemp('set'), make_clip)}").prompts[:4]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which the project's wheel is installed, outside the
    repository."""
    return install(tmp_path_factory.mktemp("installed"))
