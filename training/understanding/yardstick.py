"""Does the model know spoken harm? Areas, the cascade, probes.

`python -m training.understanding.yardstick --delta FILE` prints tables and writes `measured.json`
beside the delta, piece by piece: an interrupted measure goes on. Areas are of the readiness to
refuse (the log-odds of a refusing first token), harmful against harmless and against pseudo-harmful
requests, validation and test splits together and the test split alone. The cascade is the typed
form of what the model itself reads out of the same clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
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
from sarsteer_lab.pocket.assemble import Factors
from sarsteer_lab.prompts import LABELS, Request, load_prompts
from sarsteer_lab.speech import read_clip
from sarsteer_lab.store import atomic_write
from training.loop import AudioSide, hear
from training.measure import read_outs
from training.sound import log_mel
from training.understanding.dials import pocket_with, read_delta
from training.understanding.student import Student, readiness, refusing_tokens
from training.understanding.tables import area_table, opening_table, refusal_table

DIALS = (0.0, 1.0, 0.5, 0.25, 0.75)
BATCH = 12
OPENING_TOKENS = 10
"""Enough for a refusal to be told from an answer."""


class Yardstick:
    """The measure of the pocket model at any setting of its understanding dial, safety at 1.

    What was measured is kept in `path`. Layers below the first that the dial changes run once a
    request; what they make of it is kept in `work`.
    """

    def __init__(self, learnt: Factors, path: Path, work: Path) -> None:
        self.lalm = pocket_with(learnt)
        self.path, self.work = path, work
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.prompts: list[Request] = load_prompts("validation") + load_prompts("test")
        self.student = Student(self.lalm, first_layer(learnt))
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

    def turn(self, dial: float) -> None:
        """Set the understanding dial."""
        if self.lalm.dials["understanding"] != dial:
            self.lalm.set_dials(understanding=dial)
        self.student.refresh()

    @cached_property
    def begun(self) -> dict[str, list[Tensor]]:
        """Each request, spoken and typed, as it enters the first layer that the dial changes."""
        path = self.work / f"begun-{self.student.first}.safetensors"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            rows: dict[str, Tensor] = {}
            for form, make in (("spoken", self._begin_clips), ("typed", self._begin_texts)):
                rows |= {f"{form}.{number:04d}": row for number, row in enumerate(make())}
            save_file(rows, path)
        kept = load_file(path)
        return {
            form: [kept[name] for name in sorted(kept) if name.startswith(form)]
            for form in ("spoken", "typed")
        }

    @torch.no_grad()
    def _begin_clips(self) -> list[Tensor]:
        audio, rows = AudioSide(self.lalm.model).eval(), []
        for prompts in batched(self.prompts):
            mel, frames = log_mel([read_clip(p.clip) for p in prompts if p.clip])
            heard = hear(audio, mel, frames, torch.float32)
            outputs = [
                row[: length // 4] for row, length in zip(heard, frames.tolist(), strict=True)
            ]
            rows += self.student.begun_spoken(outputs)
        return rows

    def _begin_texts(self, texts: Sequence[str] | None = None) -> list[Tensor]:
        rows: list[Tensor] = []
        for some in batched([p.request for p in self.prompts] if texts is None else texts):
            rows += self.student.begun_typed([text or "." for text in some])
        return rows

    @torch.no_grad()
    def first_tokens(self, rows: Sequence[Tensor], form: str) -> Float[Tensor, "request vocab"]:
        """Log-probabilities of the answers' first tokens."""
        before = self.student.before_clip if form == "spoken" else self.student.before_text
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = [self.student.go_on([rows[i] for i in own], before) for own in batched(order)]
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def readiness_at(self, dial: float) -> dict[str, Any]:
        """Log-odds of refusal of all requests, typed and spoken, and how far typed answers have
        moved.
        """
        self.turn(dial)
        found: dict[str, Any] = {}
        for form in ("spoken", "typed"):
            log_probs = self.first_tokens(self.begun[form], form)
            found[form] = [round(x, 4) for x in readiness(log_probs, self.refusing).tolist()]
            if form == "typed":
                found["typed kl"] = self._moved(log_probs)
        return found

    def _moved(self, now: Float[Tensor, "request vocab"]) -> list[float]:
        """KL(typed at 0 || typed now) of the first token in nats, for each request."""
        path = self.work / "typed.safetensors"
        if self.lalm.dials["understanding"] == 0.0:
            save_file({"typed": now}, path)
        if not path.exists():
            return []
        before = load_file(path)["typed"]
        return [round(x, 4) for x in (before.exp() * (before - now)).sum(-1).tolist()]

    def read(self) -> list[str]:
        """What the model repeats of the compared prompts' clips, the dial at 0."""
        self.turn(0.0)
        return read_outs(self.lalm, [p.clip for p in self.compared if p.clip])

    def cascade(self, heard: Sequence[str]) -> list[float]:
        """Log-odds of refusal of what was read out, typed, the dial at 0."""
        self.turn(0.0)
        log_probs = self.first_tokens(self._begin_texts(heard), "typed")
        return readiness(log_probs, self.refusing).tolist()

    def refused_at(self, dial: float, split: str) -> dict[str, dict[str, list[int]]]:
        """Refused and asked requests of `split` by form and label, phrase judge over the first
        tokens.
        """
        self.turn(dial)
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

    def probes_at(self, dial: float) -> dict[str, list[float]]:
        """Areas of linear probes for harm in each layer, trained on the derive split, read on the
        test split.

        Trained and read on typed states, on spoken ones, and trained typed, read spoken.
        """
        self.turn(dial)
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
        return capture(self.lalm, prompts, batch_size=BATCH).numpy()


def _two_labels(split: str) -> list[Request]:
    return [p for p in load_prompts(split) if p.label in ("harmful", "harmless")]


def _harmful(split: str) -> Bool[np.ndarray, "prompt"]:
    return np.array([p.label == "harmful" for p in _two_labels(split)])


def batched(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Items in batches."""
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]


def first_layer(delta: Factors) -> int:
    """The lowest layer that a delta changes."""
    return min(int(name.split("layers.")[1].split(".")[0]) for name in delta)


def main() -> None:
    """Measure what is asked for and not yet measured, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dials", type=float, nargs="*", default=DIALS)
    parser.add_argument("--probes", type=float, nargs="*", default=())
    parser.add_argument("--refused", type=float, nargs="*", default=())
    parser.add_argument(
        "--read", action="store_true", help="read the clips out: heard right, and the cascade"
    )
    parser.add_argument("--delta", type=Path, required=True, help="understanding.safetensors")
    parser.add_argument("--to", type=Path, help="default: measured.json beside the delta")
    parser.add_argument("--work", type=Path, default=cache_folder() / "understanding")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.to or options.delta.with_name("measured.json")
    yardstick = Yardstick(read_delta(options.delta), path, options.work)
    for dial in options.dials:
        yardstick.keep(f"dial {dial:g}", partial(yardstick.readiness_at, dial))
        print(area_table(yardstick.found, yardstick.prompts), flush=True)
    if options.read:
        heard = yardstick.keep("read-outs", yardstick.read)
        yardstick.keep("cascade", partial(yardstick.cascade, heard))
    for dial in options.refused:
        yardstick.keep(f"refused {dial:g}", partial(yardstick.refused_at, dial, "test"))
    for dial in options.probes:
        yardstick.keep(f"probes {dial:g}", partial(yardstick.probes_at, dial))
    found, prompts = yardstick.found, yardstick.prompts
    print(
        area_table(found, prompts), opening_table(found, prompts), refusal_table(found), sep="\n\n"
    )


if __name__ == "__main__":
    main()
