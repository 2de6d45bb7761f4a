"""What the chapters share: the model, requests, what was computed once, and how things are shown.

A chapter starts with

    MODEL = "pocket"  # or a folder, or an id on the Hugging Face hub
    lalm = course.load_model(MODEL)

The method's own functions it imports by their names, with `kept` around `capture`. Here is what is
not the lesson: answers and refusal probabilities kept in the user's cache, so that no chapter asks
what another one has, the judge, and `show` and `say` for figures and sentences.
"""

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures import project_2d, save_figure
from sarsteer_lab.course.folders import figures_folder
from sarsteer_lab.course.replaying import MODEL_VARIABLE, model_options
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.engine.live import LivePrompt as LivePrompt
from sarsteer_lab.engine.prepared import PreparedBatch as PreparedBatch
from sarsteer_lab.evaluation import curves as curves
from sarsteer_lab.evaluation import defences as defences
from sarsteer_lab.evaluation import intervals as intervals
from sarsteer_lab.evaluation import separation as separation
from sarsteer_lab.evaluation.base import BaseStates, collect_states, evenly
from sarsteer_lab.evaluation.base import model_name as model_name
from sarsteer_lab.evaluation.cached_answers import answers as kept_answers
from sarsteer_lab.evaluation.cached_answers import refusal_probability as kept_refusal_probability
from sarsteer_lab.evaluation.defences import Defence, SteeringDefence
from sarsteer_lab.evaluation.judges import Outcome, PhraseJudge
from sarsteer_lab.evaluation.phrases import opening_words as opening_words
from sarsteer_lab.evaluation.precondition import prompted_refusal, refused_shares, working_texts
from sarsteer_lab.evaluation.run import FORMAT, Response, read_lines
from sarsteer_lab.evaluation.table import evaluation_table, judge_responses
from sarsteer_lab.keeping import activation_store, kept_variants
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import ANSWER_TOKENS, LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.pocket.assemble import delta_factors
from sarsteer_lab.pocket.assemble import projector_parts as projector_parts
from sarsteer_lab.prompts import REFUSALS, Form, Prompt, Request, load_prompts, prompts_of
from sarsteer_lab.store import CacheStore
from sarsteer_lab.vectors import SteeringVectors


def load_model(name: str) -> LALM:
    """The course's model: `load_lalm(name)`, or the one that SARSTEER_COURSE_MODEL names.

    So all chapters run on another model without a change. Its value "replica" is the tiny random
    model, whose answers are noise, to try them quickly. SARSTEER_COURSE_OPTIONS holds options of
    `load_lalm`, JSON ({"dtype": "bfloat16"}). Raises what `load_lalm` does.
    """
    name = os.environ.get(MODEL_VARIABLE) or name
    lalm = load_lalm("replica:qwen2_audio" if name == "replica" else name, **model_options())
    remember_clips(lalm)
    return lalm


def requests(
    split: str, n: int | None = None, labels: Sequence[str] = ("harmful", "harmless")
) -> dict[str, list[Request]]:
    """The shipped requests of a split by label: `n` of each, evenly over the topics, or all.

    Raises ValueError for a split or label that there is not.
    """
    by_label = {}
    for label in labels:
        of_label = load_prompts(split, label)
        by_label[label] = of_label if n is None else evenly(of_label, n)
    return by_label


def working_text(lalm: LALM) -> str:
    """The name of the refusal text that the course derives from: what works best in the prompt.

    `precondition.working_texts` of the spoken validation requests, from the cache once chapter 2
    has run; the paper's if none works. The environment variable SARSTEER_COURSE_REFUSAL names
    another. Raises ValueError for a name that is not in `prompts.REFUSALS`.
    """
    if name := os.environ.get("SARSTEER_COURSE_REFUSAL"):
        if name not in REFUSALS:
            choices = ", ".join(REFUSALS)
            raise ValueError(f"SARSTEER_COURSE_REFUSAL={name!r}: choose one of {choices}")
        return name
    asked = requests("validation")
    outcomes = prompted_refusal(lalm, [*asked["harmful"], *asked["harmless"]], forms=("spoken",))
    works = working_texts(refused_shares(outcomes))
    return works[0] if works else "paper"


def dialled_layers(lalm: LALM) -> list[int]:
    """The layers whose weights the safety dial changes: the ground truth that was built in.

    None of a model without a dial.
    """
    if lalm.safety is None:
        return []
    layers = set()
    for name in delta_factors("safety"):
        if number := re.search(r"layers\.(\d+)\.", name):
            layers.add(int(number[1]))
    return sorted(layers)


def states_under(
    lalm: LALM, requests: Sequence[Request], texts: Mapping[str, str] = REFUSALS
) -> dict[str, Float[Tensor, "prompt layer d_model"]]:
    """Last-token states of spoken requests with each of some texts behind the instruction.

    For each text what `kept(capture)(lalm, prompts)` gives, but each clip is read once for all.
    """
    variants = [prompts_of(requests, "spoken", text) for text in texts.values()]
    read = kept_variants(capture_variants, activation_store(), "capture")
    return dict(zip(texts, read(lalm, variants), strict=True))


def answers(
    lalm: LALM,
    prompts: Sequence[Prompt],
    *,
    vectors: SteeringVectors | None = None,
    alpha: float = 0.1,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[str]:
    """Greedy answers, steered by `alpha * vectors` if there are any, from the cache where they are.

    Raises as `evaluation.cached_answers.answers` does.
    """
    defence = Defence("none") if vectors is None else SteeringDefence("push", vectors, alpha)
    return kept_answers(lalm, [(prompts, defence)], max_new_tokens=max_new_tokens)[0]


def refusal_probability(
    lalm: LALM, prompts: Sequence[Prompt], pushes: Mapping[Hashable, tuple[SteeringVectors, float]]
) -> dict[Any, Float[Tensor, "prompt"]]:
    """How likely each answer is to open as a refusal, 0 to 1, under each push (vectors, alpha).

    From the cache where it is. Raises as `evaluation.cached_answers.refusal_probability` does.
    """
    questions = []
    for vectors, alpha in pushes.values():
        questions.append((prompts, SteeringDefence("push", vectors, alpha)))
    return dict(zip(pushes, kept_refusal_probability(lalm, questions), strict=True))


def judge(requests: Sequence[Request], answers: Sequence[str]) -> list[Outcome]:
    """What became of each request, by a list of phrases: refused, answered or broken."""
    words = [request.request for request in requests]
    return PhraseJudge().judge_all(list(zip(words, answers, strict=True)))


def sweep(
    lalm: LALM,
    chapter: str,
    variants: Mapping[str, SteeringVectors],
    alphas: Sequence[float],
    sets: Mapping[str, Sequence[Request]],
    **options: Any,
) -> pd.DataFrame:
    """`evaluation.curves.sweep` with the judge of `judge`, kept in a folder of the user's cache."""
    values = {name: vectors.values for name, vectors in variants.items()}
    ids = {}
    for name, asked in sets.items():
        ids[name] = [request.id for request in asked]
    folder = evaluation_folder(lalm, chapter, values, alphas, ids, options)
    return curves.sweep(lalm, variants, alphas, sets, PhraseJudge(), folder, **options)


def run_defences(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    folder: Path,
    *,
    heard: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, list[Response], pd.DataFrame]:
    """What `evaluate` finds, faster and kept in a folder: table, responses, and their outcomes.

    `heard` (id -> the clip's read-out) tells more surely which answers are on topic. `options` are
    those of `evaluation.run.run`, and no others.
    """
    judges = [PhraseJudge()]
    table = evaluation_table(lalm, defences, sets, judges, folder, heard=heard, **options)
    lines = read_lines(folder / "responses.jsonl").to_dict("records")
    responses = [Response(**line) for line in lines]
    return table, responses, judge_responses(responses, judges, heard)


def base_states(lalm: LALM, form: Form = "spoken") -> BaseStates:
    """States of the derive split's requests in a form, and typed; harmful ones under every text."""
    store = activation_store()
    return collect_states(lalm, load_prompts("derive"), refusals=REFUSALS, form=form, store=store)


def umap_map(points: Float[Tensor, "state d_model"]) -> Float[np.ndarray, "state 2"]:
    """`figures.project_2d(points, method="umap")`, kept: to compile UMAP takes a while."""
    store = CacheStore(cache_folder() / "course")
    key = content_key("umap", version("umap-learn"), points.float())
    places = store.read(key)
    if places is None:
        places = store.write(key, project_2d(points, method="umap").tolist())
    return np.array(places)


def evaluation_folder(lalm: LALM, chapter: str, *settings: Any) -> Path:
    """Where a chapter keeps an evaluation: another model, settings or format, another folder."""
    return cache_folder() / "course" / f"{chapter}-{lalm.key(FORMAT, *settings)[:16]}"


def figure_folder(chapter: str, lalm: LALM) -> Path:
    """The folder of a chapter's figures, in `folders.figures_folder`.

    The pocket model's is named after the chapter alone; other models' lie in a folder each, so
    that the committed figures are always the pocket model's.
    """
    if lalm.name == "pocket":
        return figures_folder() / chapter
    model = re.sub("[/: ]", "-", model_name(lalm))
    return figures_folder() / model / chapter


def show(fig: Figure, chapter: str, name: str, lalm: LALM, caption: str = "") -> None:
    """Save a figure as PNG in the chapter's folder, and display it with its caption."""
    picture = save_figure(fig, figure_folder(chapter, lalm), name)
    width = min(1000, round(fig.get_figwidth() * 75))
    display(Image(filename=str(picture), width=width, alt=caption or name))
    if caption:
        display(Markdown(f"*{caption}*"))


def say(text: str) -> None:
    """Display a text as Markdown: a sentence with numbers in it, or several."""
    display(Markdown(text))
