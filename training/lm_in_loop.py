"""Training stage (e): the frozen language model in the loop; audio tower and projector learn.

Every clip is put where a user's clip stands in the chat. Two continuations share its prefix
(`tree`): a "repeat" instruction, with the cross-entropy of the transcript; and, for
questions, the instruction to answer, with the divergence of the answer's first tokens from what the
same frozen model says to the *typed* question. The projector's own outputs are fed: no mixtures of
token embeddings, no CTC compression. Only harmless sentences are heard here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
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
    Run,
    balanced_epoch,
    batches,
    collate,
    hear,
    rate,
    save_checkpoint,
)
from training.teacher import PrefixCache, Teacher, TypedAnswer, chat_frame, typed_divergence
from training.tree import losses, tree_batch

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


def forgetful(transcript: Sequence[int], tokens: Sequence[int], draw: random.Random) -> list[int]:
    """`transcript` with the share `FORGOTTEN` of it replaced by any of `tokens`."""
    return [draw.choice(tokens) if draw.random() < FORGOTTEN else token for token in transcript]


def mixed_epoch(clips: Sequence[Clip], seed: int) -> list[Clip]:
    """All questions, and so many other clips, drawn from `seed`, that they are `OTHER_SHARE`."""
    questions = [clip for clip in clips if clip.kind in ASKING]
    others = [clip for clip in clips if clip.kind not in ASKING]
    count = min(len(others), round(len(questions) * OTHER_SHARE / (1 - OTHER_SHARE)))
    return questions + random.Random(seed).sample(others, count)


def endless(clips: Sequence[Clip], size: int, seed: int) -> Iterator[list[Clip]]:
    """Batches of one balanced epoch after another."""
    for epoch in itertools.count(seed):
        yield from batches(balanced_epoch(clips, epoch), size, epoch)


class InLoop:
    """What stage (e) trains and is held to, and the losses of a batch.

    `lm` reads, `taught`, the same model as it was, is the teacher, `audio` and `head` hear.
    """

    prefix: PrefixCache
    typed_prefix: PrefixCache

    def __init__(
        self,
        lm: LlamaForCausalLM,
        taught: LlamaForCausalLM,
        audio: AudioSide,
        head: TokenHead,
        processor: Qwen2AudioProcessor,
        clips: Sequence[Clip],
        dtype: torch.dtype,
    ) -> None:
        """Freeze both language models, in `dtype`; find out what each clip says."""
        # What trains, and every loss, stays in float32.
        self.lm = lm.requires_grad_(False).eval().to(dtype)
        self.audio, self.head, self.dtype = audio, head, dtype
        self.hearing: dict[str, nn.Module] = {"audio": audio, "head": head}
        self.adapter = nn.ParameterList()
        self.averages: dict[str, AveragedModel] = {}
        self.tower = [p for p in audio.audio_tower.parameters() if p.requires_grad]
        self.projector = list(audio.multi_modal_projector.parameters())
        self.tokenizer = processor.tokenizer
        self.frame = chat_frame(processor)
        taught = taught.requires_grad_(False).eval().to(dtype)
        self.teacher = Teacher(taught, self.tokenizer, self.frame)
        self.labels: dict[int, list[int]] = {}
        for clip in clips:
            target = target_of(clip.text, self.tokenizer, head)
            if target:
                self.labels[id(clip)] = target.labels

    def begin(self, listening: dict[str, Tensor] | None, *, polish: bool) -> None:
        """Take the adapter `listening`: to train it or, with `polish`, to merge it."""
        if polish:
            if listening:
                merge_delta(self.lm, listening)
            averaging = get_ema_multi_avg_fn(POLISH_MEMORY)
            for name, module in self.hearing.items():
                self.averages[name] = AveragedModel(module, multi_avg_fn=averaging)
        else:
            trained = inject_adapter(self.lm, LISTENING_LAYERS, listening, rank=LISTENING_RANK)
            self.adapter.extend(trained)
        self.lm.eval()

    def start_run(self, path: Path) -> Run:
        """The optimiser of all that trains, going on from the checkpoint `path` if it is there."""
        groups = [
            (self.tower, TOWER_RATE),
            ([*self.projector, *self.head.parameters()], PROJECTOR_RATE),
            (list(self.adapter), LISTENING_RATE),
        ]
        modules = {**self.hearing, "listening": self.adapter}
        modules |= {f"{name}_average": average for name, average in self.averages.items()}
        run = Run(path, modules, groups, weight_decay=0.0)
        self.read_prefixes()
        return run

    def read_prefixes(self) -> None:
        """Run the prompts' fixed beginnings again: the adapter reads them, too."""
        self.prefix = PrefixCache(self.lm, self.frame.before)
        self.typed_prefix = PrefixCache(self.lm, self.frame.typed_before)

    def average(self) -> None:
        """Take the weights as they are now into the running averages."""
        for name, average in self.averages.items():
            average.update_parameters(self.hearing[name])

    def save(self, run: Run) -> None:
        """Write what training goes on from, and what is exported."""
        save_checkpoint(run.path, run.modules, run.optimizer, run.progress)
        if self.averages:
            path = run.path.with_stem("polished")
            polished = {name: average.module for name, average in self.averages.items()}
            save_checkpoint(path, polished, None, run.progress)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The adapter, whose parameters stay float32, computes in `dtype`: a sixth faster."""
        from peft.helpers import disable_input_dtype_casting

        lower = self.dtype != torch.float32
        autocast = torch.autocast(self.lm.device.type, self.dtype, enabled=lower)
        with autocast, disable_input_dtype_casting(self.lm):
            yield

    def hear(
        self, clips: Sequence[Clip], draw: random.Random
    ) -> tuple[Float[Tensor, "clip token d_model"], Tensor, Int[Tensor, " clip"]]:
        """The audio side's outputs for `clips`, their CTC loss, and how many tokens are theirs."""
        mel, frames = collate(clips, draw)
        outputs = hear(self.audio, mel, frames, self.dtype)
        labels = [self.labels[id(clip)] for clip in clips]
        return outputs, ctc_loss(self.head(outputs), frames, labels), frames // 4

    def answers_to(self, clips: Sequence[Clip], draw: random.Random) -> list[TypedAnswer | None]:
        """The teacher's answers to the share `ANSWERED` of the questions and requests."""
        asking = []
        for clip in clips:
            if clip.kind in ASKING and draw.random() < ANSWERED:
                asking.append(clip.text)
        known = dict(zip(asking, self.teacher.answers(asking), strict=True))
        return [known.get(clip.text) for clip in clips]

    def read(
        self,
        clips: Sequence[Clip],
        outputs: Float[Tensor, "clip token d_model"],
        lengths: Int[Tensor, " clip"],
        draw: random.Random,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of what `lm` reads in `outputs`: see `tree.losses`."""
        answers = self.answers_to(clips, draw)
        transcripts = [self.head.tokens_of(self.labels[id(clip)]) for clip in clips]
        given = [forgetful(tokens, self.head.token_ids, draw) for tokens in transcripts]
        heard = [row[:length] for row, length in zip(outputs, lengths.tolist(), strict=True)]
        embeddings, positions, mask, layout = tree_batch(
            self.lm, self.frame, heard, given, answers, self.prefix.length
        )
        with self.computing():
            hidden = self.lm.model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.prefix.repeat(len(clips)),
                use_cache=True,
            ).last_hidden_state
        return losses(self.lm, self.frame, hidden, layout, transcripts, answers)

    def typed(self, texts: Sequence[str]) -> Tensor:
        """How far the answers to typed `texts` are from the teacher's."""
        answers = self.teacher.answers(texts)
        with self.computing():
            return typed_divergence(
                self.lm, self.frame, self.tokenizer, texts, answers, self.typed_prefix
            )


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
    """Train `audio` in place, and an adapter on the otherwise frozen `lm`.

    Goes on from `folder`/in_loop.safetensors. The adapter starts from `listening` if given; with
    `polish` it stays that (see POLISH_RATE), and the averages of `audio` and `head` are in
    `folder`/polished.safetensors. Answers to what is typed, to the `typed` prompts (`label`,
    `text`) among them, are held to those of `taught`, the same model as it was. If the audio tower
    is frozen, projector and adapter learn, and nothing is heard for the CTC loss alone. The frozen
    language model computes in `dtype`: bfloat16 costs little more than half where the processor has
    it.

    Logs to `folder`/in_loop.jsonl; writes the adapter to `folder`/listening.safetensors when done.
    An interrupted run repeats at most `save_every` batches.
    """
    torch.manual_seed(seed)
    stage = InLoop(lm, taught, audio, head, processor, clips, dtype)
    stage.begin(listening, polish=polish)
    run = stage.start_run(folder / "in_loop.safetensors")
    progress = run.progress
    clips = [clip for clip in clips if id(clip) in stage.labels]
    further = endless(clips, CTC_CLIPS, seed + 7 * progress["seen"])
    draw = random.Random(seed + progress["seen"])
    log = MeanLog(folder / "in_loop.jsonl")
    title = "language model in the loop"
    bar = tqdm(total=presentations, initial=progress["seen"], desc=title, unit="clip")

    def epoch_of(number: int) -> list[Clip]:
        return mixed_epoch(balanced_epoch(clips, number), number)

    audio.train(bool(stage.tower))
    for batch in run.batches(presentations, epoch_of, BATCH, seed):
        outputs, ctc, lengths = stage.hear(batch, draw)
        repeat, divergence, first = stage.read(batch, outputs, lengths, draw)
        if stage.tower:
            _, more, _ = stage.hear(next(further), draw)
            ctc = ctc + more
        kept = stage.typed(typed_sample(typed, draw)) if stage.adapter else ctc.new_zeros(())
        loss = repeat + divergence + CTC_WEIGHT * ctc + TYPED_WEIGHT * kept
        factor = rate(progress["seen"] / presentations, progress["steps"], warmup=15, flat=0.4)
        factor *= POLISH_RATE if polish else 1.0
        run.step(loss, [*stage.tower, *stage.projector, *stage.adapter], len(batch), factor)
        stage.average()
        bar.update(len(batch))
        scale = outputs.detach().pow(2).mean().sqrt()
        log.add(repeat=repeat, kl=divergence, first_kl=first, ctc=ctc, typed_kl=kept, scale=scale)
        if progress["steps"] % 10 == 0:
            means = log.write(seen=progress["seen"], rate=factor)
            bar.set_postfix(repeat=f"{means['repeat']:.2f}", kl=f"{means['kl']:.2f}")
        if progress["steps"] % 25 == 0:
            stage.read_prefixes()
        if progress["steps"] % save_every == 0:
            stage.save(run)
    stage.save(run)
    delta = listening if polish else truncated(export_delta(lm), KEPT_RANK)
    if delta:
        save_file(delta, folder / "listening.safetensors")
    bar.close()


def typed_sample(typed: Sequence[dict], draw: random.Random) -> list[str]:
    """The texts of `TYPED_PROMPTS` prompts, a quarter of them harmful."""
    harmful = [record["text"] for record in typed if record["label"] == "harmful"]
    benign = [record["text"] for record in typed if record["label"] != "harmful"]
    quarter = TYPED_PROMPTS // 4
    return draw.sample(harmful, quarter) + draw.sample(benign, TYPED_PROMPTS - quarter)


class MeanLog:
    """A log of the means of what was added since the last line."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self._log = Log(path)
        self._lines: list[dict[str, float]] = []

    def add(self, **values: Tensor) -> None:
        """Add values of one step."""
        self._lines.append({name: value.item() for name, value in values.items()})

    def write(self, *, seen: int, rate: float) -> dict[str, float]:
        """Append a line and return its means."""
        means = {}
        for name in self._lines[0]:
            means[name] = sum(line[name] for line in self._lines) / len(self._lines)
        self._lines.clear()
        self._log.write(seen=seen, **means, rate=rate)
        return means
