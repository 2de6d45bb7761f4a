"""How clips are heard in training: features, changes, batches, the audio side, the CTC head."""

import copy
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_clips import random_clip
from safetensors.torch import save_file
from transformers import (
    LlamaForCausalLM,
    Qwen2AudioForConditionalGeneration,
    WhisperFeatureExtractor,
)

from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket import assemble
from training.clips import Clip
from training.ctc import TokenHead, ctc_loss, greedy_words, placed_loss, reach_of, target_of
from training.loop import (
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
from training.sound import change, log_mel


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


def test_stretched_mels_move_along_the_mel_axis_only() -> None:
    mel = torch.arange(80.0)[:, None].expand(80, 5) + 100 * torch.arange(5)
    assert torch.equal(stretch_mels(mel, 1.0), mel)
    wider = stretch_mels(mel, 1.1)
    torch.testing.assert_close(wider[:, 0], torch.arange(80) / 1.1)
    torch.testing.assert_close(wider - wider[:, :1], mel - mel[:, :1])
    assert stretch_mels(mel, 0.9).max() == mel.max()


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


@pytest.fixture
def fresh(
    tiny: LALM, tiny_lm: LlamaForCausalLM
) -> Callable[[int], Qwen2AudioForConditionalGeneration]:
    """The pocket architecture over a small language model, its audio side drawn from a seed."""

    def made(seed: int) -> Qwen2AudioForConditionalGeneration:
        torch.manual_seed(seed)
        return assemble.build_model(tiny_lm, tiny.processor, {})

    return made


def test_a_fresh_audio_side_is_drawn_from_the_callers_seed(
    fresh: Callable[[int], Qwen2AudioForConditionalGeneration],
) -> None:
    first, again, other = (fresh(seed).model.multi_modal_projector for seed in (1, 1, 2))
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_assembling_draws_nothing_and_leaves_random_numbers_alone(
    fresh: Callable[[int], Qwen2AudioForConditionalGeneration],
    tiny: LALM,
    tiny_lm: LlamaForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audio = {}
    for name, tensor in fresh(3).model.state_dict().items():
        if not name.startswith("language_model."):
            audio[name] = tensor
    deltas = {name: tmp_path / f"{name}.safetensors" for name in ("audio", *assemble.MERGED)}
    for name, path in deltas.items():
        save_file(audio if name == "audio" else {}, path)
    monkeypatch.setattr(
        assemble, "base_language_model", lambda: (tiny_lm, copy.deepcopy(tiny.tokenizer))
    )
    for seed in (4, 5):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        assemble.assemble_into(tmp_path / str(seed), deltas)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert assemble.file_checksums(tmp_path / "4") == assemble.file_checksums(tmp_path / "5")
