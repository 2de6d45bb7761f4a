"""What the chapters share: the model, states and answers computed once, figures, closing claims, checks.

A chapter starts with

    MODEL = "pocket"  # or a folder, or an id on the Hugging Face hub
    lalm = course.load_model(MODEL)

reads states and answers through `states` and `answers` (kept in the user's cache, so that no chapter computes
what another one has), shows every figure with `show`, and ends with `closing([claim, ...])`, whose claims
come from `claim_on_value` or `claim_on_shares`: their verdicts are computed, never written. Exercises are
checked by the functions of `checks`, which are made with `check`, `need` and `call` from here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, ParamSpec

import numpy as np
import torch
from IPython.display import Image, Markdown, display
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import capture
from sarsteer_lab.course.figures.base import save_figure
from sarsteer_lab.course.findings import share_text
from sarsteer_lab.course.verdicts import MARGIN, verdict_on_interval
from sarsteer_lab.course.walkthrough import ANSWER_TOKENS, Ledger, cached_answers
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.live import NEGLIGIBLE, OPENINGS
from sarsteer_lab.engine.memory import chunks, rows_that_fit
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import BaseStates, activation_cache, collect_states, model_name
from sarsteer_lab.evaluation.intervals import paired_difference, wilson
from sarsteer_lab.geometry import project_2d
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import INSTRUCTION, Prompt, SpokenPrompt, load_prompts, rough_length
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store, cache_folder, content_key, data_folder

P = ParamSpec("P")

CHECK_MIME = "application/vnd.sarsteer-lab.check+json"
"""Under this type a check's outcome stands in an executed notebook, so that tests can read it."""


def load_model(name: str) -> LALM:
    """The course's model: `load_lalm(name)`, or the one that SARSTEER_COURSE_MODEL names.

    That environment variable exists to try the notebooks quickly; its value "replica" is the tiny random
    model, whose answers are noise. Raises what `load_lalm` does.
    """
    name = os.environ.get("SARSTEER_COURSE_MODEL") or name
    lalm = replica() if name == "replica" else load_lalm(name)
    remember_clips(lalm)
    return lalm


def base_states(lalm: LALM) -> BaseStates:
    """The states of the derive split's harmful and harmless requests, typed and spoken, from the cache."""
    return collect_states(lalm, load_prompts("derive"), cache=activation_cache())


def states(
    lalm: LALM,
    prompts: Sequence[SpokenPrompt],
    form: Literal["typed", "spoken"],
    *,
    instruction: str | None = None,
    refusal: str = "",
) -> Float[Tensor, "prompt layer d_model"]:
    """Last-token states of requests typed or spoken, from the cache where some chapter has had them.

    `instruction` stands before a typed request (default: nothing) or beside a spoken one (default:
    `prompts.INSTRUCTION`), `refusal` after it. Raises ValueError for a spoken request without a clip.
    """
    if form == "typed":
        asked = [prompt.typed(instruction or "") for prompt in prompts]
        asked = [Prompt(f"{prompt.text} {refusal}".strip()) for prompt in asked]
    else:
        text = INSTRUCTION if instruction is None else instruction
        asked = [prompt.spoken(text, refusal) for prompt in prompts]
    return capture(lalm, asked, cache=activation_cache())


def answers(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    vectors: SteeringVectors | None = None,
    alpha: float = 0.1,
    max_new_tokens: int = ANSWER_TOKENS,
    description: str = "answers",
) -> list[str]:
    """Greedy answers, steered by `alpha * vectors` if there are any; those given before are read, not made.

    They are shared with `make walkthrough`. Raises HookedModelError inside of `with steer(...)` or with hooks
    of your own on the model.
    """
    ledger = Ledger(cache_folder() / "answers")
    return cached_answers(lalm, prompts, ledger, description, max_new_tokens, vectors, alpha)


def refusal_probabilities(
    lalm: LALM,
    prompts: Sequence[Prompt],
    pushes: Mapping[str, tuple[SteeringVectors, float]],
    description: str = "refusal probabilities",
) -> dict[str, Float[Tensor, "prompt"]]:
    """How likely each prompt's answer is to open as a refusal (0 to 1), under each push (vectors, alpha).

    See `live.LivePrompt.refusal_probability`. Finer than counting refused answers: a push shows before it
    tips the answer over. Values are kept, so that the same push on the same prompt is never run twice.
    """
    store, shared = Store(cache_folder() / "probabilities"), lalm.key("refusal", OPENINGS, NEGLIGIBLE)
    encoded = lalm.encode(prompts)
    keys = {}
    for name, (vectors, alpha) in pushes.items():
        how = content_key(shared, [alpha, vectors.layers, vectors.values] if alpha else None)
        keys[name] = [content_key(how, prompt.key) for prompt in encoded]
    known = {key: store.read(key) for found in keys.values() for key in found}
    lacking = {row for found in keys.values() for row, key in enumerate(found) if known[key] is None}
    order = sorted(lacking, key=lambda row: -rough_length(prompts[row]))
    with tqdm(total=len(order), desc=description, unit="prompt", delay=2, leave=False) as bar:
        # An opening has a handful of tokens.
        for rows in chunks(lalm, order, [prompts[row] for row in order], new_tokens=8):
            ready = PreparedBatch(lalm, [prompts[row] for row in rows])
            wanted = [name for name in pushes if any(known[keys[name][row]] is None for row in rows)]
            at_once = max(1, rows_that_fit(lalm, ready.prompts[0], new_tokens=8) // len(rows))
            for start in range(0, len(wanted), at_once):
                names = wanted[start : start + at_once]
                pushing = [partial(steer, lalm, pushes[name][0]) for name in names]
                strengths = [torch.full((len(rows),), pushes[name][1]) for name in names]
                with under_each(ready, pushing, strengths) as several:
                    found = several.opening_probabilities(OPENINGS, negligible=NEGLIGIBLE)
                for name, chances in zip(names, found.view(len(names), -1).tolist(), strict=True):
                    for row, chance in zip(rows, chances, strict=True):
                        known[keys[name][row]] = chance
                        store.write(keys[name][row], chance)
            bar.update(len(rows))
    return {name: torch.tensor([known[key] for key in found]) for name, found in keys.items()}


def umap_map(lalm: LALM, points: Float[Tensor, "state d_model"]) -> Float[np.ndarray, "state 2"]:
    """`geometry.project_2d(points, method="umap")`, kept: UMAP is compiled first, which takes a while."""
    store, key = Store(cache_folder() / "maps"), content_key("umap", version("umap-learn"), points.float())
    if (places := store.read(key)) is None:
        places = torch.from_numpy(project_2d(points, method="umap"))
        store.write(key, places)
    return places.numpy()


def evaluation_folder(lalm: LALM, chapter: str, *settings: object) -> Path:
    """Where a chapter keeps an evaluation's responses: another model or other settings, another folder."""
    return cache_folder() / "course" / f"{chapter}-{lalm.key(*settings)[:16]}"


def figure_folder(chapter: str, lalm: LALM) -> Path:
    """`figures/<chapter>` of the checkout for the pocket model; a folder in the user's cache for others.

    So the committed figures are always the pocket model's. Outside of a checkout, below the working folder.
    """
    if lalm.name != "pocket":
        return cache_folder() / "figures" / model_name(lalm).replace("/", "-").replace(" ", "-") / chapter
    root = data_folder().parent if data_folder().name == "data" else Path.cwd()
    return root / "figures" / chapter


def show(fig: Figure, chapter: str, name: str, lalm: LALM, caption: str = "") -> None:
    """Save a figure as PNG and SVG in the chapter's folder, and display it with its caption."""
    png, _ = save_figure(fig, figure_folder(chapter, lalm), name)
    display(Image(filename=str(png), width=min(1000, round(fig.get_figwidth() * 75)), alt=caption or name))
    if caption:
        display(Markdown(f"*{caption}*"))


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, its 95% interval, and the verdict that follows from them."""

    claim: str
    measured: str
    interval: str
    verdict: Literal["seen here", "not seen here", "cannot tell"]


def claim_on_value(
    claim: str,
    measured: str,
    interval: tuple[float, float],
    *,
    above: float = 0.0,
    margin: float = MARGIN,
    style: str = ".2f",
) -> Claim:
    """Judge the claim that a number lies above `above` by its interval; `measured` says it in words.

    "Not seen here" if all of the interval lies below `above + margin` (whatever there is, is too little to
    matter, even if it is surely not nothing), else "seen here" if all of it lies above `above`, else
    "cannot tell", also if an end is not a number.
    """
    low, high = interval
    verdict = verdict_on_interval(low, high, above=above, margin=margin)
    return Claim(claim, measured, f"[{low:{style}}, {high:{style}}], claimed: above {above:{style}}", verdict)


def claim_on_shares(claim: str, more: Sequence[bool], less: Sequence[bool], names: tuple[str, str]) -> Claim:
    """Judge the claim that something happens to the same requests more often in one condition.

    `more` and `less` say for each request whether it did. The interval is that of the difference, by paired
    bootstrap. Where all pairs are alike no resample differs, which says nothing about how sure that is: then
    Wilson's upper end for "0 of n pairs unlike" goes to both sides. Raises ValueError if the two are not of
    the same requests.
    """
    difference, low, high = paired_difference(np.array(more, dtype=bool), np.array(less, dtype=bool))
    if low == high:
        unseen = wilson(0, len(more))[1]
        low, high = max(-1.0, difference - unseen), min(1.0, difference + unseen)
    measured = (
        f"{names[0]} {share_text(sum(more), len(more))}, {names[1]} {share_text(sum(less), len(less))}: "
        f"{difference:+.0%}"
    )
    return claim_on_value(claim, measured, (low, high), style="+.0%")


def closing(claims: Sequence[Claim]) -> Markdown:
    """The table that ends a chapter: claim, measured number, interval, verdict."""
    rows = ["| claim | measured | 95% interval | verdict |", "| --- | --- | --- | --- |"]
    rows += [f"| {c.claim} | {c.measured} | {c.interval} | **{c.verdict}** |" for c in claims]
    rule = (
        "*Not seen here*: the whole interval lies below what the claim says plus a margin "
        f"({MARGIN:.0%} for shares), so nothing that matters is left. *Seen here*: otherwise, if all of it "
        "lies above what the claim says. *Cannot tell*: neither."
    )
    return Markdown("\n".join(rows) + "\n\n" + rule)


class Wrong(Exception):
    """An answer to an exercise is not right. The message tells what is wrong, not what would be right."""


@dataclass(frozen=True)
class CheckResult:
    """What a check says; true if the exercise is solved."""

    check: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'passed' if self.passed else 'not yet'}: {self.message}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        sign = "\u2705" if self.passed else "\u274c"
        return {
            "text/plain": repr(self),
            "text/markdown": f"{sign} **{'passed' if self.passed else 'not yet'}**: {self.message}",
            CHECK_MIME: {"check": self.check, "passed": self.passed},
        }


def check(function: Callable[P, str]) -> Callable[P, CheckResult]:
    """Make a check of a function that returns a word of explanation or raises `Wrong` (decorator).

    A blank (`...`) among the arguments fails before the function runs; an error in it is what the
    student's answer caused, and is told as such. So a check never raises.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> CheckResult:
        name = function.__name__
        if any(value is ... or value is None for value in (*args, *kwargs.values())):
            return CheckResult(name, False, "there is still a blank (`...`) to fill in")
        try:
            return CheckResult(name, True, function(*args, **kwargs))
        except Wrong as wrong:
            return CheckResult(name, False, str(wrong))
        except Exception as error:
            return CheckResult(name, False, f"the answer cannot be checked: {type(error).__name__}: {error}")

    return checked


def need(condition: object, message: str) -> None:
    """Raise `Wrong(message)` unless the condition holds."""
    if not condition:
        raise Wrong(message)


def call(function: object, *args: Any, **kwargs: Any) -> Any:
    """Run a student's function. Raises `Wrong` if it is none, fails, or returns nothing."""
    if not callable(function):
        raise Wrong(f"a function is wanted here, not {type(function).__name__}")
    name = getattr(function, "__name__", "the function")
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        raise Wrong(f"`{name}` stops with {type(error).__name__}: {error}") from error
    need(value is not None and value is not ..., f"`{name}` returns nothing: is there still a blank in it?")
    return value


def need_tensor(value: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The value if it is a finite tensor of this shape. Raises `Wrong`, naming `what`, if it is not."""
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} should be a tensor, but is a {type(value).__name__}")
    need(
        tuple(value.shape) == shape,
        f"{what} should have shape {shape}, but has {tuple(value.shape)}: over which axis did you go?",
    )
    need(bool(value.isfinite().all()), f"{what} holds values that are not finite")
    return value
