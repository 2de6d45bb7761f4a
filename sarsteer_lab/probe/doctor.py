"""`sarsteer-lab doctor MODEL`: whether a model fits this package, tried on it rather than looked
up.

Each check runs the real thing on a few made-up prompts and says what it found. A check that fails
does not stop the others.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sarsteer_lab.activations import capture, capture_positions
from sarsteer_lab.checkpoints import OVERHEAD
from sarsteer_lab.engine.audio_cache import forget_clips
from sarsteer_lab.families import adapter_layers, find_core, window_seconds
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE, ClipError
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.voice import synthesise

Verdict = Literal["ok", "note", "FAIL"]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far states of one prompt may differ between batches, relative to the largest: rounding, not
padding."""

HEARD = 1e-5
"""How far states under two clips have to lie apart, relative to the largest."""

SPEAKING = ("voice", "talker", "tts", "code_predictor", "token2wav")


@dataclass(frozen=True)
class Finding:
    """What one check says: its name, "ok", "note" (works, but know this) or "FAIL", and a
    sentence."""

    check: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Report:
    """All findings about one model. `str(report)` is what the command prints."""

    model: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return all(finding.verdict != "FAIL" for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = [f"{f.verdict:4}  {f.check:{width}}  {f.detail}" for f in self.findings]
        failed = sum(finding.verdict == "FAIL" for finding in self.findings)
        end = (
            f"{failed} of {len(lines)} checks failed"
            if failed
            else f"all {len(lines)} checks passed"
        )
        return "\n".join([self.model, *lines, end])


def examine(lalm: LALM) -> Report:
    """Run every check on a loaded model: some sixty short forward passes and two short answers.

    Vectors, hooks and weights are as before when it returns.
    """
    report = Report(repr(lalm))
    typed, spoken = made_up_prompts(lalm)
    first = (spoken or typed)[0]
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "family": lambda: _family(lalm),
        "parts": lambda: parts(lalm),
        "chat format": lambda: _chat(lalm, typed[:1], spoken[:1]),
        "audio": lambda: _audio(lalm, spoken),
        "typed forward": lambda: _forward(lalm, "typed forward", typed[:1]),
        "spoken forward": lambda: _forward(lalm, "spoken forward", spoken[:1]),
        "padding": lambda: _padding(lalm, [*typed, *spoken]),
        "padded lengths": lambda: _padded_lengths(lalm, [*typed[:1], *spoken[:1]]),
        "hearing": lambda: _hearing(lalm, spoken),
        "one window": lambda: _window(lalm, spoken),
        "generation": lambda: _generation(lalm, first),
        "zero vector": lambda: _zero_vector(lalm, [*typed[:1], *spoken[:1]]),
        "steering": lambda: _steering(lalm, first),
        "memory": lambda: _memory(lalm),
    }
    for name, check in checks.items():
        try:
            report.findings.extend(check())
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            detail = (
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]} (in {frame.name})"
            )
            report.findings.append(Finding(name, "FAIL", detail))
    return report


def made_up_prompts(lalm: LALM) -> tuple[list[Prompt], list[Prompt]]:
    """Typed and spoken prompts of different lengths; no spoken ones for a model that hears
    nothing."""
    typed = [Prompt("Name a fruit."), Prompt("How is bread made? Answer in one short sentence.")]
    if lalm.audio_token_id is None:
        return typed, []
    sentences = ("What is the capital of France?", "Tell me a short story about a dog and a boat.")
    clips = [synthesise(sentence) for sentence in sentences]
    return typed, [Prompt("Answer the request in the audio.", clip) for clip in clips]


def _family(lalm: LALM) -> Iterator[Finding]:
    kind, name = lalm.model.config.model_type, lalm.family.name
    known = name != "auto"
    detail = f"{name} ({kind})" if known else f"no row for {kind!r}: the generic recipe is used"
    yield Finding("family", "ok" if known else "note", detail)
    if lalm.family.note:
        yield Finding("family", "note", lalm.family.note)
    if lalm.family.adapter is not None:
        there = adapter_layers(lalm.model)
        detail = "on for spoken prompts, off for typed ones" if there else "none is loaded"
        yield Finding("adapter for speech", "ok" if there else "note", detail)


def parts(lalm: LALM) -> Iterator[Finding]:
    """Where layers, audio tower and projector are, and what a model has that plays no part here."""
    where = next(
        (name for name, module in lalm.model.named_modules() if module is lalm.decoder), ""
    )
    yield Finding(
        "layers", "ok", f"{lalm.n_layers} of width {lalm.d_model} in {where or 'the model itself'}"
    )
    for check, words in (("audio tower", AUDIO_TOWER), ("projector", PROJECTOR)):
        if (found := find_part(lalm.model, words)) is None:
            yield Finding(
                check, "note", "none found by its name; a tower may project within itself"
            )
        else:
            weights = sum(parameter.numel() for parameter in found[1].parameters())
            yield Finding(
                check, "ok", f"{found[0]}: {type(found[1]).__name__}, {weights:,} weights"
            )
    silent = [
        name for name, _ in lalm.model.named_children() if any(word in name for word in SPEAKING)
    ]
    if silent:
        yield Finding(
            "unused parts", "note", f"{', '.join(silent)}: this package reads text answers alone"
        )


def _chat(lalm: LALM, typed: Sequence[Prompt], spoken: Sequence[Prompt]) -> Iterator[Finding]:
    for form, prompts in (("typed", typed), ("spoken", spoken)):
        for prompt in prompts:
            text = lalm.chat(prompt)
            shown = repr(text if len(text) < 300 else f"{text[:300]}...")
            there = prompt.text in text
            detail = shown if there else f"the text of the prompt is not in it: {shown}"
            yield Finding(f"chat, {form}", "ok" if there else "FAIL", detail)
    try:
        if "Be kind." not in lalm.chat(Prompt("Hi", system="Be kind.")):
            yield Finding("chat, system", "note", "the chat template drops a system turn")
    except Exception as error:
        yield Finding("chat, system", "note", f"takes no system turn ({type(error).__name__})")


def _audio(lalm: LALM, spoken: Sequence[Prompt]) -> Iterator[Finding]:
    if not spoken:
        deaf = hasattr(
            lalm.processor, "tokenizer"
        )  # a processor for more than text, and nowhere to put it
        detail = "no audio placeholder token" if deaf else "a text model"
        yield Finding(
            "audio", "FAIL" if deaf else "note", f"{detail}: only typed prompts can be used"
        )
        return
    tokens = [
        int((lalm.inputs([prompt])["input_ids"] == lalm.audio_token_id).sum()) for prompt in spoken
    ]
    seconds = [len(clip) / SAMPLE_RATE for clip in map(lalm.waveform, spoken) if clip is not None]
    made = ", ".join(f"{s:.1f} s make {n} positions" for s, n in zip(seconds, tokens, strict=True))
    limit = lalm.max_audio_seconds
    heard = "no limit of length" if limit is None else f"clips of up to {limit:g} s"
    yield Finding("audio", "ok" if all(tokens) else "FAIL", f"{made}; {heard}")


def _forward(lalm: LALM, check: str, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    if not prompts:
        return
    norms = capture(lalm, prompts)[0].norm(dim=-1)
    detail = f"{lalm.n_layers} layers captured, norms from {norms[0]:.3g} (first) to {norms[-1]:.3g} (last)"
    yield Finding(check, "ok", detail)


def _padding(lalm: LALM, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    # Nothing encoded before may be used again, or the clips' padding would be the same twice.
    runs = []
    for batches in ([prompts], [[prompt] for prompt in prompts]):
        forget_clips(lalm)
        runs.append(torch.cat([capture(lalm, batch) for batch in batches]))
    error = _difference(*runs)
    detail = f"last-token states of a padded batch differ from single prompts' by {error:.1e} of the largest"
    yield _within(lalm, "left padding", error, detail)


def _padded_lengths(lalm: LALM, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Kernels and masks may go wrong at some lengths alone: multiples of a block, one position,
    many."""
    for prompt in prompts:
        alone, errors = capture(lalm, [prompt]), {}
        for more in (1, 2, 7, 8, 15, 16, 31, 64, 150):
            longer = Prompt(prompt.text + " a" * more, prompt.audio)
            errors[more] = _difference(capture(lalm, [prompt, longer])[:1], alone)
        worst = max(errors, key=lambda more: errors[more])
        form = "typed" if prompt.audio is None else "spoken"
        detail = (
            f"beside prompts of 1 to 150 words more, states differ by up to {errors[worst]:.1e}"
        )
        yield _within(
            lalm, f"padded lengths, {form}", errors[worst], f"{detail} (at {worst} words)"
        )


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _within(lalm: LALM, check: str, error: float, detail: str) -> Finding:
    allowed = TOLERANCE.get(lalm.dtype, 1e-1)
    verdict: Verdict = "ok" if error <= allowed else "FAIL"
    return Finding(check, verdict, f"{detail} (allowed in {lalm.dtype}: {allowed:.0e})")


def _hearing(lalm: LALM, spoken: Sequence[Prompt]) -> Iterator[Finding]:
    """Of one length, so that a model that counts the clip's positions and hears nothing is
    found."""
    for prompt in spoken[:1]:
        clips = [prompt.audio, prompt.audio[::-1].copy()]
        states = capture(lalm, [Prompt(prompt.text, clip) for clip in clips])
        error = _difference(states[:1], states[1:])
        detail = f"a clip and the same one backwards, under one text: states differ by {error:.1e}"
        yield Finding("hearing", "ok" if error > HEARD else "FAIL", f"{detail} of the largest")


def _window(lalm: LALM, spoken: Sequence[Prompt]) -> Iterator[Finding]:
    """At the edge of a window a clip keeps its positions, in a batch too, and its end is heard or
    refused."""
    if not spoken:
        return
    seconds = window_seconds(lalm.processor) or lalm.max_audio_seconds or 30.0
    shorter, longer = (
        np.resize(spoken[0].audio, round((seconds + d) * SAMPLE_RATE)) for d in (-0.1, 0.1)
    )
    other = longer.copy()
    other[-SAMPLE_RATE // 10 :] = 0.5 * np.sign(longer[: SAMPLE_RATE // 10])
    short, *long = (Prompt("Hi", clip) for clip in (shorter, longer, other))
    alone = [len(capture_positions(lalm, [short], "audio")[0])]
    try:
        alone += [
            len(states) for prompt in long for states in capture_positions(lalm, [prompt], "audio")
        ]
    except ClipError:
        yield Finding(
            "one window", "ok", f"{seconds - 0.1:g} s make {alone[0]} positions; more is refused"
        )
        return
    together = [len(states) for states in capture_positions(lalm, [short, *long], "audio")]
    heard = _difference(*(capture(lalm, [prompt]) for prompt in long)) > HEARD
    detail = f"{seconds - 0.1:g} s make {alone[0]} positions, {seconds + 0.1:g} s {alone[1]}"
    detail += "" if heard else ", but its end is not heard"
    detail += "" if together == alone else f"; {together[:2]} in a batch"
    yield Finding("one window", "ok" if heard and together == alone else "FAIL", detail)


def _generation(lalm: LALM, prompt: Prompt) -> Iterator[Finding]:
    answer = lalm.generate([prompt], max_new_tokens=12)[0]
    yield Finding(
        "generation", "ok", f"the answer starts {answer[:60]!r}; whether it makes sense, you judge"
    )


def _zero_vector(lalm: LALM, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    plain = [lalm.next_token_logits([prompt]) for prompt in prompts]
    again = [lalm.next_token_logits([prompt]) for prompt in prompts]
    with steer(lalm, SteeringVectors(torch.zeros(lalm.n_layers, lalm.d_model)), alpha=1.0):
        zero = [lalm.next_token_logits([prompt]) for prompt in prompts]
    if not all(map(torch.equal, plain, again)):
        yield Finding(
            "zero vector", "note", "the model itself is not deterministic: two plain runs differ"
        )
    elif all(map(torch.equal, plain, zero)):
        yield Finding("zero vector", "ok", "steering by nothing is bit-identical")
    else:
        worst = max(float((a - b).abs().max()) for a, b in zip(plain, zero, strict=True))
        yield Finding(
            "zero vector", "FAIL", f"steering by nothing changes logits by up to {worst:.1e}"
        )


def _steering(lalm: LALM, prompt: Prompt) -> Iterator[Finding]:
    """A vector as long as the state itself, at the middle layer: it has to arrive there and change
    the logits."""
    middle = lalm.n_layers // 2
    plain, logits = capture(lalm, [prompt])[0], lalm.next_token_logits([prompt])
    noise = torch.randn(lalm.d_model, generator=torch.Generator().manual_seed(0)).to(plain.device)
    vector = noise / noise.norm() * plain[middle].norm()
    vectors = SteeringVectors(vector.expand(lalm.n_layers, -1))
    with steer(lalm, vectors, alpha=1.0, layers=[middle]):
        moved, pushed = capture(lalm, [prompt])[0], lalm.next_token_logits([prompt])
    error = float((moved[middle] - plain[middle] - vector).abs().max() / vector.abs().max())
    if not torch.equal(moved[:middle], plain[:middle]):
        wrong = "changes earlier layers"
    elif error > TOLERANCE.get(lalm.dtype, 1e-1):
        wrong = f"is not what moves that layer (off by {error:.1e})"
    else:
        wrong = "does not reach the answer" if torch.equal(logits, pushed) else ""
    arrives = f"arrives; logits move by up to {float((pushed - logits).abs().max()):.2g}"
    yield Finding(
        "steering", "FAIL" if wrong else "ok", f"a vector at layer {middle} {wrong or arrives}"
    )


def _memory(lalm: LALM) -> Iterator[Finding]:
    weights = list(lalm.model.parameters())
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    count = lalm.model.num_parameters()  # quantised weights hold several in one
    needed = f"{in_bytes(size)} of weights ({count:,}); with room to work about {in_bytes(size * OVERHEAD)}"
    yield Finding("memory", "ok", needed)
    if getattr(lalm.model, "is_quantized", False):
        yield Finding(
            "quantised",
            "note",
            f"states and vectors are in {lalm.dtype}, and this model's own: derive vectors for it anew, and "
            "compare its answers with the full model's before reporting figures",
        )
    devices = ", ".join(sorted({str(weight.device) for weight in weights}))
    yield Finding("devices", "ok", f"{devices}; vectors go to each layer's own")


def in_bytes(amount: float) -> str:
    """An amount of memory for people."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


AUDIO_TOWER = ("audio_tower", "audio_encoder", "speech_encoder", "audio_embed", "encoder", "audio")
PROJECTOR = (
    "multi_modal_projector",
    "projector",
    "embed_audio",
    "audio_proj",
    "up_proj_for_speech",
)


def find_part(model: nn.Module, words: Sequence[str]) -> tuple[str, nn.Module] | None:
    """The outermost part outside of any `layers` whose name holds the first of `words` found at
    all: (name, module), or None.

    None does not mean that there is no projector: the Qwen-Omnis' towers project within themselves.
    """
    parts = [part for part in find_core(model).named_modules() if ".layers." not in part[0]]
    for word in words:
        if found := [part for part in parts if word in part[0].rpartition(".")[2].lower()]:
            return min(found, key=lambda part: part[0].count("."))
    return None
