"""Training stage (d): a CTC warm start of audio tower and projector, without a pass through the
language model.

The projector's outputs are compared with the language model's own token embeddings: the CTC logit
of a token is the inner product of the centred output with the token's centred embedding (a learned
temperature and a unigram bias; blank is a learned direction). So the projector learns to say
*which* tokens it hears, in the language model's vocabulary, at a hundredth of the cost of running
it; stage (e) then teaches it to say so in a way that the language model can read.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sarsteer_lab.pocket.assemble import deltas_folder
from training import DATA
from training.clips import Clip
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

BATCH = 32
TOWER_RATE, PROJECTOR_RATE, HEAD_RATE = 4e-4, 1.5e-3, 1e-2
# A flat start: for this share of the run every token is also told roughly where it is, by its place
# in the sentence.
PLACED_UNTIL, PLACED_FADE = 0.1, 0.15
PLACE_REACH = 5.0


class TokenHead(nn.Module):
    """CTC logits over the corpus's tokens: index 0 is blank, index i + 1 the i-th token of
    `token_ids`."""

    ids: Tensor
    mean: Tensor
    centred: Tensor
    silence: Tensor
    blank: nn.Linear

    def __init__(
        self, embeddings: Float[Tensor, "vocab d_model"], counts: Counter[int], blank_token: int
    ) -> None:
        """Build from the LM's token embeddings and the corpus's token counts; `blank_token` starts
        the blank direction.
        """
        super().__init__()
        self.token_ids = sorted(counts)
        self.index = {token: i + 1 for i, token in enumerate(self.token_ids)}
        self.register_buffer(
            "ids", torch.tensor(self.token_ids)
        )  # saved: another corpus has other tokens
        mean = embeddings.mean(0)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("centred", embeddings[self.token_ids] - mean, persistent=False)
        self.register_buffer("silence", embeddings[blank_token] - mean, persistent=False)
        share = torch.tensor([counts[token] / counts.total() for token in self.token_ids])
        self.temperature = nn.Parameter(torch.tensor(math.log(2.0)))
        self.bias = nn.Parameter(share.log())
        self.blank = nn.Linear(len(mean), 1)
        # Without a start near "mostly blank, then by frequency" the temperature collapses within a
        # few steps.
        with torch.no_grad():
            self.blank.weight.copy_(0.5 * self.silence[None])
            self.blank.bias.fill_(1.0)

    def take(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state_dict` of a head for another corpus; tokens that it did not have
        keep their start.
        """
        row = {token: i for i, token in enumerate(state["ids"].tolist())}
        known = [i for i, token in enumerate(self.token_ids) if token in row]
        with torch.no_grad():
            bias = state["bias"][[row[self.token_ids[i]] for i in known]]
            self.bias[known] = bias.to(self.bias.device)
            self.temperature.copy_(state["temperature"])
        self.blank.load_state_dict({name: state[f"blank.{name}"] for name in ("weight", "bias")})

    def forward(
        self, outputs: Float[Tensor, "clip token d_model"]
    ) -> Float[Tensor, "clip token symbol"]:
        """Log-probabilities of blank and every token."""
        centred = outputs - self.mean
        tokens = centred @ self.centred.T * self.temperature.exp() + self.bias
        return torch.cat([self.blank(centred), tokens], -1).log_softmax(-1)

    def expected(
        self, log_probs: Float[Tensor, "clip token symbol"]
    ) -> Float[Tensor, "clip token d_model"]:
        """The mixture of token embeddings that the probabilities stand for (blank counts as the
        blank token).
        """
        p = log_probs.exp()
        return p[..., :1] * self.silence + p[..., 1:] @ self.centred + self.mean


def head_file(folder: Path) -> Path:
    """The CTC head that goes with the deltas in `folder`; that of the shipped ones is in DATA."""
    shipped = folder.resolve() == deltas_folder().resolve()
    return (DATA if shipped else folder) / "ctc_head.safetensors"


@dataclass(frozen=True)
class Target:
    """A sentence's CTC labels, and for each the middle of its characters as a share of the
    sentence."""

    labels: list[int]
    places: list[float]


def target_of(text: str, tokenizer: PreTrainedTokenizerBase, head: TokenHead) -> Target | None:
    """CTC target of `text`, or None if it has a token that the head does not know."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if any(token not in head.index for token in encoded.input_ids):
        return None
    places = [(start + stop) / 2 / len(text) for start, stop in encoded.offset_mapping]
    return Target([head.index[token] for token in encoded.input_ids], places)


def ctc_loss(
    log_probs: Float[Tensor, "clip token symbol"],
    frames: Int[Tensor, " clip"],
    labels: Sequence[Sequence[int]],
) -> Float[Tensor, ""]:
    """CTC loss per label."""
    lengths = torch.tensor([len(row) for row in labels])
    flat = torch.tensor([label for row in labels for label in row], device=log_probs.device)
    loss = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        flat,
        frames // 4,
        lengths,
        blank=0,
        zero_infinity=True,
        reduction="sum",
    )
    return loss / lengths.sum()


def placed_loss(
    log_probs: Float[Tensor, "clip token symbol"],
    frames: Int[Tensor, " clip"],
    targets: Sequence[Target],
) -> Float[Tensor, ""]:
    """Minus log-probability that each label is said *somewhere* near its proportional place in its
    clip."""
    losses = []
    for row, length, target in zip(log_probs, (frames // 4).tolist(), targets, strict=True):
        # 0.1 s of silence stands at both ends of a clip, and 25 outputs make a second.
        centres = 2.4 + (length - 4.8) * torch.tensor(target.places)
        near = ((torch.arange(length)[None] - centres[:, None]).abs() <= PLACE_REACH).to(row.device)
        said = row[:length][:, torch.tensor(target.labels)].T.masked_fill(~near, -1e4)
        losses.append(said.logsumexp(1).clamp(max=0).neg())
    return torch.cat(losses).mean()


def greedy_words(
    log_probs: Float[Tensor, "token symbol"], head: TokenHead, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Greedy CTC transcript of one clip."""
    kept = log_probs.argmax(-1).unique_consecutive().tolist()
    return tokenizer.decode([head.token_ids[i - 1] for i in kept if i])


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
    """How often each token occurs in `texts`."""
    return Counter(
        token for text in texts for token in tokenizer(text, add_special_tokens=False).input_ids
    )


def start_projector(audio: AudioSide, head: TokenHead, clips: Sequence[Clip]) -> None:
    """Scale the fresh projector so that its outputs begin near blank, half as spread as token
    embeddings."""
    linear = audio.multi_modal_projector.linear
    with torch.no_grad():
        outputs = audio(*collate(clips))
        linear.weight *= 0.5 * head.centred.std() / (outputs - linear.bias).std()
        linear.bias.copy_(head.mean + 0.3 * head.silence)


def within(
    outputs: Float[Tensor, "clip token d_model"], frames: Int[Tensor, " clip"]
) -> Bool[Tensor, "clip token"]:
    """Which outputs belong to the clip; those after it are padding."""
    return (torch.arange(outputs.shape[1]) < (frames // 4)[:, None]).to(outputs.device)


@torch.no_grad()
def reach_of(audio: AudioSide, head: TokenHead, clips: Sequence[Clip]) -> float:
    """How many times as far from the mean embedding the outputs lie as what they stand for (least
    squares).

    With the language model in the loop they grow to twice and more. Pulled back to 1 the head hears
    as well from them, but the language model hardly reads them: word errors of the read-out rose
    from 19% to 31%.
    """
    mel, frames = collate(clips)
    outputs = audio(mel, frames)
    inside = within(outputs, frames)
    found, meant = (outputs - head.mean)[inside], (head.expected(head(outputs)) - head.mean)[inside]
    return ((found * meant).sum() / (meant * meant).sum()).item()


def train_ctc(
    audio: AudioSide,
    head: TokenHead,
    tokenizer: PreTrainedTokenizerBase,
    clips: Sequence[Clip],
    folder: Path,
    *,
    presentations: int,
    seed: int = 0,
    save_every: int = 60,
    flat_start: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Train `audio` and `head` in place for `presentations` clips in all, resuming from
    `folder`/ctc.safetensors.

    Without `flat_start` both are taken to be trained already. Logs to `folder`/ctc.jsonl. An
    interrupted run repeats at most `save_every` batches.
    """
    torch.manual_seed(seed)
    targets = {
        id(clip): target
        for clip in clips
        if (target := target_of(clip.text, tokenizer, head))
        and clip.frames // 4 >= 1.2 * len(target.labels) + 2
    }
    clips = [clip for clip in clips if id(clip) in targets]
    tower = [p for p in audio.audio_tower.parameters() if p.requires_grad]
    projector = list(audio.multi_modal_projector.parameters())
    groups = [
        (tower, TOWER_RATE),
        (projector, PROJECTOR_RATE),
        (list(head.parameters()), HEAD_RATE),
    ]
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r} for p, r in groups], weight_decay=0.01, betas=(0.9, 0.98)
    )
    modules: dict[str, nn.Module] = {"audio": audio, "head": head}
    path = folder / "ctc.safetensors"
    if path.exists():
        progress = load_checkpoint(path, modules, optimizer)
    else:
        progress = {"seen": 0, "steps": 0, "epoch": 0}
        if flat_start:
            start_projector(audio, head, clips[:8])
    reach = 1.0 if flat_start else reach_of(audio, head, clips[:: max(1, len(clips) // 32)])
    log = Log(folder / "ctc.jsonl")
    bar = tqdm(total=presentations, initial=progress["seen"], desc="CTC warm start", unit="clip")
    draw = random.Random(seed + progress["seen"])
    audio.train(bool(tower))
    while progress["seen"] < presentations:
        progress["epoch"] += 1
        epoch = balanced_epoch(clips, progress["epoch"])
        for batch in batches(epoch, BATCH, seed * 1000 + progress["epoch"]):
            done = progress["seen"] / presentations
            factor = rate(done, progress["steps"], warmup=40, flat=0.3)
            for group, (_, base) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = base * factor
            mel, frames = collate(batch, draw if done > 0.3 or not flat_start else None)
            wanted = [targets[id(clip)] for clip in batch]
            outputs = hear(audio, mel, frames, dtype)
            log_probs = head(outputs)
            ctc = ctc_loss(log_probs, frames, [target.labels for target in wanted])
            placed_weight = min(1.0, max(0.0, 1 - (done - PLACED_UNTIL) / PLACED_FADE)) * flat_start
            loss = ctc * (1 - 0.5 * placed_weight)
            if placed_weight:
                loss = loss + placed_weight * placed_loss(log_probs, frames, wanted)
            # Pull the outputs towards the embeddings they stand for: what the language model is
            # used to reading.
            inside = within(outputs, frames)
            meant = head.mean + reach * (head.expected(log_probs.detach()) - head.mean)
            distance = ((outputs - meant) ** 2).mean(-1)[inside].mean() / head.centred.var()
            loss = loss + max(0.05, min(1.0, (done - 0.2) / 0.3)) * distance
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*tower, *projector], 1.0)
            optimizer.step()
            progress["seen"] += len(batch)
            progress["steps"] += 1
            bar.update(len(batch))
            if progress["steps"] % 20 == 0:
                log.write(
                    seen=progress["seen"], ctc=ctc.item(), distance=distance.item(), rate=factor
                )
                bar.set_postfix(ctc=f"{ctc.item():.2f}")
            if progress["steps"] % save_every == 0:
                save_checkpoint(path, modules, optimizer, progress)
            if progress["seen"] >= presentations:
                break
    save_checkpoint(path, modules, optimizer, progress)
    bar.close()
