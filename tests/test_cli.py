"""The command line through `main`, on a saved replica and made-up clips."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from spoken_set import write_set

from sarsteer_lab import cli_options
from sarsteer_lab.cli import main
from sarsteer_lab.course import hearing
from sarsteer_lab.decoding import ANSWER_TOKENS
from sarsteer_lab.evaluation.judges import load_judges
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.pocket import base
from sarsteer_lab.prompts import INSTRUCTION, Prompt
from sarsteer_lab.store import atomic_write


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: LALM,
    make_clip: Callable[[float, int], np.ndarray],
) -> Path:
    """A checkpoint in model/, prompts in set/, and clip.wav."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.model.save_pretrained(folder / "model")
    tiny.processor.save_pretrained(folder / "model")
    write_set(folder / "set", make_clip)
    soundfile.write(folder / "clip.wav", make_clip(1.0, 7), 16000)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_ask_gives_the_models_answer(
    folder: Path, tiny: LALM, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, model = folder / "clip.wav", ["--model", str(folder / "model")]
    assert main(["ask", str(clip), *model]) == 0
    repeat = Prompt(hearing.REPEAT, clip)
    heard = f"heard:     {hearing.transcript(tiny.generate([repeat], max_new_tokens=32)[0])}"
    answer = opening_words(tiny.generate([Prompt(INSTRUCTION, clip)])[0])
    assert len(answer.removesuffix("\u2026").split()) <= 20  # a shipped clip may ask for harm
    assert capsys.readouterr().out == f"{heard}\nunsteered: {answer}\n"
    steered = ["--steer", "--prompts", str(folder / "set"), "--alpha", "0.5", "--k", "2"]
    assert main(["ask", str(clip), "--text", "What is it?", *model, *steered]) == 0
    first, rest = capsys.readouterr().out.split("\nsteered:   ")
    second, push = rest.rstrip().rsplit("\n", 1)
    assert re.fullmatch(
        r"the push is [\d.]+% of the state \(median over layers\); logits move by .*", push
    )
    plain = opening_words(tiny.generate([Prompt("What is it?", clip)])[0])
    assert first == f"{heard}\nunsteered: {plain}" and second.strip() not in ("", plain)
    assert list((cache / "activations").iterdir()), "the states are kept for the next time"


def test_ask_says_where_something_else_was_heard(
    folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [known, *_] = read_set(f"prompts:{folder / 'set'}").prompts
    model = ["--model", str(folder / "model"), "--prompts", str(folder / "set")]
    assert main(["ask", str(known.clip), *model]) == 0
    assert f"(heard differently: it says {known.request!r})\nunsteered: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ("missing.wav", "there is no such file"),
        ("set", "is a folder"),
        ("set/prompts.jsonl", "cannot be read"),
    ],
)
def test_a_bad_clip_is_one_line_and_status_2(
    folder: Path, clip: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(folder / clip), "--model", "/nowhere/at/all"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sarsteer-lab ask: ") and clip in error and reason in error
    assert error.count("\n") == 1


def test_a_clip_beyond_the_models_window_is_refused(
    folder: Path, tmp_path: Path, make_clip: Callable[[float, int], np.ndarray], capsys
) -> None:
    soundfile.write(tmp_path / "long.wav", make_clip(9.0, 0), 16000)
    assert main(["ask", str(tmp_path / "long.wav"), "--model", str(folder / "model")]) == 2
    assert "long.wav: lasts 9.0 s, but the model hears at most 8 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "/nowhere/at/all"], "is not the folder of a checkpoint"),
        (["--model", "MODEL", "--safety", "0.4"], "has no option safety"),
        (["--model", "MODEL", "--prompts", "/nowhere/at/all", "--steer"], "no such file or folder"),
    ],
)
def test_a_bad_input_is_one_line_and_status_2(
    folder: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(folder / "model") if argument == "MODEL" else argument for argument in arguments
    ]
    assert main(["ask", str(folder / "clip.wav"), *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["ask"],
        ["ask", "a.wav", "--alpha", "nan"],
        ["ask", "a.wav", "--alpha", "much"],
        ["ask", "a.wav", "--k", "0"],
        ["evaluate", "--limit", "-3"],
        ["evaluate", "--limit", "2.5"],
        ["evaluate", "--split", "train"],
        ["sweep", "--alpha", "0.1,much"],
        ["sweep", "--k", "3", "--k", "0"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("Usage: sarsteer-lab")


def test_fetch_refuses_a_damaged_file_and_says_how_to_mend_it(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "base").mkdir(parents=True)
    (cache / "base" / base.LANGUAGE_MODEL.filename).write_bytes(b"GGUF, but not all of it")
    assert main(["fetch"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sarsteer-lab fetch: ") and "sarsteer-lab fetch --again" in error
    assert error.count("\n") == 1


def test_an_interrupted_command_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "fetch", interrupted)
    assert main(["fetch"]) == 130
    assert "Interrupted. What is done is kept" in capsys.readouterr().err


def test_answers_have_one_length_by_default() -> None:
    assert cli_options.ANSWER_TOKENS == ANSWER_TOKENS


def test_help_is_cheap_and_the_module_runs() -> None:
    code = (
        "import sys, sarsteer_lab.cli as cli; cli.main(['evaluate', '--help']); "
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--defence NAME" in run.stdout and run.stdout.split()[-2:] == ["False", "False"]
    run = subprocess.run(
        [sys.executable, "-m", "sarsteer_lab", "--version"], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.startswith("sarsteer-lab ")


def with_code_of_its_own(folder: Path) -> Path:
    """A checkpoint's folder whose code leaves a mark beside it when it runs."""
    folder.mkdir()
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    mark = folder.parent / "it-ran"
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
        "class OwnModel(PreTrainedModel):\n    config_class = OwnConfig\n"
    )
    return folder


@pytest.mark.parametrize(
    "arguments",
    [["doctor", "FOLDER", "--dry-run"], ["doctor", "FOLDER"], ["evaluate", "--judge", "FOLDER"]],
)
def test_nobody_is_asked_whether_a_checkpoints_code_may_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    folder = with_code_of_its_own(tmp_path / "own")
    command = [str(folder) if argument == "FOLDER" else argument for argument in arguments]
    if command[0] == "evaluate":
        empty = tmp_path / "asked.csv"
        empty.write_text("request,label\nHi.,harmless\n")
        command += ["--set", f"folder:{empty}", "--derive", f"folder:{empty}"]
        monkeypatch.setattr("sarsteer_lab.evaluation.readers.read_sets", lambda *a, **b: ({}, {}))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "brings model code of its own" in error and str(folder) in error
    assert not asked and not (tmp_path / "it-ran").exists()


def test_a_file_in_the_caches_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "cache"):
        monkeypatch.setenv("SARSTEER_CACHE", str(place))
        with pytest.raises(NotADirectoryError, match=f"cannot be in {place}, a file lies there"):
            cache_folder()


def test_more_dimensions_than_the_model_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(folder / "clip.wav")
    steered = ["ask", clip, "--model", str(folder / "model"), "--steer"]
    steered += ["--prompts", str(folder / "set"), "--k"]
    assert main([*steered, "99999"]) == 2
    assert "k=99999 dimensions of a safe space" in capsys.readouterr().err
    assert main([*steered, "20"]) == 0
    assert "5 harmless requests span 4 dimensions at most" in capsys.readouterr().err


def test_there_is_one_pocket_model() -> None:
    with pytest.raises(ValueError, match="there is one pocket model, and no pocket:weird"):
        load_lalm("pocket:weird")


def test_a_judge_that_is_nowhere_is_named() -> None:
    with pytest.raises(OSError, match="the judge 'nope' .*`hf download nope`"):
        load_judges(["nope"])


def test_a_count_that_no_machine_has_room_for_is_refused(capsys):
    command = ["evaluate", "--model", "replica:qwen2_audio", "--tokens", "99999999999999999999"]
    assert main(command) == 2
    assert "too large: 1,000,000 at most" in capsys.readouterr().err


def test_a_file_where_a_folder_should_be_is_said(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("")
    assert main(["doctor", str(taken)]) == 2
    assert f"{taken} is a file: give the folder of a checkpoint" in capsys.readouterr().err
    for path in (taken / "page.html", taken / "deeper" / "page.html"):
        with pytest.raises(NotADirectoryError, match="page.html cannot be written: .*taken"):
            with atomic_write(path):
                pass


@pytest.mark.parametrize("name", ["/proc/nowhere", "~nobody-of-this-name/cache"])
def test_a_cache_that_cannot_be_made_is_named(monkeypatch, name):
    monkeypatch.setenv("SARSTEER_CACHE", name)
    with pytest.raises(OSError, match="the cache cannot be in .*SARSTEER_CACHE"):
        cache_folder()
