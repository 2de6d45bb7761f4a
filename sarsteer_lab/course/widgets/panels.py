"""What all panels share: a static state, work that can be stopped, a request picker, their HTML.

Only ipywidgets' own controls and anywidget's views (`web`) are used, so that panels work in
JupyterLab, Notebook 7, VS Code and Colab alike.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import soundfile
from ipywidgets import (
    FloatSlider,
    HBox,
    IntRangeSlider,
    IntSlider,
    Textarea,
    VBox,
    Widget,
)
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures.base import LOOK
from sarsteer_lab.course.widgets import web
from sarsteer_lab.course.widgets.runner import Runner
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.safe_space import SafeSpace, principal_space
from sarsteer_lab.speech import SAMPLE_RATE, read_clip

MARKS = {
    "refused": "\u2298",
    "answered": "\u2192",
    "broken": "\u2248",
    "not heard": "?",
    "unparsed": "?",
}
"""Signs of the outcomes in lists of responses."""

MOST_K = 40
"""The largest safe space that can be chosen."""

LABEL_WIDTH = {"description_width": "110px"}

_PIECES = Environment(
    loader=PackageLoader("sarsteer_lab", "course/widgets"),
    autoescape=True,
    undefined=StrictUndefined,
)
_PIECES.filters["repr"] = repr


def piece(macro: str, /, **values: Any) -> str:
    """One of the macros of `pieces.html.jinja` as HTML, with these values escaped."""
    pieces = _PIECES.get_template("pieces.html.jinja").module
    return str(getattr(pieces, macro)(**values))


class Panel(VBox):
    """A panel: live where a kernel runs; elsewhere (HTML, GitHub) a still, made when displayed.

    Subclasses give the still as HTML in `static`; `runner` runs what controls ask for. What is
    shown is a view for the browser, by its name, with its state and what is chosen at first. A
    subclass that has to compute something for what is chosen then does it in `follow`. Panels
    without a view fill `children` themselves.
    """

    def __init__(self, view: str = "", state: Mapping[str, Any] | None = None, **chosen: Any):
        super().__init__()
        self.runner = Runner()
        self.module = view
        if view:
            self.view = web.View(_esm=web.module(view), state=dict(state or {}), chosen=chosen)
            self.children = [self.view, self.runner.progress, self.runner.message]
            self.add_class(f"sarsteer-{view}")
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
        return bundle | {"text/html": piece("still", picture=self.static())}


def check_length(max_new_tokens: int, most: int) -> None:
    """Raise ValueError for answers that are too long to be live and, harmful ones, to be shown."""
    if not 1 <= max_new_tokens <= most:
        raise ValueError(f"max_new_tokens={max_new_tokens}: answers here have 1 to {most} tokens")


SLIDER = {
    "continuous_update": False,
    "style": LABEL_WIDTH,
    "layout": {"width": "min(460px, 95%)"},
}
"""How sliders look; their value moves when they are let go."""


def slider(name: str, value: Any, low: float, high: float, *, step: float = 1) -> Any:
    """A slider: of whole numbers, of two of them (`value` is a pair), or of fractions."""
    kind = FloatSlider if isinstance(step, float) else IntSlider
    if isinstance(value, tuple):
        kind = IntRangeSlider
    return kind(description=name, value=value, min=low, max=high, step=step, **SLIDER)


def row(*widgets: Widget) -> HBox:
    """Widgets side by side, as far as there is room."""
    return HBox(widgets, layout={"flex_flow": "row wrap", "width": "100%"})


def hidden_text(name: str) -> Textarea:
    """Where a script in the page, which finds it by this class, leaves what it has to say."""
    text = Textarea(continuous_update=False, layout={"display": "none"})
    text.add_class(name)
    return text


def ablation_controls(
    harmless: Float[Tensor, "prompt layer d_model"], k: int
) -> tuple[SafeSpace, Any, Any]:
    """The safe space that the harmless states span, and sliders for what ablation takes of it.

    They are the share that is removed (all, at first), and the size of the space (`k`).
    """
    most = min(MOST_K, len(harmless) - 1)
    share = slider("lambda", 1, 0, 1.5, step=0.1)
    share.readout_format = ".1f"
    size = slider("k", min(k, most), 0, most)
    return principal_space(harmless, most), share, size


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
    return piece("picture", data=base64.b64encode(file.getvalue()).decode(), width=width)


def request_state(request: Request) -> dict[str, str]:
    """What views show of a shipped request."""
    shown = {"words": request.request, "label": request.label, "topic": request.topic}
    clip = "" if request.clip is None else request.clip.name
    return shown | {"voice": request.voice or "", "clip": clip}


def words_of(prompt: Request | Prompt) -> str:
    """What a request says, as far as it is known in words."""
    return prompt.request if isinstance(prompt, Request) else prompt.text


def token_spans(answer: Answer, turn: int | None = None) -> str:
    """An answer's first words (`web.shown_tokens`), lines under tokens thicker where it was surer.

    The token at `turn` is boxed.
    """
    tokens = list(zip(answer.tokens, answer.probabilities, strict=True))
    shown = web.shown_tokens(answer)
    ends = turn == len(tokens)
    cut = shown < len(tokens)
    return piece("token_spans", tokens=tokens[:shown], cut=cut, turn=turn, ends=ends)
