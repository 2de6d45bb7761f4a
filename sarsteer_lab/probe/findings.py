"""What is found out about a model: its parts, findings and their report, how steering pushes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from torch import nn

from sarsteer_lab.activations import capture
from sarsteer_lab.families import find_core
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer, steered_layers
from sarsteer_lab.vectors import SteeringVectors

Verdict = Literal["ok", "note", "FAIL"]

AUDIO_TOWER = ("audio_tower", "audio_encoder", "speech_encoder", "audio_embed", "encoder", "audio")
PROJECTOR = (
    "multi_modal_projector",
    "projector",
    "embed_audio",
    "audio_proj",
    "up_proj_for_speech",
)
SPEAKING = ("voice", "talker", "tts", "code_predictor", "token2wav")


@dataclass(frozen=True)
class Finding:
    """What one check says: its name, "ok", "note" (works, but know this) or "FAIL", a sentence."""

    check: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Report:
    """All findings about one model. `str(report)` is what the command prints."""

    model: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(finding.verdict == "FAIL" for finding in self.findings)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def __str__(self) -> str:
        lines = [self.model]
        width = max(len(finding.check) for finding in self.findings)
        for finding in self.findings:
            check = finding.check.ljust(width)
            lines.append(f"{finding.verdict:4}  {check}  {finding.detail}")
        total = len(self.findings)
        passed = f"all {total} checks passed"
        lines.append(passed if self.healthy else f"{self.failed} of {total} checks failed")
        return "\n".join(lines)


def parts(lalm: LALM) -> Iterator[Finding]:
    """Where layers, audio tower and projector are, and what a model has that plays no part here."""
    where = "the model itself"
    for name, module in lalm.model.named_modules():
        if module is lalm.decoder and name:
            where = name
    yield Finding("layers", "ok", f"{lalm.n_layers} of width {lalm.d_model} in {where}")
    yield _named_part(lalm, "audio tower", AUDIO_TOWER)
    yield _named_part(lalm, "projector", PROJECTOR)
    silent = []
    for name, _ in lalm.model.named_children():
        if any(word in name for word in SPEAKING):
            silent.append(name)
    if silent:
        unused = f"{', '.join(silent)}: this package reads text answers alone"
        yield Finding("unused parts", "note", unused)


def _named_part(lalm: LALM, check: str, words: Sequence[str]) -> Finding:
    part = find_part(lalm.model, words)
    if part is None:
        unfound = "none found by its name; a tower may project within itself"
        return Finding(check, "note", unfound)
    name, module = part
    weights = sum(weight.numel() for weight in module.parameters())
    return Finding(check, "ok", f"{name}: {type(module).__name__}, {weights:,} weights")


def in_bytes(amount: float) -> str:
    """An amount of memory for people."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def find_part(model: nn.Module, words: Sequence[str]) -> tuple[str, nn.Module] | None:
    """The outermost part, (name, module), whose name holds the first of `words` found at all.

    Parts of any `layers` do not count. None does not mean that there is no projector: the
    Qwen-Omnis' towers project within themselves.
    """
    for word in words:
        matching = []
        for name, module in find_core(model).named_modules():
            last = name.rpartition(".")[2]
            if ".layers." not in name and word in last.lower():
                matching.append((name, module))
        if matching:
            return min(matching, key=lambda part: part[0].count("."))
    return None


@dataclass(frozen=True)
class PushReport:
    """How hard steering pushes, and what that moves; `str(report)` is one line.

    `shares`: |alpha v| / |h| by steered layer (median over prompts). `moved`: the largest change
    of any logit of a first token. `divergence`: KL of the first token's distribution from the
    unsteered one, in nats (mean over prompts).
    """

    shares: dict[int, float]
    moved: float
    divergence: float

    def __str__(self) -> str:
        percent = 100 * median(self.shares.values())
        size = f"the push is {percent:.2g}% of the state (median over layers)"
        if not self.moved:
            return f"{size}; NOTHING moved: every logit of the first token is as without it"
        return f"{size}; logits move by up to {self.moved:.2g} (KL {self.divergence:.2g} nats)"


def push_report(
    lalm: LALM,
    prompts: Sequence[Prompt],
    vectors: SteeringVectors,
    alpha: float = 0.1,
    layers: Sequence[int] | None = None,
) -> PushReport:
    """What `steer(lalm, vectors, alpha, layers)` does to the last positions of these prompts.

    Takes three forward passes. Raises ValueError as `steer` does.
    """
    chosen = steered_layers(lalm, vectors, layers)
    states = capture(lalm, prompts, layers=chosen)  # prompt layer d_model
    plain = lalm.next_token_logits(prompts)  # prompt vocab
    with steer(lalm, vectors, alpha, layers):
        steered = lalm.next_token_logits(prompts)
    lengths = abs(alpha) * vectors.only(chosen).norm().to(states.device)  # layer
    shares = (lengths / states.norm(dim=-1)).quantile(0.5, dim=0).tolist()
    before, after = plain.log_softmax(-1), steered.log_softmax(-1)
    divergence = nn.functional.kl_div(after, before, reduction="batchmean", log_target=True)
    moved = (steered - plain).abs().max()
    return PushReport(dict(zip(chosen, shares, strict=True)), float(moved), float(divergence))
