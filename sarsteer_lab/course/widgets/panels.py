"""What all panels share: a static state, work that can be stopped, a request picker, their HTML.

Only ipywidgets' own controls and anywidget's views (`web`) are used, so that panels work in
JupyterLab, Notebook 7, VS Code and Colab alike.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import soundfile
from ipywidgets import (
    HTML,
    Audio,
    Dropdown,
    FileUpload,
    FloatSlider,
    HBox,
    IntRangeSlider,
    IntSlider,
    Text,
    Textarea,
    VBox,
    Widget,
)
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures.base import LOOK
from sarsteer_lab.course.hearing import differs
from sarsteer_lab.course.widgets import web
from sarsteer_lab.course.widgets.runner import Runner
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, Prompt, Request
from sarsteer_lab.safe_space import SafeSpace, principal_space
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform, read_clip
from sarsteer_lab.voice import synthesise

MARKS = {
    "refused": "\u2298",
    "answered": "\u2192",
    "broken": "\u2248",
    "not heard": "?",
    "unparsed": "?",
}
"""Signs of the outcomes in lists of responses."""

LONGEST = 30.0
"""Seconds of a recording for a model that hears clips of any length."""

LABEL_WIDTH = {"description_width": "110px"}

_PIECES = Environment(
    loader=PackageLoader("sarsteer_lab", "course/widgets"),
    autoescape=True,
    undefined=StrictUndefined,
)
_PIECES.filters["repr"] = repr
_RECORD = Path(__file__).with_name("record.js").read_text(encoding="utf-8")


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

    def static(self) -> str:
        """The panel's present state as HTML without controls."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/html": piece("still", picture=self.static())}


class RequestPicker(VBox):
    """Where a request comes from: a shipped clip, a typed sentence spoken at once, or a file.

    `spoken` is the request as the model hears it, `typed` the same in words (None for an uploaded
    clip, whose words are not known). `changed` is called after either has changed.
    """

    def __init__(self, lalm: LALM, prompts: Sequence[Request], runner: Runner) -> None:
        self.lalm = lalm
        self.changed: Callable[[], None] = lambda: None
        self.title = ""
        self.typed: Prompt | None = None
        self.spoken = Prompt("", np.zeros(1))
        self._limit = lalm.max_audio_seconds
        look = {"style": LABEL_WIDTH, "layout": {"width": "min(640px, 95%)"}}
        options = [(f"{prompt.label}: {prompt.request}", prompt) for prompt in prompts]
        self.example = Dropdown(options=options, description="a shipped clip", **look)
        self.sentence = Text(
            description="or type one",
            placeholder="a sentence, then Enter: it is spoken at once",
            continuous_update=False,
            **look,
        )
        self.upload = FileUpload(
            accept="audio/*", description="or upload a clip", layout={"width": "200px"}
        )
        # The recorder's script leaves its sound here, as base64 of 16-bit samples at 16 kHz.
        self.recording = hidden_text("sarsteer-recording")
        seconds = f"{self._limit or LONGEST:g}"
        script = _RECORD.replace("RATE", str(SAMPLE_RATE)).replace("SECONDS", seconds)
        recorder = HTML(piece("recorder", script=script))
        self.player = player()
        self.now = HTML()
        others = row(self.upload, recorder, self.recording, self.player, self.now)
        super().__init__([self.example, self.sentence, others])
        self.add_class("sarsteer-request")
        runner.listen("request", self._from_example, self.example)
        runner.listen("request", self._from_sentence, self.sentence)
        runner.listen("request", self._from_upload, self.upload)
        runner.listen("request", self._from_recording, self.recording)
        self._from_example()

    def _from_example(self) -> None:
        prompt: Request = self.example.value
        waveform = self.lalm.waveform(prompt.spoken())
        assert waveform is not None
        self._take(prompt.request, waveform)

    def _from_sentence(self) -> None:
        text = self.sentence.value.strip()
        if text:
            self._take(text, self._checked(synthesise(text), "the sentence"))

    def _from_upload(self) -> None:
        if self.upload.value:
            upload = self.upload.value[0]
            file = io.BytesIO(bytes(upload["content"]))
            file.name = upload["name"]  # for what is said of a clip that cannot be used
            self._take("", read_clip(file, max_seconds=self._limit), file.name)

    def _from_recording(self) -> None:
        samples = np.frombuffer(base64.b64decode(self.recording.value), dtype="<i2")
        self._take("", self._checked(samples, "your recording"), "your recording")

    def _checked(self, samples: np.ndarray, name: str) -> Float[np.ndarray, "samples"]:
        return check_waveform(samples, SAMPLE_RATE, name=name, max_seconds=self._limit)

    def _take(self, request: str, waveform: Float[np.ndarray, "samples"], name: str = "") -> None:
        self.title = request or name
        self.typed = Prompt(request) if request else None
        self.spoken = Prompt(INSTRUCTION, waveform)
        self.player.value = wav_bytes(waveform)
        self.changed()
        self.now.value = f"<b>{escape(self.title)}</b>"  # last: now the answers are this request's


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


def player() -> Audio:
    """A player without a clip yet."""
    return Audio(value=b"", format="wav", autoplay=False, controls=True, loop=False)


def ablation_controls(
    harmless: Float[Tensor, "prompt layer d_model"], k: int
) -> tuple[SafeSpace, Any, Any]:
    """The safe space that the harmless states span, and sliders for what ablation takes of it.

    They are the share that is removed (all, at first), and the size of the space (`k`).
    """
    most = min(40, len(harmless) - 1)
    share = slider("lambda", 1, 0, 1.5, step=0.1)
    share.readout_format = ".1f"
    size = slider("k", min(k, most), 0, most)
    return principal_space(harmless, most), share, size


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of some values, evenly, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(most, len(values)))
    return [values[round(place)] for place in places]


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


def heard_line(request: str, heard: str) -> str:
    """What the model heard by its own read-out, and a mark where known words differ from it."""
    return piece("heard", words=opening_words(heard), differs=differs(request, heard))


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


def answer_card(title: str, answer: Answer, refusal_probability: float, outcome: str) -> str:
    """An answer: a bar for the refusal probability, and the text, underlined where it was sure."""
    judged = {"outcome": outcome, "refusal_probability": refusal_probability}
    said = {"spans": token_spans(answer), "first": answer.first}
    return piece("answer_card", title=title, **judged, **said)
