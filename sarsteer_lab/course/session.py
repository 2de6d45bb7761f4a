"""What the chapters share: the model, states and answers computed once, and figures.

A chapter starts with

    MODEL = "pocket"  # or a folder, or an id on the Hugging Face hub
    lalm = course.load_model(MODEL)

reads states and answers through `states` and `answers` (kept in the user's cache, so that no
chapter computes what another one has), and shows every figure with `show`.
"""

import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from IPython.display import Image, Markdown, display
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.activations import capture
from sarsteer_lab.course.figures import project_2d, save_figure
from sarsteer_lab.course.folders import figures_folder
from sarsteer_lab.course.replaying import MODEL_VARIABLE
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.evaluation.base import BaseStates, collect_states, model_name
from sarsteer_lab.evaluation.kept import (
    answers as answers,
)  # course/__init__.pyi: of this package alone
from sarsteer_lab.evaluation.kept import refusal_probabilities as refusal_probabilities
from sarsteer_lab.evaluation.precondition import prompted_refusal, refused_shares, working_texts
from sarsteer_lab.evaluation.run import FORMAT
from sarsteer_lab.keeping import activation_store, kept
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.prompts import REFUSALS, Request, load_prompts
from sarsteer_lab.store import Store


def load_model(name: str) -> LALM:
    """The course's model: `load_lalm(name)`, or the one that SARSTEER_COURSE_MODEL names.

    That environment variable exists to try the notebooks quickly; its value "replica" is the tiny
    random model, whose answers are noise. Raises what `load_lalm` does.
    """
    name = os.environ.get(MODEL_VARIABLE) or name
    lalm = load_lalm("replica:qwen2_audio" if name == "replica" else name)
    remember_clips(lalm)
    return lalm


def base_states(lalm: LALM) -> BaseStates:
    """The states of the derive split's harmful and harmless requests, typed and spoken, from the
    cache.

    Harmful clips under every text of `prompts.REFUSALS`.
    """
    return collect_states(lalm, load_prompts("derive"), refusals=REFUSALS, cache=activation_store())


def working_text(lalm: LALM) -> str:
    """The name of the refusal text that the course derives from: the one that works best in the
    prompt.

    `precondition.working_texts` of the spoken validation requests, from the cache once chapter 2
    has run; the paper's if none works. The environment variable SARSTEER_COURSE_REFUSAL names
    another. Raises ValueError for a name that is not in `prompts.REFUSALS`.
    """
    if name := os.environ.get("SARSTEER_COURSE_REFUSAL"):
        if name not in REFUSALS:
            raise ValueError(
                f"SARSTEER_COURSE_REFUSAL={name!r}: choose one of {', '.join(REFUSALS)}"
            )
        return name
    asked = [p for label in ("harmful", "harmless") for p in load_prompts("validation", label)]
    works = working_texts(refused_shares(prompted_refusal(lalm, asked, forms=("spoken",))))
    return works[0] if works else "paper"


def states(
    lalm: LALM, prompts: Sequence[Request], form: Literal["typed", "spoken"], *, refusal: str = ""
) -> Float[Tensor, "prompt layer d_model"]:
    """Last-token states of requests typed or spoken, from the cache where some chapter has had
    them.

    `refusal` stands after the text. Raises ValueError for a spoken request without a clip.
    """
    asked = [p.typed(refusal) if form == "typed" else p.spoken(refusal=refusal) for p in prompts]
    return kept(capture, activation_store())(lalm, asked)


def umap_map(points: Float[Tensor, "state d_model"]) -> Float[np.ndarray, "state 2"]:
    """`figures.project_2d(points, method="umap")`, kept: UMAP is compiled first, which takes a
    while."""
    store = Store(cache_folder() / "course")
    key = content_key("umap", version("umap-learn"), points.float())
    found = store.read(key)
    if found is None:
        found = store.write(key, project_2d(points, method="umap").tolist())
    return np.array(found)


def evaluation_folder(lalm: LALM, chapter: str, *settings: Any) -> Path:
    """Where a chapter keeps an evaluation's responses: another model, settings or format, another
    folder."""
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
