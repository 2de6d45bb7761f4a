"""What all panels share: a static state, work that can be stopped, a request picker, answers as
HTML.

Only ipywidgets' own controls are used, so that panels work in JupyterLab, Notebook 7, VS Code and
Colab alike.
"""

import asyncio
import base64
import io
from collections.abc import Callable, Generator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import soundfile
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from sarsteer_lab.course.figures.base import LOOK
from sarsteer_lab.course.hearing import differs
from sarsteer_lab.engine.live import Answer
from sarsteer_lab.evaluation.phrases import SHOWN_WORDS, opening_words
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

PARAGRAPH = '<p style="font-size:15px">'
"""How a text below or above a picture begins: legible on a projector."""

LABEL_WIDTH = {"description_width": "110px"}


class Panel(ipywidgets.VBox):
    """A panel: live where a kernel runs; elsewhere (HTML, GitHub) a still of it, made when it was
    displayed.

    Subclasses fill `children` and give the still as HTML in `static`; `runner` runs what controls
    ask for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = Runner()

    def static(self) -> str:
        """The panel's present state as HTML without controls."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        hint = "<p><small>A still. Run the cell, and there are controls here.</small></p>"
        return bundle | {"text/html": self.static() + hint}


class Runner:
    """Runs what a panel's controls ask for, between the notebook's cells, never during one.

    JupyterLab delivers slider moves on a thread of their own, even while a cell runs; what steers
    the model must not overlap with a cell that uses it. So work is handed to the loop that runs the
    cells. Of several requests under one name only the latest counts. Long work comes as a
    generator: between two of its steps the loop is free, `bar` shows how far it is, and `stop` ends
    it. Without a loop (plain Python) everything runs at once. Errors go to `message`.
    """

    def __init__(self) -> None:
        self.message = ipywidgets.HTML()
        self.bar = ipywidgets.IntProgress(layout={"width": "220px"})
        self.stop = ipywidgets.Button(description="Stop", icon="stop", layout={"width": "90px"})
        self.stop.on_click(lambda _: self.cancel())
        self.progress = ipywidgets.HBox([self.bar, self.stop], layout={"visibility": "hidden"})
        self._waiting: dict[str, Callable[[], None]] = {}
        self._work: Generator[None, None, None] | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def soon(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` as soon as no cell runs."""
        if self._loop is None:
            self._guarded(work)
            return
        self._waiting[name] = work
        self._loop.call_soon_threadsafe(self._run_waiting, name)

    def listen(self, name: str, work: Callable[[], None], *controls: ipywidgets.Widget) -> None:
        """Run `work` whenever the value of one of the controls has changed."""
        for control in controls:
            control.observe(lambda _: self.soon(name, work), "value")

    def steps(self, work: Generator[None, None, None], total: int) -> None:
        """Run long work of `total` steps, each up to a `yield`; work that is still going on ends
        first."""
        self.cancel()
        self._work, self.bar.value, self.bar.max = work, 0, total
        self.progress.layout.visibility = "visible"
        if self._loop is None:
            while self._work is not None:
                self._guarded(self._step)
        else:
            self._loop.call_soon_threadsafe(self._advance)

    def cancel(self) -> None:
        """End the long work after its present step."""
        self._work = None
        self.progress.layout.visibility = "hidden"

    def say(self, text: str) -> None:
        """Show a line of text below the controls."""
        self.message.value = f"<small>{escape(text)}</small>"

    def _run_waiting(self, name: str) -> None:
        if (work := self._waiting.pop(name, None)) is not None:
            self._guarded(work)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; an error is shown, because a callback's traceback would be lost."""
        try:
            work()
        except Exception as error:
            self.cancel()
            self.message.value = f"<b>{type(error).__name__}</b>: {escape(str(error))}"

    def _advance(self) -> None:
        self._guarded(self._step)
        if self._work is not None and self._loop is not None:
            # A moment in which the kernel can take messages, for instance a click on Stop.
            self._loop.call_later(0.02, self._advance)

    def _step(self) -> None:
        if self._work is None:
            return
        if next(self._work, self) is self:  # it has come to its end
            self.cancel()
        else:
            self.bar.value += 1


class RequestPicker(ipywidgets.VBox):
    """Where a request comes from: a shipped clip, a typed sentence that is spoken at once, or a
    file.

    `spoken` is the request as the model hears it, `typed` the same in words (None for an uploaded
    clip, whose words are not known). `changed` is called after either has changed.
    """

    def __init__(self, lalm: LALM, prompts: Sequence[Request], runner: Runner) -> None:
        self.lalm, self.runner = lalm, runner
        self.changed: Callable[[], None] = lambda: None
        self.title = ""
        self.typed: Prompt | None = None
        self.spoken = Prompt("", np.zeros(1))
        options = [(f"{prompt.label}: {prompt.request}", i) for i, prompt in enumerate(prompts)]
        look = {"style": LABEL_WIDTH, "layout": {"width": "min(640px, 95%)"}}
        self.example = ipywidgets.Dropdown(options=options, description="a shipped clip", **look)
        self.sentence = ipywidgets.Text(
            description="or type one",
            placeholder="a sentence, then Enter: it is spoken at once",
            continuous_update=False,
            **look,
        )
        narrow = {"width": "200px"}
        self.upload = ipywidgets.FileUpload(
            accept="audio/*", description="or upload a clip", layout=narrow
        )
        self.player = player()
        # The recorder's script leaves its sound here, as base64 of 16-bit samples at 16 kHz.
        self.recording = ipywidgets.Textarea(continuous_update=False, layout={"display": "none"})
        self.recording.add_class("sarsteer-recording")
        recorder = ipywidgets.HTML(_recorder(lalm.max_audio_seconds or LONGEST))
        self.now = ipywidgets.HTML()
        rows = [self.sentence, row(self.upload, recorder, self.recording, self.player, self.now)]
        super().__init__([self.example, *rows] if options else rows)
        self.add_class("sarsteer-request")
        self._prompts = list(prompts)
        runner.listen("request", self._from_example, self.example)
        runner.listen("request", self._from_sentence, self.sentence)
        runner.listen("request", self._from_upload, self.upload)
        runner.listen("request", self._from_recording, self.recording)
        if options:
            self._from_example()
        else:
            self._take("What do farmers do in winter?", synthesise("What do farmers do in winter?"))

    def _from_example(self) -> None:
        prompt = self._prompts[self.example.value]
        waveform = self.lalm.waveform(prompt.spoken())
        assert waveform is not None
        self._take(prompt.request, waveform)

    def _from_sentence(self) -> None:
        if text := self.sentence.value.strip():
            limit = self.lalm.max_audio_seconds
            self._take(
                text,
                check_waveform(
                    synthesise(text), SAMPLE_RATE, name="the sentence", max_seconds=limit
                ),
            )

    def _from_upload(self) -> None:
        if not self.upload.value:
            return
        upload = self.upload.value[0]
        file = io.BytesIO(bytes(upload["content"]))
        file.name = upload["name"]  # for what is said of a clip that cannot be used
        self._take("", read_clip(file, max_seconds=self.lalm.max_audio_seconds), file.name)

    def _from_recording(self) -> None:
        samples = np.frombuffer(base64.b64decode(self.recording.value), dtype="<i2")
        limit = self.lalm.max_audio_seconds
        waveform = check_waveform(samples, SAMPLE_RATE, name="your recording", max_seconds=limit)
        self._take("", waveform, "your recording")

    def _take(self, request: str, waveform: Float[np.ndarray, "samples"], name: str = "") -> None:
        self.title = request or name
        self.typed = Prompt(request) if request else None
        self.spoken = Prompt(INSTRUCTION, waveform)
        self.player.value = wav_bytes(waveform)
        self.changed()
        self.now.value = f"<b>{escape(self.title)}</b>"  # last: now the answers are this request's


_RECORD = Path(__file__).with_name("record.js").read_text(encoding="utf-8")


def _recorder(seconds: float) -> str:
    """A button that records; it stays hidden where the front end runs no scripts or has no
    microphone."""
    script = _RECORD.replace("RATE", str(SAMPLE_RATE)).replace("SECONDS", f"{seconds:g}")
    able = "if (navigator.mediaDevices && window.MediaRecorder) "
    able += "this.previousElementSibling.style.display = ''"
    return (
        '<button class="jupyter-button widget-button lm-Widget sarsteer-record" title="or record one" '
        f'style="display:none;width:150px" onclick="{escape(script)}">or record one</button>'
        f'<img src="data:," style="display:none" onerror="{escape(able)}">'
    )


def slider(kind: Callable[..., ipywidgets.Widget], name: str, **options: Any) -> Any:
    """A slider whose value moves when it is let go."""
    wide = {"width": "min(460px, 95%)"}
    return kind(
        description=name, continuous_update=False, style=LABEL_WIDTH, layout=wide, **options
    )


def row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, as far as there is room."""
    return ipywidgets.HBox(widgets, layout={"flex_flow": "row wrap", "width": "100%"})


def player() -> ipywidgets.Audio:
    """A player without a clip yet."""
    return ipywidgets.Audio(value=b"", format="wav", autoplay=False, controls=True, loop=False)


def ablation_controls(
    harmless: Float[Tensor, "prompt layer d_model"], k: int
) -> tuple[SafeSpace, Any, Any]:
    """The safe space that the harmless states span, and sliders for the share of it that is removed
    (all, at first) and for its size (`k`).
    """
    most = min(40, len(harmless) - 1)
    tenths = {"min": 0, "max": 1.5, "step": 0.1, "readout_format": ".1f"}
    share = slider(ipywidgets.FloatSlider, "lambda", value=1.0, **tenths)
    return (
        principal_space(harmless, most),
        share,
        slider(ipywidgets.IntSlider, "k", value=min(k, most), min=0, max=most),
    )


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
    return f'<img alt="figure" style="max-width:100%;width:{width}px" src="data:image/png;base64,{data}">'


def heard_line(request: str, said: str) -> str:
    """What the model heard by its own read-out, as HTML, and a mark where the words are known and
    differ."""
    mark = (
        ' <b style="color:#D55E00">\u2260 heard differently</b>' if differs(request, said) else ""
    )
    return f"heard: <i>{escape(opening_words(said)) or '(nothing)'}</i>{mark}"


def words_of(prompt: Request | Prompt) -> str:
    """What a request says, as far as it is known in words."""
    return prompt.request if isinstance(prompt, Request) else prompt.text


def token_spans(answer: Answer, turn: int | None = None) -> str:
    """An answer's first `SHOWN_WORDS` words as HTML, a line under each token, thicker where it was
    surer.

    The token at `turn` is boxed.
    """
    spans, said = [], ""
    for at, (token, chance) in enumerate(zip(answer.tokens, answer.probabilities, strict=True)):
        said += token
        if len(said.split()) > SHOWN_WORDS:
            spans.append(" \u2026")
            break
        box = "outline:2px solid #D55E00;margin:0 3px;font-weight:bold;" if at == turn else ""
        line = f"border-bottom:{1 + 4 * chance:.1f}px solid #0072B2"
        spans.append(
            f'<span title="p = {chance:.3f}" style="white-space:pre-wrap;{box}{line}">'
            f"{chr(0x25BC) if box else ''}{escape(token).replace(chr(10), chr(0x21B5))}</span>"
        )
    if turn == len(answer.tokens):
        spans.append('<span style="outline:2px solid #D55E00;font-weight:bold">\u25bc(ends)</span>')
    return "".join(spans) or "<i>(nothing)</i>"


def answer_card(title: str, answer: Answer, refusal: float, outcome: str) -> str:
    """An answer as HTML: a bar for the refusal probability, and the text, underlined where it was
    sure.

    `refusal` is the probability (0 to 1) that the answer opens as a refusal.
    """
    likely = ", ".join(
        f"<code>{escape(repr(token))}</code> {chance:.2f}" for token, chance in answer.first
    )
    return (
        '<div class="sarsteer-answer" style="border:1px solid #8c8c8c;border-radius:6px;padding:8px 12px;'
        'margin:4px;line-height:1.5">'
        f"<b>{escape(title)}</b> <small>({escape(outcome)})</small>"
        f'<div style="background:#ddd;height:10px;margin:4px 0"><div style="background:#0072B2;height:10px;'
        f'width:{100 * refusal:.1f}%"></div></div>'
        f"<small>opens as a refusal with probability {refusal:.2f}</small>"
        f'<p style="font-size:115%;margin:6px 0">{token_spans(answer)}</p>'
        f"<small>likeliest first tokens: {likely}</small></div>"
    )
