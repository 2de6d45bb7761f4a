"""The yardstick of hearing: course or open sentences, in training voices or in engines that no
training stage hears.

`python -m training.yardstick` speaks it once, into training/yardstick/
(needs the extra `train` and Debian's flite, festival and festvox-kallpc16k);
`training.measure` then needs neither. The open sentences are the language model's own
(`open_text`); none is in the corpus, and none comes close to one that is.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from sarsteer_lab.course.hearing import differs, word_error_rate
from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import atomic_write
from training import YARDSTICK
from training.voices import Speaker, Voice, held_out_voices, yardstick_voices

TEXTS, VOICES = ("course", "open"), ("training engines", "unheard engines")
SPEED = 1.2
# Of the course's test prompts, so many of each label are spoken again by the unheard engines.
COURSE_PROMPTS = 30


@dataclass(frozen=True)
class Utterance:
    """One clip of the yardstick: what is said, by whom, and its cell (`text` of TEXTS, `engines` of
    VOICES).
    """

    request: str
    text: str
    engines: str
    voice: str
    clip: Path
    label: str = ""


def load_yardstick() -> list[Utterance]:
    """All clips of the four cells; the course's in training engines are the shipped test clips."""
    prompts = load_prompts("test")
    shipped = [
        Utterance(p.request, "course", VOICES[0], p.voice or "", p.clip, p.label)
        for p in prompts
        if p.clip
    ]
    lines = (YARDSTICK / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return shipped + [Utterance(**{**r, "clip": YARDSTICK / "clips" / r["clip"]}) for r in records]


def cells(utterances: Sequence[Utterance], heard: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Word error rate and clips heard right (with Wilson's 95% interval) of every cell, from
    transcripts."""
    found: dict[str, dict[str, Any]] = {}
    for text, engines in product(TEXTS, VOICES):
        both = zip(utterances, heard, strict=True)
        own = [(u, said) for u, said in both if (u.text, u.engines) == (text, engines)]
        right = sum(not differs(u.request, said) for u, said in own)
        cell: dict[str, Any] = {"n": len(own), "word_error_rate": _errors(own)}
        cell |= {"right": right, "interval": list(wilson(right, len(own)))}
        if harmful := [pair for pair in own if pair[0].label == "harmful"]:
            cell["word_error_rate_harmful"] = _errors(harmful)
        found[f"{text}, {engines}"] = cell
    return found


def _errors(pairs: Sequence[tuple[Utterance, str]]) -> float:
    return word_error_rate([u.request for u, _ in pairs], [said for _, said in pairs])


def speak_yardstick(sentences: Sequence[str]) -> None:
    """Speak the open `sentences` in both kinds of engines, and some test prompts in the unheard
    ones; clips that exist are kept.
    """
    strange = yardstick_voices()
    known = [
        Voice("hibari-100", "hibari"),
        Voice("hibari-88", "hibari", 0.88),
        Voice("hibari-114", "hibari", 1.14),
    ]
    known = [*known, known[0], held_out_voices()[0]]
    plan: list[tuple[Utterance, Voice]] = []

    def add(request: str, text: str, engines: str, voice: Voice, label: str = "") -> None:
        clip = YARDSTICK / "clips" / f"{len(plan):03d}.ogg"
        plan.append((Utterance(request, text, engines, voice.name, clip, label), voice))

    seen: Counter[str] = Counter()
    for prompt in load_prompts("test"):
        if seen[prompt.label] < COURSE_PROMPTS:
            add(
                prompt.request, "course", VOICES[1], strange[len(plan) % len(strange)], prompt.label
            )
            seen[prompt.label] += 1
    for number, sentence in enumerate(sentences):
        add(sentence, "open", VOICES[0], known[number % len(known)])
        add(sentence, "open", VOICES[1], strange[number % len(strange)])
    speaker = Speaker()
    for utterance, voice in tqdm(plan, desc="speaking", unit="clip"):
        if not utterance.clip.exists():
            wave = speaker.say(utterance.request, voice, speed=SPEED)
            with atomic_write(utterance.clip) as scratch:
                soundfile.write(scratch, wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
    records = [{**asdict(utterance), "clip": utterance.clip.name} for utterance, _ in plan]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (YARDSTICK / "utterances.jsonl").write_text(lines, encoding="utf-8")


def main() -> None:
    """Command line: speak the yardstick's sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sentences",
        type=Path,
        default=YARDSTICK / "sentences.txt",
        help="the open sentences, one a line",
    )
    options = parser.parse_args()
    speak_yardstick(options.sentences.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main()
