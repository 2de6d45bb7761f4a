"""The commands that ask sets of requests; `cli` puts them beside the others."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer

from sarsteer_lab.cli_options import (
    ANSWER_TOKENS,
    DEFENCE,
    JUDGE,
    SWEEP_TOKENS,
    TEMPLATE,
    Alpha,
    Alphas,
    Asked,
    Bits,
    Derive,
    Device,
    Dtype,
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
    Tokens,
    Understanding,
    count,
    each_of,
    loading,
    number,
)

app = Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate(
    model: Model = "pocket",
    safety: Safety = None,
    understanding: Understanding = None,
    spoken_safety: SpokenSafety = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bits: Bits = None,
    family: Family = None,
    alpha: Alpha = 0.1,
    lam: Annotated[float, Option(parser=number, help="share of the safe space ablated")] = 1.0,
    k: K = 10,
    layers: Annotated[str, Option(help="layers to steer: all, 7, 3-8")] = "all",
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
    from sarsteer_lab.evaluation import curves, run
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
    lalm = load_lalm(model, **loading(given))
    lalm.day = run.day_of(folder, lalm)  # the vectors' prompts, too, hold the run's date
    basis = (lalm, [prompt for found in source.values() for prompt in found])
    check_dimensions(lalm, k, basis[1])
    [steered] = curves.parse_layers([layers], lalm.n_layers).values()
    push: dict[str, Any] = {"alpha": alpha, "lam": lam, "k": k, "layers": steered}
    defences = choose_defences(defence, basis, refusal=refusal, **push)
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
    safety: Safety = None,
    understanding: Understanding = None,
    spoken_safety: SpokenSafety = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    bits: Bits = None,
    family: Family = None,
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
    from sarsteer_lab.evaluation import curves, run
    from sarsteer_lab.evaluation.base import check_dimensions, collect_states, refusal_texts
    from sarsteer_lab.evaluation.judges import PhraseJudge
    from sarsteer_lab.evaluation.readers import read_sets
    from sarsteer_lab.keeping import activation_store
    from sarsteer_lab.loading import load_lalm

    texts = refusal_texts(refusal or ["paper"])  # a sentence may hold commas
    asked, _ = read_sets(sets, split=split, limit=limit)
    source, _ = read_sets(derive, split="derive")
    lalm = load_lalm(model, **loading(given))
    lalm.day = run.day_of(folder, lalm)
    steered = curves.parse_layers(each_of(layers or ["all"]), lalm.n_layers)
    basis = [prompt for found in source.values() for prompt in found]
    check_dimensions(lalm, max(ks), basis)
    states = collect_states(lalm, basis, refusals=texts, store=activation_store())
    variants = curves.grid(states, lams, ks, list(texts))
    points = curves.steering_grid(variants, alphas, steered)
    options: dict[str, Any] = {"max_new_tokens": tokens, "ray": ray}
    options |= {"refusals": refusal or ["paper"], "settings": given}
    _tabulate(lalm, list(points.values()), asked, [PhraseJudge()], folder, **options)
    rows = curves.keep_rows(folder, points)
    if set(curves.KINDS_TO_CHOOSE) <= set(rows["label"]):
        print(_told_choice(curves.choose(rows), texts))


def _told_choice(point: tuple[str, str, float], texts: Mapping[str, str]) -> str:
    """The setting that the rule chose, and how it is measured."""
    variant, layers, alpha = point
    if alpha == 0:
        return "By the rule (curves.RULE) no push at all is best on these requests."
    text, _, settings = variant.rpartition("lam=")
    lam, *k = settings.split(" k=")
    name = text.strip() or "paper"
    given = {"refusal": texts[name] if name.startswith("own text") else name, "lam": lam}
    if k:
        given["k"] = k[0]
    given |= {"alpha": f"{alpha:g}", "layers": layers}
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in given.items())
    chosen = f"By the rule (curves.RULE) the best on these requests: {variant}, alpha {alpha:g}"
    return f"{chosen}. Measure it once on others: sarsteer-lab evaluate {options}"


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
