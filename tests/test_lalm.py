"""Prompts to batches to answers: padding, order, errors, the fingerprint and the safety dial."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import replicas
import soundfile
import torch
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from sarsteer_lab import encoding, families
from sarsteer_lab.activations import capture, capture_answer
from sarsteer_lab.batch import split_into_batches
from sarsteer_lab.checkpoints import Size, announce, checkpoint_size, pick_device
from sarsteer_lab.heads import audio_attention
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.speech import ClipError
from sarsteer_lab.steering import SteeringVectors, steer


def test_chat_puts_the_clip_before_the_text(tiny, make_clip):
    text = tiny.chat(Prompt("What do you hear?", make_clip(0.5)))
    assert text.index("<|AUDIO|>") < text.index("What do you hear?")
    assert text.startswith("<|im_start|>system\nYou are a replica.<|im_end|>")
    assert text.endswith("<|im_start|>assistant\n")
    own = tiny.chat(Prompt("Hello", system="You are a calm teacher."))
    assert "You are a calm teacher." in own and "replica" not in own


def test_batches_are_padded_on_the_left_and_hold_every_audio_position(tiny, prompts):
    inputs = tiny.inputs(prompts)
    mask = inputs["attention_mask"]
    assert mask[:, -1].all()
    assert (mask.diff(dim=1) >= 0).all(), "padding comes first in every row"
    positions = (inputs["input_ids"] == tiny.audio_token_id).sum(1).tolist()
    # 100 frames a second, halved by a convolution and again by pooling: 25 positions a second.
    assert positions == [0, 25, 57, 10, 0, 42]


def test_answers_do_not_depend_on_the_batch(lalm, prompts):
    together = lalm.generate(prompts, max_new_tokens=8)
    assert together == [lalm.generate([prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert together == lalm.generate(prompts, max_new_tokens=8, batch_size=2)
    assert lalm.generate(prompts[::-1], max_new_tokens=8) == together[::-1]


def test_logits_do_not_depend_on_the_batch(lalm, prompts):
    together = lalm.next_token_logits(prompts)
    alone = torch.cat([lalm.next_token_logits([prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item())


def test_logits_are_those_of_the_plain_model(tiny, prompts):
    with torch.no_grad():
        plain = tiny.model(**tiny.inputs(prompts)).logits[:, -1]
    # Not bit for bit: a head over one position is another matrix product than one over all, and
    # with two threads sums it in another order (1.2e-6 off here).
    torch.testing.assert_close(tiny.next_token_logits(prompts), plain, rtol=1e-5, atol=1e-5)


def test_generate_is_transformers_own_greedy(tiny, prompts):
    inputs = tiny.inputs(prompts)
    tokens = tiny.model.generate(**inputs, max_new_tokens=8, do_sample=False)[
        :, inputs["input_ids"].shape[1] :
    ]
    expected = [
        text.strip() for text in tiny.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ]
    assert tiny.generate(prompts, max_new_tokens=8) == expected


def test_sampling_depends_on_its_seed_only(tiny, prompts):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny.generate(prompts, max_new_tokens=8, do_sample=True, seed=5)
    assert torch.equal(torch.get_rng_state(), before), "torch's global random state is left alone"
    torch.manual_seed(2)
    assert tiny.generate(prompts, max_new_tokens=8, do_sample=True, seed=5) == first
    assert tiny.generate(prompts, max_new_tokens=8, do_sample=True, seed=6) != first


def test_random_numbers_of_other_devices_are_left_alone(tiny, monkeypatch):
    """torch's own `manual_seed` would seed every one, and afterwards nothing sets them back."""
    seeded = []
    for device in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(f"torch.{device}.manual_seed", seeded.append)
    for device in ("cuda", "xpu"):
        monkeypatch.setattr(f"torch.{device}.manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    for options in ({}, {"do_sample": True, "seed": 5}):
        tiny.generate(["Hi"], max_new_tokens=2, **options)
    replica(seed=3)
    assert seeded == [] and torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(before.sum().item())
    assert seeded, "torch asks those that are watched here"
    torch.set_rng_state(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_numbers_of_a_gpu_are_left_alone(tiny, prompts):
    for lalm in (tiny, replica(device="cuda")):
        torch.cuda.manual_seed(7)
        before = torch.cuda.get_rng_state()
        first = lalm.generate(prompts, max_new_tokens=4, do_sample=True, seed=5)
        replica(seed=3, device="cuda")
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert lalm.generate(prompts, max_new_tokens=4, do_sample=True, seed=5) == first


def test_strings_are_typed_prompts_and_lists_are_needed(tiny):
    typed = [Prompt("hello"), Prompt("Hi")]
    assert tiny.generate(["hello", Prompt("Hi")], max_new_tokens=4) == tiny.generate(
        typed, max_new_tokens=4
    )
    assert torch.equal(tiny.next_token_logits(["hello", "Hi"]), tiny.next_token_logits(typed))
    assert torch.equal(capture(tiny, ["hello", "Hi"]), capture(tiny, typed))
    assert torch.equal(tiny.inputs(["hello"])["input_ids"], tiny.inputs(typed[:1])["input_ids"])
    for call in (
        tiny.generate,
        tiny.next_token_logits,
        tiny.inputs,
        lambda one: capture(tiny, one),
    ):
        for single, shown in (
            ("hello", r"\['hello'\]"),
            (Prompt("hello"), r"\[Prompt\(text='hello'"),
        ):
            with pytest.raises(TypeError, match=shown):
                call(single)


def test_answers_stop_at_given_strings_and_there_is_one_each(tiny, prompts):
    whole = tiny.generate(prompts, max_new_tokens=8)
    stop = whole[1][3]
    assert tiny.generate(prompts[1:2], max_new_tokens=8, stop_strings=[stop]) == [
        whole[1][: whole[1].index(stop) + 1]
    ]
    with pytest.raises(ValueError, match="num_return_sequences"):
        tiny.generate(prompts, num_return_sequences=2, do_sample=True)


def test_a_changed_padding_side_and_training_mode_change_nothing(prompts):
    lalm = replica()
    expected = capture(lalm, prompts)
    lalm.tokenizer.padding_side = "right"
    assert torch.equal(capture(lalm, prompts), expected)
    lalm.layers[1].train()
    with pytest.warns(UserWarning, match="training mode"):
        assert torch.equal(capture(lalm, prompts), expected)
    assert not any(part.training for part in lalm.model.modules())


def test_lengths_for_planning_are_those_of_clip_and_text(tiny, make_clip):
    typed, spoken, longer = tiny.encode(["Hi", Prompt("Hi", make_clip(2.4)), "Hi" * 100])
    assert spoken.length == pytest.approx(typed.length + 60, abs=10)
    assert longer.length == pytest.approx(typed.length + 50, abs=1)


def test_what_is_encoded_stays_as_it_is(tiny, prompts, monkeypatch):
    """A prompt is resolved once on its way, however many functions it passes."""
    answers = tiny.generate(prompts, max_new_tokens=4)
    states = capture(tiny, prompts)
    encoded = tiny.encode(prompts)
    for step in ("chat_text", "read_waveform"):
        monkeypatch.setattr(encoding, step, None)
    assert all(a is b for a, b in zip(tiny.encode(encoded), encoded, strict=True))
    assert tiny.generate(encoded, max_new_tokens=4) == answers
    assert torch.equal(capture(tiny, encoded), states)


def test_a_prompt_is_resolved_once_on_its_way(tiny, prompts, monkeypatch):
    calls = []
    for step in ("chat_text", "read_waveform"):
        plain = getattr(encoding, step)

        def counted(*args, plain=plain, step=step):
            calls.append(step)
            return plain(*args)

        monkeypatch.setattr(encoding, step, counted)
    for run in (capture, LALM.generate, LALM.next_token_logits):
        calls.clear()
        run(tiny, prompts)
        assert sorted(calls) == ["chat_text"] * len(prompts) + ["read_waveform"] * len(prompts)


def test_nothing_to_do_is_done(tiny):
    assert tiny.generate([]) == []
    assert tiny.next_token_logits([]).shape == (0, tiny.text_config.vocab_size)


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize(
    "function",
    [capture, capture_answer, LALM.next_token_logits, LALM.generate, audio_attention],
)
def test_a_batch_holds_a_prompt_at_least(tiny, prompts, function, batch_size):
    """A negative number made no batch at all: states of zeros, and empty answers."""
    with pytest.raises(ValueError, match=f"batch_size={batch_size}: give a whole number"):
        function(tiny, prompts[1:3], batch_size=batch_size)
    assert split_into_batches([], [], [], batch_size) == []


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (Prompt(), ValueError, "neither"),
        (Prompt("Listen to <|AUDIO|>"), ValueError, "stands for audio"),
        (Prompt("Hi", audio="no/such/clip.wav"), ClipError, "no/such/clip.wav"),
        (Prompt("Hi", audio=np.zeros(16000, np.float32)), ClipError, "silent"),
        (Prompt("Hi", audio=np.full(16000, np.nan, np.float32)), ClipError, "NaN"),
        (Prompt("Hi", audio=np.ones(16000 * 9, np.float32) / 2), ClipError, "at most 8 s"),
    ],
)
def test_unusable_prompts_are_refused(tiny, prompt, error, message):
    with pytest.raises(error, match=message):
        tiny.inputs([prompt])


def test_a_model_without_ears_refuses_spoken_prompts(tiny, make_clip):
    deaf = LALM(tiny.model, tiny.processor, name="deaf")
    deaf.audio_token_id = None
    with pytest.raises(ValueError, match="takes no audio"):
        deaf.inputs([Prompt("Hi", make_clip(1.0))])


def test_who_watches_is_told_which_batch_runs_and_forgets_it_after_an_error(tiny, prompts):
    class Watcher:
        batch = None

    watcher, rows = Watcher(), []
    hook = tiny.layers[0].register_forward_hook(
        lambda *_: rows.append(list(watcher.batch.prompt_numbers))
    )
    tiny.watchers.append(watcher)
    tiny.next_token_logits(prompts, batch_size=2)
    assert sorted(row for batch in rows for row in batch) == list(range(len(prompts)))
    assert max(map(len, rows)) == 2 and watcher.batch is None
    interrupting = tiny.layers[1].register_forward_hook(interrupt := Interrupting())
    with pytest.raises(KeyboardInterrupt):
        tiny.generate(prompts)
    assert interrupt.called and watcher.batch is None
    hook.remove()
    interrupting.remove()  # alone: transformers keeps hooks of its own on the layers
    tiny.watchers.remove(watcher)


class Interrupting:
    """A hook at which the user presses Ctrl-C."""

    called = False

    def __call__(self, *_):
        self.called = True
        raise KeyboardInterrupt


def test_fingerprints_tell_models_apart():
    first, again, other = replica(seed=0), replica(seed=0), replica(seed=1)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert replica(dtype=torch.bfloat16).fingerprint() != first.fingerprint()
    before = first.fingerprint()
    with torch.no_grad():
        weight = first.layers[2].mlp.up_proj.weight
        weight[3, 5] += 1e-3
        assert first.fingerprint() != before
        weight.copy_(again.layers[2].mlp.up_proj.weight)
    assert first.fingerprint() == before


def test_any_change_of_weights_or_settings_changes_the_fingerprint():
    model = replica()
    weight = model.layers[1].self_attn.q_proj.weight
    changes = [
        lambda: setattr(weight, "data", weight.data * 2),
        lambda: weight.data.mul_(3),
        lambda: weight.data.copy_(weight.data.flip(0)),
        lambda: setattr(weight, "data", weight.data.half().float()),
        lambda: model.core.generation_config.update(eos_token_id=5),
        lambda: model.tokenizer.add_tokens(["<new>"]),
    ]
    seen, version = [model.fingerprint()], weight._version
    for change in changes:
        change()
        assert weight._version == version
        seen.append(model.fingerprint())
    assert len(set(seen)) == len(seen) and model.fingerprint() == seen[-1]


def test_how_a_model_is_run_changes_the_fingerprint_where_it_is_not_the_usual():
    lalm = replica()
    usual = lalm.fingerprint()
    lalm.model.set_attn_implementation("eager")
    assert lalm.fingerprint() != usual
    lalm.model.set_attn_implementation("sdpa")
    assert lalm.fingerprint() == usual
    lalm.trunk.audio_tower.config._attn_implementation = "eager"  # of one part alone
    of_tower = lalm.fingerprint()
    lalm.trunk.audio_tower.config._attn_implementation = "sdpa"
    assert of_tower != lalm.fingerprint() == usual
    before = torch.get_float32_matmul_precision()
    seen = {usual}
    try:
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            seen.add(lalm.fingerprint())
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) == 3 and lalm.fingerprint() == usual
    generic = LALM(lalm.model, lalm.processor, name="generic", family="auto")
    assert generic.fingerprint() != usual
    own = LALM(lalm.model, lalm.processor, name="own", family="qwen2_audio")
    assert own.fingerprint() == usual


def test_a_merged_adapter_changes_the_fingerprint():
    from peft import LoraConfig, get_peft_model

    model = replica()
    before = model.fingerprint()
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(model.model, config)
    adapted.merge_adapter()
    merged = LALM(adapted.merge_and_unload(), model.processor, name="merged")
    assert merged.fingerprint() != before == replica().fingerprint()


def test_prompts_are_encoded_with_a_key_of_what_the_model_is_given(tiny, make_clip, tmp_path):
    clip = make_clip(1.0)
    other = clip.copy()
    other[-1] += 1e-3
    soundfile.write(tmp_path / "clip.wav", clip, 16000, subtype="FLOAT")
    prompt = Prompt("Hi", clip)
    different = [
        prompt,
        Prompt("Hi!", clip),
        Prompt("Hi", clip, system="Be kind."),
        Prompt("Hi", other),
        Prompt("Hi", clip[:-1]),
        Prompt("Hi"),
    ]
    encoded = tiny.encode(different)
    assert len({one.key for one in encoded}) == len(different)
    assert encoded[0].text == tiny.chat(prompt) and np.array_equal(encoded[0].waveform, clip)
    assert encoded[5].waveform is None
    for same in (Prompt("Hi", clip.copy()), Prompt("Hi", tmp_path / "clip.wav")):
        assert tiny.encode([same])[0].key == encoded[0].key
    with pytest.raises(ClipError):
        tiny.encode([Prompt("Hi", "missing.wav")])


def test_keys_tell_models_and_parts_apart_and_refuse_hooks(tiny):
    keys = [
        tiny.key("answers", 3),
        tiny.key("answers", 4),
        tiny.key("answers", [3]),
        replica(seed=1).key("answers", 3),
        replica(dtype=torch.bfloat16).key("answers", 3),
    ]
    assert (
        len(set(keys)) == len(keys)
        and tiny.key("answers", 3) == replica().key("answers", 3) == keys[0]
    )
    vectors = SteeringVectors(torch.ones(tiny.n_layers, tiny.d_model))
    with steer(tiny, vectors, 1.0), pytest.raises(HookedModelError, match="hooks are on"):
        tiny.key("answers", 3)
    for part in (tiny.layers[0], tiny.core.get_output_embeddings(), tiny.trunk.audio_tower):
        for register in (part.register_forward_hook, part.register_forward_pre_hook):
            handle = register(lambda *args: None)
            with pytest.raises(HookedModelError):
                tiny.key("answers", 3)
            handle.remove()
    assert tiny.key("answers", 3) == keys[0]


def test_only_the_pocket_model_has_a_dial(tiny, tmp_path):
    assert tiny.safety is None
    with pytest.raises(ValueError, match="no safety dial"):
        tiny.set_safety(0.5)
    with pytest.raises(ValueError, match="no option safety"):
        load_lalm(tmp_path, safety=0.5)
    for name, option in (("replica:qwen2_audio", {"bits": 4}), ("pocket", {"revision": "main"})):
        with pytest.raises(ValueError, match=f"{name} has no option {next(iter(option))}"):
            load_lalm(name, **option)
    with pytest.raises(TypeError, match="safty"):
        load_lalm("replica:qwen2_audio", safty=0.5)
    with pytest.raises(ValueError, match="one pocket model"):
        load_lalm("pocket:large")


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_lalm(tmp_path)
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        load_lalm("./no_such_folder")
    for name in ("pocket", "replica:qwen2_audio"):  # a Path is always a path
        with pytest.raises(FileNotFoundError, match="config.json"):
            load_lalm(Path(name))


def test_a_saved_model_loads_again(tiny, prompts, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    again = load_lalm(tmp_path, device="cpu")
    assert again.generate(prompts, max_new_tokens=6) == tiny.generate(prompts, max_new_tokens=6)
    assert again.fingerprint() == tiny.fingerprint()
    assert (again.n_layers, again.d_model, again.max_audio_seconds) == (4, 32, 8)


def test_the_device_is_cuda_then_mps_then_the_cpu(monkeypatch):
    there = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    assert (pick_device("auto"), pick_device("cpu"), pick_device("cuda:1")) == (
        "cuda",
        "cpu",
        "cuda:1",
    )
    there["cuda"] = False
    assert pick_device("auto") == "mps"
    there["mps"] = False
    assert pick_device("auto") == "cpu"


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("saved")
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)
    return folder


def test_a_device_map_spreads_the_same_model(saved, tiny, prompts):
    spread = load_lalm(saved, device_map={"": "cpu"})
    torch.testing.assert_close(
        spread.next_token_logits(prompts), tiny.next_token_logits(prompts), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="give one of them"):
        load_lalm(saved, device="cpu", device_map="auto")


def test_layers_that_are_kept_on_disk_are_refused(saved):
    """accelerate would fetch them for each forward pass, past every hook's vectors."""
    names = [f"model.language_model.layers.{layer}" for layer in range(4)]
    split = {
        name: "cpu"
        for name in ("model.audio_tower", "model.multi_modal_projector", "lm_head", *names)
    }
    split |= {
        f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")
    }
    split[names[2]] = "disk"
    with pytest.raises((ValueError, FileNotFoundError), match="cannot be steered|offload"):
        load_lalm(saved, device_map=split)


def test_dtype_attention_and_family_are_passed_on(saved, tiny, prompts):
    lalm = load_lalm(saved, device="cpu", dtype=torch.bfloat16, attention="eager", family="auto")
    assert lalm.dtype == torch.bfloat16 and lalm.family.name == "auto"
    assert lalm.text_config._attn_implementation == "eager"
    # The generic recipe is enough for this family.
    generic = load_lalm(saved, device="cpu", family="auto")
    torch.testing.assert_close(
        generic.next_token_logits(prompts), tiny.next_token_logits(prompts), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="no family 'mine'; choose qwen2_audio"):
        load_lalm(saved, device="cpu", family="mine")


@pytest.mark.parametrize(
    ("bits", "error", "message"), [(3, ValueError, "4 or 8"), (4, ImportError, "bitsandbytes")]
)
def test_bits_that_cannot_be_had(saved, bits, error, message):
    if bits == 4 and find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(error, match=message):
        load_lalm(saved, device="cpu", bits=bits)


def test_a_family_says_which_package_it_needs(tmp_path, monkeypatch):
    lalm = replicas.replica("voxtral")
    lalm.model.config.save_pretrained(tmp_path)
    found = families.find_spec
    monkeypatch.setattr(
        families, "find_spec", lambda name: None if name == "mistral_common" else found(name)
    )
    with pytest.raises(ImportError, match=r"pip install mistral-common\[audio\]"):
        load_lalm(tmp_path)


def test_size_and_memory_of_a_checkpoint(saved, tiny, capsys, monkeypatch, tmp_path):
    size = checkpoint_size(saved)
    assert size.parameters == sum(tensor.numel() for tensor in tiny.model.state_dict().values())
    assert size.download == 0
    assert size.memory(torch.bfloat16) == round(size.parameters * 2 * 1.2)
    assert size.memory(torch.float32, bits=4) == round(size.parameters / 2 * 1.2)
    load_lalm(saved, device="cpu")
    assert str(saved) not in capsys.readouterr().err, (
        "nothing to say about a small model that is there"
    )
    monkeypatch.setattr("sarsteer_lab.checkpoints.free_memory", lambda device: 1000)
    load_lalm(saved, device="cpu")
    assert "but cpu has 0.0 GB free" in capsys.readouterr().err
    assert checkpoint_size(tmp_path) is None
    # As mistralai's repositories: all weights once more, which transformers does not read.
    twice = shutil.copytree(saved, tmp_path / "twice")
    shutil.copy(twice / "model.safetensors", twice / "consolidated.safetensors")
    assert checkpoint_size(twice) == size


def test_the_hub_is_asked_for_sizes_and_what_is_in_its_cache_is_not_counted(monkeypatch):
    class Api:
        def model_info(self, name, revision, files_metadata):
            assert (name, revision) == ("some/model", "v2") and files_metadata
            files = {"a.safetensors": 700, "b.safetensors": 300, "c.bin": 999}
            files["consolidated.safetensors"] = 1000
            return SimpleNamespace(
                siblings=[
                    SimpleNamespace(rfilename=file, size=size) for file, size in files.items()
                ],
                safetensors=SimpleNamespace(total=500),
            )

    monkeypatch.setattr("sarsteer_lab.checkpoints.HfApi", Api)
    cached = {("b.safetensors", "v2"): "some/path"}
    monkeypatch.setattr(
        "sarsteer_lab.checkpoints.try_to_load_from_cache",
        lambda name, file, revision: cached.get((file, revision)),
    )
    assert checkpoint_size("some/model", "v2") == Size(parameters=500, download=700)


def test_a_hub_that_cannot_be_reached_leaves_the_size_unknown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert checkpoint_size("some/model") is None


def test_a_download_is_announced(capsys):
    announce("some/model", Size(8_400_000_000, 9_000_000_000), torch.bfloat16, None, "mps")
    assert capsys.readouterr().err == "some/model: downloads 9.0 GB, 8.4 billion parameters\n"


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        (GatedRepoError, PermissionError, "is gated: ask for access"),
        (RepositoryNotFoundError, FileNotFoundError, "the hub has no such model"),
        (OfflineModeIsEnabled, FileNotFoundError, "hub cannot be reached.*hf download some/model"),
        (None, FileNotFoundError, "hub cannot be reached"),
    ],
)
def test_why_a_checkpoint_cannot_be_had(monkeypatch, cause, error, message):
    def fail(*args, **kwargs):
        text = "We couldn't connect to 'https://huggingface.co' to load the files"
        if cause in (GatedRepoError, RepositoryNotFoundError):
            raise OSError("a long story") from cause(
                "no", response=httpx.Response(403, request=REQUEST)
            )
        raise OSError(text) from (cause("offline") if cause else None)

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(error, match=message):
        load_lalm("some/model")


REQUEST = httpx.Request("GET", "https://example.org")

REMOTE_CODE = """
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

class TheirConfig(Qwen2AudioConfig):
    model_type = "their_audio"

class TheirModel(Qwen2AudioForConditionalGeneration):
    config_class = TheirConfig
"""


def test_code_that_a_checkpoint_brings_runs_only_if_asked_for(saved, tiny, prompts, tmp_path):
    folder = tmp_path / "theirs"
    shutil.copytree(saved, folder)
    weights = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "modeling_their_audio.py").write_text(REMOTE_CODE)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "their_audio"
    names = {"AutoConfig": "TheirConfig", "AutoModelForCausalLM": "TheirModel"}
    config["auto_map"] = {auto: f"modeling_their_audio.{name}" for auto, name in names.items()}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="pass trust_remote_code=True"):
        load_lalm(folder, device="cpu")
    lalm = load_lalm(folder, device="cpu", trust_remote_code=True)
    assert lalm.family.name == "auto" and type(lalm.model).__name__ == "TheirModel"
    torch.testing.assert_close(
        lalm.next_token_logits(prompts), tiny.next_token_logits(prompts), rtol=1e-5, atol=1e-5
    )


def test_weights_that_are_missing_are_not_made_up(saved, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {
        name: tensor for name, tensor in weights.items() if "layers.2.mlp.up_proj" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="lacks 1 weights, which would be random: .*layers.2.mlp.up_proj"
    ):
        load_lalm(folder, device="cpu")


def test_flamingos_are_found_although_transformers_lists_them_elsewhere(tmp_path, prompts):
    lalm = replicas.replica("audioflamingo3")
    lalm.model.save_pretrained(tmp_path)
    lalm.processor.save_pretrained(tmp_path)
    again = load_lalm(tmp_path, device="cpu")
    assert again.family.name == "audioflamingo3"
    assert torch.equal(again.next_token_logits(prompts), lalm.next_token_logits(prompts))


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni", "voxtral", "musicflamingo"])
def test_families_load_from_a_folder(family, tmp_path, monkeypatch, prompts):
    """Qwen2.5-Omni's own loader stops where it is asked which weights were missing."""
    lalm = replicas.replica(family)
    lalm.model.save_pretrained(tmp_path)
    # Not all doubles' processors can be written: some have no pictures, which they would have to.
    monkeypatch.setattr(
        "transformers.AutoProcessor.from_pretrained", lambda *_, **__: lalm.processor
    )
    monkeypatch.setattr("sarsteer_lab.checkpoints.missing_packages", lambda _: [])
    again = load_lalm(tmp_path, device="cpu")
    assert again.family.name == family and again.fingerprint() == lalm.fingerprint()
    assert torch.equal(again.next_token_logits(prompts), lalm.next_token_logits(prompts))
    weights = load_file(tmp_path / "model.safetensors")
    lacking = next(name for name in weights if "layers.1.self_attn.q_proj" in name)
    del weights[lacking]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights, which would be random"):
        load_lalm(tmp_path, device="cpu")


def test_replicas_do_not_touch_the_random_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    replica(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="no replica"):
        replica("no_such_family")
