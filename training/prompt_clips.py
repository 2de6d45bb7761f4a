"""Speaks the shipped prompts, once: data/prompts/clips/*.ogg (Opus, 16 kHz mono).

The test split is spoken by voices that no training clip, derive clip or validation clip uses. A
harmful prompt and its harmless twin share a voice, so that no difference between the two is a
difference of voices.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from tqdm import tqdm

from sarsteer_lab.paths import data_folder
from training.records import read_records, write_records
from training.voices import KOKORO_TRAIN, Speaker, Voice, held_out_voices, write_clip

SPEED = 1.2


def assign_voices(records: list[dict]) -> dict[str, Voice]:
    """Prompt id -> voice: a held-out one for the test split, else one of Kokoro's training voices.

    Twins share theirs.
    """
    test_voices = cycle(held_out_voices())
    training_voices = cycle(Voice(name, "kokoro") for name in KOKORO_TRAIN)
    voices: dict[str, Voice] = {}
    for record in records:
        if record["twin"] in voices:
            voice = voices[record["twin"]]
        else:
            voice = next(test_voices if record["split"] == "test" else training_voices)
        voices[record["id"]] = voice
    return voices


def speak_prompts(folder: Path | None = None) -> None:
    """Write the missing clips of the prompts in `folder`, by default the shipped ones.

    Clip and voice are entered into its prompts.jsonl.
    """
    folder = folder or data_folder() / "prompts"
    path = folder / "prompts.jsonl"
    records = read_records(path)
    voices = assign_voices(records)
    speaker = Speaker()
    # The test split first: measuring the model needs it before anything else.
    order = sorted(records, key=lambda record: record["split"] != "test")
    for record in tqdm(order, desc="speaking the prompts", unit="clip"):
        voice = voices[record["id"]]
        record["clip"], record["voice"] = f"clips/{record['id']}.ogg", voice.name
        clip = folder / record["clip"]
        if not clip.exists():
            write_clip(clip, speaker.say(record["text"], voice, speed=SPEED))
    write_records(path, records)


if __name__ == "__main__":
    speak_prompts()
