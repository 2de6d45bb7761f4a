"""Training stage (d): a CTC warm start of audio tower and projector, without the language model.

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
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sarsteer_lab.pocket.assemble import deltas_folder
from training import DATA
from training.clips import Clip
from training.loop import AudioSide, Log, Run, balanced_epoch, collate, hear, rate
from training.tokens import plain_tokens

BATCH = 32
TOWER_RATE, PROJECTOR_RATE, HEAD_RATE = 4e-4, 1.5e-3, 1e-2
# A flat start: for this share of the run every token is also told roughly where it is, by where it
# stands in the sentence.
PLACED_UNTIL, PLACED_FADE = 0.1, 0.15
PLACE_REACH = 5.0


class TokenHead(nn.Module):
    """CTC logits over the corpus's tokens: index 0 is blank, i + 1 the i-th of `token_ids`."""

    ids: Tensor
    mean: Tensor
    centred: Tensor
    silence: Tensor
    blank: nn.Linear

    def __init__(
        self, embeddings: Float[Tensor, "vocab d_model"], counts: Counter[int], blank_token: int
    ) -> None:
        """Build from the LM's token embeddings and the corpus's token counts.

        `blank_token` starts the blank direction.
        """
        super().__init__()
        self.token_ids = sorted(counts)
        self.index = {token: label for label, token in enumerate(self.token_ids, start=1)}
        # Saved, since another corpus has other tokens.
        self.register_buffer("ids", torch.tensor(self.token_ids))
        mean = embeddings.mean(0)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("centred", embeddings[self.token_ids] - mean, persistent=False)
        self.register_buffer("silence", embeddings[blank_token] - mean, persistent=False)
        share = torch.tensor([counts[token] for token in self.token_ids]) / counts.total()
        self.temperature = nn.Parameter(torch.tensor(math.log(2.0)))
        self.bias = nn.Parameter(share.log())
        self.blank = nn.Linear(len(mean), 1)
        # Without a start near "mostly blank, then by frequency" the temperature soon collapses.
        with torch.no_grad():
            self.blank.weight.copy_(0.5 * self.silence[None])
            self.blank.bias.fill_(1.0)

    def take(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state_dict` of a head for another corpus.

        Tokens that it did not have keep their start.
        """
        with torch.no_grad():
            for token, bias in zip(state["ids"].tolist(), state["bias"], strict=True):
                if token in self.index:
                    self.bias[self.index[token] - 1] = bias
            self.temperature.copy_(state["temperature"])
            self.blank.weight.copy_(state["blank.weight"])
            self.blank.bias.copy_(state["blank.bias"])

    def tokens_of(self, labels: Sequence[int]) -> list[int]:
        """The tokens that CTC labels stand for; blanks are left out."""
        return [self.token_ids[label - 1] for label in labels if label]

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
        """The mixture of embeddings that the probabilities stand for, blank as the blank token."""
        blank, tokens = log_probs.exp().split([1, len(self.token_ids)], -1)
        return blank * self.silence + tokens @ self.centred + self.mean


def head_file(folder: Path) -> Path:
    """The CTC head that goes with the deltas in `folder`; that of the shipped ones is in DATA."""
    shipped = folder.resolve() == deltas_folder().resolve()
    return (DATA if shipped else folder) / "ctc_head.safetensors"


@dataclass(frozen=True)
class Target:
    """A sentence's CTC labels, and where in the sentence each stands: its middle, as a share."""

    labels: list[int]
    places: list[float]


def target_of(text: str, tokenizer: PreTrainedTokenizerBase, head: TokenHead) -> Target | None:
    """CTC target of `text`, or None if it has a token that the head does not know."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if any(token not in head.index for token in encoded.input_ids):
        return None
    labels = [head.index[token] for token in encoded.input_ids]
    places = [(start + stop) / 2 / len(text) for start, stop in encoded.offset_mapping]
    return Target(labels, places)


def ctc_loss(
    log_probs: Float[Tensor, "clip token symbol"],
    frames: Int[Tensor, " clip"],
    labels: Sequence[Sequence[int]],
) -> Float[Tensor, ""]:
    """CTC loss per label."""
    lengths = torch.tensor([len(row) for row in labels])
    flat = torch.tensor(list(chain.from_iterable(labels)), device=log_probs.device)
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
    """Minus log-probability that each label is said *somewhere* near its place in its clip."""
    losses = []
    for row, length, target in zip(log_probs, (frames // 4).tolist(), targets, strict=True):
        # 0.1 s of silence stands at both ends of a clip, and 25 outputs make a second.
        centres = 2.4 + (length - 4.8) * torch.tensor(target.places)
        distances = (torch.arange(length) - centres[:, None]).abs()
        far = (distances > PLACE_REACH).to(row.device)  # (label, token)
        label_log_probs = row[:length, torch.tensor(target.labels)].T
        said = label_log_probs.masked_fill(far, -1e4).logsumexp(1)
        losses.append(-said.clamp(max=0))
    return torch.cat(losses).mean()


def trained_head(
    embeddings: Float[Tensor, "vocab d_model"], folder: Path, *, blank_token: int = 0
) -> TokenHead:
    """The head that goes with the deltas in `folder`, over the tokens that it was trained on.

    `blank_token` is only what `expected` mixes in for silence.
    """
    state = load_file(head_file(folder))
    head = TokenHead(embeddings, Counter(state["ids"].tolist()), blank_token)
    head.take(state)
    return head


def greedy_tokens(log_probs: Float[Tensor, "token symbol"], head: TokenHead) -> list[int]:
    """Greedy CTC tokens of one clip: runs of a symbol once, and no blanks."""
    return head.tokens_of(log_probs.argmax(-1).unique_consecutive().tolist())


def greedy_words(
    log_probs: Float[Tensor, "token symbol"], head: TokenHead, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Greedy CTC transcript of one clip."""
    return tokenizer.decode(greedy_tokens(log_probs, head))


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Counter[int]:
    """How often each token occurs in `texts`."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(plain_tokens(tokenizer, text))
    return counts


def start_projector(audio: AudioSide, head: TokenHead, clips: Sequence[Clip]) -> None:
    """Scale the fresh projector: its outputs begin near blank, half as spread as embeddings."""
    linear = audio.multi_modal_projector.linear
    with torch.no_grad():
        outputs = audio(*collate(clips))
        linear.weight *= 0.5 * head.centred.std() / (outputs - linear.bias).std()
        linear.bias.copy_(head.mean + 0.3 * head.silence)


def within(
    outputs: Float[Tensor, "clip token d_model"], frames: Int[Tensor, " clip"]
) -> Bool[Tensor, "clip token"]:
    """Which outputs belong to the clip; those after it are padding."""
    lengths = frames // 4
    return (torch.arange(outputs.shape[1]) < lengths[:, None]).to(outputs.device)


@torch.no_grad()
def reach_of(audio: AudioSide, head: TokenHead, clips: Sequence[Clip]) -> float:
    """How many times as far from the mean the outputs lie as what they stand for (least squares).

    With the language model in the loop they grow to twice and more. Pulled back to 1 the head hears
    as well from them, but the language model hardly reads them: word errors of the read-out rose
    from 19% to 31%.
    """
    mel, frames = collate(clips)
    outputs = audio(mel, frames)
    inside = within(outputs, frames)
    said = (outputs - head.mean)[inside]
    meant = (head.expected(head(outputs)) - head.mean)[inside]
    return ((said * meant).sum() / (meant * meant).sum()).item()


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
    """Train `audio` and `head` in place for `presentations` clips in all.

    Goes on from `folder`/ctc.safetensors. Without `flat_start` both are taken to be trained
    already. Logs to `folder`/ctc.jsonl. An interrupted run repeats at most `save_every` batches.
    """
    torch.manual_seed(seed)
    targets = audible_targets(clips, tokenizer, head)
    clips = [clip for clip in clips if id(clip) in targets]
    tower = [p for p in audio.audio_tower.parameters() if p.requires_grad]
    projector = list(audio.multi_modal_projector.parameters())
    groups = [
        (tower, TOWER_RATE),
        (projector, PROJECTOR_RATE),
        (list(head.parameters()), HEAD_RATE),
    ]
    modules: dict[str, nn.Module] = {"audio": audio, "head": head}
    run = Run(folder / "ctc.safetensors", modules, groups, weight_decay=0.01)
    if flat_start and not run.resumed:
        start_projector(audio, head, clips[:8])
    reach = 1.0 if flat_start else reach_of(audio, head, clips[:: max(1, len(clips) // 32)])
    log = Log(folder / "ctc.jsonl")
    progress = run.progress
    bar = tqdm(total=presentations, initial=progress["seen"], desc="CTC warm start", unit="clip")
    draw = random.Random(seed + progress["seen"])
    audio.train(bool(tower))
    for batch in run.batches(
        presentations, lambda number: balanced_epoch(clips, number), BATCH, seed
    ):
        done = progress["seen"] / presentations
        plain = flat_start and done <= 0.3
        mel, frames = collate(batch, None if plain else draw)
        outputs = hear(audio, mel, frames, dtype)
        wanted = [targets[id(clip)] for clip in batch]
        placed = placed_share(done) if flat_start else 0.0
        ctc, distance, loss = warm_start_losses(head, outputs, frames, wanted, reach, placed)
        closeness = max(0.05, min(1.0, (done - 0.2) / 0.3))
        factor = rate(done, progress["steps"], warmup=40, flat=0.3)
        run.step(loss + closeness * distance, [*tower, *projector], len(batch), factor)
        bar.update(len(batch))
        if progress["steps"] % 20 == 0:
            said = {"ctc": ctc.item(), "distance": distance.item()}
            log.write(seen=progress["seen"], **said, rate=factor)
            bar.set_postfix(ctc=f"{ctc.item():.2f}")
        if progress["steps"] % save_every == 0:
            run.save()
    run.save()
    bar.close()


def audible_targets(
    clips: Sequence[Clip], tokenizer: PreTrainedTokenizerBase, head: TokenHead
) -> dict[int, Target]:
    """`id` of a clip -> its target, for the clips that have one and are long enough to say it."""
    targets = {}
    for clip in clips:
        target = target_of(clip.text, tokenizer, head)
        if target and clip.frames // 4 >= 1.2 * len(target.labels) + 2:
            targets[id(clip)] = target
    return targets


def placed_share(done: float) -> float:
    """How much tokens are told where they are, after the share `done` of a flat start."""
    faded = (done - PLACED_UNTIL) / PLACED_FADE
    return min(1.0, max(0.0, 1 - faded))


def warm_start_losses(
    head: TokenHead,
    outputs: Float[Tensor, "clip token d_model"],
    frames: Int[Tensor, " clip"],
    wanted: Sequence[Target],
    reach: float,
    placed: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """CTC loss, distance from what is meant, and what trains: CTC and, as `placed` says, places.

    The distance pulls the outputs towards the embeddings they stand for, `reach` times as far out:
    what the language model is used to reading.
    """
    log_probs = head(outputs)
    ctc = ctc_loss(log_probs, frames, [target.labels for target in wanted])
    loss = ctc * (1 - 0.5 * placed)
    if placed:
        loss = loss + placed * placed_loss(log_probs, frames, wanted)
    inside = within(outputs, frames)
    meant = head.mean + reach * (head.expected(log_probs.detach()) - head.mean)
    squares = ((outputs - meant) ** 2).mean(-1)  # (clip, token)
    distance = squares[inside].mean() / head.centred.var()
    return ctc, distance, loss
