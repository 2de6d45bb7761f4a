"""The yardstick of hearing: course or open sentences, in training voices or in engines that no training
stage hears.

`python -m sarsteer_lab.pocket.training.yardstick` speaks it once, into data/pocket/yardstick/ (needs the
extra `train` and Debian's flite, festival and festvox-kallpc16k); `pocket.training.measure` then needs
neither. The open sentences are the language model's own (`open_text`); none is in the corpus, and none
comes close to one that is.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from sarsteer_lab.course.hearing import HEARD_RIGHT, word_error_rate, word_errors, words
from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.pocket.training.voices import Speaker, Voice, held_out_voices, yardstick_voices
from sarsteer_lab.prompts import load_prompts
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import data_folder

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


def folder() -> Path:
    """Where the yardstick lies: utterances.jsonl and clips/."""
    return data_folder() / "pocket" / "yardstick"


def load_yardstick() -> list[Utterance]:
    """All clips of the four cells; the course's in training engines are the shipped test clips."""
    prompts = load_prompts("test")
    shipped = [
        Utterance(p.request, "course", VOICES[0], p.voice or "", p.clip, p.label) for p in prompts if p.clip
    ]
    lines = (folder() / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return shipped + [Utterance(**{**r, "clip": folder() / "clips" / r["clip"]}) for r in records]


def cells(utterances: Sequence[Utterance], heard: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Word error rate and clips heard right (with Wilson's 95% interval) of every cell, from transcripts."""
    found: dict[str, dict[str, Any]] = {}
    for text in TEXTS:
        for engines in VOICES:
            rows = [i for i, u in enumerate(utterances) if (u.text, u.engines) == (text, engines)]
            said = [utterances[i].request for i in rows]
            right = sum(
                word_errors(utterances[i].request, heard[i])
                <= HEARD_RIGHT * len(words(utterances[i].request))
                for i in rows
            )
            cell: dict[str, Any] = {
                "n": len(rows),
                "word_error_rate": word_error_rate(said, [heard[i] for i in rows]),
            }
            cell |= {"right": right, "interval": list(wilson(right, len(rows)))}
            harmful = [i for i in rows if utterances[i].label == "harmful"]
            if harmful:
                both = ([utterances[i].request for i in harmful], [heard[i] for i in harmful])
                cell["word_error_rate_harmful"] = word_error_rate(*both)
            found[f"{text}, {engines}"] = cell
    return found


def speak_yardstick(sentences: Sequence[str]) -> None:
    """Speak the open `sentences` in both kinds of engines, and some test prompts in the unheard ones; clips
    that exist are kept.
    """
    strange = yardstick_voices()
    known = [
        Voice("hibari-100", "hibari"),
        Voice("hibari-88", "hibari", 0.88),
        Voice("hibari-114", "hibari", 1.14),
    ]
    known = [*known, known[0], held_out_voices()[0]]
    plan: list[tuple[str, str, str, Voice, str]] = []
    seen: Counter[str] = Counter()
    for prompt in load_prompts("test"):
        if seen[prompt.label] < COURSE_PROMPTS:
            plan.append(
                (prompt.request, "course", VOICES[1], strange[len(plan) % len(strange)], prompt.label)
            )
            seen[prompt.label] += 1
    for number, sentence in enumerate(sentences):
        plan.append((sentence, "open", VOICES[0], known[number % len(known)], ""))
        plan.append((sentence, "open", VOICES[1], strange[number % len(strange)], ""))
    (folder() / "clips").mkdir(parents=True, exist_ok=True)
    speaker, records = Speaker(), []
    for number, (request, text, engines, voice, label) in enumerate(tqdm(plan, desc="speaking", unit="clip")):
        name = f"{number:03d}.ogg"
        if not (folder() / "clips" / name).exists():
            wave = speaker.say(request, voice, speed=SPEED)
            soundfile.write(folder() / "clips" / name, wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
        records.append(
            {
                "request": request,
                "text": text,
                "engines": engines,
                "voice": voice.name,
                "clip": name,
                "label": label,
            }
        )
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder() / "utterances.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Command line: speak the yardstick's sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sentences", type=Path, default=folder() / "sentences.txt", help="the open sentences, one a line"
    )
    options = parser.parse_args()
    speak_yardstick(options.sentences.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main()
