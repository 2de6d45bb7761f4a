"""Options are checked before anything loads, memory is the device's own, and text-only models are
taken."""

import json
import shutil
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import replicas
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sarsteer_lab.activations import capture
from sarsteer_lab.checkpoints import check_options, free_memory, pick_device
from sarsteer_lab.cli import main
from sarsteer_lab.families import find_family
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import NAMED, load_checkpoint, load_lalm
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
    assert (
        main(["evaluate", "--model", "/nowhere/at/all", "--folder", str(tmp_path / "taken")]) == 2
    )
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
    model(
        config(vocab_size=len(tokenizer), bos_token_id=None, **ids, **sizes, **heads)
    ).save_pretrained(tmp_path)
    lalm = load_lalm(tmp_path, device="cpu")
    prompts = [Prompt("Hi"), Prompt("Name a fruit.", system="Be kind.")]
    assert "Be kind." in lalm.chat(prompts[1]) and lalm.chat(prompts[0]).endswith("assistant\n")
    alone = torch.cat([capture(lalm, [prompt]) for prompt in prompts])
    torch.testing.assert_close(capture(lalm, prompts), alone)
    answers = lalm.generate(prompts, max_new_tokens=4)
    assert answers == [lalm.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]
    with pytest.raises(ValueError, match="takes no audio"):
        lalm.generate([Prompt("Hi", make_clip(1.0, 0))])


def hub_cache(folder, monkeypatch, **revisions):
    """A hub's cache, without its hub, that holds me/tiny in some revisions, each written by its
    function."""
    model = folder / "models--me--tiny"
    (model / "refs").mkdir(parents=True)
    for number, (name, write) in enumerate(revisions.items()):
        commit = f"{number}" * 40
        (model / "refs" / name).write_text(commit)
        (model / "snapshots" / commit).mkdir(parents=True)
        write(model / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # peft reads it itself


def test_a_revision_is_that_of_weights_and_processor(tmp_path, monkeypatch, prompts):
    def write(seed, chunk_length):
        def to(folder):
            made = replica(seed=seed)
            made.processor.feature_extractor.chunk_length = chunk_length
            made.model.save_pretrained(folder)
            made.processor.save_pretrained(folder)

        return to

    hub_cache(tmp_path, monkeypatch, main=write(0, 8), old=write(1, 7))
    for revision, seed, seconds in ((None, 0, 8), ("main", 0, 8), ("old", 1, 7), ("1" * 40, 1, 7)):
        lalm = load_lalm("me/tiny", device="cpu", revision=revision)
        assert lalm.max_audio_seconds == seconds
        assert torch.equal(
            lalm.model.state_dict()["lm_head.weight"], replica(seed=seed).model.lm_head.weight
        )
    with pytest.raises(OSError):
        load_lalm("me/tiny", revision="no-such")
    for name in ("pocket", "replica:qwen2_audio", "./folder", tmp_path):
        with pytest.raises(ValueError, match="only models on the hub|has no option revision"):
            load_lalm(name, revision="main")


def write_phi(folder, seed):
    """Phi-4-multimodal's layout: base weights, and the adapter for speech in a folder of its
    own."""
    made = replicas.replica("phi4_multimodal", seed=seed)
    made.model.save_pretrained(str(folder / "speech-lora"))
    with patch.object(replicas, "add_speech_adapter"):
        replicas.replica("phi4_multimodal").model.save_pretrained(folder)


def write_granite(folder):
    """Granite Speech's layout: base weights and adapter beside one another."""
    made = replicas.replica("granite_speech").model
    made.peft_config["default"].base_model_name_or_path = "me/tiny"
    super(type(made), made).save_pretrained(str(folder))
    with patch.object(replicas, "add_speech_adapter"):
        replicas.replica("granite_speech").model.save_pretrained(folder)


@pytest.mark.parametrize("family", ["phi4_multimodal", "granite_speech"])
def test_the_adapter_for_speech_is_loaded_with_the_model(family, tmp_path, monkeypatch, prompts):
    made = replicas.replica(family)
    # The double's processor has no pictures, which it would have to write.
    monkeypatch.setattr(
        "transformers.AutoProcessor.from_pretrained", lambda *_, **__: made.processor
    )
    monkeypatch.setattr("sarsteer_lab.checkpoints.missing_packages", lambda _: [])
    if family == "granite_speech":
        hub_cache(tmp_path, monkeypatch, main=write_granite)
    else:
        hub_cache(
            tmp_path, monkeypatch, main=partial(write_phi, seed=0), old=partial(write_phi, seed=1)
        )
    lalm = load_lalm("me/tiny", device="cpu")
    assert torch.equal(capture(lalm, prompts), capture(made, prompts))
    assert lalm.fingerprint() == made.fingerprint()
    if family == "phi4_multimodal":
        old = capture(load_lalm("me/tiny", device="cpu", revision="old"), prompts[:2])
        assert torch.equal(old[0], capture(made, prompts[:1])[0])
        spoken = [
            capture(double, prompts[1:2])[0] for double in (made, replicas.replica(family, seed=1))
        ]
        assert not torch.equal(old[1], spoken[0])
        shutil.rmtree(tmp_path / "models--me--tiny" / "snapshots" / ("0" * 40) / "speech-lora")
        with pytest.raises((OSError, ValueError), match="adapter"):
            load_lalm("me/tiny", device="cpu")


def test_granite_weights_that_are_missing_are_not_hidden_by_its_adapter(tmp_path, monkeypatch):
    """transformers' own `save_pretrained` of it names weights as peft does, and no one finds them
    again."""
    made = replicas.replica("granite_speech")
    monkeypatch.setattr(
        "transformers.AutoProcessor.from_pretrained", lambda *_, **__: made.processor
    )
    monkeypatch.setattr("sarsteer_lab.checkpoints.missing_packages", lambda _: [])
    made.model.save_pretrained(str(tmp_path))
    with pytest.raises(
        ValueError, match="lacks 8 weights, which would be random: .*self_attn.q_proj"
    ):
        load_lalm(tmp_path, device="cpu")
    monkeypatch.setattr(replicas, "add_speech_adapter", lambda *_: None)
    plain = replicas.replica("granite_speech").model
    for says_it_has_one in (True, False):
        plain.config.has_lora_adapter = says_it_has_one
        plain.save_pretrained(tmp_path / str(says_it_has_one))
    with pytest.raises((OSError, ValueError), match="adapter"):
        load_lalm(tmp_path / "True", device="cpu")
    again = load_lalm(tmp_path / "False", device="cpu")
    assert again.fingerprint() == LALM(plain, made.processor, name="plain").fingerprint()


@pytest.mark.parametrize("family", ["phi4_multimodal", "granite_speech"])
def test_families_with_an_adapter_need_peft(family):
    assert "peft>=0.20" in [install for _, install in find_family(None, family).needs]


def lora(model, seed=0):
    """The model in peft's wrapper, as training leaves it."""
    torch.manual_seed(seed)
    modules = r".*language_model.*self_attn\.(q_proj|v_proj)|lm_head"
    return get_peft_model(model, LoraConfig(r=2, target_modules=modules, init_lora_weights=False))


def test_an_adapters_folder_loads_its_base_model_with_it(tmp_path, prompts):
    plain = replica()
    plain.model.save_pretrained(tmp_path / "base")
    plain.processor.save_pretrained(tmp_path / "base")
    expected = capture(plain, prompts)
    trained = lora(load_lalm(tmp_path / "base", device="cpu").model)
    trained.save_pretrained(tmp_path / "adapter")
    wrapped = LALM(trained, plain.processor, name="wrapped")
    states = capture(wrapped, prompts)
    assert (states - expected).abs().max() > 1e-2
    loaded = load_lalm(tmp_path / "adapter", device="cpu")
    assert torch.equal(capture(loaded, prompts), states)
    assert loaded.generate(prompts) == wrapped.generate(prompts)
    with trained.disable_adapter():
        assert torch.equal(capture(wrapped, prompts), expected)
    prints = {plain.fingerprint(), wrapped.fingerprint()}
    merged = LALM(trained.merge_and_unload(), plain.processor, name="merged")
    torch.testing.assert_close(capture(merged, prompts), states, rtol=1e-3, atol=1e-4)
    assert len({*prints, merged.fingerprint()}) == 3
    # An adapter of another architecture has weights that nothing here takes: they are named.
    other = replicas.replica("text_only").model
    modules = ["q_proj", "v_proj"]
    get_peft_model(other, LoraConfig(r=2, target_modules=modules)).save_pretrained(
        tmp_path / "other"
    )
    config = tmp_path / "other" / "adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}
    config.write_text(json.dumps(named))
    with pytest.raises(ValueError, match="have no place in its base model"):
        load_lalm(tmp_path / "other", device="cpu")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="its LoRA has no adapter_model.safetensors"):
        load_lalm(tmp_path / "adapter")


def test_adapters_of_virtual_tokens_are_refused():
    lalm = replica()
    config = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=4, token_dim=32
    )
    wrapped = get_peft_model(lalm.model, config)
    with pytest.raises(ValueError, match="virtual tokens move positions"):
        LALM(wrapped, lalm.processor, name="prompt-tuned")


def test_quantising_without_its_package_is_one_sentence(tmp_path):
    lalm = replica()
    lalm.model.save_pretrained(tmp_path)
    lalm.processor.save_pretrained(tmp_path)
    if find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(ImportError, match="bitsandbytes"):
        load_lalm(tmp_path, device="cpu", bits=4)


def test_a_path_is_a_path_whatever_it_is_called(tmp_path, monkeypatch):
    """A folder called "pocket", and a LoRA's relative folder as a string."""
    made = replica(seed=3)
    for name in ("pocket", "replica:qwen2_audio"):
        made.model.save_pretrained(tmp_path / name)
        made.processor.save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for folder in (Path("pocket"), tmp_path / "pocket", "./pocket", Path("replica:qwen2_audio")):
        lalm = load_lalm(folder, device="cpu")
        assert torch.equal(lalm.model.lm_head.weight, made.model.lm_head.weight)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(load_lalm(Path("pocket"), device="cpu").model, config).save_pretrained("tuned")
    settings = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "pocket"
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps(settings))
    tuned = load_lalm("tuned", device="cpu")
    assert tuned.next_token_logits(["Hi"]).shape == made.next_token_logits(["Hi"]).shape
    assert not torch.equal(tuned.next_token_logits(["Hi"]), made.next_token_logits(["Hi"]))


def test_a_misspelt_option_is_refused():
    for name in ("replica:qwen2_audio", "pocket", Path("pocket")):
        with pytest.raises(TypeError, match="safty"):
            load_lalm(name, safty=0.5)


OPTIONS = {
    "device": "cpu",
    "dtype": "float32",
    "safety": 0.1,
    "understanding": 0.2,
    "spoken_safety": 0.3,
    "family": "qwen2_audio",
    "device_map": {"": "cpu"},
    "bits": 4,
    "attention": "eager",
    "trust_remote_code": True,
    "revision": "main",
}
"""Each of `load_lalm`'s options with a value of its own, which is no default."""


def test_every_option_reaches_the_maker_that_takes_it(monkeypatch):
    assert list(OPTIONS) == list(signature(load_lalm).parameters)[1:]

    def standing_in_for(maker):
        def given(_variant, **options):
            return options

        given.__signature__ = signature(maker)
        return given

    monkeypatch.setitem(NAMED, "all", standing_in_for(load_lalm))
    assert load_lalm("all", **OPTIONS) == OPTIONS
    for option, value in OPTIONS.items():
        assert load_lalm("all", **{option: value}) == {option: value}
    assert load_lalm("all") == {}
    for name, maker in [*NAMED.items()]:
        monkeypatch.setitem(NAMED, name, standing_in_for(maker))
        taken = {option: OPTIONS[option] for option in list(signature(maker).parameters)[1:]}
        assert load_lalm(name, **taken) == taken


def test_an_option_that_a_model_has_not_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(NAMED, "bare", lambda _variant: None)
    names: dict[str, tuple[str, ...]] = dict.fromkeys(OPTIONS, ("bare",))
    for dial in ("safety", "understanding", "spoken_safety"):
        names[dial] = ("bare", "replica:qwen2_audio", "/nowhere/at/all")
        assert dial not in signature(load_checkpoint).parameters
    for option, value in OPTIONS.items():
        for name in names[option]:
            with pytest.raises(ValueError, match=f"{name} has no option {option} "):
                load_lalm(name, **{option: value})
