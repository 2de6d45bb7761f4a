"""The panel of the chapter on causes: which seconds of a clip refusal hangs on, by layer."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course import causal
from sarsteer_lab.course.figures.causes import seconds_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.patched import (
    patched_refusal_probabilities,
    patched_refusal_probability,
)
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE, read_clip

DRAWN = 160
"""Lines that a clip's waveform is drawn with."""

RECORDED = 3
"""Requests whose maps are computed for a page without a kernel."""


class SecondsPanel(panels.Panel):
    """Chapter 05: silence in each window of a clip, and states put in there layer by layer.

    While the clip plays its words light up, over the refusal probability of what was heard so far.
    The reader chooses a request, whose states are put in (`causal.DONORS`), and a cell. A map is
    computed window by window, with a bar and a stop, and once for each request and donor: `found`
    is the present one. `other` is the request whose states "another request" puts in, `twins` the
    words of the harmless twins, by the requests' ids, `length` about how long a window is, in
    seconds.
    """

    def __init__(
        self,
        lalm: LALM,
        requests: Sequence[Request],
        other: Request,
        layers: Sequence[int],
        twins: Mapping[str, str],
        *,
        length: float = 0.4,
    ) -> None:
        remember_clips(lalm)
        self.lalm = lalm
        self.requests = list(requests)
        self.other = other
        self.layers = list(layers)
        self.twins = twins
        self.length = length
        self._maps: dict[tuple[int, int], causal.SecondsMap] = {}
        self._heard: dict[int, causal.SecondsMap] = {}  # by request, without states put in
        shown = [panels.request_state(request) for request in requests]
        state = {"requests": shown, "donors": [*causal.DONORS], "layers": self.layers, "maps": {}}
        super().__init__("seconds", state, request=0, donor=0, window=0, layer=0)
        for _ in self._compute(0, 0):  # the first one at once, so that there is a still
            pass
        self.play(self.requests[0])

    @property
    def found(self) -> causal.SecondsMap:
        """The map of the chosen request and donor; until it is whole, without states put in."""
        request, donor = self.chosen["request"], self.chosen["donor"]
        if (request, donor) in self._maps:
            return self._maps[request, donor]
        return self._without_states(request)

    def static(self) -> str:
        """The map as a figure."""
        request, donor = self.requests[self.chosen["request"]], self._donor(self.chosen["donor"])
        title = f"\u201c{request.request}\u201d, put in: {donor}"
        cell = (self.chosen["layer"], min(self.chosen["window"], len(self.found.windows) - 1))
        return panels.picture(seconds_figure(self.found, title, chosen=cell), 900)

    def follow(self) -> None:
        """Have the chosen clip ready, and begin with the chosen map if there is none."""
        place, donor = self.chosen["request"], self.chosen["donor"]
        self.play(self.requests[place])
        if (place, donor) not in self._maps:
            n_windows = len(self._without_states(place).windows)
            self.runner.steps(self._compute(place, donor), n_windows)

    def complete(self) -> None:
        """Compute the maps of a few requests, and offer no others."""
        for place in range(min(RECORDED, len(self.requests))):
            for donor in range(len(causal.DONORS)):
                self.pick(request=place, donor=donor)
        self.pick(request=0, donor=0)
        shown = self.view.state["requests"][:RECORDED]
        self.view.state = {**self.view.state, "requests": shown}

    def _donor(self, place: int) -> str:
        return causal.DONORS[place]

    def _without_states(self, place: int) -> causal.SecondsMap:
        """The map of a request to which no states have been put in: the same for every donor."""
        if place not in self._heard:
            self._heard[place] = self._blank(self.requests[place])
        return self._heard[place]

    def _blank(self, request: Request) -> causal.SecondsMap:
        """The map of a request, before anything is measured."""
        assert request.clip is not None
        clip = read_clip(request.clip)
        words = causal.word_times(request.request, clip)
        twin = self.twins.get(request.id, request.request)
        apart = causal.spans_apart(words, twin)
        windows = causal.equal_windows(len(clip) / SAMPLE_RATE, self.length)
        so_far, silenced = torch.full([2, len(windows)], torch.nan)
        patched = torch.full([len(self.layers), len(windows)], torch.nan)
        [plain] = self._readiness(request.spoken(), [[]]).tolist()
        return causal.SecondsMap(
            clip, words, apart, windows, self.layers, plain, so_far, silenced, patched
        )

    def _compute(self, place: int, donor: int) -> Generator[None, None, None]:
        """The map of a request and a donor, a window a step."""
        heard = self._without_states(place)
        found = replace(heard, patched=heard.patched.clone())
        prompt, other = self.requests[place].spoken(), self.other.spoken()
        states = causal.Window(self.lalm, prompt, self.layers, other)
        for number, window in enumerate(found.windows):
            if heard.so_far[number].isnan():
                self._silence(heard, prompt, number)
            sets = states.patches([window], self._donor(donor))
            patched = self._readiness(prompt, sets)
            found.patched[:, number] = patched - found.plain
            yield
        self._maps[place, donor] = found
        self.view.state["maps"][f"{place},{donor}"] = map_state(found)
        self.view.send_state("state")

    def _silence(self, heard: causal.SecondsMap, prompt: Prompt, number: int) -> None:
        """Measure a window's silence, and what was heard until its end."""
        window = heard.windows[number]
        quiet = causal.without(self.lalm, prompt, [window])
        rest = (window[1], heard.windows[-1][1])
        begun = causal.without(self.lalm, prompt, [rest])
        encoded = self.lalm.encode([quiet, begun])
        nothing: list[list[Patch]] = [[]]
        found = patched_refusal_probabilities(self.lalm, encoded, [nothing, nothing])
        silent, odds = causal.log_odds(torch.cat(found)).cpu()
        heard.silenced[number] = silent - heard.plain
        heard.so_far[number] = odds

    def _readiness(
        self, prompt: Prompt, sets: Sequence[Sequence[Patch]]
    ) -> Float[Tensor, "variant"]:
        """Log-odds of refusal under each set of patches."""
        [encoded] = self.lalm.encode([prompt])
        probabilities = patched_refusal_probability(self.lalm, encoded, sets)
        return causal.log_odds(probabilities).cpu()


def map_state(found: causal.SecondsMap) -> dict[str, Any]:
    """What the view draws of a map."""
    words = []
    for word in found.words:
        words.append([word.text, round(word.start, 3), round(word.end, 3)])
    state: dict[str, Any] = {"loudness": loudness(found.clip), "words": words}
    state["apart"] = rounded(found.apart)
    state["windows"] = rounded(found.windows)
    state["plain"] = round(found.plain, 4)
    state["so_far"] = listed(found.so_far)
    state["silenced"] = listed(found.silenced)
    state["patched"] = listed(found.patched)
    return state


def loudness(clip: Float[np.ndarray, "samples"]) -> list[float]:
    """The heights of a waveform's lines, as shares of the highest."""
    parts = np.array_split(np.abs(clip), DRAWN)
    heights = np.array([part.max() for part in parts])
    shares = heights / heights.max()
    return shares.round(3).tolist()


def listed(values: Float[Tensor, "*layer window"]) -> list[Any]:
    """Changes of log-odds as they are written down."""
    return values.numpy().round(4).tolist()


def rounded(spans: Sequence[causal.Span]) -> list[list[float]]:
    """Spans of time to the millisecond."""
    return [[round(start, 3), round(end, 3)] for start, end in spans]
