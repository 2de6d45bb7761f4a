"""What the chapters share: the model, states and answers computed once, the gap, and figures.

A chapter starts with

    MODEL = "pocket"  # or a folder, or an id on the Hugging Face hub
    lalm = course.load_model(MODEL)

reads states and answers through `states` and `answers` (kept in the user's cache, so that no chapter computes
what another one has), and shows every figure with `show`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from IPython.display import Image, Markdown, display
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import activation_store, capture
from sarsteer_lab.course.figures.base import save_figure
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.live import NEGLIGIBLE, OPENINGS
from sarsteer_lab.engine.memory import chunks, rows_that_fit
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import BaseStates, collect_states, model_name
from sarsteer_lab.geometry import centroid_distance, pair_cosine, probe_accuracy, project_2d
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.prompts import INSTRUCTION, Prompt, SpokenPrompt, load_prompts, rough_length
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store, cache_folder, content_key, data_folder

ANSWER_TOKENS = 24
"""Length of an answer in tokens: whether it is a refusal shows in its first words."""


def load_model(name: str) -> LALM:
    """The course's model: `load_lalm(name)`, or the one that SARSTEER_COURSE_MODEL names.

    That environment variable exists to try the notebooks quickly; its value "replica" is the tiny random
    model, whose answers are noise. Raises what `load_lalm` does.
    """
    name = os.environ.get("SARSTEER_COURSE_MODEL") or name
    lalm = load_lalm("replica:qwen2_audio" if name == "replica" else name)
    remember_clips(lalm)
    return lalm


def base_states(lalm: LALM) -> BaseStates:
    """The states of the derive split's harmful and harmless requests, typed and spoken, from the cache."""
    return collect_states(lalm, load_prompts("derive"), cache=activation_store())


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
        texts = [prompt.typed(instruction or "").text for prompt in prompts]
        asked = [Prompt(f"{text} {refusal}".strip()) for text in texts]
    else:
        text = INSTRUCTION if instruction is None else instruction
        asked = [prompt.spoken(text, refusal) for prompt in prompts]
    return capture(lalm, asked, cache=activation_store())


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

    Raises HookedModelError inside `with steer(...)` and with hooks of your own on the model: what is answered
    then could not be told from the plain model's answers.
    """
    steering = None if vectors is None else (alpha, vectors.layers, vectors.values)
    shared = lalm.key("answer", max_new_tokens, steering)
    keys = [content_key(shared, encoded.key) for encoded in lalm.encode(prompts)]
    store = _store()
    kept = {row: text for row, key in enumerate(keys) if (text := store.read(key)) is not None}
    with tqdm(total=len(prompts), initial=len(kept), desc=description, unit="answer", delay=2) as bar:
        for rows, ready in _read(lalm, prompts, set(range(len(prompts))) - set(kept), max_new_tokens):
            with nullcontext() if vectors is None else steer(lalm, vectors, alpha):
                texts = ready.generate(max_new_tokens)
            for row, text in zip(rows, texts, strict=True):
                kept[row] = text
                store.write(keys[row], text)
            bar.update(len(rows))
    return [kept[row] for row in range(len(prompts))]


def refusal_probabilities(
    lalm: LALM,
    prompts: Sequence[Prompt],
    pushes: Mapping[str, tuple[SteeringVectors, float]],
    description: str = "refusal probabilities",
) -> dict[str, Float[Tensor, "prompt"]]:
    """How likely each prompt's answer is to open as a refusal (0 to 1), under each push (vectors, alpha).

    See `live.LivePrompt.refusal_probability`. Finer than counting refused answers: a push shows before it
    tips the answer over. Values are kept, so that the same push on the same prompt is never run twice.
    Raises HookedModelError as `answers` does.
    """
    store = _store()
    # Weights and clips are read once for all pushes.
    shared, encoded = lalm.key("refusal probability", OPENINGS, NEGLIGIBLE), lalm.encode(prompts)
    keys: dict[str, list[str]] = {}
    kept: dict[str, float] = {}
    for name, (vectors, alpha) in pushes.items():
        steering = (alpha, vectors.layers, vectors.values) if alpha else None
        pushed = content_key(shared, steering)
        keys[name] = [content_key(pushed, each.key) for each in encoded]
        kept |= {key: chance for key in keys[name] if (chance := store.read(key)) is not None}
    lacking = {row for found in keys.values() for row, key in enumerate(found) if key not in kept}
    with tqdm(total=len(lacking), desc=description, unit="prompt", delay=2, leave=False) as bar:
        # An opening has a handful of tokens.
        for rows, ready in _read(lalm, prompts, lacking, new_tokens=8):
            wanted = [name for name in pushes if not all(keys[name][row] in kept for row in rows)]
            at_once = max(1, rows_that_fit(lalm, ready.prompts[0], new_tokens=8) // len(rows))
            for start in range(0, len(wanted), at_once):
                names = wanted[start : start + at_once]
                pushing = [partial(steer, lalm, pushes[name][0]) for name in names]
                strengths = [torch.full((len(rows),), pushes[name][1]) for name in names]
                with under_each(ready, pushing, strengths) as several:
                    found = several.opening_probabilities(OPENINGS, negligible=NEGLIGIBLE)
                for name, chances in zip(names, found.view(len(names), -1).tolist(), strict=True):
                    for row, chance in zip(rows, chances, strict=True):
                        kept[keys[name][row]] = chance
                        store.write(keys[name][row], chance)
            bar.update(len(rows))
    return {name: torch.tensor([kept[key] for key in found]) for name, found in keys.items()}


def _read(
    lalm: LALM, prompts: Sequence[Prompt], lacking: set[int], new_tokens: int
) -> Iterator[tuple[list[int], PreparedBatch]]:
    """Batches of the prompts whose places are `lacking`: long ones first, so that little is padded."""
    order = sorted(lacking, key=lambda row: (-rough_length(prompts[row]), row))
    for rows in chunks(lalm, order, [prompts[row] for row in order], new_tokens):
        yield rows, PreparedBatch(lalm, [prompts[row] for row in rows])


@dataclass(frozen=True, eq=False)
class Gap:
    """How typed and spoken states of the derive split's requests compare, per layer (see `geometry`).

    `harm_distance` is that of typed harmful and harmless requests, the measure of scale for `distance`.
    """

    cosine: Float[Tensor, "prompt layer"]
    centred_cosine: Float[Tensor, "prompt layer"]
    distance: Float[Tensor, "layer"]
    harm_distance: Float[Tensor, "layer"]
    probe: Float[Tensor, "layer seed"]

    @property
    def layer(self) -> int:
        """The layer to look at: where typed harmful and harmless requests lie furthest apart."""
        return int(self.harm_distance.argmax())


def measure_gap(
    typed: Float[Tensor, "prompt layer d_model"],
    spoken: Float[Tensor, "prompt layer d_model"],
    n_harmful: int,
) -> Gap:
    """Compare typed and spoken states of the same requests, of which the first `n_harmful` are harmful.

    The probe is cross-validated with each request's two states on the same side of every split.
    """
    n = len(typed)
    both, forms = torch.cat([typed, spoken]), ["typed"] * n + ["spoken"] * n
    requests = [str(i) for i in range(n)] * 2
    layers = tqdm(range(typed.shape[1]), desc="probes", unit="layer", delay=2, leave=False)
    probe = [
        probe_accuracy(both[:, layer, None], forms, groups=requests, folds=min(5, n)) for layer in layers
    ]
    return Gap(
        cosine=pair_cosine(typed, spoken, center=False),
        centred_cosine=pair_cosine(typed, spoken),
        distance=centroid_distance(typed, spoken),
        harm_distance=centroid_distance(typed[:n_harmful], typed[n_harmful:]),
        probe=torch.cat(probe),
    )


def umap_map(points: Float[Tensor, "state d_model"]) -> Float[np.ndarray, "state 2"]:
    """`geometry.project_2d(points, method="umap")`, kept: UMAP is compiled first, which takes a while."""
    store, key = _store(), content_key("umap", version("umap-learn"), points.float())
    found = store.read(key)
    if found is None:
        found = project_2d(points, method="umap").tolist()
        store.write(key, found)
    return np.array(found)


def _store() -> Store:
    return Store(cache_folder() / "course")


def evaluation_folder(lalm: LALM, chapter: str, *settings: Any) -> Path:
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
