"""How the pocket model was made. Imports the package; nothing in the package imports it."""

from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
"""Sentences, typed prompts, logs, and the CTC head: what training reads and what it left."""
YARDSTICK = DATA.with_name("yardstick")
"""The yardstick of hearing: sentences.txt, utterances.jsonl and clips/."""
