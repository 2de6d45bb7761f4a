"""`sarsteer-lab doctor MODEL`: whether a model fits this package, tried on it, not looked up.

Each check runs the real thing on a few made-up prompts and says what it found. A check that fails
does not stop the others.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import capture, capture_positions
from sarsteer_lab.checkpoints import OVERHEAD
from sarsteer_lab.engine.audio_cache import forget_clips
from sarsteer_lab.families import adapter_layers, window_seconds
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.findings import Finding, Report, Verdict, in_bytes, parts
from sarsteer_lab.prompts import INSTRUCTION, Prompt
from sarsteer_lab.speech import SAMPLE_RATE, ClipError
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.voice import synthesise

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far states of one prompt may differ between batches, relative to the largest: by rounding."""

HEARD = 1e-5
"""How far states under two clips have to lie apart, relative to the largest."""

EDGE = 0.1
"""Seconds by which clips are shorter and longer than a window."""


def examine(lalm: LALM) -> Report:
    """Run every check on a loaded model: some forty short forward passes and one short answer.

    Vectors, hooks and weights are as before when it returns.
    """
    report = Report(repr(lalm))
    for check in CHECKS:
        try:
            report.findings.extend(check(lalm))
        except Exception as error:
            name = check.__name__.replace("_", " ")
            where = traceback.extract_tb(error.__traceback__)[-1].name
            message = " ".join(str(error).split())
            detail = f"{type(error).__name__}: {message[:200]} (in {where})"
            report.findings.append(Finding(name, "FAIL", detail))
    return report


def made_up_prompts(lalm: LALM) -> tuple[list[Prompt], list[Prompt]]:
    """Typed and spoken prompts of different lengths; none spoken for a model that hears nothing."""
    typed = [Prompt("Name a fruit.")]
    typed.append(Prompt("How is bread made? Answer in one short sentence."))
    if lalm.audio_token_id is None:
        return typed, []
    sentences = ("What is the capital of France?", "Tell me a short story about a dog and a boat.")
    return typed, [Prompt(INSTRUCTION, synthesise(sentence)) for sentence in sentences]


# The checks


def family(lalm: LALM) -> Iterator[Finding]:
    """Which row of the families table the model uses, and what is to be known about it."""
    name, kind = lalm.family.name, lalm.model.config.model_type
    if name == "auto":
        yield Finding("family", "note", f"no row for {kind!r}: the generic recipe is used")
    else:
        yield Finding("family", "ok", f"{name} ({kind})")
    if lalm.family.note:
        yield Finding("family", "note", lalm.family.note)
    if lalm.family.adapter is None:
        return
    if adapter_layers(lalm.model):
        yield Finding("adapter for speech", "ok", "on for spoken prompts, off for typed ones")
    else:
        yield Finding("adapter for speech", "note", "none is loaded")


def chat_format(lalm: LALM) -> Iterator[Finding]:
    """What the model is given to read, and whether the prompt's text is in it."""
    typed, spoken = made_up_prompts(lalm)
    yield _rendered(lalm, "chat, typed", typed[0])
    for prompt in spoken[:1]:
        yield _rendered(lalm, "chat, spoken", prompt)
    try:
        text = lalm.chat(Prompt("Hi", system="Be kind."))
    except Exception as error:
        yield Finding("chat, system", "note", f"takes no system turn ({type(error).__name__})")
        return
    if "Be kind." not in text:
        yield Finding("chat, system", "note", "the chat template drops a system turn")


def _rendered(lalm: LALM, check: str, prompt: Prompt) -> Finding:
    text = lalm.chat(prompt)
    shown = repr(text if len(text) < 300 else f"{text[:300]}...")
    if prompt.text in text:
        return Finding(check, "ok", shown)
    return Finding(check, "FAIL", f"the text of the prompt is not in it: {shown}")


def audio(lalm: LALM) -> Iterator[Finding]:
    """How many positions clips make, and how long they may be."""
    _, spoken = made_up_prompts(lalm)
    if not spoken:
        # A processor for more than text, and nowhere to put it: something is wrong.
        if hasattr(lalm.processor, "tokenizer"):
            deaf = "no audio placeholder token: only typed prompts can be used"
            yield Finding("audio", "FAIL", deaf)
        else:
            yield Finding("audio", "note", "a text model: only typed prompts can be used")
        return
    verdict: Verdict = "ok"
    lengths = []
    for prompt in spoken:
        ids = lalm.inputs([prompt])["input_ids"]
        positions = int((ids == lalm.audio_token_id).sum())
        if not positions:
            verdict = "FAIL"
        lengths.append(f"{len(prompt.audio) / SAMPLE_RATE:.1f} s make {positions} positions")
    limit = lalm.max_audio_seconds
    heard = "no limit of length" if limit is None else f"clips of up to {limit:g} s"
    yield Finding("audio", verdict, f"{', '.join(lengths)}; {heard}")


def typed_forward(lalm: LALM) -> Iterator[Finding]:
    """The states of a typed prompt are numbers."""
    typed, _ = made_up_prompts(lalm)
    yield _forward(lalm, "typed forward", typed[0])


def spoken_forward(lalm: LALM) -> Iterator[Finding]:
    """The states of a spoken prompt are numbers."""
    _, spoken = made_up_prompts(lalm)
    for prompt in spoken[:1]:
        yield _forward(lalm, "spoken forward", prompt)


def _forward(lalm: LALM, check: str, prompt: Prompt) -> Finding:
    norms = capture(lalm, [prompt])[0].norm(dim=-1)  # layer
    span = f"norms from {norms[0]:.3g} (first) to {norms[-1]:.3g} (last)"
    return Finding(check, "ok", f"{lalm.n_layers} layers captured, {span}")


def left_padding(lalm: LALM) -> Iterator[Finding]:
    """States are the same in a padded batch and alone."""
    typed, spoken = made_up_prompts(lalm)
    prompts = typed + spoken
    # Nothing encoded before may be used again, or the clips' padding would be the same twice.
    forget_clips(lalm)
    together = capture(lalm, prompts)
    forget_clips(lalm)
    alone = torch.cat([capture(lalm, [prompt]) for prompt in prompts])
    error = difference(together, alone)
    states = "last-token states of a padded batch differ from single prompts'"
    yield _within(lalm, "left padding", error, f"{states} by {error:.1e} of the largest")


def padded_lengths(lalm: LALM) -> Iterator[Finding]:
    """Kernels and masks may go wrong at some lengths alone: multiples of a block, one, many."""
    typed, spoken = made_up_prompts(lalm)
    yield _padded(lalm, "padded lengths, typed", typed[0])
    for prompt in spoken[:1]:
        yield _padded(lalm, "padded lengths, spoken", prompt)


def _padded(lalm: LALM, check: str, prompt: Prompt) -> Finding:
    alone = capture(lalm, [prompt])
    worst, at_words = -1.0, 0
    for words in (1, 2, 7, 8, 15, 16, 31, 64, 150):
        longer = Prompt(prompt.text + " a" * words, prompt.audio)
        error = difference(capture(lalm, [prompt, longer])[:1], alone)
        if error > worst:
            worst, at_words = error, words
    beside = f"beside prompts of 1 to 150 words more, states differ by up to {worst:.1e}"
    return _within(lalm, check, worst, f"{beside} (at {at_words} words)")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of any two numbers, relative to the largest of `theirs`."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def tolerance(lalm: LALM) -> float:
    """What rounding may do in this model's dtype (see `TOLERANCE`)."""
    return TOLERANCE.get(lalm.dtype, 1e-1)


def _within(lalm: LALM, check: str, error: float, detail: str) -> Finding:
    allowed = tolerance(lalm)
    detail += f" (allowed in {lalm.dtype}: {allowed:.0e})"
    return Finding(check, "ok" if error <= allowed else "FAIL", detail)


def hearing(lalm: LALM) -> Iterator[Finding]:
    """Clips of one length, so that a model that counts positions and hears nothing is found."""
    _, spoken = made_up_prompts(lalm)
    for prompt in spoken[:1]:
        backwards = Prompt(prompt.text, prompt.audio[::-1].copy())
        error = difference(*capture(lalm, [prompt, backwards]))
        clips = "a clip and the same one backwards, under one text"
        verdict: Verdict = "ok" if error > HEARD else "FAIL"
        yield Finding("hearing", verdict, f"{clips}: states differ by {error:.1e} of the largest")


def one_window(lalm: LALM) -> Iterator[Finding]:
    """At a window's edge a clip keeps its positions, batched or not; its end counts."""
    _, spoken = made_up_prompts(lalm)
    if not spoken:
        return
    seconds = window_seconds(lalm.processor) or lalm.max_audio_seconds or 30.0
    below, beyond = seconds - EDGE, seconds + EDGE
    voice = spoken[0].audio
    long_clip = np.resize(voice, round(beyond * SAMPLE_RATE))
    other_end = long_clip.copy()
    end = round(EDGE * SAMPLE_RATE)
    other_end[-end:] = 0.5 * np.sign(voice[:end])
    short = Prompt("Hi", np.resize(voice, round(below * SAMPLE_RATE)))
    long, other = Prompt("Hi", long_clip), Prompt("Hi", other_end)
    alone = _positions(lalm, [short])
    detail = f"{below:g} s make {alone[0]} positions"
    try:
        alone += _positions(lalm, [long]) + _positions(lalm, [other])
    except ClipError:
        yield Finding("one window", "ok", f"{detail}; more is refused")
        return
    detail += f", {beyond:g} s {alone[1]}"
    verdict: Verdict = "ok"
    if difference(capture(lalm, [long]), capture(lalm, [other])) <= HEARD:
        verdict = "FAIL"
        detail += ", but its end is not heard"
    together = _positions(lalm, [short, long, other])
    if together != alone:
        verdict = "FAIL"
        detail += f"; {together[:2]} in a batch"
    yield Finding("one window", verdict, detail)


def _positions(lalm: LALM, prompts: Sequence[Prompt]) -> list[int]:
    return [len(states) for states in capture_positions(lalm, prompts, "audio")]


def generation(lalm: LALM) -> Iterator[Finding]:
    """The beginning of an answer, for people to judge."""
    answer = lalm.generate([_first(lalm)], max_new_tokens=12)[0]
    begins = f"the answer starts {answer[:60]!r}"
    yield Finding("generation", "ok", f"{begins}; whether it makes sense, you judge")


def _first(lalm: LALM) -> Prompt:
    """A spoken prompt, or a typed one for a model that hears nothing."""
    typed, spoken = made_up_prompts(lalm)
    return (spoken or typed)[0]


def zero_vector(lalm: LALM) -> Iterator[Finding]:
    """Steering by nothing changes no bit."""
    plain, again = _logits(lalm), _logits(lalm)
    nothing = SteeringVectors(torch.zeros(lalm.n_layers, lalm.d_model, dtype=torch.float32))
    with steer(lalm, nothing, alpha=1.0):
        steered = _logits(lalm)
    if not torch.equal(plain, again):
        unsure = "the model itself is not deterministic: two plain runs differ"
        yield Finding("zero vector", "note", unsure)
    elif torch.equal(plain, steered):
        yield Finding("zero vector", "ok", "steering by nothing is bit-identical")
    else:
        change = float((plain - steered).abs().max())
        wrong = f"steering by nothing changes logits by up to {change:.1e}"
        yield Finding("zero vector", "FAIL", wrong)


def _logits(lalm: LALM) -> Float[Tensor, "prompt vocab"]:
    """The logits of a typed and a spoken prompt, each alone."""
    typed, spoken = made_up_prompts(lalm)
    prompts = typed[:1] + spoken[:1]
    return torch.cat([lalm.next_token_logits([prompt]) for prompt in prompts])


def steering(lalm: LALM) -> Iterator[Finding]:
    """A vector as long as the state, at the middle layer: it arrives and changes the logits."""
    prompts, middle = [_first(lalm)], lalm.n_layers // 2
    plain, logits = capture(lalm, prompts)[0], lalm.next_token_logits(prompts)
    seeded = torch.Generator().manual_seed(0)
    noise = torch.randn(lalm.d_model, generator=seeded).to(plain)
    vector = noise * (plain[middle].norm() / noise.norm())
    vectors = SteeringVectors(vector.expand(lalm.n_layers, -1))
    with steer(lalm, vectors, alpha=1.0, layers=[middle]):
        steered, pushed = capture(lalm, prompts)[0], lalm.next_token_logits(prompts)
    error = difference(steered[middle] - plain[middle], vector)
    if not torch.equal(steered[:middle], plain[:middle]):
        wrong = "changes earlier layers"
    elif error > tolerance(lalm):
        wrong = f"is not what moves that layer (off by {error:.1e})"
    elif torch.equal(logits, pushed):
        wrong = "does not reach the answer"
    else:
        change = float((pushed - logits).abs().max())
        arrives = f"a vector at layer {middle} arrives; logits move by up to {change:.2g}"
        yield Finding("steering", "ok", arrives)
        return
    yield Finding("steering", "FAIL", f"a vector at layer {middle} {wrong}")


def memory(lalm: LALM) -> Iterator[Finding]:
    """What the weights take, and where they lie."""
    size, devices = 0, set()
    for weight in lalm.model.parameters():
        size += weight.nbytes
        devices.add(str(weight.device))
    count = lalm.model.num_parameters()  # quantised weights hold several in one
    room = f"with room to work about {in_bytes(size * OVERHEAD)}"
    yield Finding("memory", "ok", f"{in_bytes(size)} of weights ({count:,}); {room}")
    if getattr(lalm.model, "is_quantized", False):
        own = f"states and vectors are in {lalm.dtype}, and this model's own"
        advice = "derive vectors for it anew, and compare its answers with the full model's"
        yield Finding("quantised", "note", f"{own}: {advice} before reporting figures")
    places = ", ".join(sorted(devices))
    yield Finding("devices", "ok", f"{places}; vectors go to each layer's own")


CHECKS: tuple[Callable[[LALM], Iterator[Finding]], ...] = (
    family,
    parts,
    chat_format,
    audio,
    typed_forward,
    spoken_forward,
    left_padding,
    padded_lengths,
    hearing,
    one_window,
    generation,
    zero_vector,
    steering,
    memory,
)
"""All checks in the order of the report; one that breaks is reported under its function's name."""
