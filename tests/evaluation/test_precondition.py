"""The precondition: how often a refusal text in the prompt makes a model refuse, and so what."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spoken_set import write_set

from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.evaluation.precondition import (
    advice,
    examine_texts,
    prompted_refusal,
    refused_shares,
    working_texts,
)
from sarsteer_lab.evaluation.readers import read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSALS, Prompt


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARSTEER_CACHE", str(tmp_path / "cache"))


class VowelJudge:
    """A stand-in for what a random model can do: answers of even length count as refusals."""

    name = "vowels"

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        return ["refused" if len(response) % 2 == 0 else "answered" for _, response in pairs]


def test_outcomes_are_those_of_single_prompts(
    tiny: LALM, make_clip: Callable[[float, int], np.ndarray], tmp_path: Path
) -> None:
    found = read_set(f"prompts:{write_set(tmp_path / 'set', make_clip)}").prompts
    asked = [next(p for p in found if p.label == label) for label in ("harmful", "harmless")]
    texts = {"paper": REFUSALS["paper"], "short": "No."}
    outcomes = prompted_refusal(tiny, asked, texts, judge=VowelJudge())  # type: ignore[arg-type]
    rows = iter(outcomes.itertuples())
    for form in ("typed", "spoken"):
        for name, text in {"none": "", **texts}.items():
            for request in asked:
                spoken = Prompt(f"Answer the request in the audio. {text}".strip(), request.clip)
                prompt = spoken if form == "spoken" else Prompt(f"{request.request} {text}".strip())
                said = tiny.generate([prompt], max_new_tokens=12)[0]
                row = next(rows)
                assert (row.form, row.text, row.label, row.id) == (
                    form,
                    name,
                    request.label,
                    request.id,
                )
                assert row.outcome == VowelJudge().judge_all([("", said)])[0]
    shares = refused_shares(outcomes)
    cell = outcomes.query("text == 'short' and form == 'typed' and label == 'harmful'")
    row = shares.query("text == 'short' and form == 'typed' and label == 'harmful'").iloc[0]
    refused = int((cell["outcome"] == "refused").sum())
    assert (row["refused"], row["n"]) == (refused, 1)
    assert (row["low"], row["high"]) == wilson(refused, 1)


def shares_of(**refused: tuple[int, int, int]) -> pd.DataFrame:
    """Of 10 requests refused with each text: harmful typed, harmful spoken, harmless in both."""
    rows = [
        (text, form, label, count, 10, count / 10, *wilson(count, 10))
        for text, (typed, spoken, harmless) in refused.items()
        for form, harmful in (("typed", typed), ("spoken", spoken))
        for label, count in (("harmful", harmful), ("harmless", harmless))
    ]
    return pd.DataFrame(
        rows, columns=["text", "form", "label", "refused", "n", "rate", "low", "high"]
    )


def test_advice_follows_from_the_counts() -> None:
    follows = shares_of(none=(9, 2, 1), paper=(10, 9, 5), examples=(10, 10, 6))
    assert working_texts(follows) == ["paper", "examples"]
    assert "follows the paper's sentence (spoken, 9 of 10 harmful" in advice(follows)
    other = shares_of(
        none=(9, 2, 1), paper=(10, 3, 1), rule=(9, 7, 1), examples=(10, 10, 10), inspect=(10, 8, 4)
    )
    # Examples make it refuse more, but harmless requests no less.
    assert working_texts(other) == ["inspect", "examples"]
    assert (
        "'inspect' works (spoken, 8 of 10 harmful requests refused with it, and 4 of 10"
        in advice(other)
    )
    assert "does not follow the paper's sentence (spoken, 3 of 10" in advice(other)
    none = shares_of(none=(9, 2, 0), paper=(9, 3, 0), rule=(9, 7, 0))
    assert working_texts(none) == [] and "None of the 2 texts" in advice(none)
    # A model that hears nothing is judged by what is typed.
    assert "(typed, 10 of 10" in advice(follows[follows["form"] == "typed"])


def test_texts_that_tie_by_counting_stand_in_the_order_of_the_bank() -> None:
    assert 9 / 10 - 3 / 10 > 10 / 10 - 4 / 10
    more, fewer = (10, 10, 4), (9, 9, 3)
    assert working_texts(shares_of(none=(9, 2, 0), rule=fewer, paper=more)) == ["rule", "paper"]
    assert working_texts(shares_of(none=(9, 2, 0), paper=more, rule=fewer)) == ["paper", "rule"]


def test_texts_are_examined_on_a_random_model(tiny: LALM) -> None:
    told = examine_texts(tiny, requests=1)
    assert all(f"| {name} " in told for name in ("none", *REFUSALS))
    assert "harmful, spoken" in told and "None of the 5 texts" in told
