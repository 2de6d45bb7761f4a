"""The options of the command line: what they take, and what their help says."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import BadParameter, Context, Exit, Option

from sarsteer_lab import __version__

LARGEST = 1_000_000
"""No count that an option takes is larger: neither requests nor tokens, ks or chapters."""


def number(given: str | float) -> float:
    """A finite number; anything else is wrong usage."""
    try:
        if math.isfinite(value := float(given)):
            return value
    except ValueError:
        pass
    raise BadParameter(f"{given!r} is not a finite number")


def count(given: str | int) -> int:
    """A whole number from 1 on; anything else is wrong usage."""
    if not str(given).isdecimal() or int(given) < 1:
        raise BadParameter(f"{given!r} is not a whole number from 1 on")
    if int(given) > LARGEST:
        raise BadParameter(f"{given} is too large: {LARGEST:,} at most")
    return int(given)


def each_of(values: Sequence[str], kind: Callable[[str], Any] = str) -> list[Any]:
    """The values of an option that may be repeated, and hold several with commas between."""
    return [kind(text.strip()) for value in values for text in value.split(",")]


def results(folder: Path) -> Path:
    """A folder for results, looked at before the model is loaded, which takes a minute."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--folder {folder} is a file: results need a folder")
    return folder


def folder_given(given: str | Path) -> Path:
    """A folder; an empty text, as of a shell's variable that is not set, is wrong usage."""
    if not str(given):
        raise BadParameter("it is empty: name a folder (. is this one)")
    return Path(given)


def results_option(told: str) -> Any:
    """An option that takes a folder for results."""
    return Option(parser=folder_given, metavar="PATH", callback=results, help=told)


def loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of all options of a command those that `load_lalm` takes."""
    return {name: given[name] for name in LOADING if name in given}


def refuse_given(context: Context, names: Sequence[str], needed: str, *, there: bool) -> None:
    """Wrong usage: options that were given and say nothing unless the option `needed` is there."""
    for name in names:
        source = context.get_parameter_source(name)
        if not there and source is not None and source.name == "COMMANDLINE":
            raise BadParameter(f"--{name} says nothing without {needed}", ctx=context)


def show_version(wanted: bool) -> None:
    """Print the version and stop, if it is asked for."""
    if wanted:
        print(f"sarsteer-lab {__version__}")
        raise Exit


ANSWER_TOKENS = 40
"""As `decoding.ANSWER_TOKENS`, which brings torch with it."""

SWEEP_TOKENS = 16
"""A grid has many answers, and whether one is a refusal shows in its first words."""

LOADING = ("safety", "understanding", "spoken_safety", "device", "dtype", "bits", "family")
"""Options that say how a model is loaded; the first three turn the pocket model's dials."""

Several = list[str] | None
Model = Annotated[str, Option(help="pocket, a checkpoint's folder, or a Hugging Face id")]
Safety = Annotated[
    float | None, Option(parser=number, help="the pocket model's safety dial: 0 none, 1 all")
]
Understanding = Annotated[
    float | None,
    Option(parser=number, help="the pocket model's understanding dial: 0 hears harm, 1 knows it"),
]
SpokenSafety = Annotated[
    float | None,
    Option(parser=number, help="what it learnt from spoken harm, on top of understanding: 0 to 1"),
]
Device = Annotated[str, Option(help="cuda, mps, cpu, ... (auto: the first there is)")]
Dtype = Annotated[str, Option(help="float32, bfloat16, ... (auto: the checkpoint's)")]
Bits = Annotated[int | None, Option(help="8 or 4: load quantised (bitsandbytes)")]
Alpha = Annotated[float, Option(parser=number, help="steering strength")]
K = Annotated[int, Option(parser=count, help="dimensions of the safe space")]
REFUSAL = (
    "what steering is derived from: paper, rule, conditional, inspect, examples, or a sentence"
)
Refusal = Annotated[str, Option(metavar="TEXT", help=REFUSAL)]
Refusals = Annotated[
    Several, Option("--refusal", metavar="TEXT", help=f"{REFUSAL}; may be repeated")
]
PROMPTS = "a folder of prompts, laid out as data/prompts is, that steering is derived from"
Prompts = Annotated[Path | None, Option(help=f"{PROMPTS} (to ask it: --set prompts:FOLDER)")]
SETS = (
    "a set to ask: folder:PATH of yours, figstep:FOLDER, ...; may be repeated "
    "(default: the shipped one)"
)
Sets = Annotated[Several, Option("--set", metavar="NAME:PATH", help=SETS)]
Missing = Annotated[
    Literal["error", "skip"], Option(help="what to do about records without a usable clip")
]
DERIVE = (
    "a set whose derive split steering is derived from; may be repeated "
    "(default: the shipped prompts)"
)
Derive = Annotated[Several, Option(metavar="NAME:PATH", help=DERIVE)]
Limit = Annotated[int | None, Option(parser=count, help="so many requests of each set and label")]
Split = Annotated[
    Literal["derive", "validation", "test", "all"], Option(help="the part of the sets to ask")
]
FORM = "ask requests as clips, or type them (steering is derived from clips all the same)"
Asked = Annotated[Literal["spoken", "typed"], Option("--form", help=FORM)]
Tokens = Annotated[int, Option(parser=count, help="length of an answer")]
Folder = Annotated[Path, results_option("where results go")]
WALKTHROUGH = "where summary.md goes, beside it each chapter as a page and its figures in figures/"
Text = Annotated[
    str | None, Option(help="the text beside the clip (default: to answer the request in it)")
]
Steer = Annotated[bool, Option("--steer", help="answer also with SARSteer (derived on first use)")]
Family = Annotated[
    str | None, Option(help="row of the families table to use (auto: the generic recipe)")
]
DRY = "load no weights: parts and memory from the config.json (an id in the cache, or a path)"
Alphas = Annotated[
    Several, Option("--alpha", metavar="LIST", help="strengths (default: 0.05,0.1,0.2,0.4)")
]
Ks = Annotated[
    Several, Option("--k", metavar="LIST", help="dimensions of the safe space (default: 10)")
]
DEFENCE = (
    "a defence by its name, such as none or SARSteer; may be repeated (default: all; ? lists them)"
)
JUDGE = "phrase (default), or a Hugging Face id or folder of a judge model; may be repeated"
TEMPLATE = (
    "the judge models' template: a JSON file with text, answered, refused (default: SORRY-Bench's)"
)
Layers = Annotated[
    Several, Option(metavar="LIST", help="layers to steer: all, 7, 3-8 (default: all)")
]
Ray = Annotated[
    str | None, Option(help="a Ray cluster: auto, HOST:PORT, or local for one on this machine")
]
