"""What `sarsteer-lab evaluate` is given by name, made: sets of requests, defences and judges."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarsteer_lab.activations import activation_store
from sarsteer_lab.evaluation.base import PAPER_TEXT, collect_states, refusal_text
from sarsteer_lab.evaluation.defences import AS_IN_PAPER, Defence, prompt_defences, steering_defences
from sarsteer_lab.evaluation.judges import SORRY_BENCH, HFJudge, Judge, JudgeTemplate, PhraseJudge
from sarsteer_lab.evaluation.readers import Missing, read_set
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.store import data_folder

PROMPT_NAMES = tuple(defence.name for defence in prompt_defences())
STEERING_NAMES = (
    "typed difference-in-means",
    "spoken difference-in-means",
    "refusal direction",
    "SARSteer",
    "conditional (CAST)",
    "null-space (AlphaSteer)",
    AS_IN_PAPER,
)


def defence_names() -> list[str]:
    """The defences that can be asked for by name, those that only change the prompt first."""
    return [*PROMPT_NAMES, *STEERING_NAMES]


def read_sets(
    specs: Sequence[str] | None, *, split: str, missing: Missing = "error", limit: int | None = None
) -> tuple[dict[str, list[SpokenPrompt]], dict[str, int]]:
    """Requests of one split ("all": every) by set and label, and how many records each set left out.

    A set with several labels is taken apart ("xstest harmful", ...), since each label has its own measure;
    `specs` None means the shipped prompts. Raises ValueError as `prompts.read_set` does, if nothing is left,
    or if two sets have the same name.
    """
    sets: dict[str, list[SpokenPrompt]] = {}
    skipped: dict[str, int] = {}
    for spec in specs or [f"prompts:{data_folder() / 'prompts'}"]:
        found = read_set(spec, missing=missing)
        name = spec.partition(":")[0]
        chosen = [prompt for prompt in found.prompts if split in ("all", prompt.split)]
        if not chosen:
            splits = ", ".join(sorted({prompt.split for prompt in found.prompts}))
            raise ValueError(f"{spec} has no requests in the split {split!r}; it has: {splits}")
        if silent := [prompt.id for prompt in chosen if prompt.clip is None]:
            raise ValueError(
                f"{len(silent)} requests of {spec} have no clip ({silent[0]}, ...): an evaluation asks "
                "spoken requests; record them, and describe the clips as data/prompts does"
            )
        labels = list(dict.fromkeys(prompt.label for prompt in chosen))
        for label in labels:
            key = name if len(labels) == 1 else f"{name} {label}"
            if key in sets:
                raise ValueError(f"the set {name!r} is given twice; evaluate one after the other")
            sets[key] = [prompt for prompt in chosen if prompt.label == label][:limit]
            # Of a record that was left out only its place is known, so it counts for the whole set.
            skipped[key] = len(found.skipped)
    return sets, skipped


def choose_defences(
    names: Sequence[str] | None,
    source: tuple[LALM, Sequence[SpokenPrompt]] | None,
    *,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    refusal: str = "paper",
) -> list[Defence]:
    """The defences of these names (None: all), in the order of `defence_names`.

    `refusal` is the text that steering is derived from, or its name (`base.refusal_text`); SARSteer as in
    the paper keeps the paper's, and is only among "all" where it is not SARSteer itself.

    `source` is the model and the requests that steering is derived from; without it, names are checked and
    only those that need no model are returned. Nothing is fitted for defences that are not asked for. Raises
    ValueError for a name that there is not or one twice.
    """
    known = defence_names()
    text_name, text = refusal_text(refusal)
    wanted = known if names is None else list(names)
    if names is None and (alpha, lam, k, text_name) == (0.1, 1.0, 10, "paper"):
        wanted.remove(AS_IN_PAPER)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no defence {unknown[0]!r}; choose from: {', '.join(known)}")
    if len(set(wanted)) < len(wanted):
        raise ValueError("a defence is named twice")
    chosen = [defence for defence in prompt_defences() if defence.name in wanted]
    if source is None or not set(wanted) & set(STEERING_NAMES):
        return chosen
    lalm, requests = source
    texts = {text_name: text, **PAPER_TEXT}
    states = collect_states(lalm, requests, refusals=texts, cache=activation_store())
    steering = steering_defences(states, alpha, lam, k, text_name)
    return [*chosen, *(make() for name, make in steering.items() if name in wanted)]


def load_judges(names: Sequence[str], template: Path | None = None) -> list[Judge]:
    """Judges by name: "phrase", or a Hugging Face id or folder, which reads `template` (or SORRY-Bench's).

    Raises ValueError, naming the file, for a template that is none.
    """
    chosen = SORRY_BENCH if template is None else read_template(template)
    return [PhraseJudge() if name == "phrase" else HFJudge.load(name, template=chosen) for name in names]


def read_template(path: Path) -> JudgeTemplate:
    """A judge's template from a JSON object with the fields of `JudgeTemplate`.

    Raises ValueError, naming the file, if it is not one or its text lacks {request} or {response}.
    """
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
        template = JudgeTemplate(**fields)
        text = template.text.format(request="REQUEST", response="RESPONSE")
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{path} is not a judge's template ({error})") from error
    if "REQUEST" not in text or "RESPONSE" not in text or not (template.answered and template.refused):
        raise ValueError(
            f"{path}: the text has to hold {{request}} and {{response}}, and both verdicts have to be given"
        )
    return template
