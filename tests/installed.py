"""The wheel, installed as a stranger would: outside the repository, in an environment of its
own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def fresh(folder: Path) -> dict[str, str]:
    """A new environment without the project, and what a shell needs to use it.

    What the project asks for is not downloaded again: the environment sees the packages of this
    one.
    """
    venv.create(folder / "env", with_pip=False)
    [packages] = (folder / "env").glob("lib/python*/site-packages")
    shared = folder / "shared"
    shared.mkdir()
    for entry in Path(torch.__file__).resolve().parents[1].iterdir():
        if "sarsteer" not in entry.name and entry.suffix != ".pth":
            (shared / entry.name).symlink_to(entry)
    (packages / "shared.pth").write_text(f"{shared}\n")
    # IPython would take the packages of an environment that is active here.
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    path = f"{folder / 'env' / 'bin'}{os.pathsep}{environment['PATH']}"
    return environment | {
        "PATH": path,
        "SARSTEER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def install(folder: Path) -> dict[str, str]:
    """The same after `pip install WHEEL[lab]`: pip still checks that each requirement is met."""
    environment, wheel = fresh(folder), build_wheel(folder)
    command = ["python", "-m", "pip", "install", "--no-index", "--disable-pip-version-check"]
    command += [f"{wheel}[lab]"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return environment
