"""What chapters 6 and 7 measure of defences, so that neither asks what the other has."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sarsteer_lab.course.hearing import REPEAT, transcript
from sarsteer_lab.course.session import answers, evaluation_folder, run_defences
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Request

OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "batch_size": 80}
"""How long an answer is that is judged, and how many are written at a time."""

REPEAT_TOKENS = 24
"""Length of what the model repeats of a clip, in tokens: as in chapter 0."""


def read_outs(lalm: LALM, requests: Sequence[Request]) -> dict[str, str]:
    """What the model repeats of each request's clip, by id, from the cache where it is."""
    repeats = answers(
        lalm, [request.spoken(REPEAT) for request in requests], max_new_tokens=REPEAT_TOKENS
    )
    heard = {}
    for request, text in zip(requests, repeats, strict=True):
        heard[request.id] = transcript(text)
    return heard


def measure(
    lalm: LALM,
    groups: Sequence[Sequence[Defence]],
    sets: Mapping[str, Sequence[Request]],
    heard: Mapping[str, str],
) -> tuple[pd.DataFrame, list[Response], pd.DataFrame]:
    """What `session.run_defences` finds: table, responses, and their outcomes.

    Each group of defences has a folder for each set. So a group that one chapter has asked is read
    by another, and the other asks only its own. Changes are those from "none" in the same group.
    """
    tables, responses, outcomes = [], [], []
    for defences in groups:
        settings = [defence.settings() for defence in defences]
        for name, requests in sets.items():
            ids = [request.id for request in requests]
            folder = evaluation_folder(lalm, "measured", settings, name, ids, OPTIONS)
            found = run_defences(lalm, defences, {name: requests}, folder, heard=heard, **OPTIONS)
            tables.append(found[0])
            responses += found[1]
            outcomes.append(found[2])
    table = pd.concat(tables, ignore_index=True)
    return table, responses, pd.concat(outcomes, ignore_index=True)
