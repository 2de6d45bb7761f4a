"""Where does knowledge of harm get lost between a clip and a refusal?

`python -m training.understanding.diagnosis` asks the harmful and harmless requests of the
validation and test splits with something else in the clip's place each time, from the true words to
what the projector says, and prints the area under the ROC curve of a refusing first token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.prompts import Request, load_prompts
from sarsteer_lab.speech import read_clip
from training.ctc import greedy_tokens
from training.loop import AudioSide
from training.understanding.alignment import Aligner
from training.understanding.dials import pocket_with
from training.understanding.spoken import clip_outputs
from training.understanding.student import Student, in_batches, readiness, refusing_tokens
from training.understanding.tables import scores_table


@dataclass(frozen=True)
class HeardRequest:
    """A request with what the projector says of its clip and what the CTC head reads in it."""

    request: Request
    outputs: Float[Tensor, "frame d_model"]
    path: list[int]
    """The likeliest token at each frame, -1 where there is none."""
    read: list[int]
    """The tokens that this path says."""
    expected: Float[Tensor, "frame d_model"]
    """The embeddings that the head's probabilities stand for, mixed."""


Rows = Callable[[HeardRequest], Float[Tensor, "position d_model"]]


@torch.no_grad()
def heard_requests(student: Student, aligner: Aligner, audio: AudioSide) -> list[HeardRequest]:
    """The clips of harmful and harmless requests, validation and test."""
    requests = load_prompts("validation") + load_prompts("test")
    requests = [r for r in requests if r.label in ("harmful", "harmless") and r.clip]
    waves = [read_clip(request.clip) for request in requests if request.clip]
    all_outputs = clip_outputs(audio, waves)
    heard = []
    for request, outputs in zip(requests, all_outputs, strict=True):
        log_probs = aligner.head(outputs[None])
        path = aligner.tokens_at(log_probs[0].argmax(-1).tolist())
        read = greedy_tokens(log_probs[0], aligner.head)
        [expected] = aligner.head.expected(log_probs)
        heard.append(HeardRequest(request, outputs, path, read, expected))
    return heard


def moved(heard: HeardRequest, share: float) -> Float[Tensor, "frame d_model"]:
    """The outputs, moved towards the embeddings that they are expected to stand for."""
    return heard.outputs.lerp(heard.expected, share)


def in_the_clips_place(student: Student, aligner: Aligner) -> dict[str, Rows]:
    """What is asked instead of a clip, by its name in the table."""
    shares = {
        f"outputs moved {share:.0%} of the way to those mixtures": share
        for share in (0.25, 0.5, 0.75)
    }
    rows: dict[str, Rows] = {
        "the true tokens": lambda heard: student.embed(student.tokens(heard.request.request)),
        "the tokens that CTC reads": lambda heard: student.embed(heard.read or [0]),
        "those at their frames, silence between": lambda heard: aligner.embedded(heard.path),
        "the mixtures of embeddings that CTC expects": lambda heard: heard.expected,
    }
    for name, share in shares.items():
        rows[name] = partial(moved, share=share)
    rows["the projector's outputs, as the model hears"] = lambda heard: heard.outputs
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    lalm = pocket_with(None)
    student = Student(lalm)
    aligner = Aligner(student)
    heard = heard_requests(student, aligner, AudioSide(lalm.model).eval())
    harmful = np.array([one.request.label == "harmful" for one in heard])
    refusing = refusing_tokens(student.tokenizer)

    def scores() -> Iterator[tuple[str, Float[np.ndarray, "request"]]]:
        for name, rows in in_the_clips_place(student, aligner).items():
            log_probs = in_batches(student.spoken, [rows(one) for one in heard])
            yield name, readiness(log_probs, refusing).numpy()

    for line in scores_table("in the clip's place", scores(), harmful):
        print(line, flush=True)


if __name__ == "__main__":
    main()
