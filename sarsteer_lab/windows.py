"""Which positions of a prompt hear which seconds of its clip, and clips with silent seconds.

The projector lays a clip out on a grid: each audio position stands for a slice of time of one
length. The ears look at the whole clip, so a position is where these seconds are heard, but it
holds something of its neighbours, too.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sarsteer_lab.batch import Encoded
from sarsteer_lab.families import window_seconds
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE

Span = tuple[float, float]
"""From where to where in a clip, in seconds."""

GRID_SECONDS = 30.0
"""Length of the clips on which the time grid of ears that take any length is measured."""


def audio_positions(lalm: LALM, prompt: Prompt | Encoded) -> list[int]:
    """The positions of a prompt at which its clip is heard, from the prompt's start.

    Raises ValueError for a prompt without a clip.
    """
    [ids] = lalm.inputs([prompt])["input_ids"].tolist()
    heard = [position for position, token in enumerate(ids) if token == lalm.audio_token_id]
    if not heard:
        raise ValueError("the prompt has no clip, and so no audio positions")
    return heard


def window_positions(lalm: LALM, prompt: Prompt | Encoded, spans: Sequence[Span]) -> list[int]:
    """The audio positions of a prompt whose middle lies in one of some spans of its clip.

    So windows that stand side by side share no position: a span holds its start and not its end.
    Raises ValueError for a prompt without a clip, and for a span in which no position lies.
    """
    heard = audio_positions(lalm, prompt)
    length = seconds_per_position(lalm)
    positions: set[int] = set()
    for start, end in spans:
        inside = []
        for number, position in enumerate(heard):
            if start <= (number + 0.5) * length < end:
                inside.append(position)
        if not inside:
            clip_ends = f"the clip's positions end at {len(heard) * length:g} s"
            raise ValueError(f"no audio position from {start:g} s to {end:g} s: {clip_ends}")
        positions.update(inside)
    return sorted(positions)


def seconds_per_position(lalm: LALM) -> float:
    """How much of a clip an audio position stands for, in seconds: the time grid of the projector.

    It is measured, on a clip that fills the ears' window and one of half its length. Where both
    take as many positions (ears that pad each clip to the window), these are spread over all of it.
    Raises ValueError for a model that hears nothing.
    """
    if lalm.audio_token_id is None:
        raise ValueError(f"{lalm.name} takes no audio, and so has no audio positions")
    seconds = window_seconds(lalm.processor) or lalm.max_audio_seconds or GRID_SECONDS
    noise = np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE))
    clip = (0.1 * noise).astype(np.float32)
    whole = len(audio_positions(lalm, Prompt("", clip)))
    half = len(audio_positions(lalm, Prompt("", clip[: len(clip) // 2])))
    return seconds / whole if half == whole else 0.5 * seconds / (whole - half)


def silenced(
    waveform: Float[np.ndarray, "samples"], spans: Sequence[Span]
) -> Float[np.ndarray, "samples"]:
    """A clip at 16 kHz in which nothing sounds during these spans: a copy."""
    quiet = waveform.copy()
    for start, end in spans:
        quiet[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0.0
    return quiet
