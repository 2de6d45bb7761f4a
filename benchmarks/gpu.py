"""Speed and memory of capture and steering: `python -m benchmarks.gpu`.

On a CUDA device the model is the real-size Qwen2-Audio replica in bfloat16 (random weights, real
shapes; a character is a token, so its texts are some four times longer than real ones); elsewhere
it is the pocket model, with fewer prompts. The same work is done with and without hooks, and by
peers where they are installed and can run the model. What is compared runs in turn, and verdicts go
by the 95% interval of the median of the paired ratios. The report is printed and written to
`benchmarks/results/`."""

import argparse
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import quantile_test

from sarsteer_lab.activations import capture, last_position, record_states
from sarsteer_lab.engine.audio_cache import forget_clips
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.lens import bridge_inputs, to_transformer_lens
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, Prompt
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.steering import SteeringVectors, steer

RESULTS = Path(__file__).parent / "results"
MOST = 1.02
"""Wanted: capture and steering take at most this times as long as the same work without hooks."""


def main(argv: Sequence[str] | None = None) -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description="Speed and memory of capture and steering")
    parser.add_argument(
        "--pairs", type=int, default=200 if gpu else 6, help="contrastive pairs to capture"
    )
    parser.add_argument("--repeats", type=int, default=21, help="runs of each measurement")
    parser.add_argument(
        "--tokens", type=int, default=64 if gpu else 32, help="tokens of each answer"
    )
    parser.add_argument(
        "--model", help="replica:FAMILY, or what load_lalm takes (default: see above)"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the report goes")
    args = parser.parse_args(argv)
    lalm = load(args.model, gpu)
    batches = (1, 32) if gpu else (1, 8)
    lines = heading(lalm, "Capture and steering")
    lines += report(lalm, args.pairs, args.repeats, args.tokens, batches)
    text = "\n".join(lines) + "\n"
    print(text)
    place = torch.cuda.get_device_name() if gpu else "cpu"
    keep_report(args.folder, place.lower().replace(" ", "-"), text)


def keep_report(folder: Path, name: str, text: str) -> None:
    """Write a report under its name and today's date."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md").write_text(text)


def load(model: str | None, gpu: bool) -> LALM:
    if model is None and gpu:
        return replica("qwen2_audio", size="real", dtype=torch.bfloat16, device="cuda")
    return load_lalm(model or "pocket")


def heading(lalm: LALM, title: str) -> list[str]:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    else:
        threads = torch.get_num_threads()
        load = os.getloadavg()[0]
        device = f"CPU ({cpu_name()}), {threads} threads, load average before {load:.1f}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return [
        f"# {title}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"- hardware: {device}",
        f"- software: Python {platform.python_version()}, {versions}",
        f"- model: {lalm!r}",
    ]


def report(lalm: LALM, pairs: int, repeats: int, tokens: int, batches: Sequence[int]) -> list[str]:
    base, refusing = contrastive_prompts(lalm, pairs)
    prompts = [*base, *refusing]
    shortest, longest = (
        f([len(p.audio) for p in base if isinstance(p.audio, np.ndarray)]) for f in (min, max)
    )
    capture(lalm, prompts[:2])  # warm up

    def forgetting(work: Callable[[LALM, Sequence[Prompt]], Any]) -> Callable[[], Any]:
        def run() -> None:
            forget_clips(lalm)
            work(lalm, prompts)

        return run

    plain, hooked = alternate([forgetting(forward_only), forgetting(capture)], repeats)
    lines = [
        "",
        f"## Capture: {pairs} pairs, all {lalm.n_layers} layers, "
        f"clips of {shortest / SAMPLE_RATE:.1f} to "
        f"{longest / SAMPLE_RATE:.1f} s, {repeats} runs each in turn",
        "",
        "| what | seconds (median, range) | pairs per second | times the forward passes | wanted |",
        "| --- | --- | --- | --- | --- |",
        f"| forward passes without hooks | {spread(plain)} "
        f"| {pairs / statistics.median(plain):.2f} | | |",
        f"| capture | {spread(hooked)} | {pairs / statistics.median(hooked):.2f} "
        f"| {beside(hooked, plain)} |",
        "",
        f"Peak memory: {peak_memory()}.",
        "",
        f"## Steering: {tokens} tokens an answer, all layers, {repeats} runs each in turn",
        "",
        "| batch | unsteered tokens/s | steered tokens/s | steered time over unsteered | wanted |",
        "| --- | --- | --- | --- | --- |",
    ]
    noise = torch.randn(lalm.n_layers, lalm.d_model, generator=torch.Generator().manual_seed(0))
    vectors = SteeringVectors(noise)
    for batch in batches:
        some = (base * batch)[:batch]
        off, on = alternate(
            [
                lambda s=some: answer(lalm, s, tokens, None),
                lambda s=some: answer(lalm, s, tokens, vectors),
            ],
            repeats,
        )
        rates = [batch * tokens / statistics.median(times) for times in (off, on)]
        lines.append(f"| {batch} | {rates[0]:.1f} | {rates[1]:.1f} | {beside(on, off)} |")
    lines += ["", f"Peak memory: {peak_memory()}.", *peers(lalm, base[:8], repeats)]
    return lines + steering_peers(lalm, base[:8], tokens, vectors, repeats)


def contrastive_prompts(lalm: LALM, pairs: int) -> tuple[list[Prompt], list[Prompt]]:
    """Noise of 3 to 10 s (or the model's window), without and with the refusal sentence in the
    text."""
    rng = np.random.default_rng(0)
    longest = min(10.0, lalm.max_audio_seconds or 10.0)
    lengths = rng.uniform(3.0, longest, pairs)
    clips = [rng.standard_normal(round(s * SAMPLE_RATE)).astype(np.float32) / 10 for s in lengths]
    return [Prompt(INSTRUCTION, clip) for clip in clips], [
        Prompt(f"{INSTRUCTION} {REFUSAL}", clip) for clip in clips
    ]


@torch.no_grad()
def forward_only(lalm: LALM, prompts: Sequence[Prompt]) -> None:
    """What `capture` does, without its hooks."""
    for batch in lalm.batches(lalm.encode(prompts), 16, "plain"):
        lalm.read(batch)


def answer(
    lalm: LALM, prompts: Sequence[Prompt], tokens: int, vectors: SteeringVectors | None
) -> None:
    # A hair of the vector, so that both runs write about the same; its cost does not depend on its
    # size.
    with steer(lalm, vectors, alpha=1e-6) if vectors else nullcontext():
        lalm.generate(
            prompts, max_new_tokens=tokens, min_new_tokens=tokens, batch_size=len(prompts)
        )


def alternate(works: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of each work, once a repeat in an order drawn anew (seed 0), so that disturbances,
    and what the one before left behind, fall on all alike."""
    times: list[list[float]] = [[] for _ in works]
    turns = list(zip(works, times, strict=True))
    draw = random.Random(0)
    for _ in range(repeats):
        for work, taken in draw.sample(turns, len(turns)):
            synchronise()
            start = time.perf_counter()
            work()
            synchronise()
            taken.append(time.perf_counter() - start)
    return times


def peers(lalm: LALM, prompts: Sequence[Prompt], repeats: int) -> list[str]:
    """The states of one batch, all layers, by each library; the batch is made beforehand."""
    ids, rest = bridge_inputs(lalm, prompts)
    # Copies, which the audio cache does not know: everyone's audio tower runs every time.
    rest = {name: value.clone() for name, value in rest.items()}

    def forward() -> Any:
        return lalm.trunk(input_ids=ids, **rest, use_cache=False)

    def ours() -> Any:
        with record_states(lalm, range(lalm.n_layers)) as recorded:
            forward()
        return torch.stack([passes[0] for passes in recorded], dim=1)

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "sarsteer_lab.activations.record_states": lambda: ours,
        "transformers output_hidden_states": lambda: (
            lambda: lalm.trunk(input_ids=ids, **rest, use_cache=False, output_hidden_states=True)
        ),
        "TransformerLens run_with_cache": lambda: by_transformer_lens(lalm, ids, rest),
        "steering-vectors record_activations": lambda: by_steering_vectors(lalm, forward),
        "nnsight trace": lambda: by_nnsight(lalm, ids, rest),
    }
    with torch.no_grad():
        return [
            "",
            f"## Peers: all layers' states of one batch of {len(prompts)} spoken prompts",
            "",
            "| library | seconds (median, range) | times the forward pass alone | wanted "
            "| times ours |",
            "| --- | --- | --- | --- | --- |",
            *beside_each_other("forward pass alone", forward, makers, repeats),
            "",
            inside_hooks(lalm, forward),
        ]


def inside_hooks(lalm: LALM, forward: Callable[[], Any]) -> str:
    """What the hooks themselves take, timed from within: far below what whole runs differ by."""
    spent = 0.0

    def pick(stream: torch.Tensor) -> torch.Tensor:
        nonlocal spent
        start = time.perf_counter()
        states = last_position(stream)
        synchronise()
        spent += time.perf_counter() - start
        return states

    start = time.perf_counter()
    with record_states(lalm, range(lalm.n_layers), pick):
        forward()
    synchronise()
    whole = time.perf_counter() - start
    times = f"{1e3 * spent:.2f} ms of {1e3 * whole:.0f} ms ({spent / whole:.2%})"
    return f"Inside record_states' hooks: {times}."


def steering_peers(
    lalm: LALM, prompts: Sequence[Prompt], tokens: int, vectors: SteeringVectors, repeats: int
) -> list[str]:
    """The same push on every layer at every decoding step, by each library, against none."""
    inputs = lalm.inputs(prompts)
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def plain() -> Any:
        return lalm.core.generate(**inputs, **length)

    def ours() -> Any:
        with steer(lalm, vectors, alpha=1e-6):
            return plain()

    def by_hand() -> Any:
        handles = [
            layer.register_forward_hook(lambda _m, _a, out, v=1e-6 * vectors[i]: _pushed(out, v))
            for i, layer in enumerate(lalm.layers)
        ]
        try:
            return plain()
        finally:
            for handle in handles:
                handle.remove()

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "sarsteer_lab.steer": lambda: ours,
        "a bare hook per layer (all positions)": lambda: by_hand,
        "steering-vectors apply (all positions)": lambda: steering_vectors_apply(
            lalm, vectors, plain
        ),
    }
    return [
        "",
        f"## Peers: {tokens} tokens for {len(prompts)} spoken prompts, steered in all layers",
        "",
        "| library | seconds (median, range) | times unsteered decoding | wanted | times ours |",
        "| --- | --- | --- | --- | --- |",
        *beside_each_other("unsteered", plain, makers, repeats),
    ]


def beside_each_other(
    without: str,
    plain: Callable[[], Any],
    makers: dict[str, Callable[[], Callable[[], Any]]],
    repeats: int,
) -> list[str]:
    """Rows of a table: each way in turn with the work without it; ours is the first. Ways that do
    not run here say why."""
    works, rows = {}, []
    plain()
    for name, make in makers.items():
        try:
            work = make()
            work()
            works[name] = work
        except Exception as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            rows.append(f"| {name} | no result: {why} | | | |")
    base, *each = alternate([plain, *works.values()], repeats)
    found = []
    for name, times in zip(works, each, strict=True):
        against = "" if times is each[0] else ratio(times, each[0])
        found.append(f"| {name} | {spread(times)} | {beside(times, base)} | {against} |")
    return [f"| {without} | {spread(base)} | | | |", *found, *rows]


def _pushed(output: Any, vector: torch.Tensor) -> Any:
    if isinstance(output, torch.Tensor):
        return output + vector
    return (output[0] + vector, *output[1:])


def steering_vectors_apply(
    lalm: LALM, vectors: SteeringVectors, work: Callable[[], Any]
) -> Callable[[], Any]:
    from steering_vectors import SteeringVector

    path = layers_path(lalm.core, lalm)
    peer = SteeringVector({layer: vectors[layer] for layer in vectors.layers}, "decoder_block")

    def steered() -> Any:
        with peer.apply(
            lalm.core, layer_config={"decoder_block": path + ".{num}"}, multiplier=1e-6
        ):
            return work()

    return steered


def layers_path(root: torch.nn.Module, lalm: LALM) -> str:
    return next(name for name, module in root.named_modules() if module is lalm.layers)


def by_transformer_lens(lalm: LALM, ids: torch.Tensor, rest: dict[str, Any]) -> Callable[[], Any]:
    bridge = to_transformer_lens(lalm)
    return lambda: bridge.run_with_cache(
        ids, names_filter=lambda name: name.endswith("hook_resid_post"), **rest
    )


def by_steering_vectors(lalm: LALM, forward: Callable[[], Any]) -> Callable[[], Any]:
    from steering_vectors import record_activations

    path = layers_path(lalm.core, lalm)

    def work() -> Any:
        with record_activations(
            lalm.core, "decoder_block", {"decoder_block": path + ".{num}"}
        ) as recorded:
            forward()
        if len(recorded) != lalm.n_layers:
            raise RuntimeError(f"recorded {len(recorded)} of {lalm.n_layers} layers")
        return recorded

    return work


def by_nnsight(lalm: LALM, ids: torch.Tensor, rest: dict[str, Any]) -> Callable[[], Any]:
    from nnsight import NNsight, save

    model = NNsight(lalm.trunk)
    path = layers_path(lalm.trunk, lalm)

    def work() -> Any:
        with model.trace(input_ids=ids, **rest, use_cache=False):
            saved = save([layer.output for layer in model.get(path)])
        if len(saved) != lalm.n_layers or saved[0].shape[0] != len(ids):
            raise RuntimeError(f"saved {len(saved)} outputs")
        return saved

    return work


def spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"


def beside(times: Sequence[float], base: Sequence[float]) -> str:
    """Two cells: the median of the paired ratios with its 95% interval, and whether it is as
    wanted."""
    low, high = median_interval([a / b for a, b in zip(times, base, strict=True)])
    return f"{ratio(times, base)} | <= {MOST}: {verdict(low, high)}"


def ratio(times: Sequence[float], base: Sequence[float]) -> str:
    """The median of the paired ratios, with its 95% interval."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, high = median_interval(ratios)
    return f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median, from the order of the values alone; unbounded for fewer than
    six."""
    interval = quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = (float("nan") if end is None else float(end) for end in interval)
    return (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high)


def verdict(low: float, high: float, most: float = MOST) -> str:
    """Of an interval of a ratio that is to be at most `most`."""
    if high <= most:
        return "met"
    return "missed" if low > most else "cannot tell"


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB resident"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.partition(":")[2].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        if (info.is_file())
        else []
    )
    return names[0] if names else platform.processor() or "unknown"


if __name__ == "__main__":
    main()
