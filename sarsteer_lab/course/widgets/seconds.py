"""The panel of the chapter on causes: which seconds of a clip refusal hangs on, by layer."""

from collections.abc import Generator, Mapping, Sequence

import torch
from ipywidgets import HTML, Dropdown, ToggleButtons
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course import causal
from sarsteer_lab.course.figures.causes import seconds_figure
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.patched import patched_refusal_probability
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE, read_clip


class SecondsPanel(panels.Panel):
    """Chapter 05: silence in each window of a clip, and states put in there layer by layer.

    `request` chooses what is said, `donor` whose states are put in (`causal.DONORS`), `window` and
    `layer` a cell, which is then said in words. A map is computed window by window, with a bar and
    a stop, and once for each request and donor: `found`. `other` is the request whose states
    "another request" puts in, `twins` the words of the harmless twins, by the requests' ids,
    `length` about how long a window is, in seconds.
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
        super().__init__()
        remember_clips(lalm)
        self.lalm = lalm
        self.other = other
        self.layers = list(layers)
        self.twins = twins
        self.length = length
        options = [(request.request, request) for request in requests]
        look = {"layout": {"width": "min(640px, 95%)"}, "style": panels.LABEL_WIDTH}
        self.request = Dropdown(options=options, description="request", **look)
        self.donor = ToggleButtons(options=list(causal.DONORS))
        last = len(self.layers) - 1
        self.window = panels.slider("window", 0, 0, 1)
        self.layer = panels.slider("layer", 0, 0, last)
        self.view = HTML()
        self.words = HTML()
        self._maps: dict[tuple[str, str], causal.SecondsMap] = {}
        chosen = panels.row(self.request, self.donor)
        cell = panels.row(self.window, self.layer)
        work = (self.runner.progress, self.runner.message)
        self.children = [chosen, cell, self.words, self.view, *work]
        self.add_class("sarsteer-seconds")
        self.runner.listen("map", self._begin, self.request, self.donor)
        self.runner.listen("cell", self._show, self.window, self.layer)
        for _ in self._compute():  # the first one at once, so that there is a still
            pass

    def static(self) -> str:
        """The picture, and what the chosen cell says."""
        return self.words.value + self.view.value

    def _begin(self) -> None:
        key = (self.request.value.id, self.donor.value)
        if key in self._maps:
            self.found = self._maps[key]
            self._show()
        else:
            n_windows = len(self._blank().windows)
            self.runner.steps(self._compute(), n_windows)

    def _blank(self) -> causal.SecondsMap:
        """The map of the chosen request, before anything is measured."""
        request: Request = self.request.value
        assert request.clip is not None
        clip = read_clip(request.clip)
        words = causal.word_times(request.request, clip)
        twin = self.twins.get(request.id, request.request)
        apart = causal.spans_apart(words, twin)
        windows = causal.equal_windows(len(clip) / SAMPLE_RATE, self.length)
        silenced = torch.full([len(windows)], torch.nan)
        patched = torch.full([len(self.layers), len(windows)], torch.nan)
        layers = self.layers
        [plain] = self._readiness(request.spoken(), [[]]).tolist()
        return causal.SecondsMap(clip, words, apart, windows, layers, plain, silenced, patched)

    def _compute(self) -> Generator[None, None, None]:
        """The map of the chosen request and donor, a window a step."""
        request, donor = self.request.value, self.donor.value
        found = self._blank()
        prompt, other = request.spoken(), self.other.spoken()
        states = causal.Window(self.lalm, prompt, self.layers, other)
        for number, window in enumerate(found.windows):
            quiet = causal.without(self.lalm, prompt, [window])
            [silent] = self._readiness(quiet, [[]])
            found.silenced[number] = silent - found.plain
            sets = states.patches([window], donor)
            patched = self._readiness(prompt, sets)
            found.patched[:, number] = patched - found.plain
            yield
        self.found = found
        self._maps[request.id, donor] = found
        self._show()

    def _readiness(
        self, prompt: Prompt, sets: Sequence[Sequence[Patch]]
    ) -> Float[Tensor, "variant"]:
        """Log-odds of refusal under each set of patches."""
        [encoded] = self.lalm.encode([prompt])
        probabilities = patched_refusal_probability(self.lalm, encoded, sets)
        return causal.log_odds(probabilities).cpu()

    def _show(self) -> None:
        found, donor = self.found, self.donor.value
        last = len(found.windows) - 1
        self.window.max = last
        row = self.layer.value
        window = min(self.window.value, last)
        title = f"\u201c{self.request.value.request}\u201d, put in: {donor}"
        fig = seconds_figure(found, title, chosen=(row, window))
        self.view.value = panels.picture(fig, 900)
        start, end = found.windows[window]
        where = {"start": start, "end": end, "layer": self.layers[row], "donor": donor}
        silenced = float(found.silenced[window])
        patched = float(found.patched[row, window])
        measured = {"plain": found.plain, "silenced": silenced, "patched": patched}
        self.words.value = panels.piece("seconds_cell", **where, **measured)
