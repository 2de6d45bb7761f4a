"""A request, controls, and the answers at their setting: what panels that ask the model share."""

import base64
import io
import time
from collections.abc import Generator, Mapping, Sequence
from html import escape
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sarsteer_lab.course.hearing import differs, forms, read_out
from sarsteer_lab.course.widgets import panels, web
from sarsteer_lab.engine.live import Answer, LivePrompt
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.phrases import opening_words
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform, read_clip
from sarsteer_lab.voice import synthesise

Shown = tuple[Answer, float]
"""An answer and the probability that it opens as a refusal."""


Forms = dict[str, Prompt]
"""A request as it is asked: typed (unless its words are not known) and spoken (if it is a clip)."""


class Answers(panels.Panel):
    """A request, controls, the answers at their setting, and a curve over the first control.

    `controls` are the values that each can take, by its name; what is chosen is a place in them.
    A request is one of `prompts`, a sentence that is spoken at once, an uploaded clip or a
    recording. `asked` are all so far. Found answers are kept in the view's state, by the places.
    Raises ValueError for answers too long to be live (and, of harmful requests, to be shown).
    """

    swept: Sequence[float]
    """The values of the first control that the curve goes through."""

    at_once: ClassVar[bool] = True
    """Whether these are asked in one batch."""

    most_tokens: ClassVar[int] = 16
    labels: ClassVar[Mapping[str, str]] = {}
    """What stands beside a control, if not its name."""

    def __init__(
        self,
        lalm: LALM,
        prompts: Sequence[Request | Prompt],
        max_new_tokens: int,
        controls: Mapping[str, Sequence[Any]],
        **places: int,
    ) -> None:
        panels.check_length(max_new_tokens, self.most_tokens)
        self.lalm = lalm
        self.max_new_tokens = max_new_tokens
        self.controls = {name: list(values) for name, values in controls.items()}
        self.asked: list[Forms] = []
        self._live: dict[int, LivePrompt] = {}
        shown = []
        for name, values in self.controls.items():
            shown.append({"name": name, "label": self.labels.get(name, name), "values": values})
        super().__init__("answers", {"controls": shown, "requests": []}, request=0, **places)
        for prompt in prompts:
            label, clip = "request", ""
            if isinstance(prompt, Request):
                label, clip = prompt.label, prompt.clip.name if prompt.clip else ""
            self._take(panels.words_of(prompt), forms(lalm, prompt), label, clip)
        self.follow()

    def static(self) -> str:
        """The request and its answers."""
        request = self.view.state["requests"][self.chosen["request"]]
        rows = []
        for name, answer in self.rows():
            said = "".join(answer["tokens"]) + (" …" if answer["cut"] else "")
            rows.append((name, answer["outcome"], answer["refusal_probability"], said))
        columns = ["", "outcome", "P(refusal)", "answer"]
        table = pd.DataFrame(rows, columns=columns)
        heard = f"<br>heard: <i>{escape(request['heard'])}</i>" if "heard" in request else ""
        shown = table.to_html(index=False, float_format="{:.2f}".format)
        return f"<p>Request: <b>{escape(request['words'])}</b>{heard}</p>{shown}"

    @property
    def _key(self) -> str:
        return ",".join(str(self.chosen[name]) for name in self.controls)

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """The answers that a still shows, by what stands beside each: those at the setting."""
        return list(self.found().items())

    def setting(self) -> dict[str, Any]:
        """The value of each control."""
        return {name: values[self.chosen[name]] for name, values in self.controls.items()}

    def found(self) -> dict[str, dict[str, Any]]:
        """The answers at the chosen setting, by their name (`web.answer_state`)."""
        found: dict[str, dict[str, Any]]
        found = self.view.state["requests"][self.chosen["request"]]["found"][self._key]
        return found

    def at(self, asked: Forms, values: Sequence[float]) -> list[dict[str, Shown]]:
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
            self.find(self.wanted())
            self.runner.say(f"answered in {time.perf_counter() - start:.1f} s")
            self.runner.soon("heard", self._hear)  # after the answer, which is what was asked for

    def wanted(self) -> list[float]:
        """The values of the first control whose answers are shown at the chosen setting."""
        first = next(iter(self.controls))
        return [self.controls[first][self.chosen[first]]]

    def live(self, prompt: Prompt) -> LivePrompt:
        """One of the asked prompts, ready to be answered."""
        if id(prompt) not in self._live:
            self._live[id(prompt)] = LivePrompt(self.lalm, prompt)
        return self._live[id(prompt)]

    def _sweep(self) -> Generator[None, None, None]:
        for values in [self.swept] if self.at_once else [[value] for value in self.swept]:
            self.find(values)
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
        asked = self.asked[place]
        if "heard" not in request and "spoken" in asked:
            heard = read_out(self.lalm, asked["spoken"].audio)
            request["heard"] = opening_words(heard)
            request["differs"] = differs(request["words"] if "typed" in asked else "", heard)
            self.view.send_state("state")

    def _take(self, words: str, asked: Forms, label: str, clip: str) -> None:
        """Add a request to those that can be chosen."""
        self.asked.append(asked)
        if "spoken" in asked and (waveform := self.lalm.waveform(asked["spoken"])) is not None:
            clip = clip or f"own {len(self.asked)}"
            self.view.clips = self.view.clips | {clip: panels.sound_address(waveform)}
        request = {"words": words, "label": label, "clip": clip, "found": {}}
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
        asked = {"spoken": Prompt(INSTRUCTION, waveform)}
        if "sentence" in own:
            asked = {"typed": Prompt(name)} | asked
        self._take(name, asked, "your own", "")
        self.pick(request=len(self.asked) - 1)
