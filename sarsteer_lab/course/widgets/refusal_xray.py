"""The refusal X-ray: where in a request, and in which layer, refusal rises; typed, spoken and
steered."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from html import escape

import ipywidgets
import numpy as np
import torch
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

MOST_COLUMNS, MOST_TOKENS = 26, 16
"""Columns of a prompt's text and of its clip, evenly picked where there are more; tokens of an
answer."""

MEASURES = {
    "projection": "projection on v, from the layer's\nmedian, in lengths of v",
    "refusing opening": "P(next token opens a refusal),\nthrough the lens (white: it is over)",
}

CLICK = """(() => { const box = this.getBoundingClientRect();
const area = this.closest('.sarsteer-xray').querySelector('.sarsteer-click textarea');
area.value = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].join();
for (const name of ['input', 'change']) area.dispatchEvent(new Event(name, {bubbles: true})); })()"""


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
        if not 1 <= max_new_tokens <= MOST_TOKENS:
            raise ValueError(
                f"max_new_tokens={max_new_tokens}: an X-ray's answers have 1 to {MOST_TOKENS}"
            )
        super().__init__()
        remember_clips(lalm)
        self.lalm, self.vectors, self.max_new_tokens = lalm, vectors, max_new_tokens
        self.layers, self.forms = lalm.steered_layers(vectors), forms(lalm, prompt)
        self.title = panels.words_of(prompt)
        tokenize = partial(lalm.tokenizer, add_special_tokens=False)
        self._openings = {tuple(tokenize(text)["input_ids"]) for text in refusing_openings()}
        self.measure = ipywidgets.ToggleButtons(options=[*MEASURES])
        reach = {"min": 0, "max": max(1, alpha), "step": 0.01}
        self.alpha = panels.slider(ipywidgets.FloatSlider, "alpha", value=alpha, **reach)
        self.readings: dict[str, Reading] = {}
        self.projection: dict[str, Float[Tensor, "position layer"]] = {}
        self.opening: dict[str, Float[Tensor, "column layer"]] = {}
        for form in tqdm([*self.forms, "steered"], desc="X-ray", delay=2, leave=False):
            self._expose(form)
        last = len(self.layers) - 1
        self.layer = panels.slider(ipywidgets.IntSlider, "layer", value=last, min=0, max=last)
        # Where the answer is decided: the prompt's last position, in the last form without
        # steering.
        cells, at = self.cells(), {"min": 0, "max": len(self.cells()) - 1}
        decided = (
            [form for form, _ in cells].index("steered") - 1 - self._answered([*self.forms][-1])
        )
        self.column = panels.slider(ipywidgets.IntSlider, "column", value=decided, **at)
        # The picture's script leaves here where it was clicked, as two shares of its size.
        self.click = ipywidgets.Textarea(continuous_update=False, layout={"display": "none"})
        self.click.add_class("sarsteer-click")
        self.view, self.words = ipywidgets.HTML(), ipywidgets.HTML()
        controls = (self.measure, self.alpha, self.layer, self.column)
        self.children = [
            panels.row(*controls),
            self.words,
            self.view,
            self.click,
            self.runner.message,
        ]
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
        return [
            (form, at)
            for form, reading in self.readings.items()
            for at in range(len(reading.columns))
        ]

    def top_tokens(
        self, form: str, position: int, layer: int, count: int = 8
    ) -> list[tuple[str, float]]:
        """The likeliest next tokens of a position, read from a layer (its index in `layers`)."""
        chances = (
            logit_lens(self.lalm, self.readings[form].states[position, layer])
            .softmax(-1)
            .topk(count)
        )
        words = [self.lalm.tokenizer.decode([token]) for token in chances.indices.tolist()]
        return list(zip(words, chances.values.tolist(), strict=True))

    @torch.no_grad()
    def _expose(self, form: str) -> None:
        """Read a form, or the last of the forms steered, and measure it."""
        steered = form == "steered"
        base = [*self.forms][-1] if steered else form
        prompt = self.forms[base]
        batch = self.lalm.batch(self.lalm.encode([prompt]), [0])
        with ExitStack() as held:
            if steered:
                held.enter_context(steer(self.lalm, self.vectors, self.alpha.value))
            # By layer: the prompt's last position, then the answer's tokens.
            recorded = held.enter_context(record_states(self.lalm, self.layers))
            tokens = self.lalm.decode(batch, max_new_tokens=self.max_new_tokens + 1)
        if steered:
            before = self.readings[base].states[: self.readings[base].start - 1]
        else:
            before = capture_positions(self.lalm, [prompt], layers=self.layers)[0][:-1]
        start = len(before) + 1
        states = torch.cat([before, torch.stack([torch.cat(passes) for passes in recorded], dim=1)])
        ids = (
            self.lalm.inputs([prompt])["input_ids"][0].tolist()
            + tokens[0].tolist()[: len(states) - start]
        )
        columns = [*range(start - 1, len(ids))] if steered else self._columns(ids, start)
        names = self._names(ids, columns, prompt)
        reading = self.readings[form] = Reading(ids, states, start, columns, names)
        vectors = torch.stack([self.vectors[layer] for layer in self.layers]).to(states.device)
        self.projection[form] = (states * vectors / vectors.norm(dim=-1, keepdim=True)).sum(-1)
        # Some layers at a time: the head's weights are read for all of them at once, and logits are
        # large.
        parts = states[columns].split(max(1, 256 // len(columns)), dim=1)
        self.opening[form] = torch.cat([self._opening(part, reading) for part in parts], dim=1)

    def _columns(self, ids: Sequence[int], start: int) -> list[int]:
        """Positions to be shown: what comes before the request is alike in all forms, and left
        out."""
        begun = [
            self.lalm.inputs([prompt])["input_ids"][0].tolist() for prompt in self.forms.values()
        ]
        alike = [len(set(tokens)) == 1 for tokens in zip(*begun, strict=False)]
        first = alike.index(False) if len(begun) > 1 and False in alike else 0
        prompt = range(first, start - 1)
        heard = [at for at in prompt if ids[at] == self.lalm.audio_token_id]
        words = [at for at in prompt if ids[at] != self.lalm.audio_token_id]
        return sorted([*_some(heard), *_some(words), start - 1]) + [*range(start, len(ids))]

    def _opening(
        self, states: Float[Tensor, "column layer d"], of: Reading
    ) -> Float[Tensor, "column layer"]:
        chances = logit_lens(self.lalm, states).softmax(-1)
        found = torch.full(states.shape[:2], torch.nan)
        for row, position in enumerate(of.columns):
            size = len(begun := tuple(of.ids[of.start : position + 1]))
            following = {
                ids[size] for ids in self._openings if ids[:size] == begun and len(ids) > size
            }
            if following:
                found[row] = chances[row][:, list(following)].sum(-1)
        return found

    def _resteer(self) -> None:
        self._expose("steered")
        self._show()

    def _clicked(self) -> None:
        across, down = map(float, self.click.value.split(","))
        point = self._figure.transFigure.transform((across, 1 - down))
        for form, ax in self._maps.items():
            x, y = (round(float(value)) for value in ax.transData.inverted().transform(point))
            if 0 <= x < len(self.readings[form].columns) and 0 <= y < len(self.layers):
                self.layer.value, self.column.value = y, self.cells().index((form, x))

    def _film(self, form: str) -> Film:
        reading = self.readings[form]
        if self.measure.value == "projection":
            plain = [self.projection[f][self.readings[f].columns] for f in self.forms]
            values = self.projection[form][reading.columns] - torch.cat(plain).median(0).values
            values = values / self.vectors.only(self.layers).norm().to(values.device)
        else:
            values = self.opening[form]
        heard = [
            i for i, at in enumerate(reading.columns) if reading.ids[at] == self.lalm.audio_token_id
        ]
        names = [
            "" if i in heard and (i - heard[0]) % 5 else name
            for i, name in enumerate(reading.names)
        ]
        answer = len(names) - self._answered(form)
        clip = self.lalm.waveform(self.forms[form]) if heard else None
        ends = (heard[0], heard[-1]) if heard else (0, 0)
        return Film(values.T.cpu().numpy(), names, answer, clip, ends)

    def _answered(self, form: str) -> int:
        return len(self.readings[form].ids) - self.readings[form].start

    def _names(self, ids: Sequence[int], columns: Sequence[int], prompt: Prompt) -> list[str]:
        """What stands at positions: a token, or how far into the clip it is."""
        heard = [at for at, token in enumerate(ids) if token == self.lalm.audio_token_id]
        clip, names = self.lalm.waveform(prompt), []
        for at in columns:
            if clip is not None and ids[at] == self.lalm.audio_token_id:
                names.append(f"{heard.index(at) / len(heard) * len(clip) / SAMPLE_RATE:.1f} s")
            else:
                token = self.lalm.tokenizer.decode([ids[at]])
                names.append(
                    token.strip(" <|>").replace("\n", "\u21b5").replace("$", r"\$") or repr(token)
                )
        return names

    def _show(self) -> None:
        films = {form: self._film(form) for form in self.readings}
        cells = self.cells()
        self.column.max = len(cells) - 1
        form, at = cells[self.column.value]
        layer = self.layer.value
        shades = np.abs(np.concatenate([film.values.ravel() for film in films.values()]))
        top = float(np.nanquantile(shades, 0.96)) if self.measure.value == "projection" else None
        self._figure, self._maps = xray_figure(
            films,
            self.layers,
            title=f"\u201c{self.title}\u201d, steered with alpha = {self.alpha.value:g}",
            label=MEASURES[self.measure.value],
            top=top,
            chosen=(form, layer, at),
        )
        picture = panels.picture(self._figure, 1250)
        self.view.value = picture.replace("<img ", f'<img onclick="{escape(CLICK)}" ', 1)
        position = self.readings[form].columns[at]
        tops = self.top_tokens(form, position, layer)
        listed = ", ".join(
            f"<code>{escape(repr(token))}</code> {chance:.2f}" for token, chance in tops
        )
        self.words.value = (
            f"{panels.PARAGRAPH}Click a cell. <b>{form}</b>, layer {self.layers[layer]}, at "
            f"<code>{escape(self.readings[form].names[at])}</code>: projection "
            f"{float(self.projection[form][position, layer]):.2f}, opens a refusal "
            f"{float(self.opening[form][at, layer]):.3f}. Through the lens the next token is {listed}.</p>"
        )


def _some(positions: list[int]) -> list[int]:
    """At most `MOST_COLUMNS` of some positions, evenly picked, the first and the last among
    them."""
    places = np.linspace(0, len(positions) - 1, min(MOST_COLUMNS, len(positions)))
    return [positions[round(place)] for place in places]
