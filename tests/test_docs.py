"""Every command and every piece of code of docs/*.md runs, on the replica in place of the pocket
model.

Blocks of a page run in their order, in one folder. One that cannot run here says why in its title:
`title="Not run here: ..."`.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from installed import ROOT, build_wheel, fresh

from sarsteer_lab.cli import main

DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"^```(bash|python)(?: title=\"(Not run here[^\"]*)\")?\n(.*?)^```$", flags=re.M | re.S
)
REPLICA = "replica:qwen2_audio"
OTHERS = {"own_prompts.md", "models.md"}
"""Pages with a test of their own, beside what they are about."""

pytestmark = pytest.mark.late


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of each block that runs."""
    return [(kind, text) for kind, reason, text in BLOCK.findall(page.read_text()) if not reason]


def put_files(page: Path, folder: Path, make_clip: Callable[[float, int], np.ndarray]) -> None:
    """The files that a page shows, and noise for the clips that it lists."""
    text = page.read_text()
    for number, name in enumerate(re.findall(r"^    ([\w/-]+\.wav)$", text, flags=re.M)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, make_clip(1.0, number), 16000)
    for name, content in re.findall(r"`([\w/]+\.csv)`:\n\n```csv\n(.*?)```", text, flags=re.S):
        (folder / name).write_text(content)


def test_every_fence_is_one_that_is_run_or_says_why_not() -> None:
    for page in DOCS.glob("*.md"):
        fences = re.findall(r"^```(\w.*)$", page.read_text(), flags=re.M)
        for fence in fences:
            assert re.fullmatch(r'(bash|python)( title="Not run here\S* .+")?|csv|text', fence), (
                page,
                fence,
            )


@pytest.mark.parametrize(
    "name",
    sorted(
        p.name for p in DOCS.glob("*.md") if blocks(p) and p.name not in {*OTHERS, "first_hour.md"}
    ),
)
def test_the_page_runs(
    name: str,
    tmp_path: Path,
    make_clip: Callable[[float, int], np.ndarray],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put_files(DOCS / name, tmp_path, make_clip)
    for kind, text in blocks(DOCS / name):
        if kind == "python":
            exec(compile(text, name, "exec"), {"__name__": "docs"})
            continue
        for line in filter(None, text.splitlines()):
            program, *arguments = shlex.split(line.replace("--model pocket", f"--model {REPLICA}"))
            assert program == "sarsteer-lab", line
            assert main(arguments) == 0, line


@pytest.fixture(autouse=True)
def no_cluster_left() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.timeout(1800)
def test_a_strangers_first_hour(
    installed: dict[str, str],
    tmp_path: Path,
    make_clip: Callable[[float, int], np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the installed wheel, outside the repository, to the report."""
    page = DOCS / "first_hour.md"
    put_files(page, tmp_path, make_clip)
    assert (
        len(list(tmp_path.glob("my_clips/*/*.wav"))) == 3 and (tmp_path / "requests.csv").is_file()
    )
    commands = "".join(text for kind, text in blocks(page) if kind == "bash")
    commands = commands.replace("--model pocket", f"--model {REPLICA}").replace(
        "doctor pocket", f"doctor {REPLICA}"
    )
    assert [line.split()[1] for line in commands.splitlines()] == [
        "doctor",
        "ask",
        "evaluate",
        "report",
        "course",
    ]
    took = []
    for command in commands.splitlines():
        start = time.perf_counter()
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=installed, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        took.append(f"{time.perf_counter() - start:5.1f} s  {command[:70]}")
    with capsys.disabled():
        print("", *took, sep="\n")
    report = (tmp_path / "report.html").read_text()
    assert report.count('class="dot"') == 5 * 4  # defences x benign sets
    assert report.count("data:audio/mpeg") >= 3 and "my_clips harmful" in report
    assert (tmp_path / "notebooks" / "00_meet_the_model.ipynb").is_file()


def test_colabs_cell_installs_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    [cell, _] = re.findall(
        r"^```python[^\n]*\n(.*?)```$", (DOCS / "colab.md").read_text(), flags=re.M | re.S
    )
    environment = fresh(tmp_path) | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    (tmp_path / "content").mkdir()
    wheel = build_wheel(tmp_path / "content")
    (tmp_path / "cell.ipy").write_text(cell)
    where = "import sarsteer_lab; print(sarsteer_lab.__file__)"
    command = ["python", "-m", "IPython", "--quick", "cell.ipy"]
    (tmp_path / "content" / "cell.ipy").write_text(cell)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path / "content", env=environment, capture_output=True, text=True
        )

    assert run("python", "-c", where).returncode != 0
    first = run(*command)
    assert run("python", "-c", where).stdout.startswith(str(tmp_path / "env")), (
        first.stdout + first.stderr
    )
    os.remove(wheel)  # so that installing again would fail
    again = run(*command)
    assert again.returncode == 0 and "ERROR" not in again.stdout + again.stderr
    assert sys.prefix not in run("python", "-c", where).stdout


@pytest.mark.parametrize("page", ["own_model", "own_prompts", "models", "teaching", "report"])
def test_links_of_pages_that_the_readme_names_work_in_the_repository(page: str) -> None:
    """Who reads them there, and not on the site, must get somewhere, too."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (ROOT / "docs" / target).exists(), target
