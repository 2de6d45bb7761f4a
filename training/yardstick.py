"""The yardstick of hearing: course or open sentences, in training voices or unheard engines.

`python -m training.yardstick` speaks it once, into training/yardstick/
(needs the extra `train` and Debian's flite, festival and festvox-kallpc16k);
`training.measure` then needs neither. The open sentences are the language model's own
(`open_text`); none is in the corpus, and none comes close to one that is.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sarsteer_lab.course.hearing import differs, word_error_rate
from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.prompts import load_prompts
from training import YARDSTICK
from training.records import read_records, write_records
from training.voices import Speaker, Voice, held_out_voices, write_clip, yardstick_voices

TEXTS, VOICES = ("course", "open"), ("training engines", "unheard engines")
SPEED = 1.2
# Of the course's test prompts, so many of each label are spoken again by the unheard engines.
COURSE_PROMPTS = 30


@dataclass(frozen=True)
class Utterance:
    """One clip: what is said, by whom, and its cell (`text` of TEXTS, `engines` of VOICES)."""

    request: str
    text: str
    engines: str
    voice: str
    clip: Path
    label: str = ""


def load_yardstick() -> list[Utterance]:
    """All clips of the four cells; the course's in training engines are the shipped test clips."""
    utterances = []
    for p in load_prompts("test"):
        if p.clip:
            spoken = Utterance(p.request, "course", VOICES[0], p.voice or "", p.clip, p.label)
            utterances.append(spoken)
    for record in read_records(YARDSTICK / "utterances.jsonl"):
        record["clip"] = YARDSTICK / "clips" / record["clip"]
        utterances.append(Utterance(**record))
    return utterances


def cells(utterances: Sequence[Utterance], heard: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Word error rate and clips heard right, with Wilson's 95% interval, of every cell."""
    by_cell: dict[tuple[str, str], list[tuple[Utterance, str]]] = {}
    for utterance, transcript in zip(utterances, heard, strict=True):
        cell = (utterance.text, utterance.engines)
        by_cell.setdefault(cell, []).append((utterance, transcript))
    results: dict[str, dict[str, Any]] = {}
    for text, engines in product(TEXTS, VOICES):
        pairs = by_cell[text, engines]
        n, right = len(pairs), sum(not differs(u.request, transcript) for u, transcript in pairs)
        result: dict[str, Any] = {"n": n, "word_error_rate": _errors(pairs)}
        result |= {"right": right, "interval": list(wilson(right, n))}
        harmful = [pair for pair in pairs if pair[0].label == "harmful"]
        if harmful:
            result["word_error_rate_harmful"] = _errors(harmful)
        results[f"{text}, {engines}"] = result
    return results


def _errors(pairs: Sequence[tuple[Utterance, str]]) -> float:
    requests = [utterance.request for utterance, _ in pairs]
    transcripts = [transcript for _, transcript in pairs]
    return word_error_rate(requests, transcripts)


def speak_yardstick(sentences: Sequence[str]) -> None:
    """Speak the open `sentences` in both kinds of engines, and some test prompts in unheard ones.

    Clips that exist are kept.
    """
    strange = yardstick_voices()
    own = Voice("hibari-100", "hibari")
    deeper, higher = Voice("hibari-88", "hibari", 0.88), Voice("hibari-114", "hibari", 1.14)
    known = [own, deeper, higher, own, held_out_voices()[0]]
    plan: list[tuple[Utterance, Voice]] = []

    def add(request: str, text: str, engines: str, voice: Voice, label: str = "") -> None:
        clip = YARDSTICK / "clips" / f"{len(plan):03d}.ogg"
        plan.append((Utterance(request, text, engines, voice.name, clip, label), voice))

    seen: Counter[str] = Counter()
    for prompt in load_prompts("test"):
        if seen[prompt.label] < COURSE_PROMPTS:
            voice = strange[len(plan) % len(strange)]
            add(prompt.request, "course", VOICES[1], voice, prompt.label)
            seen[prompt.label] += 1
    for number, sentence in enumerate(sentences):
        add(sentence, "open", VOICES[0], known[number % len(known)])
        add(sentence, "open", VOICES[1], strange[number % len(strange)])
    speaker = Speaker()
    for utterance, voice in tqdm(plan, desc="speaking", unit="clip"):
        if not utterance.clip.exists():
            wave = speaker.say(utterance.request, voice, speed=SPEED)
            write_clip(utterance.clip, wave)
    records = [{**asdict(utterance), "clip": utterance.clip.name} for utterance, _ in plan]
    write_records(YARDSTICK / "utterances.jsonl", records)


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
