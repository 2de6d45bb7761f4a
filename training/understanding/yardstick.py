"""Does the model know spoken harm? Areas, the cascade, probes.

`python -m training.understanding.yardstick --learnt FILE` prints tables and writes `measured.json`
beside it, piece by piece: an interrupted measure goes on. Areas are of the readiness to
refuse (the log-odds of a refusing first token), harmful against harmless and against pseudo-harmful
requests, validation and test splits together and the test split alone. The cascade is the typed
form of what the model itself reads out of the same clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.prompts import LABELS, Request, load_prompts
from sarsteer_lab.speech import read_clip
from sarsteer_lab.store import atomic_write
from training.loop import AudioSide
from training.measure import read_outs
from training.understanding.dials import pocket_with
from training.understanding.spoken import clip_outputs
from training.understanding.student import (
    TOGETHER,
    Student,
    in_batches,
    readiness,
    refusing_tokens,
)
from training.understanding.tables import area_table, card_section, write_card_section

SETTINGS = ("0 0", "0.25 0", "0.5 0", "0.75 0", "1 0", "1 1")
"""Where the dials stand: understanding, spoken safety."""
UNTURNED = "0 0"
OPENING_TOKENS = 10
"""Enough for a refusal to be told from an answer."""


class Yardstick:
    """The measure of the pocket model at any `SETTINGS`, its safety dial at 1.

    What was measured is kept in `path`; what the untrained model answers to typed requests, in
    `work`.
    """

    def __init__(self, learnt: Mapping[str, Tensor], path: Path, work: Path) -> None:
        self.lalm = pocket_with(learnt)
        self.path, self.work = path, work
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.prompts: list[Request] = load_prompts("validation") + load_prompts("test")
        self.student = Student(self.lalm)
        self.refusing = refusing_tokens(self.lalm.tokenizer)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What was measured under `name`, or what `make` finds now, which is written at once."""
        if name not in self.found:
            self.found[name] = make()
            with atomic_write(self.path) as part:
                part.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
            print(name, "measured", flush=True)
        return self.found[name]

    @property
    def compared(self) -> list[Request]:
        """The harmful and harmless requests, whose clips are read out."""
        return [p for p in self.prompts if p.label in ("harmful", "harmless")]

    def turn(self, setting: str) -> None:
        """Set the dials."""
        understanding, spoken_safety = map(float, setting.split())
        self.lalm.set_dials(understanding=understanding, spoken_safety=spoken_safety)

    def asked(self) -> dict[str, tuple[Callable[[list[Any]], Tensor], Sequence[Any]]]:
        """How each form is asked, and all requests in it: clips as the projector says them now."""
        waves = [read_clip(prompt.clip) for prompt in self.prompts if prompt.clip]
        audio = AudioSide(self.lalm.model).eval()
        outputs = clip_outputs(audio, waves, together=TOGETHER)
        texts = [prompt.request for prompt in self.prompts]
        return {"spoken": (self.student.spoken, outputs), "typed": (self.student.typed, texts)}

    def readiness_at(self, setting: str) -> dict[str, Any]:
        """Log-odds of refusal of all requests, typed and spoken, and how far typed answers have
        moved.
        """
        self.turn(setting)
        found: dict[str, Any] = {}
        for form, (ask, requests) in self.asked().items():
            log_probs = in_batches(ask, requests)
            found[form] = [round(x, 4) for x in readiness(log_probs, self.refusing).tolist()]
            if form == "typed":
                found["typed kl"] = self._moved(log_probs)
        return found

    def _moved(self, now: Float[Tensor, "request vocab"]) -> list[float]:
        """KL(typed at 0 || typed now) of the first token in nats, for each request."""
        path = self.work / "typed.safetensors"
        if self.lalm.dials["understanding"] == 0:
            self.work.mkdir(parents=True, exist_ok=True)
            save_file({"typed": now}, path)
        if not path.exists():
            return []
        before = load_file(path)["typed"]
        return [round(x, 4) for x in (before.exp() * (before - now)).sum(-1).tolist()]

    def read(self) -> list[str]:
        """What the model repeats of the compared prompts' clips, the dials at 0."""
        self.turn(UNTURNED)
        return read_outs(self.lalm, [p.clip for p in self.compared if p.clip])

    def cascade(self, heard: Sequence[str]) -> list[float]:
        """Log-odds of refusal of what was read out, typed, the dials at 0."""
        self.turn(UNTURNED)
        log_probs = in_batches(self.student.typed, [text or "." for text in heard])
        return readiness(log_probs, self.refusing).tolist()

    def refused_at(self, setting: str, split: str) -> dict[str, dict[str, list[int]]]:
        """Refused and asked requests of `split` by form and label, phrase judge over the first
        tokens.
        """
        self.turn(setting)
        judge, chosen = PhraseJudge(), load_prompts(split)
        found: dict[str, dict[str, list[int]]] = {}
        for form in ("typed", "spoken"):
            asked = [getattr(p, form)() for p in chosen]
            answers = self.lalm.generate(asked, max_new_tokens=OPENING_TOKENS)
            judged = [judge.judge(p.request, a) for p, a in zip(chosen, answers, strict=True)]
            for label in LABELS:
                own = [
                    j == "refused" for j, p in zip(judged, chosen, strict=True) if p.label == label
                ]
                found.setdefault(form, {})[label] = [sum(own), len(own)]
        return found

    def probes_at(self, setting: str) -> dict[str, list[float]]:
        """Areas of linear probes for harm in each layer, trained on the derive split, read on the
        test split.

        Trained and read on typed states, on spoken ones, and trained typed, read spoken.
        """
        self.turn(setting)
        states = {
            (s, form): self._states(s, form)
            for s in ("derive", "test")
            for form in ("typed", "spoken")
        }
        harmful = {split: _harmful(split) for split in ("derive", "test")}
        pairs = {"typed": ("typed", "typed"), "spoken": ("spoken", "spoken")}
        pairs["transferred"] = ("typed", "spoken")
        found: dict[str, list[float]] = {name: [] for name in pairs}
        for name, (learnt, asked) in pairs.items():
            for layer in range(self.lalm.n_layers):
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
                probe.fit(states["derive", learnt][:, layer], harmful["derive"])
                scores = probe.decision_function(states["test", asked][:, layer])
                found[name].append(roc_area(scores[harmful["test"]], scores[~harmful["test"]]))
        return found

    def _states(self, split: str, form: str) -> Float[np.ndarray, "prompt layer d_model"]:
        prompts = [getattr(p, form)() for p in _two_labels(split)]
        return capture(self.lalm, prompts, batch_size=TOGETHER).numpy()


def _two_labels(split: str) -> list[Request]:
    return [p for p in load_prompts(split) if p.label in ("harmful", "harmless")]


def _harmful(split: str) -> Bool[np.ndarray, "prompt"]:
    return np.array([p.label == "harmful" for p in _two_labels(split)])


def main() -> None:
    """Measure what is asked for and not yet measured, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="*", default=SETTINGS, help="as '0.5 1'")
    parser.add_argument("--probes", nargs="*", default=())
    parser.add_argument("--refused", nargs="*", default=())
    parser.add_argument(
        "--read", action="store_true", help="read the clips out: heard right, and the cascade"
    )
    parser.add_argument("--learnt", type=Path, required=True, help="spoken_safety.safetensors")
    parser.add_argument("--to", type=Path, help="default: measured.json beside what was learnt")
    parser.add_argument("--ship", action="store_true", help="write the tables into the card")
    parser.add_argument("--work", type=Path, default=cache_folder() / "understanding")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.to or options.learnt.with_name("measured.json")
    yardstick = Yardstick(load_file(options.learnt), path, options.work)
    for setting in options.settings:
        yardstick.keep(f"dials {setting}", partial(yardstick.readiness_at, setting))
        print(area_table(yardstick.found, yardstick.prompts), flush=True)
    if options.read:
        heard = yardstick.keep("read-outs", yardstick.read)
        yardstick.keep("cascade", partial(yardstick.cascade, heard))
    for setting in options.refused:
        yardstick.keep(f"refused {setting}", partial(yardstick.refused_at, setting, "test"))
    for setting in options.probes:
        yardstick.keep(f"probes {setting}", partial(yardstick.probes_at, setting))
    section = card_section(yardstick.found, yardstick.prompts)
    print(section)
    if options.ship:
        write_card_section(section)


if __name__ == "__main__":
    main()
