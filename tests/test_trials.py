"""What people tried who had not read the code: each was wrong without a word, or a raw error."""

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from replicas import replica

from sarsteer_lab.activations import capture
from sarsteer_lab.cli import main
from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.evaluation.report import write_report
from sarsteer_lab.evaluation.text_files import PromptFileError
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.safe_space import principal_space
from sarsteer_lab.speech import SAMPLE_RATE, ClipError, check_waveform, read_clip
from sarsteer_lab.steering import steer
from sarsteer_lab.vectors import SteeringVectors

NOISE = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)


def test_what_is_no_list_of_prompts_is_not_taken_for_one(tiny: LALM) -> None:
    """A table of pandas gives the names of its columns, a dictionary its keys, a set no order."""
    asked = ["Bake bread.", "Sing."]
    table = pd.DataFrame({"request": asked})
    for prompts in (table, {"request": asked}, set(asked), dict(enumerate(asked)).items()):
        with pytest.raises(TypeError, match=r"in a list, not in a .*list\(table"):
            capture(tiny, prompts)
    states = capture(tiny, asked)
    for prompts in (table["request"], np.array(asked), tuple(asked), (text for text in asked)):
        assert torch.equal(capture(tiny, prompts), states)


@pytest.mark.parametrize("text", [b"Hi", 3, ["Hi"], math.nan])
def test_a_prompt_is_text(text: object) -> None:
    for fields in ({"text": text}, {"text": "Hi", "system": text}):
        with pytest.raises(TypeError, match="a prompt's (text|system) is a string, not"):
            Prompt(**fields)


@pytest.mark.parametrize("field", ["text", "system"])
def test_half_a_character_is_no_text(field: str) -> None:
    with pytest.raises(ValueError, match="half of a character") as error:
        Prompt(**{"text": "Hi", field: "caf\udce9"})
    assert "\n" not in str(error.value)
    Prompt("\U0001f600 \ufffd")


def test_a_header_that_contradicts_itself(tmp_path: Path) -> None:
    """Of one byte: libsndfile reads mono as stereo, twice as fast, or the other way round."""
    path = tmp_path / "clip.wav"
    for channels, other in ((1, 2), (2, 1), (2, 4)):
        soundfile.write(path, np.stack([NOISE] * channels, axis=1), SAMPLE_RATE)
        content = bytearray(path.read_bytes())
        content[22] = other
        path.write_bytes(content)
        with pytest.raises(ClipError, match=f"contradicts itself .{other} channels of 16 bits"):
            read_clip(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64"])
def test_headers_that_do_not(tmp_path: Path, kind: str, subtype: str) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.stack([NOISE] * 3, axis=1), SAMPLE_RATE, format=kind, subtype=subtype)
    assert len(read_clip(path)) == SAMPLE_RATE


@pytest.mark.parametrize("url", ["file:///clips/a.wav", Path("file:///clips/a.wav")])
def test_a_url_of_a_file_is_called_one(url: Path | str) -> None:
    with pytest.raises(ClipError, match="^file:///clips/a.wav: is a URL; .* alone, /clips/a.wav$"):
        read_clip(url)


@pytest.mark.parametrize("url", ["https://example.org/a.wav", "file:///clips/a.wav", "s3://b/a"])
def test_a_url_in_a_table_is_called_one(tmp_path: Path, url: str) -> None:
    (tmp_path / "asked.csv").write_text(f"request,label,clip\nSing.,harmless,{url}\n")
    with pytest.raises(PromptFileError, match=f"line 2: {url}: is a URL"):
        read_set(f"folder:{tmp_path / 'asked.csv'}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int16])
def test_waveforms_in_tensors_of_any_kind(dtype: torch.dtype) -> None:
    given = torch.tensor(NOISE * (32767 if dtype == torch.int16 else 1)).to(dtype)
    if dtype.is_floating_point:
        given = given.requires_grad_()
    np.testing.assert_allclose(check_waveform(given, SAMPLE_RATE), NOISE, atol=2e-3)


def test_names_that_say_nothing_and_words_that_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "harmless"
    folder.mkdir()
    for name in ("0001.wav", "bake-bread.wav"):
        soundfile.write(folder / name, NOISE, SAMPLE_RATE)
    read_set(f"folder:{tmp_path}")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "1 of 2 clips have names without a word (0001.wav)" in said
    (folder / "0001.txt").write_text("Sing.")
    (tmp_path / "metadata.csv").write_text("0001|Sing.\n")
    read_set(f"folder:{tmp_path}")
    said = capsys.readouterr().err
    assert f"2 files beside the clips are not read ({folder / '0001.txt'})" in said
    (folder / "0001.txt").unlink()
    (tmp_path / "metadata.csv").unlink()
    (folder / "0001.wav").unlink()
    read_set(f"folder:{tmp_path}")
    assert capsys.readouterr().err == ""


def test_a_text_that_shifts_nothing_has_no_direction() -> None:
    states = torch.randn(3, 4, 8)
    with pytest.raises(ValueError, match="no direction to steer in: states with the refusal text"):
        text_refusal_direction(states, states.clone())
    moved = states.clone()
    moved[0, 2] += 1
    assert text_refusal_direction(states, moved)[2].any()


@pytest.mark.parametrize("k", [2.5, 0, -1, "2", None])
def test_dimensions_are_whole_numbers(k: object) -> None:
    with pytest.raises(ValueError, match="needs k >= 1 .*; got k="):
        principal_space(torch.randn(5, 4, 8), k)


@pytest.mark.parametrize("layers", ["all", "1", [1.0], ["1"], [None]])
def test_layers_are_whole_numbers(tiny: LALM, layers: object) -> None:
    for use in (
        lambda: capture(tiny, ["Hi"], layers=layers),
        lambda: steer(
            tiny, torch.ones(tiny.n_layers, tiny.d_model), 1.0, layers=layers
        ).__enter__(),
    ):
        with pytest.raises(TypeError, match="give whole numbers in a list, or None for all"):
            use()


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "3", None])
def test_a_length_is_a_whole_number(tiny: LALM, length: object) -> None:
    with pytest.raises(ValueError, match="max_new_tokens=.* give a whole number from 1 on"):
        tiny.generate(["Hi"], max_new_tokens=length)


def test_a_prompt_beyond_the_models_positions_is_said() -> None:
    lalm = replica()
    length = lalm.inputs([Prompt("Hi there")])["input_ids"].shape[1]
    lalm.text_config.max_position_embeddings = length - 1
    with pytest.warns(UserWarning, match=f"takes {length} positions, but .* made for {length - 1}"):
        lalm.generate(["Hi there"], max_new_tokens=1)


@pytest.mark.parametrize("fast", [False, True])
def test_an_answer_that_runs_beyond_the_models_positions_is_said(fast: bool) -> None:
    lalm = replica()
    prompt = Prompt("Hi there")
    length = lalm.inputs([prompt])["input_ids"].shape[1]
    lalm.text_config.max_position_embeddings = length + 2
    with pytest.warns(UserWarning, match=f"with its answer takes .* made for {length + 2}"):
        if fast:
            PreparedBatch(lalm, [prompt]).generate(8)
        else:
            lalm.generate([prompt], max_new_tokens=8)
    lalm.text_config.max_position_embeddings = length + 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lalm.generate([prompt], max_new_tokens=8)


@pytest.mark.parametrize("kind", ["offloaded", "quantized", "static"])
def test_a_cache_of_another_kind_is_off_and_said(tiny: LALM, kind: str) -> None:
    made = replica()
    made.core.generation_config.cache_implementation = kind
    with pytest.warns(UserWarning, match=f"brings cache_implementation='{kind}', which is off"):
        lalm = LALM(made.model, made.processor, name="theirs")
    asked = ["Bake bread.", "Sing."]
    assert lalm.generate(asked, max_new_tokens=4) == tiny.generate(asked, max_new_tokens=4)


def test_what_is_no_model_is_named() -> None:
    made = replica()
    for model in (torch.nn.DataParallel(made.model), made.processor, None, "pocket"):
        with pytest.raises(TypeError, match="theirs: a .* is no model of transformers"):
            LALM(model, made.processor, name="theirs")


def test_home_is_home_where_files_are_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    vectors = SteeringVectors(torch.ones(4, 8))
    vectors.save("~/kept/vectors.safetensors")
    assert (tmp_path / "home" / "kept" / "vectors.safetensors").is_file()
    assert not (tmp_path / "~").exists()
    assert torch.equal(SteeringVectors.load("~/kept/vectors.safetensors").values, vectors.values)


@pytest.mark.parametrize("option", [["--alpha", "0.1"], ["--k", "3"], ["--refusal", "inspect"]])
def test_options_of_steering_without_steering(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "clip.wav", *option]) == 2
    assert f"{option[0]} says nothing without --steer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "more"), [("evaluate", []), ("sweep", []), ("walkthrough", ["--notebooks", "none"])]
)
def test_an_empty_folder_is_not_this_one(
    command: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *more, "--folder", ""]) == 2
    assert "it is empty: name a folder" in capsys.readouterr().err


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a run is named twice"):
        write_report([tmp_path, tmp_path / "." / "x" / ".."], tmp_path / "report.html")


@pytest.mark.parametrize("name", ["pocket", "replica:qwen2_audio", "recorded:class"])
def test_a_dry_run_of_what_is_no_checkpoint(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", name, "--dry-run"]) == 2
    assert f"sarsteer-lab doctor {name}, without --dry-run, tries it" in capsys.readouterr().err


def test_a_bundle_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["bundle", str(tmp_path / "taken")]) == 2
    assert "taken is a file: a bundle needs a folder" in capsys.readouterr().err


def test_a_parquet_file_with_nul_in_a_path(tmp_path: Path) -> None:
    rows = {"request": ["Bake bread."], "label": ["harmless"], "clip": ["a\0.wav"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(PromptFileError, match="p.parquet, row 1: 'clip' holds a NUL character"):
        read_set(f"folder:{tmp_path / 'p.parquet'}")
