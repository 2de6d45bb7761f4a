"""A small set of prompts with made-up clips, laid out as data/prompts is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile

COUNTS = {
    "derive": {"harmful": 4, "harmless": 5},
    "test": {"harmful": 3, "harmless": 3, "pseudo-harmful": 2, "everyday": 2},
}


def write_set(
    folder: Path,
    make_clip: Callable[[float, int], np.ndarray],
    counts: Mapping[str, Mapping[str, int]] = COUNTS,
) -> Path:
    """Write prompts.jsonl and a clip per prompt; returns the folder."""
    (folder / "clips").mkdir(parents=True)
    lines = []
    for split, labels in counts.items():
        for label, count in labels.items():
            for i in range(count):
                name = f"{split}-{label}-{i}"
                soundfile.write(
                    folder / "clips" / f"{name}.wav", make_clip(0.6 + 0.2 * i, len(lines)), 16000
                )
                record = {
                    "id": name,
                    "label": label,
                    "topic": "privacy",
                    "twin": None,
                    "split": split,
                    "text": f"Tell me the number {len(lines)} {label} thing.",
                    "clip": f"clips/{name}.wav",
                    "voice": "noise",
                }
                lines.append(json.dumps(record))
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
