"""How a clip sounds in training, and the features that the tower reads.

A person speaks to the model in a room, through some microphone. The engines speak from nowhere.
Pace, room, noise, line and loudness are drawn anew each time a clip is heard, so a sentence is
never heard twice in the same way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import scipy.signal
import soxr
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import WhisperFeatureExtractor

from sarsteer_lab.pocket.assemble import WINDOW_SECONDS
from sarsteer_lab.speech import SAMPLE_RATE

# How often each change is made to a clip, each drawn on its own.
PACE, ROOM, NOISE, LINE, COMPANDED, SILENCE = 0.4, 0.25, 0.45, 0.12, 0.08, 0.4
Wave = Float[np.ndarray, " samples"]


@cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS)


def log_mel(waves: Sequence[Wave]) -> tuple[Float[Tensor, "clip 80 frame"], Int[Tensor, " clip"]]:
    """Whisper's log-mel features of 16 kHz clips side by side, and how many frames are a clip's.

    That is a multiple of 4. The rest of a row is silence. No clip is longer than the model's
    window.
    """
    frames = torch.tensor([len(wave) // 160 // 4 * 4 for wave in waves])
    made = _extractor()(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")
    longest = int(frames.max())
    return made.input_features[..., :longest], frames


def change(wave: Wave, draw: random.Random) -> Wave:
    """`wave` as it may sound elsewhere; at most the model's window long."""
    noise = np.random.default_rng(draw.randrange(1 << 32))
    if draw.random() < PACE:  # pitch, formants and pace together
        other_rate = SAMPLE_RATE * draw.uniform(0.85, 1.18)
        wave = soxr.resample(wave, SAMPLE_RATE, other_rate, quality="LQ")
    if draw.random() < SILENCE:
        before = int(draw.uniform(0, 0.6) * SAMPLE_RATE)
        after = int(draw.uniform(0, 0.6) * SAMPLE_RATE)
        wave = np.pad(wave, (before, after))
    if draw.random() < ROOM:
        wave = _room(wave, draw, noise)
    if draw.random() < NOISE:
        sound = _noise(len(wave), draw, noise)
        level = np.sqrt(np.mean(wave**2))
        wave = wave + sound * level * 10 ** -draw.uniform(0.3, 1.6)
    if draw.random() < LINE:
        low, high = (300, 3400) if draw.random() < 0.5 else (60, draw.uniform(3500, 7000))
        wave = scipy.signal.sosfilt(_band(low, round(high, -2)), wave)
    if draw.random() < COMPANDED:
        wave = _companded(wave)
    peak = 10 ** draw.uniform(-1.2, 0)
    loudness = peak / (np.abs(wave).max() + 1e-6)
    longest = WINDOW_SECONDS * SAMPLE_RATE
    return (loudness * wave)[:longest].astype(np.float32)


def _companded(wave: Wave) -> Wave:
    """`wave` in eight bits on a mu-law scale, as on a telephone line."""
    peak = np.abs(wave).max() + 1e-6
    curve = 127 * np.sign(wave) * np.log1p(255 * np.abs(wave) / peak) / np.log(256)
    steps = np.round(curve) / 127
    return peak * np.sign(steps) * (256 ** np.abs(steps) - 1) / 255


def _room(wave: Wave, draw: random.Random, noise: np.random.Generator) -> Wave:
    """`wave` in a room that rings for 0.1 to 0.5 s: decaying noise after the direct sound."""
    length = draw.uniform(0.1, 0.5)
    times = np.arange(int(length * SAMPLE_RATE)) / SAMPLE_RATE
    response = noise.standard_normal(len(times)) * np.exp(-6.9 * times / length)
    response *= draw.uniform(0.1, 0.7) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    return scipy.signal.fftconvolve(wave, response)[: len(wave)]


def _noise(length: int, draw: random.Random, noise: np.random.Generator) -> Wave:
    """Noise of unit power whose spectrum falls by 0 (hiss) to 6 (rumble) decibels an octave."""
    spectrum = np.fft.rfft(noise.standard_normal(length))
    frequencies = np.maximum(np.arange(len(spectrum)), 20)
    spectrum /= frequencies ** draw.uniform(0, 1)
    sound = np.fft.irfft(spectrum, length)
    return sound / np.sqrt(np.mean(sound**2))


@cache
def _band(low: float, high: float) -> Float[np.ndarray, "section 6"]:
    return scipy.signal.butter(4, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
