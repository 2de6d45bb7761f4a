"""Where the studies keep responses: in the user's cache, under a name made of all that they depend on."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from sarsteer_lab import cache_folder
from sarsteer_lab.defenses import Defence
from sarsteer_lab.evaluation import judge_responses
from sarsteer_lab.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.responses import collect_responses

ANSWER_TOKENS, SWEEP_TOKENS = 24, 16
"""Length of an answer on the test split and in a sweep: by then a refusal has shown (judged by phrases)."""

BATCH = 32
"""Requests that are read and answered together."""


def short_outcomes(
    what: str, lalm: LALM, defences: Sequence[Defence], sets: Mapping[str, Sequence[SpokenPrompt]]
) -> pd.DataFrame:
    """Outcomes of short responses, every clip read once for all defences."""
    folder = place(what, lalm, defences, sets, SWEEP_TOKENS)
    responses = collect_responses(
        lalm,
        defences,
        sets,
        folder,
        max_new_tokens=SWEEP_TOKENS,
        batch_size=BATCH,
        share_reading=True,
    )
    return judge_responses(responses, [PhraseJudge()])


def place(
    what: str,
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[SpokenPrompt]],
    tokens: int,
) -> Path:
    """A folder in the user's cache, named after all that the responses in it depend on."""
    content = [
        lalm.fingerprint,
        str(lalm.dtype),
        str(lalm.device),
        tokens,
        BATCH,
        [defence.settings() for defence in defences],
        {name: [request.id for request in requests] for name, requests in sets.items()},
    ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return cache_folder() / "study" / f"{what}-{digest}"


def say(what: str) -> None:
    """Say on standard error what comes next."""
    print(what, file=sys.stderr)
