"""The broken lab: its ten bugs are silent, each check fails on them, and passes on the repair."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from workshops import BROKEN_LAB, CALL, SYMPTOM, cells_of, opened

from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.replica import replica

HERE = {"np": np, "soundfile": soundfile, "soxr": soxr, "torch": torch}

NOT_YET: dict[str, list[tuple[str, str, str]]] = {
    "load_clip": [
        ("soxr.resample(wave.mean(axis=1), rate, 16000)", "wave.mean(axis=1)", "another voice"),
        (
            "soxr.resample(wave.mean(axis=1), rate, 16000)",
            "np.interp(np.arange(0, len(wave), rate / 16000), np.arange(len(wave)), wave[:, 0])",
            "filter it",
        ),
        ("wave.mean(axis=1), rate, 16000", "wave, rate, 16000", "one channel"),
        ("rate, 16000", "16000, rate", "another voice"),
    ],
    "last_states": [
        ("[:, -1]", "[:, -2]", "no state is right"),
        ("hidden[layer + 1]", "hidden[layer]", "no state is right"),
    ],
    "layer_states": [
        (
            "torch.stack([each[0] for each in kept], dim=1)",
            "torch.stack([each[0] for each in kept[:-1]], dim=1)",
            "by leaving it away",
        ),
        (
            "[each[0] for each in kept]",
            "[kept[0][0], *(each[0] for each in kept[:-1])]",
            "the layer before it",
        ),
    ],
    "split": [
        ("order[n_test:]", "order[n_test + 1:]", "to fit on"),
        (".permutation(n)", ".integers(0, n, n)", "were also fitted on|in neither part"),
        ("np.random.default_rng(seed).permutation(n)", "np.arange(n)", "same test requests"),
        ("default_rng(seed)", "default_rng()", "same seed gives"),
    ],
    "sarsteer_vectors": [
        (
            "safe_space(harmless, k)",
            "safe_space(harmless)",
            "still have a component|something else is gone",
        ),
        ("safe_space(harmless", "safe_space(refusing", "still have a component"),
        ("ablate(direction, space)", "0 * direction", "something else is gone"),
    ],
    "push_layer": [
        ("lalm.layers[layer]", "lalm.layers[max(0, layer - 1)]", "already"),
        (
            "lalm.layers[layer]",
            "lalm.layers[min(layer + 1, len(lalm.layers) - 1)]",
            "does not move",
        ),
        ("push(vector, alpha)", "push(vector, alpha / 2)", "by alpha times"),
    ],
    "controls": [
        ("manual_seed(seed)", "manual_seed(seed % 2)", "said twice"),
        ("direction.shape[-1]", "direction.shape", "no longer"),
        ("torch.Generator().manual_seed(seed)", "torch.Generator()", "said twice|each time"),
        ("direction.norm(dim=-1, keepdim=True) * random", "random.expand_as(direction)", "lengths"),
    ],
    "answers_under": [
        ("    except ValueError", "    except KeyError", "stops the whole run"),
        (
            "    finally:\n        for handle in handles:\n            handle.remove()",
            "    for handle in handles:\n        handle.remove()",
            "another error",
        ),
        ("except ValueError", "except Exception", "in silence"),
    ],
    "moves_by_alpha": [
        ("steering(lalm, vectors, alpha)", "steering(lalm, alpha * vectors, alpha)", "squared"),
        ("steering(lalm, vectors, alpha)", "steering(lalm, vectors, 1.0)", "alpha is gone"),
        ("steering(lalm, vectors, alpha)", "steering(lalm, vectors, -alpha)", "turned round"),
    ],
    "answered_share": [
        ('outcome == "answered"', 'outcome != "refused"', "got broken text"),
        (
            "answered / len(outcomes)",
            'answered / max(1, sum(o != "broken" for o in outcomes))',
            "left out of n",
        ),
    ],
}
"""Of each repair: what of it, becomes what, and what the check then says."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from opened(tmp_path, monkeypatch)


@pytest.fixture
def lab(folder: Path) -> ModuleType:
    """The reader's own file with our solutions, which the ten functions build on."""
    from workshop import begin

    begin(8)
    return importlib.import_module("my_sarsteer")


def given() -> dict[str, str]:
    """The ten functions as the notebook gives them."""
    code = [cell.source for cell in cells_of(BROKEN_LAB) if cell.cell_type == "code"]
    found = {}
    for source, following in zip(code, code[1:], strict=False):
        if check := CALL.match(following):
            found[check[1]] = SYMPTOM.sub("", source)
    return found


def function(code: str, name: str, lab: ModuleType) -> Any:
    from contextlib import contextmanager

    namespace = vars(lab) | HERE | {"contextmanager": contextmanager}
    exec(code, namespace)
    return namespace[name]


def checked(answer: Any, name: str, lalm: LALM) -> Any:
    check = getattr(importlib.import_module("workshop.broken"), f"check_{name}")
    more = [lalm] if len(inspect.signature(check).parameters) > 1 else []
    result = check(answer, *more)
    assert not foreign_hooks(lalm.model), "a check leaves no hook behind"
    return result


def test_there_are_ten(lab: ModuleType) -> None:
    from workshop.broken import BUGS

    assert list(given()) == list(BUGS) == list(NOT_YET) and len(BUGS) == 10


@pytest.mark.parametrize("name", NOT_YET)
def test_the_bug_fails_the_repair_passes_and_half_a_repair_is_told(
    name: str, lab: ModuleType
) -> None:
    from workshop.mine import solution

    lalm = replica("qwen2_audio")
    before = lalm.fingerprint()
    bug = checked(function(given()[name], name, lab), name, lalm)
    assert not bug and "stops with" not in bug.message, "a silent bug raises nothing"
    assert checked(function(solution(name), name, lab), name, lalm)
    for old, new, message in NOT_YET[name]:
        code = solution(name)
        assert old in code, (name, old)
        result = checked(function(code.replace(old, new), name, lab), name, lalm)
        assert not result, (name, new)
        assert re.search(message, result.message), (name, new, result.message)
    assert lalm.fingerprint() == before


SHOWS_ON_NOISE = sorted(set(NOT_YET) - {"controls", "answered_share", "load_clip"})
"""Bugs whose symptom does not need a model that understands anything."""


@pytest.mark.parametrize("name", SHOWS_ON_NOISE)
def test_the_symptom_shows_and_goes_away(
    name: str, lab: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    from workshop.mine import solution

    lalm = replica("qwen2_audio")
    symptom = getattr(importlib.import_module("workshop.symptoms"), f"symptom_{name}")
    agrees = []
    for code in (given()[name], solution(name)):
        symptom(function(code, name, lab), lalm)
        agrees.append(both_rows_agree(name, capsys.readouterr().out))
    assert agrees == [False, True]


def both_rows_agree(name: str, printed: str) -> bool:
    """Whether yours and the lab's are the same, as a reader sees it."""
    if name == "answers_under":
        return "before it to after it: 0 of 6" in printed
    if name == "last_states":
        rows = [line.split() for line in printed.splitlines()[2:]]
        return all(yours == library for _, yours, library in rows)
    yours, library = (
        [
            line.removeprefix(start).strip()
            for line in printed.splitlines()
            if line.startswith(start)
        ]
        for start in ("yours", "the lab's")
    )
    assert yours
    return yours == library
