"""The command line: `sarsteer-lab course`, `walkthrough`, `ask`, `doctor`, `evaluate`, ...

Nothing heavy is imported before it is known what to do, so that `--help` is immediate. Problems
with what the user has given (clips, prompts, models, numbers) become one line on standard error and
exit status 2.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option, Typer, TyperException

from sarsteer_lab import cli_teachers
from sarsteer_lab.cli_options import (
    ANSWER_TOKENS,
    DEFENCE,
    DRY,
    JUDGE,
    SWEEP_TOKENS,
    TEMPLATE,
    WALKTHROUGH,
    Alpha,
    Alphas,
    Asked,
    Derive,
    Family,
    Folder,
    K,
    Ks,
    Layers,
    Limit,
    Missing,
    Model,
    Prompts,
    Ray,
    Refusal,
    Refusals,
    Safety,
    Sets,
    Several,
    Split,
    SpokenSafety,
    Steer,
    Text,
    Tokens,
    Understanding,
    count,
    each_of,
    number,
    refuse_given,
    results_option,
    show_version,
)

INTERRUPTED = 130

DESCRIPTION = "Look inside an audio-language model, and steer what it does with a spoken request."
app = Typer(help=DESCRIPTION, add_completion=False, rich_markup_mode=None)
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
) -> None:
    """The main job: all chapters run; pages, figures and what they found in one folder."""
    if refusal is not None:
        os.environ["SARSTEER_COURSE_REFUSAL"] = refusal  # the chapters' kernels read it
    from sarsteer_lab.course.run_notebooks import walkthrough

    summary = walkthrough(notebooks, folder, at_once)
    print(summary.read_text(encoding="utf-8"))
    print(f"This page is {summary}; certificate, chapters (*.html) and figures are beside it")


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
    alpha: Alpha = 0.1,
    k: K = 10,
    prompts: Prompts = None,
    text: Text = None,
    steer: Steer = False,
    refusal: Refusal = "paper",
) -> None:
    """Answer one clip, steered or not, and say what was heard."""
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
    lalm = load_lalm(model, safety=safety, understanding=understanding, spoken_safety=spoken_safety)
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
    device: Annotated[str, Option(help="cuda, mps, cpu, ... (auto: the first there is)")] = "auto",
    dtype: Annotated[str, Option(help="float32, bfloat16, ... (auto: the checkpoint's)")] = "auto",
    bits: Annotated[int | None, Option(help="8 or 4: load quantised (bitsandbytes)")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help=DRY)] = False,
    hub: Annotated[
        bool, Option("--hub", help="with --dry-run: fetch config.json from the hub")
    ] = False,
) -> int:
    """Try a model: parts found, one forward typed and spoken, padding, steering, memory; and
    whether it follows refusal texts, without which the method has nothing to work with."""
    if dry_run:
        from sarsteer_lab.probe.foresee import foresee

        print(foresee(model, hub=hub))
        return 0
    from sarsteer_lab.evaluation.knowing import examine_knowledge
    from sarsteer_lab.evaluation.precondition import examine_texts
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.probe.doctor import examine

    options: dict[str, Any] = {"family": family, "device": device, "dtype": dtype, "bits": bits}
    lalm = load_lalm(model, **options)
    print(report := examine(lalm))
    if report.healthy:
        print(examine_knowledge(lalm))
        print(examine_texts(lalm))
    return 0 if report.healthy else 1


@app.command()
def evaluate(
    model: Model = "pocket",
    safety: Safety = None,
    understanding: Understanding = None,
    spoken_safety: SpokenSafety = None,
    alpha: Alpha = 0.1,
    k: K = 10,
    prompts: Prompts = None,
    sets: Sets = None,
    missing: Missing = "error",
    derive: Derive = None,
    limit: Limit = None,
    split: Split = "test",
    form: Asked = "spoken",
    defence: Annotated[Several, Option(metavar="NAME", help=DEFENCE)] = None,
    judge: Annotated[Several, Option(metavar="JUDGE", help=JUDGE)] = None,
    template: Annotated[Path | None, Option(help=TEMPLATE)] = None,
    tokens: Tokens = ANSWER_TOKENS,
    refusal: Refusal = "paper",
    folder: Folder = Path("evaluation"),
) -> None:
    """Defences against sets of requests: responses, outcomes, and a table with intervals."""
    given = dict(locals())
    from sarsteer_lab.evaluation.base import check_dimensions
    from sarsteer_lab.evaluation.defences import choose_defences, defence_names
    from sarsteer_lab.evaluation.judges import load_judges
    from sarsteer_lab.evaluation.readers import read_sets
    from sarsteer_lab.loading import load_lalm

    if defence and "?" in defence:
        print("\n".join(defence_names()))
        return
    # Before the model: what is wrong with the files should not take a minute to say.
    choose_defences(defence, None, refusal=refusal)
    asked, skipped = read_sets(sets, split=split, missing=missing, limit=limit, form=form)
    own = derive or ([f"prompts:{prompts}"] if prompts else None)
    source = read_sets(own, split="derive", missing=missing)[0]
    judges = load_judges(judge or ["phrase"], template)
    lalm = load_lalm(model, safety=safety, understanding=understanding, spoken_safety=spoken_safety)
    basis = (lalm, [prompt for found in source.values() for prompt in found])
    check_dimensions(lalm, k, basis[1])
    defences = choose_defences(defence, basis, alpha=alpha, k=k, refusal=refusal)
    options: dict[str, Any] = {"max_new_tokens": tokens, "form": form}
    options |= {"skipped": skipped, "roc": True, "refusals": [refusal], "settings": given}
    _tabulate(lalm, defences, asked, judges, folder, **options)


@app.command()
def report(
    runs: Annotated[list[Path], Argument(help="folders that evaluate or sweep has filled")],
    page: Annotated[Path, Option(help="the page to write")] = Path("report.html"),
) -> None:
    """A page to share that compares runs: models x defences x sets, with examples to hear."""
    from sarsteer_lab.evaluation.report import write_report

    write_report(runs, page)
    print(f"The report is {page}; it needs no other file, and holds a few requests and their clips")


@app.command()
def sweep(
    model: Model = "pocket",
    sets: Sets = None,
    derive: Derive = None,
    limit: Limit = None,
    split: Split = "validation",
    alpha: Alphas = None,
    lam: Annotated[Several, Option(metavar="LIST", help="shares ablated (default: 0,1)")] = None,
    k: Ks = None,
    layers: Layers = None,
    refusal: Refusals = None,
    tokens: Tokens = SWEEP_TOKENS,
    ray: Ray = None,
    folder: Folder = Path("sweep"),
) -> None:
    """SARSteer over a grid of texts, strengths, lambdas, ks and layers, here or on a Ray cluster.

    The grid's options take several values with commas between them, and may be repeated.
    """
    given = dict(locals())
    alphas = each_of(alpha or ["0.05,0.1,0.2,0.4"], number)
    lams, ks = each_of(lam or ["0,1"], number), each_of(k or ["10"], count)
    from sarsteer_lab.evaluation import curves
    from sarsteer_lab.evaluation.base import check_dimensions, collect_states, refusal_texts
    from sarsteer_lab.evaluation.judges import PhraseJudge
    from sarsteer_lab.evaluation.readers import read_sets
    from sarsteer_lab.keeping import activation_store
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.store import atomic_write

    texts = refusal_texts(refusal or ["paper"])  # a sentence may hold commas
    asked, _ = read_sets(sets, split=split, limit=limit)
    source, _ = read_sets(derive, split="derive")
    lalm = load_lalm(model)
    steered = curves.parse_layers(each_of(layers or ["all"]), lalm.n_layers)
    basis = [prompt for found in source.values() for prompt in found]
    check_dimensions(lalm, max(ks), basis)
    states = collect_states(lalm, basis, refusals=texts, store=activation_store())
    variants = curves.grid(states, lams, ks, list(texts))
    points = curves.steering_grid(variants, alphas, steered)
    options: dict[str, Any] = {"max_new_tokens": tokens, "ray": ray}
    options |= {"refusals": refusal or ["paper"], "settings": given}
    _tabulate(lalm, list(points.values()), asked, [PhraseJudge()], folder, **options)
    with atomic_write(folder / "rows.parquet") as scratch:
        curves.rows_of(folder, points).to_parquet(scratch, index=False)


def _tabulate(
    lalm: Any, defences: Any, asked: Any, judges: Any, folder: Path, **options: Any
) -> None:
    """Evaluate into the folder, and print the table."""
    from sarsteer_lab.evaluation.report import evaluate_into
    from sarsteer_lab.evaluation.run import batch_size_for

    tokens, form = options["max_new_tokens"], options.get("form", "spoken")
    options["batch_size"] = batch_size_for(lalm, defences, asked, folder, tokens, form)
    print(evaluate_into(folder, lalm, defences, asked, judges, **options))
    print(f"\nResponses, outcomes and table are in {folder}; a page: sarsteer-lab report {folder}")


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
