"""Options are checked before anything loads, memory is the device's own, and text-only models are taken."""

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sarsteer_lab.activations import capture
from sarsteer_lab.checkpoints import free_memory
from sarsteer_lab.cli import main
from sarsteer_lab.loading import check_options, load_lalm, pick_device
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' and not takes_system %}"
    "{{ raise_exception('no system turn') }}{% endif %}"
    "<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--dtype", "foo"], "dtype='foo'"),
        (["--bits", "3"], "choose 4 or 8"),
        (["--family", "nope"], "no family 'nope'"),
        (["--device", "foo"], "device='foo'"),
        (["--device", "cuda:99"], "CUDA devices"),
    ],
)
@pytest.mark.parametrize("model", ["replica:qwen2_audio", "/nowhere/at/all"])
def test_a_bad_option_is_one_line_before_anything_loads(option, reason, model, capsys):
    assert main(["doctor", model, *option]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_a_file_for_a_folder_is_said_before_anything_loads(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["evaluate", "--model", "/nowhere/at/all", "--folder", str(tmp_path / "taken")]) == 2
    error = capsys.readouterr().err
    assert "is a file" in error and error.count("\n") == 1


def test_options_that_are_fine_pass():
    for dtype in ("auto", "bfloat16", torch.float16):
        check_options("cpu", dtype, 4, "auto")


def test_a_replica_takes_dtype_and_family():
    lalm = load_lalm("replica:qwen2_audio", device="cpu", dtype="bfloat16", family="auto")
    assert lalm.dtype == torch.bfloat16 and lalm.family.name == "auto"


def test_free_memory_counts_the_devices_own_and_the_allocators_unused(monkeypatch):
    asked = []

    def answer(amount):
        return lambda place: asked.append(str(place)) or amount

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", answer((100, 1000)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", answer(70))
    monkeypatch.setattr(torch.cuda, "memory_allocated", answer(30))
    assert free_memory("cuda:1") == 140 and set(asked) == {"cuda:1"}
    assert 0 < free_memory("cpu") < psutil.virtual_memory().total


def test_auto_picks_cuda_then_mps_then_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"


@pytest.mark.parametrize("takes_system", [True, False])
@pytest.mark.parametrize(
    ("config", "model"), [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)]
)
def test_typed_prompts_work_on_a_text_model_and_spoken_ones_are_refused(
    config, model, takes_system, tmp_path, make_clip
):
    tokenizer = replica().tokenizer
    tokenizer.chat_template = PLAIN.replace("takes_system", str(takes_system).lower())
    tokenizer.save_pretrained(tmp_path)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model(config(vocab_size=len(tokenizer), bos_token_id=None, **ids, **sizes, **heads)).save_pretrained(
        tmp_path
    )
    lalm = load_lalm(tmp_path, device="cpu")
    prompts = [Prompt("Hi"), Prompt("Name a fruit.", system="Be kind.")]
    assert "Be kind." in lalm.chat(prompts[1]) and lalm.chat(prompts[0]).endswith("assistant\n")
    alone = torch.cat([capture(lalm, [prompt]) for prompt in prompts])
    torch.testing.assert_close(capture(lalm, prompts), alone)
    answers = lalm.generate(prompts, max_new_tokens=4)
    assert answers == [lalm.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]
    with pytest.raises(ValueError, match="takes no audio"):
        lalm.generate([Prompt("Hi", make_clip(1.0, 0))])
