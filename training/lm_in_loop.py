"""Training stage (e): the language model in the loop, frozen; audio tower and projector learn to be
read by it.

Every clip is put where a user's clip stands in the chat. Two continuations share its prefix through
a tree-shaped mask: a "repeat" instruction, with the cross-entropy of the transcript; and, for
questions, the instruction to answer, with the divergence of the answer's first tokens from what the
same frozen model says to the *typed* question. The projector's own outputs are fed: no mixtures of
token embeddings, no CTC compression. Only harmless sentences are heard here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import LlamaForCausalLM, Qwen2AudioProcessor

from sarsteer_lab.pocket.assemble import merge_delta
from training.adapter import export_delta, inject_adapter, truncated
from training.clips import Clip
from training.ctc import TokenHead, ctc_loss, target_of
from training.loop import (
    AudioSide,
    Log,
    balanced_epoch,
    batches,
    collate,
    hear,
    load_checkpoint,
    rate,
    save_checkpoint,
)
from training.teacher import (
    Frame,
    PrefixCache,
    Teacher,
    TypedAnswer,
    answer_divergence,
    chat_frame,
    typed_divergence,
)

BATCH = 8
# Half the CTC stage's rates and less: with more, the outputs outgrow token embeddings within 200
# clips, and transcripts get worse before they get better.
TOWER_RATE, PROJECTOR_RATE = 1.5e-4, 2.5e-4
# Beside each batch, so many further clips are heard for the CTC loss alone: without them the CTC
# transcripts got worse while the language model learned.
CTC_WEIGHT, CTC_CLIPS = 0.5, 8
# An adapter learns to read the projector's outputs. With the language model frozen altogether,
# 1,200 clips brought the read-out's word errors from 48% to 40% only, while the CTC head heard 83%
# of the words; with an adapter on the lowest ten layers, 2,000 open clips left them at 40%, the
# head's at 24%.
LISTENING_LAYERS, LISTENING_RANK, LISTENING_RATE = range(30), 32, 5e-4
# What is written has a lower rank, which hears as well, so that all deltas together stay below 40
# MB.
KEPT_RANK = 16
# So many of the transcript's tokens are replaced by others where it is read (never where it is to
# be said). Given all words so far, the language model can often guess the next; so it learnt to go
# on, not to listen.
FORGOTTEN = 0.1
# The same adapter also reads typed text, and safety stands above it in part: in every step some
# typed prompts, a quarter of them harmful, are held to the answers they had before. (Without this,
# typed refusal of harmful requests fell while the model learned to listen; with a twelfth as many,
# benign answers moved by 0.11 nats in 9,000 clips.)
TYPED_PROMPTS, TYPED_WEIGHT = 24, 8.0
# Polishing: the adapter, and so every typed answer, stays as it is; the audio side learns at this
# share of its rates, and what is kept is the running average of its weights over some two hundred
# steps. (At full rates 1,400 further clips made the trained ears worse in every cell.)
POLISH_RATE, POLISH_MEMORY = 0.3, 0.995
# Kinds of sentences that are held to the answer to the typed sentence, too, and how many of them
# each time.
ASKING, ANSWERED = ("question", "request"), 0.4
# The share of carriers and stories in the mix: the course's prompts are questions and instructions.
OTHER_SHARE = 0.4


@dataclass(frozen=True)
class Branches:
    """Where a clip's pieces lie in its row: lengths of the shared prefix, the repeat branch and the
    answer branch.
    """

    shared: int
    repeat: int
    answer: int


def tree_batch(
    lm: LlamaForCausalLM,
    frame: Frame,
    outputs: Sequence[Float[Tensor, "token d_model"]],
    given: Sequence[Sequence[int]],
    answers: Sequence[TypedAnswer | None],
    prefix: int,
) -> tuple[
    Float[Tensor, "clip position d_model"],
    Int[Tensor, "clip position"],
    Float[Tensor, "..."],
    list[Branches],
]:
    """Embeddings, positions, additive tree mask (over `prefix` cached positions, then the row) and
    the layout. `given` are the transcripts as they are read.
    """
    embed = lm.get_input_embeddings()
    dtype = embed.weight.dtype
    rows, layout = [], []
    for audio, transcript, answer in zip(outputs, given, answers, strict=True):
        repeat = [*frame.repeat, *transcript]
        reply = [*frame.answer, *answer.tokens[:-1]] if answer else []
        rows.append(
            torch.cat([audio.to(dtype), embed(torch.tensor([*repeat, *reply], device=lm.device))])
        )
        layout.append(Branches(len(audio), len(repeat), len(reply)))
    width = max(map(len, rows))
    embeddings = torch.stack([F.pad(row, (0, 0, 0, width - len(row))) for row in rows])
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    branch = torch.full((len(rows), width), 3)
    for i, part in enumerate(layout):
        fork, end = part.shared + part.repeat, part.shared + part.repeat + part.answer
        positions[i, :fork] = torch.arange(fork)
        positions[i, fork:end] = part.shared + torch.arange(part.answer)
        branch[i, : part.shared], branch[i, part.shared : fork], branch[i, fork:end] = 0, 1, 2
    causal = torch.ones(width, width).tril().bool()
    visible = causal & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    visible = torch.cat([torch.ones(len(rows), width, prefix, dtype=torch.bool), visible], -1)
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[
        :, None
    ]
    return embeddings, (positions + prefix).to(lm.device), mask.to(lm.device), layout


def losses(
    lm: LlamaForCausalLM,
    frame: Frame,
    hidden: Float[Tensor, "clip position d_model"],
    layout: Sequence[Branches],
    transcripts: Sequence[Sequence[int]],
    answers: Sequence[TypedAnswer | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Transcript cross-entropy per token, KL(typed || spoken) over the answer's start, and over its
    first token alone.
    """
    read, wanted, said, top, log_probs = [], [], [], [], []
    for row, part, transcript, answer in zip(hidden, layout, transcripts, answers, strict=True):
        start = part.shared + len(frame.repeat) - 1
        read.append(row[start : part.shared + part.repeat])
        wanted += [*transcript, frame.end]
        if answer:
            fork = part.shared + part.repeat
            said.append(row[fork + len(frame.answer) - 1 : fork + part.answer])
            top.append(answer.top)
            log_probs.append(answer.log_probs)
    labels = torch.tensor(wanted, device=lm.device)
    repeat = F.cross_entropy(lm.lm_head(torch.cat(read)).float(), labels)
    if not said:
        zero = repeat.new_zeros(())
        return repeat, zero, zero
    divergence = answer_divergence(
        lm.lm_head(torch.stack(said)), torch.stack(top), torch.stack(log_probs)
    )
    return repeat, divergence.mean(), divergence[:, 0].mean()


def forgetful(transcript: Sequence[int], tokens: Sequence[int], draw: random.Random) -> list[int]:
    """`transcript` with the share `FORGOTTEN` of it replaced by any of `tokens`."""
    return [draw.choice(tokens) if draw.random() < FORGOTTEN else token for token in transcript]


def mixed_epoch(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """All questions, and as many other clips (drawn from `seed`) as make up `OTHER_SHARE` of the
    whole."""
    questions = [clip for clip in clips if clip.kind in ASKING]
    others = [clip for clip in clips if clip.kind not in ASKING]
    count = min(len(others), round(len(questions) * OTHER_SHARE / (1 - OTHER_SHARE)))
    return questions + random.Random(seed).sample(others, count)


def endless(clips: Sequence[Clip], size: int, seed: int) -> Iterator[list[Clip]]:
    """Batches of one balanced epoch after another."""
    for epoch in itertools.count(seed):
        yield from batches(balanced_epoch(clips, epoch), size, epoch)


def train_in_loop(
    lm: LlamaForCausalLM,
    taught: LlamaForCausalLM,
    audio: AudioSide,
    head: TokenHead,
    processor: Qwen2AudioProcessor,
    clips: Sequence[Clip],
    typed: Sequence[dict],
    folder: Path,
    *,
    presentations: int,
    listening: dict[str, Tensor] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    save_every: int = 50,
    polish: bool = False,
) -> None:
    """Train `audio` in place, and an adapter on the otherwise frozen `lm`, resuming from
    `folder`/in_loop.safetensors.

    The adapter starts from `listening` if given; with `polish` it stays that (see POLISH_RATE), and
    the averages of `audio` and `head` are in `folder`/polished.safetensors. Answers to what is
    typed, to the `typed` prompts (`label`, `text`) among them, are held to those of `taught`, the
    same model as it was. If the audio tower is frozen, projector and adapter learn, and nothing is
    heard for the CTC loss alone. The frozen language model computes in `dtype`: bfloat16 costs
    little more than half where the processor has it.

    Logs to `folder`/in_loop.jsonl; writes the adapter to `folder`/listening.safetensors when done.
    An interrupted run repeats at most `save_every` batches.
    """
    from peft.helpers import disable_input_dtype_casting

    torch.manual_seed(seed)
    lm.requires_grad_(False).eval().to(dtype)  # what trains, and every loss, stays in float32
    tokenizer = processor.tokenizer
    frame = chat_frame(processor)
    teacher = Teacher(taught.requires_grad_(False).eval().to(dtype), tokenizer, frame)
    adapter = nn.ParameterList()
    if not polish:
        adapter.extend(inject_adapter(lm, LISTENING_LAYERS, listening, rank=LISTENING_RANK))
    elif listening:
        merge_delta(lm, listening)
    lm.eval()

    @contextmanager
    def computing() -> Iterator[None]:
        """The adapter, whose parameters stay float32, computes in `dtype` as the rest: a sixth
        faster."""
        lower = torch.autocast(lm.device.type, dtype, enabled=dtype != torch.float32)
        with lower, disable_input_dtype_casting(lm):
            yield

    targets = {
        id(clip): target for clip in clips if (target := target_of(clip.text, tokenizer, head))
    }
    clips = [clip for clip in clips if id(clip) in targets]
    tower = [p for p in audio.audio_tower.parameters() if p.requires_grad]
    projector = list(audio.multi_modal_projector.parameters())
    groups = [
        (tower, TOWER_RATE),
        ([*projector, *head.parameters()], PROJECTOR_RATE),
        (list(adapter), LISTENING_RATE),
    ]
    optimizer = torch.optim.AdamW(
        [{"params": p} for p, _ in groups], weight_decay=0.0, betas=(0.9, 0.98)
    )
    heard_by: dict[str, nn.Module] = {"audio": audio, "head": head}
    averages = {
        name: AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(POLISH_MEMORY))
        for name, module in heard_by.items()
        if polish
    }
    modules: dict[str, nn.Module] = {**heard_by, "listening": adapter}
    modules |= {f"{name}_average": average for name, average in averages.items()}
    path = folder / "in_loop.safetensors"
    progress = (
        load_checkpoint(path, modules, optimizer)
        if path.exists()
        else {"seen": 0, "steps": 0, "epoch": 0}
    )
    prefix, typed_prefix = PrefixCache(lm, frame.before), PrefixCache(lm, frame.typed_before)
    harmful = [record["text"] for record in typed if record["label"] == "harmful"]
    benign = [record["text"] for record in typed if record["label"] != "harmful"]
    log = Log(folder / "in_loop.jsonl")
    bar = tqdm(
        total=presentations,
        initial=progress["seen"],
        desc="language model in the loop",
        unit="clip",
    )
    draw = random.Random(seed + progress["seen"])
    heard_only = endless(clips, CTC_CLIPS, seed + 7 * progress["seen"])
    recent: list[list[float]] = []

    def keep() -> None:
        """Write what training goes on from, and what is exported."""
        save_checkpoint(path, modules, optimizer, progress)
        if averages:
            polished = {name: average.module for name, average in averages.items()}
            save_checkpoint(folder / "polished.safetensors", polished, None, progress)

    audio.train(bool(tower))
    while progress["seen"] < presentations:
        progress["epoch"] += 1
        epoch = mixed_epoch(balanced_epoch(clips, progress["epoch"]), progress["epoch"])
        for batch in batches(epoch, BATCH, seed * 1000 + progress["epoch"]):
            factor = rate(progress["seen"] / presentations, progress["steps"], warmup=15, flat=0.4)
            factor *= POLISH_RATE if polish else 1.0
            for group, (_, base) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = base * factor
            mel, frames = collate(batch, draw)
            outputs = hear(audio, mel, frames, dtype)
            wanted = [targets[id(clip)].labels for clip in batch]
            transcripts = [[head.token_ids[i - 1] for i in row] for row in wanted]
            asking = [
                clip.text for clip in batch if clip.kind in ASKING and draw.random() < ANSWERED
            ]
            known = dict(zip(asking, teacher.answers(asking), strict=True))
            answers = [known.get(clip.text) for clip in batch]
            cut = [
                row[:length] for row, length in zip(outputs, (frames // 4).tolist(), strict=True)
            ]
            given = [forgetful(row, head.token_ids, draw) for row in transcripts]
            embeddings, positions, mask, layout = tree_batch(
                lm, frame, cut, given, answers, prefix.length
            )
            with computing():
                hidden = lm.model(
                    inputs_embeds=embeddings,
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=prefix.repeat(len(batch)),
                    use_cache=True,
                ).last_hidden_state
            repeat, divergence, first = losses(lm, frame, hidden, layout, transcripts, answers)
            ctc = ctc_loss(head(outputs), frames, wanted)
            if tower:
                extra = next(heard_only)
                mel, frames = collate(extra, draw)
                labels = [targets[id(clip)].labels for clip in extra]
                ctc = ctc + ctc_loss(head(hear(audio, mel, frames, dtype)), frames, labels)
            loss = repeat + divergence + CTC_WEIGHT * ctc
            kept = loss.new_zeros(())
            if adapter:
                few = TYPED_PROMPTS // 4
                asked = [*draw.sample(harmful, few), *draw.sample(benign, TYPED_PROMPTS - few)]
                said = teacher.answers(asked)
                with computing():
                    kept = typed_divergence(lm, frame, tokenizer, asked, said, typed_prefix)
            loss = loss + TYPED_WEIGHT * kept
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*tower, *projector, *adapter], 1.0)
            optimizer.step()
            for name, average in averages.items():
                average.update_parameters(heard_by[name])
            progress["seen"] += len(batch)
            progress["steps"] += 1
            bar.update(len(batch))
            scale = outputs.detach().pow(2).mean().sqrt()
            recent.append([value.item() for value in (repeat, divergence, first, ctc, kept, scale)])
            if progress["steps"] % 10 == 0:
                means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
                names = ("repeat", "kl", "first_kl", "ctc", "typed_kl", "scale")
                named = dict(zip(names, means, strict=True))
                log.write(seen=progress["seen"], **named, rate=factor)
                bar.set_postfix(repeat=f"{named['repeat']:.2f}", kl=f"{named['kl']:.2f}")
                recent.clear()
            if (
                adapter and progress["steps"] % 25 == 0
            ):  # the adapter reads the prompts' fixed beginnings too
                prefix, typed_prefix = (
                    PrefixCache(lm, frame.before),
                    PrefixCache(lm, frame.typed_before),
                )
            if progress["steps"] % save_every == 0:
                keep()
            if progress["seen"] >= presentations:
                break
    keep()
    if delta := listening if polish else truncated(export_delta(lm), KEPT_RANK):
        save_file(delta, folder / "listening.safetensors")
    bar.close()
