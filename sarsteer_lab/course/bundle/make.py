"""Fill a folder with everything that a class without network needs.

The wheels are of the versions in constraints.txt, for the machine and the Python that this runs on:
pip cannot tell well which packages another kind of machine needs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sarsteer_lab.course.bundle.foresee import PACKED, announcement, this_machine
from sarsteer_lab.course.copying import copy_course
from sarsteer_lab.course.folders import checkout
from sarsteer_lab.pocket.base import LANGUAGE_MODEL, check_file, fetch
from sarsteer_lab.store import file_sha256

HASHES = "sha256.txt"
"""Written last: a folder that has it is whole."""

HERE = Path(__file__).parent


class BundleError(RuntimeError):
    """pip could not bring a wheel: the message holds what it said."""


def make_bundle(out: Path, torch_index: str | None = None, *, announce_only: bool = False) -> str:
    """Fill `out` and return what it holds in words. Says what is fetched, and how large it is,
    before.

    `torch_index` is the address of a package index that torch is taken from. One that was stopped
    goes on. Raises FileExistsError for a folder that is whole or holds something else,
    NotADirectoryError for a file, FileNotFoundError outside a checkout, `BundleError`, and what
    `pocket.base.fetch` does.
    """
    repository = checkout()
    if repository is None:
        raise FileNotFoundError("a bundle is made in a checkout: it holds constraints.txt")
    refuse_other_folders(out)
    print(announcement("sarsteer-lab", "lab", out, torch_index), file=sys.stderr, flush=True)
    if announce_only:
        return "Nothing has been fetched"
    start = time.monotonic()
    wheels = out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    constraints = repository / "constraints.txt"
    if torch_index:
        pins = constraints.read_text(encoding="utf-8").splitlines()
        [torch] = [pin for pin in pins if pin.startswith("torch==")]
        # What torch needs comes with all else: that index has few versions of it.
        gather([torch], wheels, constraints, "--no-deps", "--index-url", torch_index)
    own = build_wheel(repository, wheels)
    gather([f"{own}[lab]"], wheels, constraints)
    put_weights(out / "base")
    shutil.rmtree(out / "notebooks", ignore_errors=True)
    copy_course(out / "notebooks")
    finish(out, f"sarsteer-lab[lab]=={own.name.split('-')[1]}")
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e9
    minutes = (time.monotonic() - start) / 60
    n_wheels = len(list(wheels.glob("*.whl")))
    told = f"{out}: {n_wheels} wheels, {size:.2f} GB in {len(files)} files, {minutes:.1f} minutes."
    return f"{told} Copy the folder; INSTALL.md in it says the rest"


def refuse_other_folders(out: Path) -> None:
    """Raise FileExistsError for a folder that is no begun bundle, NotADirectoryError for a file."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: a bundle needs a folder")
    if (out / HASHES).exists():
        raise FileExistsError(f"{out} is a finished bundle, and nothing is overwritten")
    if out.exists() and not (out / "wheels").is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is there already and no bundle: name a new folder")


def gather(requirements: list[str], wheels: Path, constraints: Path, *options: str) -> None:
    """Have pip put the wheels of requirements, and of all that they need, into a folder.

    What the index has as source alone is built. Raises `BundleError`.
    """
    where = ["--wheel-dir", str(wheels), "--find-links", str(wheels), "-c", str(constraints)]
    _pip("wheel", *where, *options, *requirements)


def build_wheel(project: Path, wheels: Path) -> Path:
    """The wheel of a project, built into a folder. Raises `BundleError`."""
    with tempfile.TemporaryDirectory() as scratch:
        # With hatchling at hand nothing has to be fetched to build it.
        isolated = ["--no-build-isolation"] if find_spec("hatchling") else []
        _pip("wheel", "--no-deps", *isolated, "--wheel-dir", scratch, str(project))
        [built] = Path(scratch).glob("*.whl")
        return Path(shutil.copy(built, wheels))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    done = subprocess.run([*command, *quiet], env=os.environ, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise BundleError(f"pip {arguments[0]} failed: {done.stderr.strip()[-800:]}")


def put_weights(folder: Path) -> None:
    """The pocket model's base weights, fetched if they are not in the cache; hashed."""
    fetched = fetch(LANGUAGE_MODEL)
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(fetched, folder))
    check_file(copy, LANGUAGE_MODEL.sha256, copy.name)


def finish(out: Path, requirement: str) -> None:
    """Add how to install it, and last the hash of every file."""
    shutil.copy(HERE / "install.py", out)
    python, machine = this_machine()
    bundle = {"requirement": requirement, "python": python, "machine": machine}
    (out / "bundle.json").write_text(json.dumps(bundle, indent=1), encoding="utf-8")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    packed = sum(path.stat().st_size for path in files)
    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        (HERE / "INSTALL.md.jinja").read_text(encoding="utf-8")
    )
    told = {**bundle, "files": len(files) + 1, "gigabytes": f"{packed / PACKED / 1e9:.1f}"}
    (out / "INSTALL.md").write_text(page.render(told), encoding="utf-8")
    lines = []
    for path in [*files, out / "INSTALL.md"]:
        lines.append(f"{file_sha256(path)}  {path.relative_to(out).as_posix()}\n")
    (out / HASHES).write_text("".join(lines), encoding="utf-8")
