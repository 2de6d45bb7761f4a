"""The refusal X-ray: where in a request, and in which layer, refusal rises."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import capture_positions, record_states
from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.session import dialled_layers
from sarsteer_lab.course.widgets import panels
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.openings import BEFORE, going_on, refusing_openings, token_sequences
from sarsteer_lab.geometry import logit_lens
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.steering import SteeringVectors, steer, steered_layers
from sarsteer_lab.windows import seconds_per_position

MOST_COLUMNS = 26
"""Columns of a prompt's text and of its clip, evenly picked where there are more."""

MOST_TOKENS = 16
"""Tokens of an answer."""

RECORDED = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Strengths that are kept for a page without a kernel."""

LIKELIEST = 3
"""Tokens that are shown of each cell."""


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

    The view begins with the last position and the layers of the safety adapter, if there is one.
    The reader chooses a measure, the strength and a cell. Of a long text or clip every so manyth
    position is shown. Raises ValueError for vectors that do not fit the model and more than 16 new
    tokens.
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
        remember_clips(lalm)
        self.lalm = lalm
        self.vectors = vectors
        self.max_new_tokens = max_new_tokens
        self.layers = steered_layers(lalm, vectors)
        self.forms = forms(lalm, prompt)
        self._grid = seconds_per_position(lalm) if "spoken" in self.forms else 0.0
        self.alphas = sorted({*panels.ALPHAS, alpha})
        *_, last_form = self.forms.values()  # all end alike, where the answer begins
        behind = self._ids(last_form)[-BEFORE:]
        self._openings = token_sequences(lalm, refusing_openings(), behind)
        self.readings: dict[str, Reading] = {}
        self.projection: dict[str, Float[Tensor, "position layer"]] = {}
        self.opening: dict[str, Float[Tensor, "column layer"]] = {}
        self.likeliest: dict[str, list[list[list[Any]]]] = {}
        begun = [*self.forms, "steered"]
        for form in tqdm(begun, desc="X-ray", delay=2, leave=False):
            self._expose(form, alpha)
        place = self.alphas.index(alpha)
        films = {form: self._film(form) for form in self.forms}
        films[f"steered,{place}"] = self._film("steered")
        within = [layer for layer in dialled_layers(lalm) if layer in self.layers] or self.layers
        first = [self.layers.index(within[0]), self.layers.index(within[-1])]
        state: dict[str, Any]
        state = {"title": panels.words_of(prompt), "forms": begun, "layers": self.layers}
        state |= {"first": first, "alphas": self.alphas, "films": films}
        *_, form = self.forms
        decided = films[form]["answer"] - 1  # the position before the answer
        cell = {"form": form, "layer": first[1], "column": decided}
        shown = {"measure": "projection", "all": False, "alpha": place}
        super().__init__("xray", state, **cell, **shown)

    def static(self) -> str:
        """The probability of a refusing opening at the prompt's last position, by layer."""
        self.follow()  # a cell that chooses and displays at once has not been followed yet
        table = pd.DataFrame({"layer": self.layers})
        state = self.view.state
        for form in state["forms"]:
            name = f"steered,{self.chosen['alpha']}" if form == "steered" else form
            film = state["films"][name]
            last = film["answer"] - 1  # the position before the answer
            openings = [of_layer[last] for of_layer in film["refusing opening"]]
            table[f"{form}: opens a refusal"] = openings
        return table.to_html(index=False, float_format="{:.3f}".format)

    def follow(self) -> None:
        """Steer with the chosen strength, if that has not been seen."""
        place = self.chosen["alpha"]
        films = self.view.state["films"]
        if f"steered,{place}" not in films:
            self._expose("steered", self.alphas[place])
            films[f"steered,{place}"] = self._film("steered")
            self.view.send_state("state")

    def complete(self) -> None:
        """Steer with a few strengths, and offer no others."""
        begun = self.alphas[self.chosen["alpha"]]
        kept = sorted({*RECORDED, begun})
        for alpha in kept:
            self.pick(alpha=self.alphas.index(alpha))
        films = self.view.state["films"]
        few = {form: films[form] for form in self.forms}
        for place, alpha in enumerate(kept):
            few[f"steered,{place}"] = films[f"steered,{self.alphas.index(alpha)}"]
        self.alphas = kept
        self.view.state = {**self.view.state, "alphas": kept, "films": few}
        self.pick(alpha=kept.index(begun))

    def _likeliest(self, chances: Float[Tensor, "vocab"]) -> list[list[Any]]:
        """The likeliest tokens and their probabilities."""
        top = chances.topk(LIKELIEST)
        shares = top.values.double().round(decimals=3).tolist()
        tokens = map(self._token, top.indices)
        return [list(pair) for pair in zip(tokens, shares, strict=True)]

    def _token(self, token: int | Tensor) -> str:
        return self.lalm.tokenizer.decode([int(token)])

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.lalm.inputs([prompt])["input_ids"][0].tolist()

    @torch.no_grad()
    def _expose(self, form: str, alpha: float) -> None:
        """Read a form, or the last of the forms steered, and measure it."""
        *_, last_form = self.forms
        steered = form == "steered"
        prompt = self.forms[last_form if steered else form]
        batch = self.lalm.batch(self.lalm.encode([prompt]), [0])
        push = steer(self.lalm, self.vectors, alpha) if steered else nullcontext()
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
        names = self._names(ids, heard, columns)
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
        self.likeliest[form] = []  # by layer and column
        for layer in range(len(self.layers)):  # one at a time: logits are large
            chances = logit_lens(self.lalm, states[reading.columns, layer]).softmax(-1)
            opening[:, layer] = (chances * goes_on).sum(-1)
            self.likeliest[form].append([self._likeliest(each) for each in chances])
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

    def _film(self, form: str) -> dict[str, Any]:
        """What the view draws of a form, by layer and column; -1 for an opening without a value."""
        reading = self.readings[form]
        plain = []
        for name in self.forms:
            plain.append(self.projection[name][self.readings[name].columns])
        median = torch.cat(plain).median(0).values
        lengths = self.vectors.only(self.layers).norm().to(median.device)
        projected = (self.projection[form][reading.columns] - median) / lengths
        opening = self.opening[form].T.double().round(decimals=5)
        opening = opening.where(~opening.isnan(), -1)
        return {
            "names": reading.names,
            "answer": len(reading.names) - reading.answered,
            "projection": projected.T.double().round(decimals=4).tolist(),
            "refusing opening": opening.tolist(),
            "tokens": self.likeliest[form],
        }

    def _names(self, ids: Sequence[int], heard: list[int], columns: list[int]) -> list[str]:
        """What stands at positions: a token, or how far into the clip it is."""
        names = []
        for position in columns:
            if position in heard:
                seconds = heard.index(position) * self._grid
                names.append(f"{seconds:.1f} s")
            else:
                token = self._token(ids[position])
                word = token.strip(" <|>").replace("\n", "\u21b5")
                names.append(word or repr(token))
        return names
