"""Speaks the shipped prompts: data/prompts/prompts.jsonl -> data/prompts/clips/*.ogg (Opus, 16 kHz
mono), once.

The test split is spoken by voices that no training clip, derive clip or validation clip uses. A
harmful prompt and its harmless twin share a voice, so that no difference between the two is a
difference of voices.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import soundfile
from tqdm import tqdm

from sarsteer_lab.paths import data_folder
from sarsteer_lab.speech import SAMPLE_RATE
from training.voices import KOKORO_TRAIN, Speaker, Voice, held_out_voices

SPEED = 1.2


def assign_voices(records: list[dict]) -> dict[str, Voice]:
    """Prompt id -> voice: held-out voices for the test split, Kokoro's training voices otherwise,
    twins together.
    """
    pools = {False: [Voice(name, "kokoro") for name in KOKORO_TRAIN], True: held_out_voices()}
    used = {False: 0, True: 0}
    voices: dict[str, Voice] = {}
    for record in records:
        if record["twin"] in voices:
            voices[record["id"]] = voices[record["twin"]]
            continue
        is_test = record["split"] == "test"
        voices[record["id"]] = pools[is_test][used[is_test] % len(pools[is_test])]
        used[is_test] += 1
    return voices


def speak_prompts(folder: Path | None = None) -> None:
    """Write the missing clips of the prompts in `folder` (default: the shipped ones) and enter clip
    and voice.
    """
    folder = folder or data_folder() / "prompts"
    path = folder / "prompts.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    voices = assign_voices(records)
    (folder / "clips").mkdir(exist_ok=True)
    speaker = Speaker()
    # The test split first: measuring the model needs it before anything else.
    for record in tqdm(
        sorted(records, key=lambda r: r["split"] != "test"),
        desc="speaking the prompts",
        unit="clip",
    ):
        clip = folder / "clips" / f"{record['id']}.ogg"
        record["clip"], record["voice"] = f"clips/{clip.name}", voices[record["id"]].name
        if clip.exists():
            continue
        wave = speaker.say(record["text"], voices[record["id"]], speed=SPEED)
        part = clip.with_suffix(".part")
        soundfile.write(part, wave, SAMPLE_RATE, format="OGG", subtype="OPUS")
        os.replace(part, clip)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    speak_prompts()
