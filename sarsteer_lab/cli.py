"""The command line: `sarsteer-lab walkthrough`, `ask`, `doctor`, `evaluate`, `sweep`, `study` and `fetch`.

Nothing heavy is imported before it is known what to do, so that `--help` is immediate. Problems with what the
user has given (clips, prompts, models, numbers) become one line on standard error and exit status 2.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer_lab import __version__

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status = args.run(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # Libraries write paragraphs; the user gets one line.
        print(f"sarsteer-lab {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is done is kept: the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sarsteer-lab",
        description="Look inside an audio-language model, and steer what it does with a spoken request.",
    )
    parser.add_argument("--version", action="version", version=f"sarsteer-lab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default="pocket", help="pocket (default), a checkpoint's folder, or a Hugging Face id"
    )
    model.add_argument(
        "--safety", type=_number, default=1.0, help="the pocket model's safety dial: 0 none, 1 all (default)"
    )
    steering = argparse.ArgumentParser(add_help=False)
    steering.add_argument("--alpha", type=_number, default=0.1, help="steering strength (default: 0.1)")
    steering.add_argument(
        "--lam", type=_number, default=1.0, help="share of the safe space ablated (default: 1)"
    )
    steering.add_argument(
        "--k", type=_positive, default=10, help="dimensions of the safe space (default: 10)"
    )
    steering.add_argument(
        "--prompts",
        type=Path,
        metavar="FOLDER",
        help="a set of prompts of your own, laid out as data/prompts is",
    )

    command = commands.add_parser(
        "walkthrough", help="the main job: all chapters run, and what they found on one page"
    )
    command.add_argument(
        "--notebooks", type=Path, default=Path("notebooks"), help="the chapters (default: notebooks)"
    )
    command.add_argument(
        "--folder", type=Path, default=Path("figures/walkthrough"), help="where the page goes"
    )
    command.add_argument("--html", type=Path, help="also write each chapter as a page into this folder")
    command.set_defaults(run=_walkthrough)

    command = commands.add_parser("ask", parents=[model, steering], help="answer one clip, steered or not")
    command.add_argument("clip", type=Path, help="an audio file")
    command.add_argument("--text", help="the text beside the clip (default: to answer the request in it)")
    command.add_argument(
        "--steer", action="store_true", help="answer also with SARSteer (derived on first use)"
    )
    command.set_defaults(run=_ask)

    command = commands.add_parser(
        "doctor", help="try a model: parts found, one forward typed and spoken, padding, steering, memory"
    )
    command.add_argument("model", help="pocket, a folder, a Hugging Face id, or replica:FAMILY")
    command.add_argument("--family", help="row of the families table to use (auto: the generic recipe)")
    command.add_argument("--device", default="auto", help="cuda, mps, cpu, ... (default: the first there is)")
    command.add_argument("--dtype", default="auto", help="float32, bfloat16, ... (default: the checkpoint's)")
    command.add_argument("--bits", type=int, help="8 or 4: load quantised (bitsandbytes)")
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run model code that the checkpoint brings"
    )
    command.set_defaults(run=_doctor)

    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument(
        "--set",
        action="append",
        dest="sets",
        metavar="NAME:PATH",
        help="a set to ask, such as figstep:FOLDER; may be repeated (default: the shipped prompts)",
    )
    asked.add_argument(
        "--missing",
        choices=["error", "skip"],
        default="error",
        help="what to do about records without their clip; what is skipped is counted in the table",
    )
    asked.add_argument(
        "--derive",
        action="append",
        metavar="NAME:PATH",
        help="sets whose derive split steering is derived from; may be repeated (default: the shipped "
        "prompts, or --prompts)",
    )
    asked.add_argument(
        "--limit", type=_positive, metavar="N", help="a quick try: the first N requests of each set and label"
    )

    command = commands.add_parser(
        "evaluate",
        parents=[model, steering, asked],
        help="defences against sets of requests: responses, outcomes, and a table with intervals",
    )
    _add_split(command, "test")
    command.add_argument(
        "--defence",
        action="append",
        dest="defences",
        metavar="NAME",
        help="a defence by its name, such as none or SARSteer; may be repeated (default: all; ? lists them)",
    )
    command.add_argument(
        "--judge",
        action="append",
        dest="judges",
        metavar="JUDGE",
        help="phrase (default), or a Hugging Face id or folder of a judge model; may be repeated",
    )
    command.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="the judge models' template, a JSON object with text, answered and refused, and if need be "
        "characters and chat (default: SORRY-Bench's)",
    )
    command.add_argument("--tokens", type=_positive, default=40, help="length of an answer (default: 40)")
    command.add_argument("--batch", type=_positive, help="requests run together (default: as many as fit)")
    command.add_argument(
        "--rates",
        action="store_true",
        help="faster where only ASR and BRR are wanted: an answer ends once it has refused (same rates)",
    )
    command.add_argument("--folder", type=Path, default=Path("evaluation"), help="where results go")
    command.set_defaults(run=_evaluate)

    command = commands.add_parser(
        "sweep",
        parents=[model, asked],
        help="SARSteer over a grid of strengths, lambdas, ks and layers, here or on a Ray cluster",
    )
    _add_split(command, "validation")
    command.add_argument(
        "--alpha",
        type=_number,
        nargs="+",
        default=[0.05, 0.1, 0.2, 0.4],
        help="strengths (default: 0.05 0.1 0.2 0.4)",
    )
    command.add_argument(
        "--lam", type=_number, nargs="+", default=[0.0, 1.0], help="shares ablated (default: 0 1)"
    )
    command.add_argument(
        "--k", type=_positive, nargs="+", default=[10], help="dimensions of the safe space (default: 10)"
    )
    command.add_argument(
        "--layers",
        nargs="+",
        default=["all"],
        metavar="L",
        help="layers to steer: all, 7, 3-8 (default: all)",
    )
    command.add_argument("--tokens", type=_positive, default=16, help="length of an answer (default: 16)")
    command.add_argument("--batch", type=_positive, help="requests run together (default: as many as fit)")
    command.add_argument(
        "--ray", metavar="ADDRESS", help="a Ray cluster: auto, HOST:PORT, or local for one on this machine"
    )
    command.add_argument("--folder", type=Path, default=Path("sweep"), help="where results go")
    command.set_defaults(run=_sweep)

    command = commands.add_parser(
        "fetch", help="fetch the pocket model's base weights (93 MB) and assemble it"
    )
    command.add_argument("--again", action="store_true", help="even if they are there (a damaged file, say)")
    command.set_defaults(run=_fetch)
    return parser


def _walkthrough(args: argparse.Namespace) -> None:
    from sarsteer_lab.course.walkthrough import walkthrough

    summary = walkthrough(args.notebooks, args.folder, args.html)
    print(summary.read_text(encoding="utf-8"))
    print(f"This page is {summary}" + (f", the chapters are in {args.html}" if args.html else ""))


def _ask(args: argparse.Namespace) -> None:
    from sarsteer_lab.speech import read_clip

    read_clip(args.clip)
    from sarsteer_lab.evaluation.defences import cached_vectors
    from sarsteer_lab.evaluation.readers import read_set
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.prompts import INSTRUCTION, Prompt, load_prompts
    from sarsteer_lab.steering import steer

    # Before the model: what is wrong with the files should not take a minute to say.
    prompts = read_set(f"prompts:{args.prompts}").prompts if args.prompts else load_prompts()
    lalm = load_lalm(args.model, safety=args.safety)
    prompt = Prompt(INSTRUCTION if args.text is None else args.text, args.clip)
    print(f"unsteered: {lalm.generate([prompt])[0]}")
    if args.steer:
        vectors = cached_vectors(lalm, prompts, lam=args.lam, k=args.k)
        with steer(lalm, vectors, args.alpha):
            print(f"steered:   {lalm.generate([prompt])[0]}")


def _doctor(args: argparse.Namespace) -> int:
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.probe.doctor import examine

    lalm = load_lalm(
        args.model,
        family=args.family,
        device=args.device,
        dtype=args.dtype,
        bits=args.bits,
        trust_remote_code=args.trust_remote_code,
    )
    report = examine(lalm)
    print(report)
    return 0 if report.healthy else 1


def _evaluate(args: argparse.Namespace) -> None:
    from sarsteer_lab.evaluation.choices import choose_defences, defence_names, load_judges, read_sets
    from sarsteer_lab.evaluation.table import evaluate
    from sarsteer_lab.loading import load_lalm

    if args.defences and "?" in args.defences:
        print("\n".join(defence_names()))
        return
    # Before the model: what is wrong with the files should not take a minute to say.
    choose_defences(args.defences, None)
    sets, skipped = read_sets(args.sets, split=args.split, missing=args.missing, limit=args.limit)
    derive = args.derive or ([f"prompts:{args.prompts}"] if args.prompts else None)
    source = read_sets(derive, split="derive", missing=args.missing)[0]
    judges = load_judges(args.judges or ["phrase"], args.template)
    lalm = load_lalm(args.model, safety=args.safety)
    defences = choose_defences(
        args.defences,
        (lalm, [prompt for found in source.values() for prompt in found]),
        alpha=args.alpha,
        lam=args.lam,
        k=args.k,
    )
    table = evaluate(
        lalm,
        defences,
        sets,
        judges,
        args.folder,
        max_new_tokens=args.tokens,
        batch_size=args.batch,
        share_reading=True,
        rates_only=args.rates,
        skipped=skipped,
    )
    _leave_table(table, args.folder)


def _sweep(args: argparse.Namespace) -> None:
    from sarsteer_lab.activations import activation_store
    from sarsteer_lab.evaluation.choices import read_sets
    from sarsteer_lab.evaluation.curves import grid, parse_layers, rows_of, steering_grid
    from sarsteer_lab.evaluation.defences import collect_states
    from sarsteer_lab.evaluation.judges import PhraseJudge
    from sarsteer_lab.evaluation.table import evaluate
    from sarsteer_lab.loading import load_lalm

    sets, skipped = read_sets(args.sets, split=args.split, missing=args.missing, limit=args.limit)
    source = read_sets(args.derive, split="derive", missing=args.missing)[0]
    lalm = load_lalm(args.model, safety=args.safety)
    layers = parse_layers(args.layers, lalm.n_layers)
    derive = [prompt for found in source.values() for prompt in found]
    variants = grid(collect_states(lalm, derive, cache=activation_store()), args.lam, args.k)
    points = steering_grid(variants, args.alpha, layers)
    table = evaluate(
        lalm,
        list(points.values()),
        sets,
        [PhraseJudge()],
        args.folder,
        max_new_tokens=args.tokens,
        batch_size=args.batch,
        share_reading=True,
        skipped=skipped,
        ray=args.ray,
    )
    rows_of(args.folder, points).to_parquet(args.folder / "rows.parquet", index=False)
    _leave_table(table, args.folder)


def _leave_table(table: Any, folder: Path) -> None:
    """Print a table, and write it as CSV and Markdown."""
    from sarsteer_lab.evaluation.table import markdown

    table.to_csv(folder / "table.csv", index=False)
    text = markdown(table)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"\nResponses, outcomes, table.csv and table.md are in {folder}")


def _fetch(args: argparse.Namespace) -> None:
    from sarsteer_lab.pocket.base import LANGUAGE_MODEL, fetch

    path = fetch(LANGUAGE_MODEL, again=args.again)
    print(f"base weights: {path}")
    from sarsteer_lab.pocket.assemble import assemble_pocket

    print(f"pocket model: {assemble_pocket()}")


def _add_split(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--split",
        choices=["derive", "validation", "test", "all"],
        default=default,
        help=f"the part of the sets to ask (default: {default})",
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
