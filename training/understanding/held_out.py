"""A last check on requests and voices that no stage of the training has used, run once at the end.

`python -m training.understanding.held_out --learnt FILE` speaks `training/data/held_out.jsonl`, 60
harmful requests and 60 harmless twins, in flite's two voices that only the yardstick of hearing
knows, and prints the areas under the ROC curve.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from training import DATA
from training.loop import AudioSide
from training.records import read_records
from training.understanding.dials import pocket_with
from training.understanding.sentences import LabelledText
from training.understanding.spoken import clip_outputs
from training.understanding.student import Student, in_batches, readiness, refusing_tokens
from training.understanding.tables import scores_table
from training.voices import YARDSTICK, Speaker, Voice

FILE = DATA / "held_out.jsonl"
ENGINE, SPEED = "flite", 1.2
SETTINGS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))


def held_out_requests() -> list[LabelledText]:
    """The requests, a harmful one and its harmless twin after each other."""
    return [LabelledText(**record) for record in read_records(FILE)]


def spoken(requests: list[LabelledText]) -> list[Float[np.ndarray, "samples"]]:
    """Each request in one of the voices; a pair of twins has the same one."""
    voices = [Voice(name, ENGINE) for name, engine in YARDSTICK.items() if engine == ENGINE]
    speaker, waves = Speaker(), []
    for number, request in enumerate(tqdm(requests, desc="requests spoken")):
        voice = voices[number // 2 % len(voices)]
        waves.append(speaker.say(request.text, voice, speed=SPEED, seed=number))
    return waves


def main() -> None:
    """Speak, ask at each setting of the dials, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learnt", type=Path, required=True, help="spoken_safety.safetensors")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    requests = held_out_requests()
    waves = spoken(requests)
    lalm = pocket_with(load_file(options.learnt))
    student = Student(lalm)
    harmful = np.array([request.label == "harmful" for request in requests])
    refusing = refusing_tokens(lalm.tokenizer)
    log_probs: dict[str, Float[Tensor, "request vocab"]] = {}
    for understanding, spoken_safety in SETTINGS:
        lalm.set_dials(understanding=understanding, spoken_safety=spoken_safety)
        outputs = clip_outputs(AudioSide(lalm.model).eval(), waves)
        name = f"spoken, {understanding:g} {spoken_safety:g}"
        log_probs[name] = in_batches(student.spoken, outputs)
    log_probs["typed"] = in_batches(student.typed, [request.text for request in requests])
    scores = {name: readiness(own, refusing).numpy() for name, own in log_probs.items()}
    for line in scores_table("understanding, spoken safety", scores.items(), harmful):
        print(line)


if __name__ == "__main__":
    main()
