"""What sharing buys: `python -m benchmarks.speed`, every figure a ratio of two ways run in turn.

(a) extraction of base and refusing states against the plain way (one prompt at a time, two full
forward passes, every logit, the clip encoded twice) and against one bare forward pass over the
refusing prompts; (d) an evaluation of several defences against generating for one prompt at a time;
(e) how capture's cost grows; (f) what it costs to read every byte of the weights, as keys do at
each use. `python -m benchmarks.gpu` has capture and steering beside peers."""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import RESULTS, alternate, forward_only, heading, keep_report, ratio, spread
from sarsteer_lab.activations import capture
from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.engine.audio_cache import forget_clips
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.base import collect_states
from sarsteer_lab.evaluation.defences import default_defences
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.run import batch_size_for
from sarsteer_lab.evaluation.table import evaluation_table
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt, Request, load_prompts
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.weights import weights_checksum

EVERY = 8
"""One of so many requests is also answered one at a time: what they cost adds up."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="What sharing work between prompts and settings buys"
    )
    parser.add_argument("--model", default="pocket", help="what load_lalm takes")
    parser.add_argument("--clips", type=int, default=24, help="clips of (a) and (d)")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each way")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer of (d)")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the report goes")
    args = parser.parse_args(argv)
    lalm = load_lalm(args.model)
    requests = load_prompts("derive", "harmful")[: args.clips]
    lines: list[str] = []
    for section in (
        lambda: heading(lalm, "What sharing buys"),
        lambda: extraction(lalm, requests, args.repeats),
        lambda: evaluation(lalm, args.clips, args.repeats, args.tokens),
        lambda: growth(lalm, args.repeats),
        lambda: fingerprints(lalm, args.repeats),
    ):
        found = section()
        print("\n".join(found), flush=True)
        lines += found
    keep_report(args.folder, "speed", "\n".join(lines) + "\n")


def extraction(lalm: LALM, requests: Sequence[Request], repeats: int) -> list[str]:
    base, refusing = [r.spoken() for r in requests], [r.spoken(refusal=REFUSAL) for r in requests]
    found: dict[str, list[torch.Tensor]] = {}

    def shared() -> None:
        forget_clips(lalm)
        found["shared"] = capture_variants(lalm, [base, refusing])

    def plain() -> None:
        found["plain"] = [one_by_one(lalm, base), one_by_one(lalm, refusing)]

    def bare() -> None:
        forget_clips(lalm)
        forward_only(lalm, refusing)

    shared()
    plain()
    ours, theirs = (text_refusal_direction(*found[way])[:-1] for way in ("shared", "plain"))
    cosine = torch.cosine_similarity(ours, theirs, dim=-1).min().item()
    work = [operations(way) for way in (shared, plain, bare)]
    together, apart, alone = alternate([shared, plain, bare], repeats)
    peak = peak_rate()
    least = work[0] / peak / 1e9
    rates = [
        f"{count / statistics.median(times) / 1e9:.0f}"
        for count, times in zip(work, (together, apart, alone), strict=True)
    ]
    return [
        "",
        f"## (a) Extraction: {len(requests)} clips, base and refusing prompts, all layers, "
        f"{repeats} runs",
        "",
        "| way | seconds (median, range) | ratio (median, its 95% interval) | 10^9 operations "
        "| a second |",
        "| --- | --- | --- | --- | --- |",
        f"| shared prefix | {spread(together)} | | {work[0] / 1e9:,.0f} | {rates[0]} |",
        f"| one prompt at a time, all logits | {spread(apart)} | {ratio(apart, together)} x ours | "
        f"{work[1] / 1e9:,.0f} | {rates[1]} |",
        f"| one bare forward pass | {spread(alone)} | ours is {ratio(together, alone)} x it | "
        f"{work[2] / 1e9:,.0f} | {rates[2]} |",
        "",
        f"What binds it: the plain way does {work[1] / work[0]:.2f} times our floating-point "
        f"operations (of "
        f"matrix products and convolutions, counted). A large float32 matrix product runs at "
        f"{peak:.0f} x 10^9 a second here: were a model nothing else, ours would take "
        f"{least:.2f} s, and {statistics.median(apart) / least:.1f} x would be the most there is.",
        "",
        f"Smallest cosine between the two ways' directions over layers (the last, which "
        f"transformers gives "
        f"after the final norm only, left out): {cosine:.6f}.",
    ]


def operations(way: Callable[[], None]) -> int:
    """Floating-point operations of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def peak_rate(rows: int = 2048, width: int = 1536, runs: int = 20) -> float:
    """10^9 operations a second of large float32 matrix products, the best of some runs."""
    left, right = torch.randn(rows, width), torch.randn(width, width)
    times = alternate([lambda: left @ right], runs)[0]
    return 2 * rows * width * width / min(times) / 1e9


@torch.no_grad()
def one_by_one(lalm: LALM, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Last-token states as anyone would first write it; transformers' last entry is after the final
    norm."""
    states = []
    for prompt in prompts:
        forget_clips(lalm)
        out = lalm.core(**lalm.inputs([prompt]), output_hidden_states=True, use_cache=False)
        states.append(torch.stack([hidden[0, -1].float() for hidden in out.hidden_states[1:]]))
    return torch.stack(states)


def evaluation(lalm: LALM, clips: int, repeats: int, tokens: int) -> list[str]:
    """All of the course's defences on requests of all kinds: by `evaluate`, and one answer at a
    time."""
    test = load_prompts("test")
    requests = test[:: -(-len(test) // clips)]
    some = requests[::EVERY]
    defences = default_defences(collect_states(lalm, load_prompts("derive")))

    def batched() -> None:
        forget_clips(lalm)
        with tempfile.TemporaryDirectory() as folder:
            sets = {"test": requests}
            size = batch_size_for(lalm, defences, sets, folder, tokens)
            options = {"max_new_tokens": tokens, "batch_size": size}
            evaluation_table(lalm, defences, sets, [PhraseJudge()], folder, **options)

    def single() -> None:
        for defence in defences:
            for request in some:
                forget_clips(lalm)
                ready = PreparedBatch(lalm, [defence.prompt(request)])
                strengths = defence.strengths(1, ready.states)
                with defence.push(lalm, strengths):
                    ready.generate(tokens)

    batched()
    ours, one = alternate([batched, single], repeats)
    scaled = [seconds * len(requests) / len(some) for seconds in one]
    return [
        "",
        f"## (d) {len(defences)} defences, {len(requests)} clips, {tokens} tokens, {repeats} runs",
        "",
        "| way | seconds (median, range) | ratio (median, its 95% interval) |",
        "| --- | --- | --- |",
        f"| batched, reading shared | {spread(ours)} | |",
        f"| one answer at a time ({len(some)} clips under every defence, times "
        f"{len(requests) / len(some):.1f}) | {spread(scaled)} | {ratio(scaled, ours)} x ours |",
    ]


def growth(lalm: LALM, repeats: int) -> list[str]:
    """Capture's time per clip as layers, batch and clip length grow; noise, as its cost does not
    depend on it."""
    noise = np.random.default_rng(0).standard_normal((16, 8 * SAMPLE_RATE)).astype(np.float32) / 10

    def prompts(seconds: float, count: int = 8) -> list[Prompt]:
        return [Prompt(INSTRUCTION, clip[: round(seconds * SAMPLE_RATE)]) for clip in noise[:count]]

    def timed(**change: Any) -> list[float]:
        setting = {"layers": None, "batch": 8, "seconds": 4.0} | change
        some = prompts(setting["seconds"], setting["batch"])

        def work() -> None:
            forget_clips(lalm)
            capture(lalm, some, layers=setting["layers"], batch_size=len(some))

        work()
        [times] = alternate([work], repeats)
        return [1000 * seconds / len(some) for seconds in times]

    rows: list[tuple[str, list[float]]] = []
    last = lalm.n_layers
    for layers in ([last - 1], list(range(0, last, 3)), list(range(last))):
        rows.append((f"{len(layers)} layers kept, batch 8, 4 s", timed(layers=layers)))
    for batch in (1, 2, 4, 8, 16):
        rows.append((f"all layers, batch {batch}, 4 s", timed(batch=batch)))
    for seconds in (1, 2, 4, 8):
        rows.append((f"all layers, batch 8, {seconds} s", timed(seconds=seconds)))
    return [
        "",
        f"## (e) Capture, milliseconds per clip ({repeats} runs)",
        "",
        "| setting | median (range) |",
        "| --- | --- |",
        *(f"| {name} | {spread(times)} |" for name, times in rows),
    ]


def fingerprints(lalm: LALM, repeats: int) -> list[str]:
    """Time of a fingerprint, and of a checksum of two decoder layers in the shape of
    Qwen2-Audio-7B's."""
    width, inner = 4096, 11008
    shapes = [(width, width)] * 4 + [(inner, width)] * 2 + [(width, inner)]
    weights = [torch.zeros(shape, dtype=torch.bfloat16, device=lalm.device) for shape in 2 * shapes]
    sizes = [
        sum(tensor.nbytes for tensor in tensors)
        for tensors in (lalm.model.state_dict().values(), weights)
    ]
    own, large = alternate([lambda: lalm.fingerprint(), lambda: weights_checksum(weights)], repeats)
    whole = 8_397_094_912 * 2 / sizes[1] * statistics.median(large)
    return [
        "",
        f"## (f) Reading every byte of the weights ({repeats} runs)",
        "",
        "| what | GB | seconds, median (range) |",
        "| --- | --- | --- |",
        f"| fingerprint of {lalm.name} | {sizes[0] / 1e9:.2f} | {spread(own)} |",
        f"| two decoder layers of a 7B model, bfloat16 | {sizes[1] / 1e9:.2f} | {spread(large)} |",
        f"| all 8.4 billion weights of Qwen2-Audio-7B, at that rate | 16.79 | {whole:.2f} |",
    ]


if __name__ == "__main__":
    main()
