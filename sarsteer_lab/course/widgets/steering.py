"""The panels in which one speaks to the model: the safety dial turned live, and steering live."""

import base64
import io
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.hearing import differs, read_out
from sarsteer_lab.course.widgets import panels, web
from sarsteer_lab.engine.live import Answer, LivePrompt, answers
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, Prompt, Request
from sarsteer_lab.safe_space import ablate, principal_space
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform, read_clip
from sarsteer_lab.steering import SteeringVectors
from sarsteer_lab.voice import synthesise

MOST_TOKENS = 16
ALPHAS = tuple(place / 100 for place in range(101))
SWEPT_ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
DIAL_SETTINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHARES = tuple(place / 10 for place in range(16))

Shown = tuple[Answer, float]
"""An answer and the probability that it opens as a refusal."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request as the model hears it, and typed (None for a clip whose words are not known)."""

    spoken: Prompt
    typed: Prompt | None


class Answers(panels.Panel):
    """A request, controls, the answers at their setting, and a curve over the first control.

    `controls` are the values that each can take, by its name; what is chosen is a place in them.
    A request is one of `prompts` (their clips have to be there), a sentence that is spoken at once,
    an uploaded clip or a recording. `asked` are all so far. Found answers are kept in the view's
    state, by the places. Raises ValueError for answers too long to be live (and, of harmful
    requests, to be shown).
    """

    swept: ClassVar[Sequence[float]]
    """The values of the first control that the curve goes through."""

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Request],
        max_new_tokens: int,
        controls: Mapping[str, Sequence[Any]],
        **places: int,
    ) -> None:
        panels.check_length(max_new_tokens, MOST_TOKENS)
        self.lalm = lalm
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.controls = {name: list(values) for name, values in controls.items()}
        self.asked: list[Asked] = []
        shown = [{"name": name, "values": values} for name, values in self.controls.items()]
        super().__init__("answers", {"controls": shown, "requests": []}, request=0, **places)
        for prompt in prompts:
            assert prompt.clip is not None
            self._take(prompt.request, prompt.spoken(), prompt.label, prompt.clip.name)
        self.follow()

    def static(self) -> str:
        """The request and its answers."""
        request = self.view.state["requests"][self.chosen["request"]]
        rows = []
        for form, answer in self.found().items():
            said = "".join(answer["tokens"]) + (" …" if answer["cut"] else "")
            rows.append((form, answer["outcome"], answer["refusal_probability"], said))
        return panels.piece("answers", request=request, rows=rows)

    @property
    def _key(self) -> str:
        return ",".join(str(self.chosen[name]) for name in self.controls)

    def setting(self) -> dict[str, Any]:
        """The value of each control."""
        return {name: values[self.chosen[name]] for name, values in self.controls.items()}

    def found(self) -> dict[str, dict[str, Any]]:
        """The answers at the chosen setting, by their name (`web.answer_state`)."""
        found: dict[str, dict[str, Any]]
        found = self.view.state["requests"][self.chosen["request"]]["found"][self._key]
        return found

    def at(self, asked: Asked, values: Sequence[float]) -> list[dict[str, Shown]]:
        """The answers, by name, at some values of the first control; the others stay."""
        raise NotImplementedError

    def follow(self) -> None:
        """Answer the chosen request at the chosen setting, or take one that was asked."""
        chosen = self.chosen
        if own := chosen.pop("asked", None):
            self.view.chosen = chosen
            self._take_own(own)
        elif chosen.pop("sweep", False):
            self.view.chosen = chosen
            self.runner.steps(self._sweep(), len(self.swept))
        else:
            start = time.perf_counter()
            first = next(iter(self.controls))
            self.find([self.controls[first][chosen[first]]])
            self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")
            self.runner.soon("heard", self._hear)  # after the answer, which is what was asked for

    def _sweep(self) -> Generator[None, None, None]:
        for value in self.swept:
            self.find([value])
            yield

    def complete(self) -> None:
        """Ask each request at every setting."""
        begins = self.chosen
        (_, values), *others = self.controls.items()
        for request in range(len(self.asked)):
            for places in product(*(range(len(each)) for _, each in others)):
                chosen = dict(zip(dict(others), places, strict=True))
                self.pick(request=request, **chosen)
                self.find(values)
        self.pick(**begins)

    def find(self, values: Sequence[float]) -> None:
        """See to it that the answers at these values of the first control are known."""
        place = self.chosen["request"]
        request = self.view.state["requests"][place]
        first = next(iter(self.controls))
        others = self._key.partition(",")[2]
        keys = {}
        for value in values:
            own = str(self.controls[first].index(value))
            keys[value] = f"{own},{others}" if others else own
        lacking = [value for value in values if keys[value] not in request["found"]]
        if lacking:
            for value, by_name in zip(lacking, self.at(self.asked[place], lacking), strict=True):
                states = {}
                for name, (answer, ready) in by_name.items():
                    outcome = PhraseJudge().judge(request["words"], answer.text)
                    state = web.answer_state(answer, ready, outcome, self.max_new_tokens)
                    first_tokens = [[token, round(p, 4)] for token, p in answer.first]
                    states[name] = state | {"first": first_tokens}
                request["found"][keys[value]] = states
        self.view.send_state("state")

    def _hear(self) -> None:
        """Show what the model heard, by its own read-out."""
        place = self.chosen["request"]
        request = self.view.state["requests"][place]
        if "heard" not in request:
            heard = read_out(self.lalm, self.asked[place].spoken.audio)
            request["heard"] = opening_words(heard)
            request["differs"] = differs(request["words"] if request["known"] else "", heard)
            self.view.send_state("state")

    def _take(
        self, words: str, spoken: Prompt, label: str, clip: str, *, known: bool = True
    ) -> None:
        """Add a request to those that can be chosen."""
        waveform = self.lalm.waveform(spoken)
        assert waveform is not None
        self.asked.append(Asked(spoken, Prompt(words) if known else None))
        request = {"words": words, "label": label, "clip": clip, "known": known, "found": {}}
        self.view.clips = self.view.clips | {clip: panels.sound_address(waveform)}
        self.view.state["requests"].append(request)

    def _take_own(self, own: Mapping[str, str]) -> None:
        """Take a sentence, a file or a recording (16-bit samples at 16 kHz), and choose it."""
        limit = self.lalm.max_audio_seconds
        name = own["name"]
        if "sentence" in own:
            name = own["sentence"].strip()
            samples = synthesise(name)
        elif "file" in own:
            file = io.BytesIO(base64.b64decode(own["file"]))
            file.name = name  # for what is said of a clip that cannot be used
            samples = read_clip(file, max_seconds=limit)
        else:
            samples = np.frombuffer(base64.b64decode(own["samples"]), dtype="<i2")
        waveform = check_waveform(samples, SAMPLE_RATE, name=own["name"], max_seconds=limit)
        clip = f"own {len(self.asked)}"
        known = "sentence" in own
        self._take(name, Prompt(INSTRUCTION, waveform), "your own", clip, known=known)
        self.pick(request=len(self.asked) - 1)


class SteerPanel(Answers):
    """Chapter 04: steer the answer to any request: alpha, lambda, k, the layers, the text.

    `directions` are refusal directions before ablation, of all layers, by the names of their texts;
    `harmless` the harmless states that span the safe space. Requests and errors as `Answers`.
    Answers are "without steering" and "steered". `values` narrows what a control can take.
    """

    swept = SWEPT_ALPHAS

    def __init__(
        self,
        lalm: LALM,
        directions: Mapping[str, SteeringVectors],
        harmless: Float[Tensor, "prompt layer d_model"],
        prompts: Sequence[Request],
        *,
        alpha: float = 0.1,
        k: int = 10,
        max_new_tokens: int = 14,
        values: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.directions = directions
        self.harmless = harmless
        most = min(panels.MOST_K, len(harmless) - 1)
        self.space = principal_space(harmless, most)
        self._live: dict[int, LivePrompt] = {}
        layers = range(lalm.n_layers)
        controls: dict[str, Sequence[Any]]
        controls = {"alpha": ALPHAS, "lambda": SHARES, "k": range(most + 1)}
        controls |= {"first layer": layers, "last layer": layers, "text": [*directions]}
        controls |= values or {}
        begins: dict[str, Any]
        begins = {"alpha": alpha, "lambda": 1.0, "k": min(k, most)}
        begins |= {"first layer": 0, "last layer": layers[-1], "text": next(iter(directions))}
        places = {name: [*controls[name]].index(value) for name, value in begins.items()}
        super().__init__(lalm, prompts, max_new_tokens, controls, **places)

    def vectors(self) -> SteeringVectors:
        """The vectors at the chosen lambda and k, of the layers from the first to the last."""
        chosen = self.setting()
        direction = self.directions[chosen["text"]]
        values = ablate(direction.values, self.space.first(chosen["k"]), chosen["lambda"])
        first, last = sorted((chosen["first layer"], chosen["last layer"]))
        return SteeringVectors(values, direction.provenance).only(range(first, last + 1))

    def at(self, asked: Asked, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: computed in one batch."""
        place = self.asked.index(asked)
        if place not in self._live:
            self._live[place] = LivePrompt(self.lalm, asked.spoken)
        alphas = [0.0, *values]
        plain, *steered = self._live[place].answers(self.vectors(), alphas, self.max_new_tokens)
        return [{"without steering": plain, "steered": each} for each in steered]

    def _sweep(self) -> Generator[None, None, None]:
        self.find(self.swept)
        yield


class DialPanel(Answers):
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    The model's own dial stays where it is. Requests and errors as `Answers`; raises ValueError
    for a model without a dial, too.
    """

    swept = DIAL_SETTINGS

    def __init__(self, lalm: LALM, prompts: Sequence[Request], *, max_new_tokens: int = 12) -> None:
        now = lalm.safety
        if now is None:
            raise ValueError(f"{lalm.name} has no safety dial; only the pocket model has one")
        nearest = min(DIAL_SETTINGS, key=lambda value: abs(value - now))
        place = DIAL_SETTINGS.index(nearest)
        controls = {"safety dial": DIAL_SETTINGS}
        super().__init__(lalm, prompts, max_new_tokens, controls, **{"safety dial": place})

    def at(self, asked: Asked, values: Sequence[float]) -> list[dict[str, Shown]]:
        """See `Answers.at`: the request typed, if its words are known, and spoken."""
        prompts = {"spoken": asked.spoken}
        if asked.typed is not None:
            prompts = {"typed": asked.typed} | prompts
        found = []
        for setting in values:
            with _dial_at(self.lalm, setting):
                batch = PreparedBatch(self.lalm, list(prompts.values()))
                both = answers(batch, self.max_new_tokens)
            found.append(dict(zip(prompts, both, strict=True)))
        return found


@contextmanager
def _dial_at(lalm: LALM, setting: float) -> Generator[None, None, None]:
    """The dial at a setting while the block lasts; weights depend on the setting alone."""
    before = lalm.safety
    assert before is not None
    try:
        if setting != before:
            lalm.set_safety(setting)
        yield
    finally:
        if lalm.safety != before:
            lalm.set_safety(before)
