"""The refusal X-ray: where in a request, and in which layer, refusal rises."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from ipywidgets import HTML, ToggleButtons
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import capture_positions, record_states
from sarsteer_lab.course.figures.xray import Film, xray_figure
from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.openings import refusing_openings
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.steering import SteeringVectors, steer

MOST_COLUMNS = 26
"""Columns of a prompt's text and of its clip, evenly picked where there are more."""

MOST_TOKENS = 16
"""Tokens of an answer."""

MEASURES = {
    "projection": "projection on v, from the layer's\nmedian, in lengths of v",
    "refusing opening": "P(next token opens a refusal),\nthrough the lens (white: it is over)",
}

CLICK = """(() => { const box = this.getBoundingClientRect();
const area = this.closest('.sarsteer-xray').querySelector('.sarsteer-click textarea');
const across = (event.clientX - box.left) / box.width;
const down = (event.clientY - box.top) / box.height;
area.value = [across, down].join();
for (const name of ['input', 'change']) area.dispatchEvent(new Event(name, {bubbles: true}));
})()"""
"""Tells the kernel where the picture was clicked, as shares of its size."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A prompt's and its greedy answer's positions: their tokens, and the stream after some layers.

    `start` positions are the prompt's; shown are `columns`, each under its name.
    """

    ids: list[int]
    states: Float[Tensor, "position layer d_model"]
    start: int
    columns: list[int]
    names: list[str]

    @property
    def answered(self) -> int:
        """How many positions are the answer's."""
        return len(self.ids) - self.start


class XRay(panels.Panel):
    """Chapters 02 and 04: layer by position, how far a request has gone towards refusal.

    Two measures: the projection of the residual stream on the vector of each layer (`projection`,
    raw; drawn less the layer's median over the unsteered positions shown, in lengths of the
    vector), and the probability that the next token begins a refusing opening, or goes on with the
    one that the answer has begun, when the layer is read through the logit lens (`opening`; nan
    once the answer has left all openings). The typed twin of a `Request` stands beside it. Steering
    changes nothing before the prompt's last position, so of "steered" only what comes from there on
    is shown.

    `measure`, `alpha`, `layer` and `column` are the controls; clicking a cell sets the last two. Of
    a long text or clip every so manyth position is shown. Raises ValueError for vectors that do not
    fit the model and more than 16 new tokens.
    """

    def __init__(
        self,
        lalm: LALM,
        prompt: Request | Prompt,
        vectors: SteeringVectors,
        alpha: float = 0.1,
        *,
        max_new_tokens: int = 6,
    ) -> None:
        panels.check_length(max_new_tokens, MOST_TOKENS)
        super().__init__()
        remember_clips(lalm)
        self.lalm = lalm
        self.vectors = vectors
        self.max_new_tokens = max_new_tokens
        self.layers = lalm.steered_layers(vectors)
        self.forms = forms(lalm, prompt)
        self.title = panels.words_of(prompt)
        texts = list(refusing_openings())
        self._openings = set(
            map(tuple, lalm.tokenizer(texts, add_special_tokens=False)["input_ids"])
        )
        self.measure = ToggleButtons(options=list(MEASURES))
        self.alpha = panels.slider("alpha", alpha, 0, max(1, alpha), step=0.01)
        self.readings: dict[str, Reading] = {}
        self.projection: dict[str, Float[Tensor, "position layer"]] = {}
        self.opening: dict[str, Float[Tensor, "column layer"]] = {}
        for form in tqdm([*self.forms, "steered"], desc="X-ray", delay=2, leave=False):
            self._expose(form)
        last = len(self.layers) - 1
        self.layer = panels.slider("layer", last, 0, last)
        # Where the answer is decided: the last unsteered form's prompt ends before its answer.
        *_, last_form = self.forms
        cells = self.cells()
        decided = cells.index(("steered", 0)) - 1 - self.readings[last_form].answered
        self.column = panels.slider("column", decided, 0, len(cells) - 1)
        # The picture's script leaves here where it was clicked, as two shares of its size.
        self.click = panels.hidden_text("sarsteer-click")
        self.view, self.words = HTML(), HTML()
        controls = panels.row(self.measure, self.alpha, self.layer, self.column)
        self.children = [controls, self.words, self.view, self.click, self.runner.message]
        self.add_class("sarsteer-xray")
        self.runner.listen("view", self._show, self.measure, self.layer, self.column)
        self.runner.listen("steered", self._resteer, self.alpha)
        self.runner.listen("click", self._clicked, self.click)
        self._show()

    def static(self) -> str:
        """The picture, and what the chosen cell says."""
        return self.words.value + panels.picture(self._figure, 1250)

    def cells(self) -> list[tuple[str, int]]:
        """Form and place among its columns of every column, from left to right."""
        columns = []
        for form, reading in self.readings.items():
            columns += [(form, column) for column in range(len(reading.columns))]
        return columns

    def top_tokens(
        self, form: str, position: int, layer: int, count: int = 8
    ) -> list[tuple[str, float]]:
        """The likeliest next tokens of a position, read from a layer (its index in `layers`)."""
        state = self.readings[form].states[position, layer]
        top = logit_lens(self.lalm, state).softmax(-1).topk(count)
        tokens = map(self._token, top.indices)
        return list(zip(tokens, top.values.tolist(), strict=True))

    def _token(self, token: int | Tensor) -> str:
        return self.lalm.tokenizer.decode([int(token)])

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.lalm.inputs([prompt])["input_ids"][0].tolist()

    @torch.no_grad()
    def _expose(self, form: str) -> None:
        """Read a form, or the last of the forms steered, and measure it."""
        *_, last_form = self.forms
        steered = form == "steered"
        prompt = self.forms[last_form if steered else form]
        batch = self.lalm.batch(self.lalm.encode([prompt]), [0])
        push = steer(self.lalm, self.vectors, self.alpha.value) if steered else nullcontext()
        with push, record_states(self.lalm, self.layers) as recorded:
            [answer] = self.lalm.decode(batch, max_new_tokens=self.max_new_tokens + 1)
        if steered:
            plain = self.readings[last_form]
            before = plain.states[: plain.start - 1]
        else:
            before = capture_positions(self.lalm, [prompt], layers=self.layers)[0][:-1]
        # By layer: the prompt's last position, then the answer's tokens.
        after = torch.stack([torch.cat(passes) for passes in recorded], dim=1)
        states = torch.cat([before, after])
        start = len(before) + 1
        ids = (self._ids(prompt) + answer.tolist())[: len(states)]
        columns = list(range(start - 1, len(ids)))
        if not steered:
            columns = self._before(ids, start) + columns
        names = self._names(ids, columns, self.lalm.waveform(prompt))
        self.readings[form] = Reading(ids, states, start, columns, names)
        self._measure(form)

    def _measure(self, form: str) -> None:
        """Project a form's states on the vectors, and read them through the lens."""
        reading = self.readings[form]
        states = reading.states
        vectors = torch.stack([self.vectors[layer] for layer in self.layers])
        units = torch.nn.functional.normalize(vectors, dim=-1)
        self.projection[form] = (states * units.to(states.device)).sum(-1)
        # Some layers at a time: the head's weights are read for all of them at once, and logits are
        # large.
        at_once = max(1, 256 // len(reading.columns))
        parts = []
        for some_layers in states[reading.columns].split(at_once, dim=1):
            parts.append(self._opening(some_layers, reading))
        self.opening[form] = torch.cat(parts, dim=1)

    def _before(self, ids: Sequence[int], start: int) -> list[int]:
        """Positions of the request to be shown, but for the prompt's last.

        What comes before the request is alike in all forms, and left out.
        """
        prompts = map(self._ids, self.forms.values())
        first = 0
        for position, tokens in enumerate(zip(*prompts, strict=False)):
            if len(set(tokens)) > 1:
                first = position
                break
        heard: list[int] = []
        words: list[int] = []
        for position in range(first, start - 1):
            kind = heard if ids[position] == self.lalm.audio_token_id else words
            kind.append(position)
        return sorted(_evenly(heard) + _evenly(words))

    def _opening(
        self, states: Float[Tensor, "column layer d"], reading: Reading
    ) -> Float[Tensor, "column layer"]:
        """The probability of the tokens that go on with a refusing opening; nan if none does."""
        probabilities = logit_lens(self.lalm, states).softmax(-1)
        opening = torch.full(states.shape[:2], torch.nan)
        for column, position in enumerate(reading.columns):
            begun = tuple(reading.ids[reading.start : position + 1])
            following = list(self._following(begun))
            if following:
                opening[column] = probabilities[column][:, following].sum(-1)
        return opening

    def _following(self, begun: tuple[int, ...]) -> set[int]:
        """The tokens that go on with a refusing opening that has begun so."""
        n = len(begun)
        longer = [ids for ids in self._openings if len(ids) > n]
        return {ids[n] for ids in longer if ids[:n] == begun}

    def _resteer(self) -> None:
        self._expose("steered")
        self._show()

    def _clicked(self) -> None:
        across, down = map(float, self.click.value.split(","))
        point = self._figure.transFigure.transform((across, 1 - down))
        for form, ax in self._maps.items():
            x, y = ax.transData.inverted().transform(point)
            cell, layer = (form, round(x)), round(y)
            if cell in self.cells() and 0 <= layer < len(self.layers):
                self.layer.value = layer
                self.column.value = self.cells().index(cell)

    def _film(self, form: str) -> Film:
        reading = self.readings[form]
        values = self.opening[form]
        if self.measure.value == "projection":
            plain = []
            for name in self.forms:
                plain.append(self.projection[name][self.readings[name].columns])
            median = torch.cat(plain).median(0).values
            lengths = self.vectors.only(self.layers).norm().to(median.device)
            values = (self.projection[form][reading.columns] - median) / lengths
        heard = []
        for column, position in enumerate(reading.columns):
            if reading.ids[position] == self.lalm.audio_token_id:
                heard.append(column)
        names = list(reading.names)
        for column in heard:
            if (column - heard[0]) % 5:
                names[column] = ""
        answer = len(names) - reading.answered
        film = Film(values.T.cpu().numpy(), names, answer)
        if heard:
            ends = (heard[0], heard[-1])
            film = replace(film, clip=self.lalm.waveform(self.forms[form]), heard=ends)
        return film

    def _names(
        self, ids: Sequence[int], columns: Sequence[int], clip: np.ndarray | None
    ) -> list[str]:
        """What stands at positions: a token, or how far into the clip it is."""
        heard = [at for at, token in enumerate(ids) if token == self.lalm.audio_token_id]
        names = []
        for position in columns:
            if clip is not None and ids[position] == self.lalm.audio_token_id:
                share = heard.index(position) / len(heard)
                seconds = share * len(clip) / SAMPLE_RATE
                names.append(f"{seconds:.1f} s")
            else:
                token = self._token(ids[position])
                word = token.strip(" <|>").replace("\n", "\u21b5")
                names.append(word or repr(token))
        return names

    def _show(self) -> None:
        films = {form: self._film(form) for form in self.readings}
        cells = self.cells()
        self.column.max = len(cells) - 1
        form, column = cells[self.column.value]
        layer = self.layer.value
        top = None
        if self.measure.value == "projection":
            shades = np.concatenate([film.values.ravel() for film in films.values()])
            top = float(np.nanquantile(np.abs(shades), 0.96))
        title = f"\u201c{self.title}\u201d, steered with alpha = {self.alpha.value:g}"
        label, chosen = MEASURES[self.measure.value], (form, layer, column)
        options = {"title": title, "label": label, "top": top, "chosen": chosen}
        self._figure, self._maps = xray_figure(films, self.layers, **options)
        picture = panels.picture(self._figure, 1250)
        self.view.value = panels.piece("clickable", picture=picture, script=CLICK)
        self.words.value = self._cell(form, column, layer)

    def _cell(self, form: str, column: int, layer: int) -> str:
        """What a cell says, in words."""
        reading = self.readings[form]
        position, name = reading.columns[column], reading.names[column]
        projection = float(self.projection[form][position, layer])
        opening = float(self.opening[form][column, layer])
        measured = {"projection": projection, "opening": opening}
        where = {"form": form, "layer": self.layers[layer], "name": name}
        tokens = self.top_tokens(form, position, layer)
        return panels.piece("xray_cell", **where, **measured, tokens=tokens)


def _evenly(positions: list[int]) -> list[int]:
    """At most `MOST_COLUMNS` of some positions, the first and the last among them."""
    places = np.linspace(0, len(positions) - 1, min(MOST_COLUMNS, len(positions)))
    return [positions[round(place)] for place in places]
