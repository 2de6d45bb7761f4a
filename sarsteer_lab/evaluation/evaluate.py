"""The plain path from defences and requests to outcomes: `generate`, a judge, and nothing else.

`run.run` gives the same responses faster, and keeps them.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.judges import Judge, PhraseJudge
from sarsteer_lab.lalm import ANSWER_TOKENS, LALM
from sarsteer_lab.prompts import Form, Request

COLUMNS = ["defence", "set", "id", "label", "request", "response", "outcome"]


def evaluate(
    lalm: LALM,
    defences: Sequence[Defence],
    sets: Mapping[str, Sequence[Request]],
    *,
    form: Form = "spoken",
    judge: Judge | None = None,
    max_new_tokens: int = ANSWER_TOKENS,
    batch_size: int = 16,
) -> pd.DataFrame:
    """What the model answers to every request under every defence, and the outcome: a row each.

    Columns: defence, set, id, label, request, response, outcome (`judges.OUTCOMES`; without a
    judge, `PhraseJudge` says). Requests are asked in one `form`. Raises ValueError for a request
    that has none (a clip, to be spoken), and what `generate` and steering refuse.
    """
    judge = judge or PhraseJudge()
    rows = []
    for defence in defences:
        for name, requests in sets.items():
            prompts = [defence.prompt(request, form) for request in requests]
            with defence.applied(lalm, prompts):
                responses = lalm.generate(
                    prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
                )
            words = [request.request for request in requests]
            outcomes = judge.judge_all(list(zip(words, responses, strict=True)))
            for request, response, outcome in zip(requests, responses, outcomes, strict=True):
                of_request = (request.id, request.label, request.request)
                rows.append((defence.name, name, *of_request, response, outcome))
    return pd.DataFrame(rows, columns=COLUMNS)
