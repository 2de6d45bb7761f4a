"""Which sentences are spoken: benign safety prompts and sentences of the corpora, none close to a
shipped prompt, and which safety prompts are kept apart.

Every twelfth safety prompt is kept apart for `development`: it is never trained on, and settings
are compared on it, since 60 requests of the validation split tell little. The test split is
measured once, at the end.
"""

from __future__ import annotations

import random
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


def benign_stream(seed: int = 0) -> list[LabelledText]:
    """What alignment hears: no harmful request. After each benign safety prompt come two sentences
    of the corpora, labelled "open".
    """
    known, apart = requests(seed)
    benign = [request for request in known if request.label != "harmful"]
    used = {request.text for request in [*known, *apart]}
    shipped = PromptIndex(shipped_texts())
    draw = random.Random(seed)
    others: list[LabelledText] = []
    for corpus in ("corpus.jsonl", "open.jsonl"):
        sentences = read_sentences(DATA / corpus)
        draw.shuffle(sentences)
        chosen: list[LabelledText] = []
        for sentence in sentences:
            if len(chosen) == len(benign):
                break
            short = len(sentence.text.split()) <= LONGEST
            if short and sentence.text not in used and shipped.match(sentence.text) is None:
                chosen.append(LabelledText(sentence.text, "open"))
        others += chosen
    draw.shuffle(benign)
    draw.shuffle(others)
    stream: list[LabelledText] = []
    for number, request in enumerate(benign):
        stream.append(request)
        stream += others[2 * number : 2 * number + 2]
    return stream
