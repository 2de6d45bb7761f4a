"""The command line: `sarsteer-lab walkthrough`, `ask` and `fetch`.

Nothing heavy is imported before it is known what to do, so that `--help` is immediate. Problems with what the
user has given (clips, prompts, models, numbers) become one line on standard error and exit status 2.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from sarsteer_lab import __version__
from sarsteer_lab.pocket.base import BaseFileError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, BaseFileError) as error:
        # Libraries write paragraphs; the user gets one line.
        print(f"sarsteer-lab {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is done is kept: the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    return 0


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
        "walkthrough",
        parents=[model, steering],
        help="the main job: gap, refusal direction, safe space, steering; a table, four figures, a summary",
    )
    command.add_argument("--folder", type=Path, default=Path("figures/walkthrough"), help="where results go")
    command.add_argument(
        "--limit", type=_positive, metavar="N", help="a quick try: at most N requests per label"
    )
    command.set_defaults(run=_walkthrough)

    command = commands.add_parser("ask", parents=[model, steering], help="answer one clip, steered or not")
    command.add_argument("clip", type=Path, help="an audio file")
    command.add_argument("--text", help="the text beside the clip (default: to answer the request in it)")
    command.add_argument(
        "--steer", action="store_true", help="answer also with SARSteer (derived on first use)"
    )
    command.set_defaults(run=_ask)

    command = commands.add_parser(
        "fetch", help="fetch the pocket model's base weights (93 MB) and assemble it"
    )
    command.add_argument("--again", action="store_true", help="even if they are there (a damaged file, say)")
    command.set_defaults(run=_fetch)
    return parser


def _walkthrough(args: argparse.Namespace) -> None:
    from sarsteer_lab.lalm import load_lalm
    from sarsteer_lab.prompts import load_prompts, read_set
    from sarsteer_lab.walkthrough import select_prompts, walkthrough

    prompts = read_set(f"prompts:{args.prompts}").prompts if args.prompts else load_prompts()
    # Before the model: what is wrong with the prompts should not take a minute to say.
    select_prompts(prompts, args.limit)
    lalm = load_lalm(args.model, safety=args.safety)
    walkthrough(lalm, prompts, args.folder, alpha=args.alpha, lam=args.lam, k=args.k, limit=args.limit)
    print(f"\nFigures, summary.md, results.json and responses.jsonl are in {args.folder}")


def _ask(args: argparse.Namespace) -> None:
    from sarsteer_lab.speech import read_clip

    read_clip(args.clip)
    from sarsteer_lab.derivation import cached_vectors
    from sarsteer_lab.lalm import Prompt, load_lalm
    from sarsteer_lab.prompts import INSTRUCTION, load_prompts, read_set
    from sarsteer_lab.steering import steer

    lalm = load_lalm(args.model, safety=args.safety)
    prompt = Prompt(INSTRUCTION if args.text is None else args.text, args.clip)
    print(f"unsteered: {lalm.generate([prompt])[0]}")
    if args.steer:
        prompts = read_set(f"prompts:{args.prompts}").prompts if args.prompts else load_prompts()
        vectors = cached_vectors(lalm, prompts, lam=args.lam, k=args.k)
        with steer(lalm, vectors, args.alpha):
            print(f"steered:   {lalm.generate([prompt])[0]}")


def _fetch(args: argparse.Namespace) -> None:
    from sarsteer_lab.pocket.base import LANGUAGE_MODEL, fetch

    path = fetch(LANGUAGE_MODEL, again=args.again)
    print(f"base weights: {path}")
    from sarsteer_lab.pocket.assemble import assemble_pocket

    print(f"pocket model: {assemble_pocket()}")


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
