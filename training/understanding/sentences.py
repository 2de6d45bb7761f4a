"""Which sentences are spoken: typed safety prompts, none close to a shipped one, and which are kept
apart.

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


def in_turn(pool: Sequence[LabelledText], shares: dict[str, int], seed: int) -> list[LabelledText]:
    """`pool` in rounds that hold as many of each label as `shares` says, as long as all labels
    last.

    A label that runs out begins anew, until the label with most rounds is through.
    """
    draw = random.Random(seed)
    decks = {label: [r for r in pool if r.label == label] for label in shares}
    for deck in decks.values():
        draw.shuffle(deck)
    rounds = max(len(decks[label]) // count for label, count in shares.items())
    turns = []
    for number in range(rounds):
        for label, count in shares.items():
            deck = decks[label]
            turns += [deck[(number * count + i) % len(deck)] for i in range(count)]
    return turns
