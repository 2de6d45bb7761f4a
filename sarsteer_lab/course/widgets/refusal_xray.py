"""The refusal X-ray: where in a request, and in which layer, refusal rises."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os.path import commonprefix

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
from sarsteer_lab.engine.openings import going_on, refusing_openings, token_sequences
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.steering import SteeringVectors, steer, steered_layers

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

    `start` positions are the prompt's, `heard` those of its clip; shown are `columns`, each under
    its name.
    """

    ids: list[int]
    states: Float[Tensor, "position layer d_model"]
    start: int
    heard: list[int]
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
        self.layers = steered_layers(lalm, vectors)
        self.forms = forms(lalm, prompt)
        self.title = panels.words_of(prompt)
        self._openings = token_sequences(lalm, refusing_openings())
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
        prompt_ids = batch.inputs["input_ids"][0].tolist()
        start = len(prompt_ids)
        if steered:
            before = self.readings[last_form].states[: start - 1]
        else:
            before = capture_positions(self.lalm, [prompt], layers=self.layers)[0][:-1]
        # By layer: the prompt's last position, then the answer's tokens.
        after = torch.stack([torch.cat(passes) for passes in recorded], dim=1)
        states = torch.cat([before, after])
        ids = (prompt_ids + answer.tolist())[: len(states)]
        heard = [at for at, token in enumerate(ids) if token == self.lalm.audio_token_id]
        columns = list(range(start - 1, len(ids)))
        if not steered:
            columns = self._before(start, heard) + columns
        names = self._names(ids, heard, columns, self.lalm.waveform(prompt))
        self.readings[form] = Reading(ids, states, start, heard, columns, names)
        self._measure(form)

    def _measure(self, form: str) -> None:
        """Project a form's states on the vectors, and read them through the lens.

        The lens gives the probability of the tokens that go on with a refusing opening; nan if none
        does.
        """
        reading = self.readings[form]
        states = reading.states
        vectors = torch.stack([self.vectors[layer] for layer in self.layers])
        units = torch.nn.functional.normalize(vectors, dim=-1)
        self.projection[form] = (states * units.to(states.device)).sum(-1)
        shape = len(reading.columns), self.lalm.text_config.vocab_size
        goes_on = torch.zeros(shape, dtype=torch.bool, device=self.lalm.device)  # column vocab
        for tokens, position in zip(goes_on, reading.columns, strict=True):
            begun = tuple(reading.ids[reading.start : position + 1])
            tokens[list(going_on(self._openings, begun))] = True
        opening = torch.zeros(len(reading.columns), len(self.layers))
        for layer in range(len(self.layers)):  # one at a time: logits are large
            chances = logit_lens(self.lalm, states[reading.columns, layer]).softmax(-1)
            opening[:, layer] = (chances * goes_on).sum(-1)
        opening[~goes_on.any(-1).cpu()] = torch.nan
        self.opening[form] = opening

    def _before(self, start: int, heard: Sequence[int]) -> list[int]:
        """Positions of the request to be shown, but for the prompt's last.

        What comes before the request is alike in all forms, and left out.
        """
        prompts = list(map(self._ids, self.forms.values()))
        first = len(commonprefix(prompts)) if len(prompts) > 1 else 0
        positions = range(first, start - 1)
        words = [position for position in positions if position not in heard]
        clip = [position for position in heard if position in positions]
        return sorted(panels.spread(words, MOST_COLUMNS) + panels.spread(clip, MOST_COLUMNS))

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
        heard = [at for at, position in enumerate(reading.columns) if position in reading.heard]
        names = list(reading.names)
        for column in heard:
            if (column - heard[0]) % 5:
                names[column] = ""
        answer = len(names) - reading.answered
        shown = values.T.cpu().numpy()
        if not heard:
            return Film(shown, names, answer)
        clip = self.lalm.waveform(self.forms[form])
        return Film(shown, names, answer, clip, (heard[0], heard[-1]))

    def _names(
        self, ids: Sequence[int], heard: list[int], columns: list[int], clip: np.ndarray | None
    ) -> list[str]:
        """What stands at positions: a token, or how far into the clip it is."""
        names = []
        for position in columns:
            if clip is not None and position in heard:
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
