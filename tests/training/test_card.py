"""The card's computed part: every number in it comes from the measurements and the logs."""

import json
import re

from sarsteer_lab.paths import data_folder
from sarsteer_lab.prompts import load_prompts
from training import DATA
from training.card import (
    BEGIN,
    END,
    _runs,
    dial_section,
    measured_part,
    read_logs,
    training_section,
)

COUNTS = {
    "refused": 3,
    "answered": 6,
    "broken": 1,
    "n": 10,
    "refused_share": 0.3,
    "interval": [0.1, 0.6],
}
LABELS = ("harmful", "harmless", "pseudo-harmful", "everyday")
CELL = {"spoken": COUNTS, "typed": {**COUNTS, "refused": 7}, "first_token_kl": 0.5}
MEASURED = {
    "prompts": 40,
    "hearing": {"word_error_rate": dict.fromkeys((*LABELS, "all"), 0.125)},
    "heard_right": 30,
    "cells": {
        "open, unheard engines": {
            "n": 40,
            "right": 30,
            "interval": [0.6, 0.86],
            "word_error_rate": 0.25,
            "word_error_rate_harmful": 0.5,
        }
    },
    "spoken": {
        "first_token_kl": 0.75,
        "roc_area": 0.625,
        "retrieval": 0.8,
        "retrieval_n": 30,
        **{label: {"all": CELL, "heard right": CELL} for label in LABELS},
    },
    "dial": [
        {"dial": dial, "perplexity": perplexity, **dict.fromkeys(LABELS, COUNTS)}
        for dial, perplexity in ((0.0, 2.0), (1.0, 2.1))
    ],
}
LINE = {"ctc": 1.0, "repeat": 1.0, "kl": 1.0, "step": 4}
LOGS = {
    stage: [
        {**LINE, "seen": 80, "seconds": 60.0},
        {**LINE, "seen": 160, "seconds": 120.0},
        {**LINE, "seen": 240, "seconds": 30.0},
    ]
    for stage in ("readout", "safety", "ctc", "in_loop")
}


def test_the_measured_part_holds_the_measurements() -> None:
    text = measured_part(MEASURED, LOGS)
    assert (
        "12.5%" in text and "30/40 (75%)" in text and "24/30 (80%)" in text and "0.75 nats" in text
    )
    assert "| open, unheard engines | 25.0% (harmful 50.0%) | 30/40 (75%) [60%, 86%] |" in text
    assert "spoken: 0.62" in text
    assert "| 1 |" in dial_section(MEASURED) and "2.10 (+5.0%)" in dial_section(MEASURED)
    assert "| harmful | heard right | 7/10 (70%) | 3/10 (30%) | 6 / 1 | 0.50 |" in text


def test_training_time_survives_a_restart_of_the_clock() -> None:
    # 60 and 60 more seconds, then the clock of the resumed run says 30.
    assert "| (d) CTC warm start, run 1 | 240 | 2 |" in training_section(LOGS)


def test_a_run_ends_where_the_count_starts_over() -> None:
    lines = [{"seen": n} for n in (80, 160, 80, 80, 160)]
    assert [[line["seen"] for line in run] for run in _runs(lines)] == [[80, 160], [80, 80, 160]]


def test_the_shipped_card_was_computed_from_the_shipped_measurements() -> None:
    folder = data_folder() / "pocket"
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    found = re.search(re.escape(BEGIN) + r"\n\n(.*)\n\n" + re.escape(END), card, re.DOTALL)
    assert found and found[1] == measured_part(measured, read_logs(DATA))
    assert measured["prompts"] == len(load_prompts("test"))
