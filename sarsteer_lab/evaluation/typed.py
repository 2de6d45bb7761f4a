"""SARSteer on typed requests: the same steps, without a clip.

Most aligned models know harm when it is typed (see `knowing`), so here the method is tried where it
can work. What is computed is kept in the user's cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sarsteer_lab.activations import capture
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.evaluation.base import BaseStates, model_name
from sarsteer_lab.evaluation.cached_answers import answers
from sarsteer_lab.evaluation.curves import COLUMNS, POINT, steering_grid
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.keeping import activation_store, kept, kept_variants
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request, prompts_of
from sarsteer_lab.vectors import SteeringVectors


def states(
    lalm: LALM,
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    refusals: Mapping[str, str],
) -> BaseStates:
    """Last-token states of typed requests, in the places that spoken ones have elsewhere.

    Each of the texts `refusals` (name -> text) stands behind the typed harmful requests, as it
    stands behind the instruction of spoken ones.
    """
    variants = [prompts_of(harmful, "typed", text) for text in ("", *refusals.values())]
    read = kept_variants(capture_variants, activation_store(), "capture")
    bare, *refusing = read(lalm, variants)
    good = kept(capture)(lalm, [request.typed() for request in harmless])
    provenance: dict[str, Any] = {"model": model_name(lalm), "form": "typed"}
    provenance |= {"fingerprint": lalm.fingerprint()} | lalm.dials
    provenance["harmful"] = [request.id for request in harmful]
    provenance["harmless"] = [request.id for request in harmless]
    return BaseStates(
        harmful=bare,
        refusing=dict(zip(refusals, refusing, strict=True)),
        harmless=good,
        typed_harmful=bare,
        typed_harmless=good,
        texts=dict(refusals),
        provenance=provenance,
    )


def outcomes(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    max_new_tokens: int,
) -> pd.DataFrame:
    """What becomes of typed requests under each defence, by the list of phrases: a row for each.

    Columns: defence, set, label, id, request, response, outcome. Raises as
    `cached_answers.answers`.
    """
    named = [(name, request) for name, requests in sets.items() for request in requests]
    questions = []
    for defence in defences:
        prompts = [defence.prompt(request, "typed") for _, request in named]
        questions.append((prompts, defence))
    by_defence = answers(lalm, questions, max_new_tokens=max_new_tokens)
    rows = []
    for defence, responses in zip(defences, by_defence, strict=True):
        for (name, request), response in zip(named, responses, strict=True):
            of_request = (request.label, request.id, request.request)
            outcome = PhraseJudge().judge(request.request, response)
            rows.append((defence.name, name, *of_request, response, outcome))
    columns = ["defence", "set", "label", "id", "request", "response", "outcome"]
    return pd.DataFrame(rows, columns=columns)


def sweep(
    lalm: LALM,
    variants: Mapping[str, SteeringVectors],
    alphas: Sequence[float],
    sets: Mapping[str, Sequence[Request]],
    max_new_tokens: int,
) -> pd.DataFrame:
    """`outcomes` at every point of a `curves.steering_grid`, as `curves.choose` reads them.

    No push stands there once, as the variant "none". Columns: `curves.COLUMNS`.
    """
    points = steering_grid(variants, alphas)
    rows = outcomes(lalm, list(points.values()), sets, max_new_tokens)
    point_of = {defence.name: point for point, defence in points.items()}
    where = [point_of[name] for name in rows["defence"]]
    return rows.join(pd.DataFrame(where, columns=POINT))[COLUMNS]
