"""Knowledge of harm: does a model tell harmful requests, typed and spoken? Asked before steering.

A push that moves all requests alike can refuse harmful ones first only as far as the model itself
is readier to refuse them. How far that is, is the area under the ROC curve (see `separation`):
typed, where most aligned models know, and spoken, where the method is to help.
"""

import pandas as pd

from sarsteer_lab.engine.openings import can_be_followed
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.separation import REFUSED, refusal_probability_rows, separation
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Form, load_prompts

SPLIT = "validation"


def knowledge(lalm: LALM, requests: int | None = None) -> pd.DataFrame:
    """How well readiness to refuse tells harmful from harmless requests, typed and spoken.

    Columns: form, `harmful` and `harmless` (how many were asked), and those of `separation`. Of
    each kind the first so many requests of the shipped validation split (None: all). A model that
    hears nothing is asked typed only. Kept in the user's cache. Raises HookedModelError as
    `cached_answers.refusal_probability`.
    """
    harmful = load_prompts(SPLIT, "harmful")[:requests]
    harmless = load_prompts(SPLIT, "harmless")[:requests]
    forms: list[Form] = ["typed", "spoken"] if lalm.audio_token_id is not None else ["typed"]
    tables = []
    sets = {"harmful": harmful, "harmless": harmless}
    for form in forms:
        probabilities = refusal_probability_rows(lalm, [Defence("none")], sets, form)
        counts = {"form": form, "harmful": len(harmful), "harmless": len(harmless)}
        tables.append(separation(probabilities).assign(**counts))
    return pd.concat(tables, ignore_index=True)


def examine_knowledge(lalm: LALM, requests: int | None = None) -> str:
    """`knowledge` as a table, and what it means for steering, in words.

    For a model whose readiness to refuse cannot be read (`openings.can_be_followed`), that.
    """
    if not can_be_followed(lalm):
        reason = "its answers cannot be followed token by token, so its readiness cannot be read"
        return f"does the model know harm? Not asked: {reason}"
    table = knowledge(lalm, requests).set_index("form")
    lines = [
        "| does the model know harm? | area under the ROC curve | left answered, at best |",
        "| --- | --- | --- |",
    ]
    for form, row in table.iterrows():
        area = f"{row['area']:.2f} [{row['area_low']:.2f}, {row['area_high']:.2f}]"
        counts = f"{form} ({row['harmful']} harmful, {row['harmless']} harmless)"
        lines.append(f"| {counts} | {area} | {row['best_rate']:.0%} |")
    form = table.index[-1]
    bound = f"{table.loc[form, 'best_rate']:.0%} of harmless ones answered"
    meaning = (
        f"A push that moves all {form} requests alike and refuses {REFUSED:.0%} of the harmful "
        f"ones leaves at most {bound}."
    )
    return "\n".join([*lines, meaning])
