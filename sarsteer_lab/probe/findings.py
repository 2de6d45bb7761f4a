"""What `doctor` and its dry run say about a model: findings, a report of them, and its parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from sarsteer_lab.families import find_core
from sarsteer_lab.lalm import LALM

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
