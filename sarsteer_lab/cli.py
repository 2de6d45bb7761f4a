"""The command line: `sarsteer-lab course`, `walkthrough`, `ask`, `doctor`, `evaluate`, ...

Nothing heavy is imported before it is known what to do, so that `--help` is immediate. Problems
with what the user has given (clips, prompts, models, numbers) become one line on standard error and
exit status 2.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option, Typer, TyperException

from sarsteer_lab import cli_evaluation, cli_teachers
from sarsteer_lab.cli_options import (
    DRY,
    WALKTHROUGH,
    Alpha,
    Bits,
    Device,
    Dtype,
    Family,
    K,
    Model,
    Prompts,
    Refusal,
    Safety,
    SpokenSafety,
    Steer,
    Text,
    Understanding,
    count,
    loading,
    refuse_given,
    results_option,
    show_version,
)

INTERRUPTED = 130

DESCRIPTION = "Look inside an audio-language model, and steer what it does with a spoken request."
app = Typer(help=DESCRIPTION, add_completion=False, rich_markup_mode=None)
app.add_typer(cli_evaluation.app)
app.add_typer(cli_teachers.app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; returns its status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = app(arguments, prog_name="sarsteer-lab", standalone_mode=False)
    except TyperException as error:  # wrong usage
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n" if context else ""
        print(f"{usage}sarsteer-lab: {error.format_message()}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # Libraries write paragraphs; the user gets one line.
        print(f"sarsteer-lab {arguments[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if status == INTERRUPTED:
        print(
            "\nInterrupted. What is done is kept: the same command goes on from here.",
            file=sys.stderr,
        )
    return status or 0


@app.callback()
def _program(
    version: Annotated[bool, Option("--version", callback=show_version, is_eager=True)] = False,
) -> None: ...


@app.command()
def walkthrough(
    notebooks: Annotated[Path, Option(help="the chapters")] = Path("notebooks"),
    folder: Annotated[Path, results_option(WALKTHROUGH)] = Path("build/walkthrough"),
    at_once: Annotated[
        int, Option(parser=count, help="chapters at a time: faster once all is kept")
    ] = 1,
    refusal: Annotated[
        str | None, Option(help="a refusal text by name (default: one that works)")
    ] = None,
    model: Annotated[
        str | None, Option(help="the chapters' model (default: as they say, pocket)")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bits: Bits = None,
    family: Family = None,
) -> None:
    """The main job: all chapters run; pages, figures and what they found in one folder."""
    options = loading(locals())
    if refusal is not None:
        os.environ["SARSTEER_COURSE_REFUSAL"] = refusal  # the chapters' kernels read it
    from sarsteer_lab.course.four_claims import told_shortly
    from sarsteer_lab.course.replaying import name_model
    from sarsteer_lab.course.run_notebooks import walkthrough

    name_model(model, options)
    summary = walkthrough(notebooks, folder, at_once)
    print(told_shortly(summary.read_text(encoding="utf-8")))
    print(f"\nAll of it is {summary}; certificate, chapters (*.html) and figures are beside it")


@app.command()
def course(folder: Annotated[Path, Argument(help="a new folder for the notebooks")]) -> None:
    """The course to start from: its notebooks copied, exercises without their solutions."""
    from sarsteer_lab.course.copying import copy_course

    print(f"{copy_course(folder)} notebooks are in {folder}. Start: jupyter lab {folder}")


@app.command()
def record(
    model: Annotated[str, Argument(help="pocket, a checkpoint's folder, or a Hugging Face id")],
    out: Annotated[Path, Option(help="the folder of the recording; one that was begun goes on")],
    notebooks: Annotated[Path, Option(help="the chapters")] = Path("notebooks"),
) -> None:
    """Run the course with a model once; classes replay it without: MODEL = "recorded:OUT"."""
    from sarsteer_lab.course.record import record

    print(record(model, out, notebooks))


@app.command()
def ask(
    context: Context,
    clip: Annotated[Path, Argument(help="an audio file")],
    model: Model = "pocket",
    safety: Safety = None,
    understanding: Understanding = None,
    spoken_safety: SpokenSafety = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bits: Bits = None,
    family: Family = None,
    alpha: Alpha = 0.1,
    k: K = 10,
    prompts: Prompts = None,
    text: Text = None,
    steer: Steer = False,
    refusal: Refusal = "paper",
) -> None:
    """Answer one clip, steered or not, and say what was heard."""
    options = loading(locals())
    refuse_given(context, ("alpha", "k", "refusal"), "--steer", there=steer)
    from sarsteer_lab.speech import read_clip

    waveform = read_clip(clip)
    from sarsteer_lab import steering
    from sarsteer_lab.course.hearing import differs, read_out
    from sarsteer_lab.evaluation.base import check_dimensions, collect_states, refusal_text
    from sarsteer_lab.evaluation.phrases import opening_words
    from sarsteer_lab.evaluation.readers import read_set
    from sarsteer_lab.keeping import activation_store
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.probe.findings import push_report
    from sarsteer_lab.prompts import INSTRUCTION, Prompt, load_prompts

    name, wording = refusal_text(refusal)
    source = read_set(f"prompts:{prompts}").prompts if prompts else load_prompts()
    lalm = load_lalm(model, **options)
    prompt = Prompt(INSTRUCTION if text is None else text, clip)
    answer, heard = lalm.generate([prompt])[0], read_out(lalm, waveform)
    own = clip.resolve()
    words = next((p.request for p in source if p.clip and p.clip.resolve() == own), "")  # if known
    told = f" (heard differently: it says {words!r})" if differs(words, heard) else ""
    print(f"heard:     {heard}{told}")
    print(f"unsteered: {opening_words(answer)}")
    if steer:
        basis = [request for request in source if request.split == "derive"]
        check_dimensions(lalm, k, basis)
        states = collect_states(lalm, basis, refusals={name: wording}, store=activation_store())
        vectors = states.sarsteer(k=k, refusal=name)
        with steering.steer(lalm, vectors, alpha):
            print(f"steered:   {opening_words(lalm.generate([prompt])[0])}")
        print(push_report(lalm, [prompt], vectors, alpha))


@app.command()
def doctor(
    model: Annotated[
        str, Argument(help="pocket, a folder, a Hugging Face id, or replica:qwen2_audio")
    ],
    family: Family = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bits: Bits = None,
    dry_run: Annotated[bool, Option("--dry-run", help=DRY)] = False,
    hub: Annotated[
        bool, Option("--hub", help="with --dry-run: fetch config.json from the hub")
    ] = False,
) -> int:
    """Try a model: parts found, one forward typed and spoken, padding, steering, memory; and
    whether it follows refusal texts, without which the method has nothing to work with."""
    options = loading(locals())
    if dry_run:
        from sarsteer_lab.probe.foresee import foresee

        print(foresee(model, hub=hub))
        return 0
    from sarsteer_lab.evaluation.knowing import examine_knowledge
    from sarsteer_lab.evaluation.precondition import examine_texts
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.probe.doctor import examine

    lalm = load_lalm(model, **options)
    print(report := examine(lalm))
    if report.healthy:
        print(examine_knowledge(lalm))
        print(examine_texts(lalm))
    return 0 if report.healthy else 1


@app.command()
def fetch(
    again: Annotated[
        bool, Option("--again", help="even if they are there (a damaged file, say)")
    ] = False,
) -> None:
    """Fetch the pocket model's base weights (93 MB) and assemble it."""
    from sarsteer_lab.pocket import assemble, base

    print(f"base weights: {base.fetch(base.LANGUAGE_MODEL, again=again)}")
    print(f"pocket model: {assemble.assemble_pocket()}")
