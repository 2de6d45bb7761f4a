"""The project's own files: pins in step, nothing of one machine in them, a wheel that carries its
data."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from installed import build_wheel
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sarsteer_lab
from training import DATA, YARDSTICK

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(lines: list[str]) -> dict[str, str]:
    """The lines "name==version", by canonical name; every other line is an error."""
    found: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"{line!r} is not name==version"
        assert canonicalize_name(match[1]) not in found, f"{match[1]} is pinned twice"
        found[canonicalize_name(match[1])] = match[2]
    return found


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def requirements(*groups: list[str]) -> list[Requirement]:
    return [Requirement(text) for group in groups for text in group]


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_constraints_pin_everything_that_the_project_asks_for() -> None:
    pinned = constraints()
    for requirement in requirements(PROJECT["dependencies"], *EXTRAS.values()):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pinned[name]), (
            f"{requirement} excludes the pinned {pinned[name]}"
        )
    assert pinned["torch"] == "2.13.0"


def test_constraints_pin_what_is_installed_below_the_direct_requirements() -> None:
    """Every installed requirement of a requirement is pinned too, so that no version is left to
    chance."""
    from importlib.metadata import PackageNotFoundError, requires

    pinned, unpinned = constraints(), set()
    waiting = [r.name for r in requirements(PROJECT["dependencies"], EXTRAS["lab"], EXTRAS["test"])]
    seen: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            below = requires(name) or []
        except PackageNotFoundError:  # for another platform, or an extra that nobody asked for
            continue
        if name not in pinned:
            unpinned.add(name)
        for requirement in map(Requirement, below):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    # torch's CUDA libraries come with its CUDA builds only, which fix their versions themselves.
    unpinned = {name for name in unpinned if not re.match(r"nvidia-|cuda-|triton$", name)}
    assert not unpinned


def test_conda_users_get_the_same_versions() -> None:
    text = (ROOT / "environment.yml").read_text()
    lines = re.findall(r"^      - (.*)$", text, flags=re.M)
    assert lines[0] == "-c constraints.txt" and lines[-1] == "-e ."
    wanted = {
        canonicalize_name(r.name)
        for r in requirements(PROJECT["dependencies"], EXTRAS["lab"], EXTRAS["test"])
    }
    pinned = constraints()
    assert pins(lines[1:-1]) == {name: pinned[name] for name in wanted}
    python = re.search(r"^  - python=([0-9.]+)$", text, flags=re.M)
    assert python and PROJECT["requires-python"] == f">={python[1]}"


def test_no_tracked_file_names_a_machine_or_a_package_index() -> None:
    # Written in pieces, so that this file does not find itself.
    folders = "|".join(["work", "tmp", "root"])
    hosts = "|".join(
        [
            r"pypi\." + "org",
            r"python" + r"hosted\.org",
            r"npm" + r"js\.(?:org|com)",
            r"deb\." + "debian",
        ]
    )
    pattern = re.compile(rf"(?<![\w.~-])/(?:{folders})/|{hosts}|/opt/" + "pypi|/opt/" + "wheels")
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # sound, weights, pictures
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def test_tracked_files_stay_small_and_hold_no_pickle() -> None:
    for path in tracked_files():
        assert path.suffix not in {
            ".pt",
            ".pth",
            ".bin",
            ".pkl",
            ".pickle",
            ".ckpt",
            ".npy",
            ".npz",
        }, path
        assert path.stat().st_size < 45e6, f"{path} is larger than 45 MB"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("walkthrough", ["sarsteer-lab walkthrough"]),
        ("lab", ["jupyter lab notebooks"]),
        ("test", ["ruff format --check", "ruff check", "-m mypy", "-m pytest"]),
    ],
)
def test_make_targets_set_up_and_run(target: str, commands: list[str]) -> None:
    shown = subprocess.run(
        ["make", "-n", "-W", "constraints.txt", target],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    order = ['pip install --quiet  \\\n\t"$(grep', "-c constraints.txt -e", *commands]
    places = [shown.find(command) for command in order]
    assert -1 not in places, f"{order[places.index(-1)]!r} is not in:\n{shown}"
    assert places == sorted(places)


def test_ci_runs_the_tests_through_make() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text() and "\nmake test\n" in script.read_text()


def test_the_version_is_said_once() -> None:
    assert version("sarsteer-lab") == sarsteer_lab.__version__


def test_importing_the_package_is_cheap() -> None:
    check = "import sys, sarsteer_lab; "
    check += "sys.exit(bool({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_loading_a_model_reads_no_table_of_texts() -> None:
    """They are for those who ask for them: phrases of judges, openings of refusals.

    The refusal texts, `prompts.REFUSALS`, are a constant and read once.
    """
    show = "from sarsteer_lab import load_lalm; load_lalm('replica:qwen2_audio'); "
    show += "import sarsteer_lab.evaluation.readers, sarsteer_lab.evaluation.judges; "
    show += "import sarsteer_lab.engine.live; "
    show += "import sarsteer_lab.probe.foresee; "
    show += "from sarsteer_lab.paths import shipped_table; print(shipped_table.cache_info().misses)"
    shown = subprocess.run(
        [sys.executable, "-c", show], check=True, capture_output=True, text=True
    ).stdout
    assert shown == "1\n"


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "a" / "b"))
    assert sarsteer_lab.cache_folder() == tmp_path / "a" / "b" and (tmp_path / "a" / "b").is_dir()
    monkeypatch.setenv("SARSTEER_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sarsteer_lab.cache_folder() == tmp_path / ".cache" / "sarsteer-lab"


def test_a_checkout_reads_its_own_data() -> None:
    assert sarsteer_lab.data_folder() == ROOT / "data"


def test_a_wheel_carries_the_data_and_nothing_of_the_repository_besides(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names} == {
        "sarsteer_lab",
        f"sarsteer_lab-{sarsteer_lab.__version__}.dist-info",
    }
    assert {"sarsteer_lab/py.typed", "sarsteer_lab/_data/prompts/prompts.jsonl"} <= set(names)
    assert "sarsteer_lab/_data/pocket/safety.safetensors" in names
    tables = [
        "judges/phrases.toml",
        "judges/openings.toml",
        "judges/sorry-bench.json",
        "pocket/chat_template.jinja",
    ]
    tables += [f"prompts/{table}.toml" for table in ("layouts", "refusals", "defences")]
    assert {f"sarsteer_lab/_data/{table}" for table in tables} <= set(names)
    beside = ("__init__.pyi", "course/figures/look.mplstyle", "probe/replica.jinja")
    beside += ("evaluation/report.html.jinja",)
    beside += ("course/certificate.html.jinja",)
    beside += ("course/bundle/INSTALL.md.jinja", "course/bundle/install.py")
    views = (ROOT / "sarsteer_lab" / "course" / "widgets" / "views").iterdir()
    beside += tuple(f"course/widgets/views/{path.name}" for path in views)
    assert {f"sarsteer_lab/{name}" for name in beside} <= set(names)
    assert not [name for name in names if "solutions" in name]
    # Of the training nothing but the weights it left: neither its modules nor its data.
    assert not [name for name in names if "training" in name or "yardstick" in name]
    data = {file.name for folder in (DATA, YARDSTICK) for file in folder.rglob("*")}
    assert len(data) > 400 and not data & {name.split("/")[-1] for name in names}
    # The named models' makers import without the training.
    show = "import sarsteer_lab, sarsteer_lab.loading, sarsteer_lab.pocket.dial; "
    show += "import sarsteer_lab.probe.replica"
    show += "; print(sarsteer_lab.data_folder())"
    shown = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(shown.strip()) == (tmp_path / "installed" / "sarsteer_lab" / "_data").resolve()


def test_the_source_archive_carries_how_the_model_was_trained(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"training/train.py", "training/data/corpus.jsonl", "training/yardstick/sentences.txt"}
    assert wanted <= names


MODULE_LINES = 350
"""A module that is longer is two."""


def lines_of(*patterns: str) -> dict[str, int]:
    package = ROOT / "sarsteer_lab"
    files = [path for pattern in patterns for path in package.glob(pattern)]
    return {str(path.relative_to(package)): len(path.read_text().splitlines()) for path in files}


def test_the_house_keeps_its_budgets() -> None:
    modules = lines_of("**/*.py")
    assert not {name: n for name, n in modules.items() if n > MODULE_LINES}


def test_the_rule_of_dependencies_names_every_module_of_the_core() -> None:
    """A new top-level module that the contracts do not name would be free to import anything."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    core = {f"sarsteer_lab.{Path(name).stem}" for name in lines_of("*.py")}
    above = "__init__ __main__ cli cli_evaluation cli_options cli_teachers loading".split()
    core -= {f"sarsteer_lab.{name}" for name in above}
    for contract in contracts:
        if contract["id"] == "core":
            assert set(re.split(" [:|] ", " : ".join(contract["layers"]))) == core
        elif contract["id"] == "plain-core":
            assert set(contract["source_modules"]) == core
        elif contract["id"] == "rooms":
            assert set(contract["layers"][-1].split(" : ")) == core
    assert "lint-imports" in (ROOT / "Makefile").read_text()


def test_the_public_api_is_lazy_and_whole() -> None:
    for name in sarsteer_lab.__all__:
        assert getattr(sarsteer_lab, name) is not None
    assert set(sarsteer_lab.__all__) <= set(dir(sarsteer_lab))
    with pytest.raises(AttributeError, match="attribute stear"):
        sarsteer_lab.stear  # noqa: B018


def test_the_readme_names_commands_targets_and_modules_that_there_are() -> None:
    readme = (ROOT / "README.md").read_text()
    usage = subprocess.run(
        [sys.executable, "-m", "sarsteer_lab", "--help"], check=True, capture_output=True, text=True
    ).stdout
    commands = set(re.findall(r"^sarsteer-lab (\w+)", readme, flags=re.M))
    assert commands and all(
        re.search(rf"^ +{command}\b", usage, flags=re.M) for command in commands
    )
    targets = set(re.findall(r"^make (\w+)", readme, flags=re.M)) | set(
        re.findall(r"`make ([\w-]+)", readme)
    )
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)
    for name in re.findall(r"^from sarsteer_lab import (.+)$", readme, flags=re.M):
        assert {word.strip() for word in name.split(",")} <= set(sarsteer_lab.__all__)
    for module in set(re.findall(r"^from (sarsteer_lab(?:\.\w+)+) import", readme, flags=re.M)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    assert f"pip install torch=={constraints()['torch']}" in readme
