"""What a model takes, foreseen from its configuration: real sizes, without memory for one
weight."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers as hf
from accelerate import init_empty_weights
from replicas import replica
from spoken_set import write_set
from transformers.initialization import no_init_weights

from sarsteer_lab.activations import capture
from sarsteer_lab.cli import main
from sarsteer_lab.paths import shipped_table
from sarsteer_lab.probe import foresee as module
from sarsteer_lab.probe.foresee import foresee
from sarsteer_lab.prompts import Prompt

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "tests" / "configs").glob("*.json"))
PUBLISHED = {
    # What the hub shows beside the weights (safetensors), in billions; adapters are files of their
    # own.
    "Qwen/Qwen2-Audio-7B-Instruct": 8.397,
    "Qwen/Qwen2.5-Omni-7B": 10.73,
    "Qwen/Qwen2.5-Omni-3B": 5.54,
    "mistralai/Voxtral-Mini-3B-2507": 4.68,
    "mistralai/Voxtral-Small-24B-2507": 24.3,
    "nvidia/audio-flamingo-3-hf": 8.27,
    "ibm-granite/granite-speech-3.3-8b": 8.65,
}


def name_of(path: Path) -> str:
    return path.stem.replace("--", "/")


@cache
def report(path: Path) -> str:
    return str(foresee(path))


def gigabytes(text: str, kind: str) -> list[float]:
    """The amounts of a line of the report: weights, states, batch, sum."""
    line = next(
        line for line in text.splitlines() if line.split()[1:3][: len(kind.split())] == kind.split()
    )
    amounts = re.findall(r"([\d.]+) (GB|MB)", line.partition("fits")[0])
    return [float(amount) / (1 if unit == "GB" else 1000) for amount, unit in amounts]


def test_there_are_eight_and_each_says_its_source():
    assert len(CONFIGS) >= 8
    for path in CONFIGS:
        assert hf.AutoConfig.from_pretrained(path).source.startswith("the sizes of the published")


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_memory_of_the_weights_is_that_of_the_model(path):
    """Counted apart, on the class that the checkpoint names, built by accelerate."""
    config = hf.AutoConfig.from_pretrained(path)
    with init_empty_weights(), no_init_weights():
        model = getattr(hf, config.architectures[0])(config)
    count = sum(weight.numel() for weight in model.parameters())
    for kind, size in {"bfloat16": 2, "float32": 4}.items():
        weights, states, batch, total = gigabytes(report(path), kind)
        assert weights == pytest.approx(count * size / 1e9, rel=0.05)
        assert total == pytest.approx(weights + states + batch, rel=0.02)
    assert gigabytes(report(path), "4 bits")[0] < 0.5 * gigabytes(report(path), "bfloat16")[0]
    if name_of(path) in PUBLISHED:
        assert count / 1e9 == pytest.approx(PUBLISHED[name_of(path)], rel=0.05)
    text = config.get_text_config()
    layers = re.search(r"layers +(\d+) of width (\d+) in", report(path))
    thinker = getattr(config, "thinker_config", None)
    text = thinker.text_config if thinker is not None else text
    assert layers and [*map(int, layers.groups())] == [text.num_hidden_layers, text.hidden_size]
    for part in ("family", "audio tower", "chat format", "a clip is token"):
        assert part in report(path)
    if name_of(path).startswith(("Qwen/Qwen2-", "mistral")):
        assert "windows of 30 s" in report(path)


def test_the_memory_is_that_of_a_model_that_runs():
    """On the replica: what its derivation keeps, and keys and values as they are."""
    lalm = replica()
    _, states, batch = module.memory(lalm, "float32")
    kept = capture(lalm, [Prompt("Hi")] * 5)
    assert states == kept.numel() * kept.element_size() * 100
    cache = lalm.core(**lalm.inputs([Prompt("Hi")])).past_key_values
    held = sum(
        part.numel() * part.element_size()
        for layer in cache.layers
        for part in (layer.keys, layer.values)
    )
    assert batch > 3 * held / cache.get_seq_length() * module.ROWS * module.POSITIONS
    assert module.memory(lalm, "float32")[0] == sum(
        weight.numel() * 4 for weight in lalm.model.parameters()
    )


def test_what_does_not_fit_names_what_would(monkeypatch):
    big = next(path for path in CONFIGS if "24B" in path.name)
    for free, named in (
        (12e9, "Voxtral-Mini-3B-2507, Qwen/Qwen2.5-Omni-3B, in"),
        (1e9, "would fit    pocket, in"),
    ):
        monkeypatch.setattr(module, "free_memory", lambda _, free=free: int(free))
        assert named in str(foresee(big))
    monkeypatch.setattr(module, "free_memory", lambda _: 10**12)
    assert "fits cpu (1000.0 GB free)" in str(foresee(big)) and "would fit" not in str(foresee(big))


def test_a_text_model_is_told_apart(tmp_path):
    replica("text_only").model.save_pretrained(tmp_path)
    assert "a text model: only typed prompts" in str(foresee(tmp_path / "config.json"))


def test_nothing_is_fetched_unless_told(capsys, monkeypatch):
    asked = []

    def from_pretrained(name, **options):
        asked.append(options)
        raise OSError("we couldn't connect")

    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", from_pretrained)
    for more, local in (([], True), (["--hub"], False)):
        assert main(["doctor", "me/absent", "--dry-run", *more]) == 2
        error = capsys.readouterr().err
        assert (
            "me/absent is not on this machine" in error
            and "with --hub" in error
            and error.count("\n") == 1
        )
        assert asked[-1]["local_files_only"] is local


# --- the table and its page ---

PAGE = (ROOT / "docs" / "models.md").read_text()
MODELS = shipped_table("models.toml")


def test_the_table_is_what_the_configurations_give():
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE, flags=re.M))
    paths = {name_of(path): path for path in CONFIGS}
    assert list(rows) == list(MODELS) and set(MODELS) <= set(paths) and len(MODELS) >= 8
    for name, row in rows.items():
        text = report(paths[name])
        layers = re.search(r"layers +(\d+) of width (\d+)", text)
        billions, shape, half, quarter = row.split(" | ")
        assert layers and shape == f"{layers[1]} x {layers[2]}"
        assert float(half) == MODELS[name]["memory"] == gigabytes(text, "bfloat16")[3]
        assert float(quarter) == gigabytes(text, "4 bits")[3]
        assert float(billions) == round(MODELS[name]["parameters"] / 1e9, 1)
        assert gigabytes(text, "float32")[0] == pytest.approx(
            MODELS[name]["parameters"] * 4e-9, rel=0.01
        )
    sizes = [row["memory"] for row in MODELS.values()]
    assert sizes == sorted(sizes)


def test_every_command_of_the_page_runs(tmp_path, make_clip, monkeypatch):
    """On the replica, a dry run on the configuration that is named; with few shipped prompts."""
    counts = {"derive": {"harmful": 4, "harmless": 12}, "test": {"harmful": 2, "harmless": 2}}
    write_set(tmp_path / "data" / "prompts", make_clip, counts)
    monkeypatch.setattr("sarsteer_lab.evaluation.readers.data_folder", lambda: tmp_path / "data")
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        program, *arguments = shlex.split(command)
        dry = "--dry-run" in arguments
        named = (
            str(ROOT / "tests/configs/Qwen--Qwen2-Audio-7B-Instruct.json")
            if dry
            else "replica:qwen2_audio"
        )
        arguments = [named if word.startswith("Qwen/") else word for word in arguments]
        assert program == "sarsteer-lab" and main(arguments) == 0, command
    assert (tmp_path / "results" / "my_model" / "table.csv").is_file()
    lalm = replica("lora_loaded")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    done = {"model": lalm.model, "processor": lalm.processor}
    exec(code, done)
    assert done["states"].shape == (1, 4, 32) and len(done["answers"]) == 1
    assert torch.equal(done["states"], capture(lalm, [Prompt("Name a fruit.")]))
