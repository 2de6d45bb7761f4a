"""What all panels share: a view for the browser (`web`), work that can be stopped, and a still."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import soundfile
from ipywidgets import VBox
from jaxtyping import Float
from matplotlib.figure import Figure

from sarsteer_lab.course.figures.base import LOOK
from sarsteer_lab.course.widgets import web
from sarsteer_lab.course.widgets.runner import Runner
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE, read_clip

MARKS = {
    "refused": "\u2298",
    "answered": "\u2192",
    "broken": "\u2248",
    "not heard": "?",
    "unparsed": "?",
}
"""Signs of the outcomes in lists of responses."""

HINT = "<p><small>A still. Run the cell, and there are controls here.</small></p>"
"""What stands below a still."""

MOST_K = 40
"""The largest safe space that can be chosen."""

ALPHAS = tuple(place / 100 for place in range(101))
"""Strengths that can be chosen where a kernel answers."""


class Panel(VBox):
    """A panel: live where a kernel runs; elsewhere (HTML, GitHub) a still, made when displayed.

    What is shown is a view, by the name of its module, with its state and what is chosen at first.
    Subclasses give the still as HTML in `static`. What has to be computed for what is chosen they
    compute in `follow`, which `runner` runs.
    """

    def __init__(self, module: str, state: Mapping[str, Any], **chosen: Any) -> None:
        super().__init__()
        self.runner = Runner()
        self.module = module
        self.view = web.View(_esm=web.module(module), state=dict(state), chosen=chosen)
        self.children = [self.view, self.runner.progress, self.runner.message]
        self.add_class(f"sarsteer-{module}")
        self.runner.listen("chosen", self.follow, self.view, trait="chosen")

    @property
    def chosen(self) -> dict[str, Any]:
        """What is chosen in the view."""
        return dict(self.view.chosen)

    def pick(self, **values: Any) -> None:
        """Choose in the view, as a reader does."""
        self.view.chosen = self.chosen | values

    def follow(self) -> None:
        """Compute what the reader's choice asks for; nothing in views that hold all they show."""

    def play(self, request: Request) -> None:
        """Give a request's clip to the view."""
        if request.clip is not None:
            sound = sound_address(read_clip(request.clip))
            self.view.clips = {request.clip.name: sound}

    def complete(self) -> None:
        """Compute all that a page without a kernel can show."""

    def static(self) -> str:
        """The panel's present state as HTML without controls."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/html": self.static() + HINT}


def check_length(max_new_tokens: int, most: int) -> None:
    """Raise ValueError for answers that are too long to be live and, harmful ones, to be shown."""
    if not 1 <= max_new_tokens <= most:
        raise ValueError(f"max_new_tokens={max_new_tokens}: answers here have 1 to {most} tokens")


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of some values, evenly, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(most, len(values)))
    return [values[round(place)] for place in places]


def sound_address(waveform: Float[np.ndarray, "samples"]) -> str:
    """A 16 kHz waveform as an address that players take."""
    return f"data:audio/wav;base64,{base64.b64encode(wav_bytes(waveform)).decode()}"


def wav_bytes(waveform: Float[np.ndarray, "samples"]) -> bytes:
    """A 16 kHz waveform as a WAV file, for players."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def picture(fig: Figure, width: int = 720) -> str:
    """A figure as an HTML image with its pixels inside, at most `width` wide."""
    file = io.BytesIO()
    with matplotlib.rc_context(LOOK):
        fig.savefig(file, format="png", dpi=100)
    data = base64.b64encode(file.getvalue()).decode()
    look = f"max-width:100%;width:{width}px"
    return f'<img alt="figure" style="{look}" src="data:image/png;base64,{data}">'


def request_state(request: Request) -> dict[str, str]:
    """What views show of a shipped request."""
    shown = {"words": request.request, "label": request.label, "topic": request.topic}
    clip = "" if request.clip is None else request.clip.name
    return shown | {"voice": request.voice or "", "clip": clip}


def words_of(prompt: Request | Prompt) -> str:
    """What a request says, as far as it is known in words."""
    return prompt.request if isinstance(prompt, Request) else prompt.text
