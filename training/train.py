"""Trains the pocket model: `python -m training.train` runs the stages, each resumable.

    corpus   (a) the harmless sentences to be spoken            seconds
    open     (a) sentences of the language model's own          about 5 a CPU-second
    clips    (b) their speech, in some 100 voices               about 90 CPU-minutes
    readout  (c) text adapter: repeat a sentence when asked to  about 8 CPU-minutes
    safety   (c) text adapter: refuse what is harmful           about 30 CPU-minutes
    calibrate (c) its strength, on the validation split         about 3 CPU-minutes
    ctc      (d) warm start of audio tower and projector        about 0.1 CPU-seconds a clip
    in-loop  (e) the frozen language model in the loop          about 0.8 CPU-seconds a clip
    export   the deltas into data/pocket/

Each stage writes under the training folder (checkpoints, logs as JSON lines) and picks up there
after an interruption; a stage whose result is there is not run again. `--stage` runs one alone.
Needs the extra `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from sarsteer_lab.paths import cache_folder
from sarsteer_lab.pocket.assemble import deltas_folder
from training.stages import CTC_PRESENTATIONS, IN_LOOP_PRESENTATIONS, Training

STAGES = "corpus open clips readout safety calibrate ctc in-loop export".split()


def main(arguments: list[str] | None = None) -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", choices=["all", *STAGES], default="all")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where checkpoints go (default: in the cache)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        default=deltas_folder(),
        help="go on from these deltas (default: the shipped ones)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=deltas_folder(),
        help="where `export` writes (default: over the shipped ones)",
    )
    parser.add_argument("--ctc-presentations", type=int, default=CTC_PRESENTATIONS)
    parser.add_argument("--in-loop-presentations", type=int, default=IN_LOOP_PRESENTATIONS)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start from Whisper and the base LLM, not from the shipped deltas",
    )
    parser.add_argument(
        "--freeze-tower", action="store_true", help="the audio tower stays as it is"
    )
    parser.add_argument(
        "--polish",
        action="store_true",
        help="in-loop: the adapter stays as it is, and so do typed answers; gentle steps, averaged",
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of what is frozen; float32 where the processor has no bfloat16 (default: bfloat16)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where it trains, such as cuda (default: cpu)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    training = Training(
        options.folder or cache_folder() / "training",
        start=options.start,
        to=options.to,
        ctc=options.ctc_presentations,
        in_loop=options.in_loop_presentations,
        seed=options.seed,
        fresh=options.fresh,
        freeze_tower=options.freeze_tower,
        polish=options.polish,
        dtype=getattr(torch, options.dtype),
        device=options.device,
    )
    if not options.fresh and options.stage != "safety":  # alone, it trains the shipped one further
        training.take_shipped_adapters()
    stages = STAGES if options.stage == "all" else [options.stage]
    for stage in stages:
        run: Callable[[], None] = getattr(training, stage.replace("-", "_"))
        run()


if __name__ == "__main__":
    main()
