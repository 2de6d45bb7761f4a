"""A disk that is really full, and two processes in one folder: what comes out is the same."""

import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.cli import main
from sarsteer_lab.evaluation.defences import PromptDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.report import evaluate_into, write_report
from sarsteer_lab.keeping import kept
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.tape import begin, finish
from sarsteer_lab.prompts import Prompt

MODEL = "replica:qwen2_audio"
FILES = ("manifest.json", "responses.jsonl", "outcomes.jsonl")


def mounted(folder: Path, size: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of the test's own, of 64 KB; skipped where nobody but root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "64k"):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)


def evaluated(folder: Path, spoken) -> None:
    lalm = load_lalm(MODEL, device="cpu")
    defences = []
    for number in range(6):
        defences.append(PromptDefence(f"reminder {number}", before=f"Be good {number} times."))
    options = {"max_new_tokens": 4, "batch_size": 2}
    evaluate_into(folder, lalm, defences, {"mine": spoken}, [PhraseJudge()], **options)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_an_evaluation_on_a_full_disk_says_so_and_goes_on(disk, tmp_path, spoken, cache):
    evaluated(tmp_path / "whole", spoken)
    for _ in range(2):  # it stays full
        with pytest.raises(OSError, match="No space left on device: .*disk") as error:
            evaluated(disk / "run", spoken)
        assert "\n" not in str(error.value)
        assert not list(disk.rglob("*.tmp"))
    assert list((disk / "run" / "parts").rglob("*.json"))
    assert not (disk / "run" / "about.json").exists()
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        write_report([disk / "run"], tmp_path / "page.html")
    make_room(disk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that is there is half of anything
        evaluated(disk / "run", spoken)
    assert results(disk / "run") == results(tmp_path / "whole")
    write_report([disk / "run"], tmp_path / "page.html")


def test_the_command_line_says_it_in_one_line(disk, spoken, cache, capsys):
    (disk / "filled").write_bytes(bytes(56 * 1024))
    table = disk.parent / "asked.csv"
    lines = [f"{request.request},harmless,{request.clip}" for request in spoken]
    for request in spoken:
        (disk.parent / request.clip.name).write_bytes(request.clip.read_bytes())
    lines = [f"Say it {request.clip.stem}.,harmless,{request.clip.name}" for request in spoken]
    table.write_text("request,label,clip\n" + "\n".join(lines) + "\n")
    command = ["evaluate", "--model", MODEL, "--defence", "none", "--tokens", "2"]
    assert main([*command, "--set", f"folder:{table}", "--folder", str(disk / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("sarsteer-lab evaluate: ") and "No space left on device" in said
    assert str(disk) in said


def test_a_recording_on_a_full_disk_says_so_and_goes_on(disk, cache):
    begin(load_lalm(MODEL), MODEL, disk / "out")
    (disk / "filled").write_bytes(b"")
    prompts = [Prompt(f"Count to {number}.") for number in range(40)]
    model = load_lalm(f"recording:{disk / 'out'}")
    with pytest.raises(OSError, match="No space left on device") as error:
        kept(capture)(model, prompts)
    assert str(disk) in str(error.value) and not list(disk.rglob("*.tmp"))
    make_room(disk)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        states = kept(capture)(load_lalm(f"recording:{disk / 'out'}"), prompts)
    finish(disk / "out")
    assert torch.equal(kept(capture)(load_lalm(f"recorded:{disk / 'out'}"), prompts), states)
    torch.testing.assert_close(states, capture(load_lalm(MODEL), prompts), rtol=1e-4, atol=1e-4)


def test_a_cache_on_a_full_disk_stops_nothing(disk, monkeypatch):
    monkeypatch.setenv("SARSTEER_CACHE", str(disk / "cache"))
    lalm = load_lalm(MODEL)
    prompts = [Prompt(f"Count to {number}.") for number in range(40)]
    with pytest.warns(UserWarning, match="No space left on device.*results are not kept there"):
        states = kept(capture)(lalm, prompts)
    assert torch.equal(states, capture(lalm, prompts)) and not list(disk.rglob("*.tmp"))
    make_room(disk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(kept(capture)(lalm, prompts), states, rtol=1e-4, atol=1e-4)


def at_once(work: Callable[[], None], n_processes: int) -> list[int]:
    """The exit statuses of so many processes that do the same."""
    children = []
    for _ in range(n_processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # The parent's OpenMP threads are not in the child, which would wait for them.
                torch.set_num_threads(1)
                work()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_three_processes_in_one_folder_leave_what_one_leaves(tmp_path, spoken, cache):
    evaluated(tmp_path / "whole", spoken)
    folder = tmp_path / "run"
    assert at_once(lambda: evaluated(folder, spoken), 3) == [0, 0, 0]
    assert results(folder) == results(tmp_path / "whole")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(folder, spoken)
    assert results(folder) == results(tmp_path / "whole")
    write_report([folder], tmp_path / "page.html")
    assert not list(folder.rglob("*.tmp"))
