"""Which requests are spoken: the safety prompts of the training file, none close to a shipped
prompt, and which of them are kept apart.

Every twelfth safety prompt is kept apart for `development`: it is never trained on, and settings
are compared on it, since 60 requests of the validation split tell little. The test split is
measured once, at the end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sarsteer_lab.prompts import LABELS, load_prompts
from training import DATA
from training.corpus import PromptIndex, read_sentences
from training.safety import read_safety_prompts

LONGEST = 13
"""Words of a sentence at most: longer ones cost most, and the course has hardly any."""
KEPT_APART = 12
EVERYDAY = 500
SHARES = {"harmful": 9, "harmless": 8, "pseudo-harmful": 2, "everyday": 1}
"""Of twenty requests that are spoken."""


@dataclass(frozen=True)
class LabelledText:
    """A sentence that is spoken, and its label (one of `LABELS`)."""

    text: str
    label: str


def shipped_texts() -> list[str]:
    """The requests of all splits of the shipped prompts."""
    splits = ("derive", "validation", "test")
    return [prompt.request for split in splits for prompt in load_prompts(split)]


def requests(seed: int = 0) -> tuple[list[LabelledText], list[LabelledText]]:
    """The requests that are trained on, and those kept apart for development, both in an order from
    `seed`.

    Safety prompts of all labels, and some questions of the harmless corpus as everyday ones. A
    sentence that is too close to a shipped prompt (`PromptIndex`) is left out.
    """

    records = read_safety_prompts(DATA / "safety_prompts.jsonl")
    found = [LabelledText(record["text"], record["label"]) for record in records]
    draw = random.Random(seed)
    questions = [s for s in read_sentences(DATA / "corpus.jsonl") if s.kind == "question"]
    found += [LabelledText(s.text, "everyday") for s in draw.sample(questions, EVERYDAY)]
    shipped = PromptIndex(shipped_texts())
    kept = [r for r in found if len(r.text.split()) <= LONGEST and shipped.match(r.text) is None]
    draw.shuffle(kept)
    apart: list[LabelledText] = []
    for label in LABELS:
        own = [r for r in kept if r.label == label]
        apart += own[: len(own) // KEPT_APART]
    texts = {r.text for r in apart}
    return [r for r in kept if r.text not in texts], apart


def request_stream(labels: Sequence[str], seed: int = 0) -> list[LabelledText]:
    """What is spoken: requests of these labels in a mixture of `SHARES`, round after round.

    It ends when one of them has no further round.
    """
    known, _ = requests(seed)
    decks = {label: [r for r in known if r.label == label] for label in labels}
    rounds = min(len(decks[label]) // SHARES[label] for label in labels)
    stream: list[LabelledText] = []
    for number in range(rounds):
        for label in labels:
            start = number * SHARES[label]
            stream += decks[label][start : start + SHARES[label]]
    return stream
