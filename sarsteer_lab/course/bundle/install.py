"""Install the lab from this folder, without network: python3 install.py [FOLDER]

Makes a virtual environment in FOLDER (default: lab), installs the wheels that lie beside this file,
puts the pocket model's base weights where the lab looks for them, and copies the notebooks into
FOLDER. Needs nothing but Python with its own library. Each file's hash is checked before.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def check_machine(bundle: dict[str, str]) -> None:
    """Stop if wheels are for another Python or another kind of machine."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]} on {sys.platform} {platform.machine()}"
    made_for = f"{bundle['python']} on {bundle['machine']}"
    if here != made_for:
        sys.exit(f"The wheels in this folder are for Python {made_for}. This is Python {here}.")


def check_files() -> None:
    """Stop if a file is missing, or is not as it was when the folder was made."""
    lines = (HERE / "sha256.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        wanted, _, name = line.partition("  ")
        path = HERE / name
        if not path.is_file():
            sys.exit(f"{name} is missing: copy the folder again.")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != wanted:
            sys.exit(f"{name} is damaged: copy the folder again.")
    print(f"{len(lines)} files are as they were made")


def put_weights() -> None:
    """Copy the base weights to where `sarsteer_lab.paths.cache_folder` is."""
    cache = Path(os.environ.get("SARSTEER_CACHE") or "~/.cache/sarsteer-lab").expanduser()
    (cache / "base").mkdir(parents=True, exist_ok=True)
    for path in sorted((HERE / "base").glob("*")):
        if not (cache / "base" / path.name).is_file():
            shutil.copy(path, cache / "base")


def main() -> None:
    """The whole of it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "lab").resolve()
    bundle = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    check_machine(bundle)
    check_files()
    print(f"Making {folder}", flush=True)
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    offline = ["--no-index", "--find-links", str(HERE / "wheels")]
    subprocess.run([*pip, *offline, bundle["requirement"]], check=True)
    put_weights()
    command = programs / ("sarsteer-lab.exe" if os.name == "nt" else "sarsteer-lab")
    if command.is_file():
        subprocess.run([str(command), "fetch"], check=True)  # which assembles the pocket model
    shutil.copytree(HERE / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    print(f"Start: {programs / 'jupyter'} lab {folder / 'notebooks'}")


if __name__ == "__main__":
    main()
