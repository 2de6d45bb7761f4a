"""What the chapter on causes shares: patched readiness, kept, and where words stand in a clip."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from sarsteer_lab.activations import capture_positions
from sarsteer_lab.engine.openings import refusing_openings
from sarsteer_lab.engine.patched import NEGLIGIBLE, Change, patched_refusal_probabilities
from sarsteer_lab.evaluation.intervals import CONFIDENCE, mean_interval
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.store import CacheStore
from sarsteer_lab.windows import Span, audio_positions, silenced, window_positions

FRAME = 0.02
"""Seconds in which loudness is measured."""

QUIET = 0.1
"""A frame sounds from this share of the loudest frame's amplitude on."""

SURE = 1e-4
"""Log-odds are not read beyond this probability and its opposite."""


def log_odds(probability: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Log-odds of a refusal probability, within those of `SURE`."""
    return torch.logit(probability.clamp(SURE, 1 - SURE))


def patched_refusal(
    lalm: LALM,
    prompts: Sequence[Prompt],
    make: Callable[[int], Sequence[Sequence[Change]]],
    **settings: Any,
) -> Float[Tensor, "prompt variant"]:
    """How likely each answer is to open as a refusal (0 to 1) under each set of patches and heads.

    `make(number)` gives the sets of a prompt, as many for each. It is asked for those alone that
    are not kept in the user's cache, so `settings` have to say all that decides its sets besides
    model and prompt. Raises as `engine.patched.patched_refusal_probabilities` does.
    """
    what = "refusal probabilities after patching"
    key = lalm.key(what, refusing_openings(), NEGLIGIBLE, settings)
    folder = cache_folder() / "course"
    store = lalm.results.store(CacheStore(folder))
    encoded = lalm.encode(prompts)
    keys = [content_key(key, prompt.key) for prompt in encoded]
    found = [store.read(key_of_prompt) for key_of_prompt in keys]
    lacking = [number for number, values in enumerate(found) if values is None]
    for number in lacking:
        lalm.results.missing(what, encoded[number], settings)
    variants = [make(number) for number in lacking]
    asked = [encoded[number] for number in lacking]
    computed = patched_refusal_probabilities(lalm, asked, variants) if lacking else []
    for number, probabilities in zip(lacking, computed, strict=True):
        found[number] = store.write(keys[number], probabilities.tolist())
    return torch.tensor(found, dtype=torch.float32)


def against_draws(
    values: Float[np.ndarray, "request draw"],
    *,
    scale: float = 1.0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of a difference to a random draw, from some requests and some draws.

    `intervals.mean_interval` over requests, and beside it how far one more draw may lie from the
    mean of those seen (Student's prediction interval). So a difference that one draw in twenty
    reaches by itself is not told from chance, however many requests there are. Raises ValueError
    for fewer than two draws.
    """
    if values.shape[1] < 2:
        raise ValueError("one draw does not say how far draws lie apart")
    of_request, of_draw = values.mean(1), values.mean(0)
    low, high = mean_interval(of_request, scale=scale, confidence=confidence)
    n_draws = len(of_draw)
    factor = stats.t.ppf((1 + confidence) / 2, n_draws - 1) * np.sqrt(1 + 1 / n_draws)
    reach = np.hypot((high - low) / 2, factor * of_draw.std(ddof=1))
    middle = (low + high) / 2
    return float(middle - reach), float(middle + reach)


DONORS = ("silence", "another request", "another time", "equal size")
"""Whose states are put where a window of a clip is heard."""


class Window:
    """States to put in where some seconds of a clip are heard, after each of `layers`.

    `other` is the prompt whose states "another request" puts in. What is read of a clip is read
    once.
    """

    def __init__(
        self, lalm: LALM, prompt: Prompt, layers: Sequence[int], other: Prompt | None = None
    ) -> None:
        self.lalm, self.prompt, self.layers, self.other = lalm, prompt, list(layers), other
        self._read: dict[Any, Float[Tensor, "position layer d_model"]] = {}

    def patches(self, spans: Sequence[Span], donor: str = "silence") -> list[list[Patch]]:
        """For each layer the patch of the positions at which these spans of the clip are heard.

        What is put there after the layer: "silence", the states of the same clip in which the spans
        are silent; "another request", those of `other` at the same seconds; "another time", those
        of this clip half its length later, round its end; "equal size", its own states moved as far
        as silence moves them, with other signs. Raises ValueError for another donor and as
        `window_positions` does.
        """
        if donor not in DONORS:
            raise ValueError(f"donor={donor!r}: choose one of {', '.join(DONORS)}")
        positions = window_positions(self.lalm, self.prompt, spans)
        own = self._heard("own", self.prompt)
        first, *_ = audio_positions(self.lalm, self.prompt)
        places = torch.tensor(positions) - first
        if donor == "another time":
            later = places + len(own) // 2
            states = own[later % len(own)]
        elif donor == "another request":
            assert self.other is not None
            theirs = self._heard("other", self.other)
            states = theirs[places % len(theirs)]
        else:
            quiet = without(self.lalm, self.prompt, spans)
            states = self._heard(tuple(spans), quiet)[places]
            if donor == "equal size":
                shift = states - own[places]
                states = own[places] + other_signs(shift)
        sets = []
        for layer, put_in in zip(self.layers, states.unbind(1), strict=True):
            sets.append([Patch(layer, positions, put_in)])
        return sets

    def _heard(self, name: Any, prompt: Prompt) -> Float[Tensor, "position layer d_model"]:
        """States at the audio positions of a prompt."""
        if name not in self._read:
            [states] = capture_positions(self.lalm, [prompt], "audio", layers=self.layers)
            self._read[name] = states
        return self._read[name]


def without(lalm: LALM, prompt: Prompt, spans: Sequence[Span]) -> Prompt:
    """The prompt with these spans of its clip silent."""
    clip = lalm.waveform(prompt)
    assert clip is not None
    return replace(prompt, audio=silenced(clip, spans))


def other_signs(
    shift: Float[Tensor, "*any d_model"], seed: int = 0
) -> Float[Tensor, "*any d_model"]:
    """A shift of the same size in another direction: each coordinate's sign is drawn anew.

    All its rows get the same signs.
    """
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, shift.shape[-1:], generator=generator)
    signs = 2 * bits - 1
    return shift * signs.to(shift)


@dataclass(frozen=True)
class Word:
    """A word of a request, and about when it is said in the clip."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class SecondsMap:
    """How the log-odds of refusal of a spoken request change, by window of its clip.

    `silenced`: if the window is silent; `patched`: if states are put in where it is heard, after
    each of `layers`; nan where nothing has been measured. `apart` are the spans that the harmless
    twin does not share, `plain` the log-odds of the clip as it is, `so_far` those of the clip up to
    each window's end, when the rest is silent.
    """

    clip: Float[np.ndarray, "samples"]
    words: Sequence[Word]
    apart: Sequence[Span]
    windows: Sequence[Span]
    layers: Sequence[int]
    plain: float
    so_far: Float[Tensor, "window"]
    silenced: Float[Tensor, "window"]
    patched: Float[Tensor, "layer window"]


def word_times(words: str, clip: Float[np.ndarray, "samples"]) -> list[Word]:
    """About when each word is said: the sounding part of the clip, shared out by letters.

    No alignment is computed, so a boundary may be off by a syllable.
    """
    frame = round(FRAME * SAMPLE_RATE)
    n_frames = len(clip) // frame
    frames = clip[: n_frames * frame].reshape(n_frames, -1)
    loudness = np.sqrt((frames**2).mean(1))
    quiet = QUIET * loudness.max()
    sounding = np.flatnonzero(loudness >= quiet)
    start = FRAME * sounding[0]
    end = FRAME * (sounding[-1] + 1)
    texts = words.split()
    letters = [len(text) + 1 for text in texts]
    shares = np.cumsum([0, *letters]) / sum(letters)
    edges = start + (end - start) * shares
    placed = []
    for text, (first, last) in zip(texts, pairwise(edges.tolist()), strict=True):
        placed.append(Word(text, first, last))
    return placed


def spans_apart(words: Sequence[Word], twin: str) -> list[Span]:
    """When the words are said that a request does not share with its twin, next ones together."""
    own = [_bare(word.text) for word in words]
    others = [_bare(text) for text in twin.split()]
    matcher = SequenceMatcher(None, own, others)
    spans = []
    for kind, first, last, *_ in matcher.get_opcodes():
        if kind in ("replace", "delete"):
            start, end = words[first].start, words[last - 1].end
            spans.append((start, end))
    return spans


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word.lower())


def other_span(spans: Sequence[Span], within: Span) -> Span:
    """A span as long as all of these together, that shares as little time with them as can be.

    It lies `within` another one; of several, the nearest to them.
    """
    first, last = within
    lengths = [end - start for start, end in spans]
    length = min(last - first, sum(lengths))
    middle = np.mean(spans)
    latest = last - length + 1e-9
    places = []
    for start in np.arange(first, latest, FRAME).tolist():
        end, shared = start + length, 0.0
        for begun, ended in spans:
            both = min(ended, end) - max(begun, start)
            shared += max(0.0, both)
        off = abs((start + end) / 2 - middle)
        places.append((round(shared, 6), off, start))
    *_, start = min(places)
    return start, start + length


def equal_windows(seconds: float, length: float) -> list[Span]:
    """A clip cut into two or more windows of one length, as near to `length` as it can be."""
    n = max(2, round(seconds / length))
    edges = np.linspace(0, seconds, n + 1).tolist()
    return list(pairwise(edges))
