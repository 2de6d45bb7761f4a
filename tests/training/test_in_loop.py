"""The stage with the language model in the loop, and the teacher it is held to."""

import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_clips import random_clip
from safetensors.torch import load_file
from transformers import DynamicCache, LlamaForCausalLM, Qwen2AudioForConditionalGeneration

from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, Prompt
from training import lm_in_loop
from training.adapter import Example, answer_loss
from training.ctc import TokenHead, ctc_loss, placed_loss, target_of, within
from training.lm_in_loop import (
    FORGOTTEN,
    KEPT_RANK,
    forgetful,
    losses,
    mixed_epoch,
    train_in_loop,
    tree_batch,
)
from training.loop import AudioSide, collate, save_checkpoint
from training.teacher import (
    ANSWER_TOKENS,
    PrefixCache,
    Teacher,
    TypedAnswer,
    chat_frame,
    typed_divergence,
)


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


def test_prefix_cache_repeats_are_independent(tiny_lm: LlamaForCausalLM) -> None:
    prefix = PrefixCache(tiny_lm, [5, 6, 7])
    first, second = prefix.repeat(2), prefix.repeat(4)
    assert (
        isinstance(first, DynamicCache) and first.get_seq_length() == second.get_seq_length() == 3
    )
    first.update(torch.ones(2, 2, 1, 8), torch.ones(2, 2, 1, 8), 0)
    assert second.get_seq_length() == 3 and prefix.repeat(1).get_seq_length() == 3


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
            lm, copy.deepcopy(tiny_lm), audio, copy.deepcopy(head), tiny.processor, clips, typed,
            tmp_path, presentations=presentations, dtype=torch.float32, save_every=1,
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
