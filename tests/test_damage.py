"""Damaged files are named in one sentence or made again; a full disk stops nothing but keeping."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sarsteer_lab import store as store_module
from sarsteer_lab.activations import capture
from sarsteer_lab.course.replaying import NotebookError
from sarsteer_lab.course.run_notebooks import run_notebooks
from sarsteer_lab.evaluation.cached_answers import answers
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.keeping import kept
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.pocket import assemble
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.vectors import SteeringVectors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint's folder."""
    folder = tmp_path_factory.mktemp("saved")
    made = replica()
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    return folder


def cut(path):
    """By the last byte, and what it stands on if that is white space."""
    path.write_bytes(path.read_bytes().rstrip()[:-1])


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", emptied),
        ("tokenizer.json", emptied),
        ("tokenizer_config.json", cut),
        ("config.json", emptied),
        ("generation_config.json", emptied),
    ],
)
def test_a_damaged_file_of_a_checkpoint_is_named(saved, tmp_path, name, damage):
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    damage(folder / name)
    with pytest.raises(ValueError, match="is damaged") as error:
        load_lalm(folder, device="cpu")
    assert str(folder / name) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def lora(saved, tmp_path_factory):
    """The folder of a LoRA on the checkpoint."""
    folder = tmp_path_factory.mktemp("lora")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(load_lalm(saved, device="cpu").model, config)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "cannot be read as a LoRA's settings .KeyError"),
        ("[]", "cannot be read as a LoRA's settings .TypeError"),
        ("", "cannot be read as a LoRA's settings .JSONDecodeError"),
        ('{"base_model_name_or_path": null}', "does not name the LoRA's base model"),
        ('{"base_model_name_or_path": ""}', "does not name the LoRA's base model"),
        ('{"base_model_name_or_path": 3}', "does not name the LoRA's base model"),
    ],
)
def test_settings_of_a_lora_that_name_no_base_are_one_sentence(lora, tmp_path, content, words):
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        load_lalm(folder, device="cpu")
    assert "adapter_config.json" in str(error.value) and "\n" not in str(error.value)


def test_cut_weights_of_a_lora_are_named(lora, tmp_path):
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    load_lalm(folder, device="cpu")
    cut(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        load_lalm(folder, device="cpu")


def changed(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def with_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lora: changed(lora, r=4), "does not fit its base model"),
        (lambda lora: changed(lora, r=0), "does not fit its base model"),
        (lambda lora: changed(lora, target_modules=["nope"]), "does not fit its base model"),
        (lambda lora: changed(lora, peft_type="NEWEST"), "does not fit its base model"),
        (lambda lora: with_weights(lora, dict.popitem), "lacks 1 weights"),
        (
            lambda lora: with_weights(
                lora, lambda weights: weights.update(of_another=torch.ones(2))
            ),
            "1 weights of .* have no place in its base model: of_another",
        ),
        (
            lambda lora: changed(lora, base_model_name_or_path="/nowhere/base"),
            "the LoRA's base model /nowhere/base is not here",
        ),
        (
            lambda lora: (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin"),
            "a .bin is not read",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_one_sentence(lora, tmp_path, damage, words):
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        load_lalm(folder, device="cpu")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_loras_own_tokenizer_is_said_not_to_be_read(saved, lora, tmp_path, capsys):
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    template = saved / "chat_template.jinja"
    shutil.copy(template, folder)
    load_lalm(folder, device="cpu")
    assert "is not read" not in capsys.readouterr().err
    (folder / template.name).write_text("{{ 'Sing: ' }}" + template.read_text())
    load_lalm(folder, device="cpu")
    assert f"{folder / template.name} is not read, but the one of" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"cells": []}', '{"nbformat": 4}', "null"])
def test_a_notebook_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "chapter.ipynb"
    path.write_text(content)
    with pytest.raises(NotebookError, match="chapter.ipynb: cannot be read as a notebook") as error:
        run_notebooks([path])
    assert "\n" not in str(error.value)


# The assembled pocket model, with a small checkpoint in its place


@pytest.fixture
def assembled(saved, cache, monkeypatch):
    """The assembly of a small checkpoint; it notes how often it has run."""
    times = []

    def assemble_into(folder, deltas):
        times.append(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        built = folder.parent / "scratch" / folder.name
        shutil.rmtree(built.parent, ignore_errors=True)
        shutil.copytree(saved, built)
        assemble.put_in_place(built, folder)

    monkeypatch.setattr(assemble, "assemble_into", assemble_into)
    return times


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zeroed(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


@pytest.mark.parametrize("damage", [cut, emptied, flipped, zeroed, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "checksums.json"]
)
def test_a_damaged_assembly_is_made_again_with_one_line(assembled, capsys, saved, name, damage):
    folder = assemble.assemble_pocket()
    assert assemble.assemble_pocket() == folder and len(assembled) == 1
    assert capsys.readouterr().err == ""
    damage(folder / name)
    assert assemble.assemble_pocket() == folder and len(assembled) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(folder) in said and "assembled anew" in said
    for path in saved.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert assemble.assemble_pocket() == folder and len(assembled) == 2


def test_one_more_file_in_the_assembly_is_noticed(assembled):
    folder = assemble.assemble_pocket()
    (folder / "adapter_config.json").write_text("{}")
    assert assemble.assemble_pocket() == folder and len(assembled) == 2


# A full disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_where_the_cache_cannot_be_written_work_goes_on(cache, tiny, prompts, monkeypatch, error):
    def full(*_args, **_options):
        raise error

    monkeypatch.setattr(store_module, "save_file", full)
    monkeypatch.setattr(store_module, "atomic_write", full)
    with pytest.warns(UserWarning, match="results are not kept there") as said:
        states = kept(capture)(tiny, prompts)
        texts = answers(tiny, [(prompts, Defence("none"))], max_new_tokens=3)
    assert torch.equal(states, capture(tiny, prompts))
    assert texts == [tiny.generate(prompts, max_new_tokens=3)]
    assert len({str(warning.message) for warning in said}) == 2  # for each of the two stores


def test_vectors_that_cannot_be_written_are_still_an_error(tiny, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        SteeringVectors(torch.ones(4, 32)).save(tmp_path / "taken" / "vectors.safetensors")
