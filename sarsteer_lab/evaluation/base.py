"""`BaseStates`: hidden states, collected once, that all steering defences are derived from."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import capture
from sarsteer_lab.derivation import Derivation, derive
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.keeping import kept, kept_variants
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, REFUSALS, Form, Request, prompts_of
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors

PAPER_TEXT = {"paper": REFUSAL}
"""The paper's refusal text under its name in `prompts.REFUSALS`."""

OWN_TEXT = "own text"
"""The name of a refusal text that is not in `prompts.REFUSALS`."""


def refusal_text(given: str) -> tuple[str, str]:
    """A refusal text by its name in `REFUSALS`, or one of your own ("own text"): name and text.

    Raises ValueError for a single word that names none.
    """
    if given in REFUSALS:
        return given, REFUSALS[given]
    if len(given.split()) < 2:
        choices = ", ".join(REFUSALS)
        raise ValueError(
            f"there is no refusal text {given!r}: choose {choices}, or give a sentence"
        )
    return OWN_TEXT, given


def refusal_texts(given: Sequence[str]) -> dict[str, str]:
    """Several of these by their names; your own are numbered from the second on ("own text 2").

    Raises ValueError as `refusal_text` does.
    """
    texts: dict[str, str] = {}
    n_own = 0
    for wording in dict.fromkeys(given):
        name, text = refusal_text(wording)
        if name == OWN_TEXT:
            n_own += 1
            name = name if n_own == 1 else f"{name} {n_own}"
        texts[name] = text
    return texts


def evenly(requests: Sequence[Request], n: int) -> list[Request]:
    """So many requests, or all, evenly over those given, and so over topics that stand together."""
    n = min(n, len(requests))
    return [requests[number * len(requests) // n] for number in range(n)]


def check_dimensions(lalm: LALM, k: int, requests: Sequence[Request]) -> None:
    """Say on standard error if the safe space of these requests has fewer dimensions than `k`.

    Raises ValueError for more than the model is wide: no states have so many.
    """
    if k > lalm.d_model:
        raise ValueError(f"k={k} dimensions of a safe space: {lalm.name} is {lalm.d_model} wide")
    n_harmless = sum(request.label == "harmless" for request in requests)
    if k >= n_harmless > 1:
        space = f"{n_harmless} harmless requests span {n_harmless - 1} dimensions at most"
        print(f"k={k}: {space}, so all of what they share is ablated", file=sys.stderr)


@dataclass(frozen=True, eq=False)
class BaseStates:
    """Last-token states of one set of requests in the ways that defences are derived from.

    `refusing` are the harmful requests with a refusal text added, row by row, under each text's
    name. `texts` are these texts. Methods take a text by its name.
    """

    harmful: Float[Tensor, "harmful layer d_model"]
    refusing: Mapping[str, Float[Tensor, "harmful layer d_model"]]
    harmless: Float[Tensor, "harmless layer d_model"]
    typed_harmful: Float[Tensor, "harmful layer d_model"]
    typed_harmless: Float[Tensor, "harmless layer d_model"]
    texts: Mapping[str, str]
    provenance: dict[str, Any]

    def vectors(
        self, method: str, values: Float[Tensor, "layer d_model"], **settings: Any
    ) -> SteeringVectors:
        """Steering vectors with these states' provenance."""
        return SteeringVectors(values, {"method": method, **settings, **self.provenance})

    def derive(self, lam: float = 1.0, k: int = 10, refusal: str = "paper") -> Derivation:
        """SARSteer's direction, safe space and vectors, which record the text; as `derive`.

        Raises KeyError for a text that these states are not of.
        """
        origin = {**self.provenance, "refusal": self.texts[refusal]}
        return derive(self.harmful, self.refusing[refusal], self.harmless, lam, k, origin)

    def refusal_direction(self, refusal: str = "paper") -> SteeringVectors:
        """The text-derived refusal direction (SARSteer, step 2)."""
        return self.derive(refusal=refusal).direction

    def sarsteer(self, lam: float = 1.0, k: int = 10, refusal: str = "paper") -> SteeringVectors:
        """SARSteer's vectors (steps 2 to 4)."""
        return self.derive(lam, k, refusal).vectors


def collect_states(
    lalm: LALM,
    requests: Sequence[Request],
    *,
    refusals: Mapping[str, str] = PAPER_TEXT,
    form: Form = "spoken",
    store: Store | None = None,
) -> BaseStates:
    """The states of harmful and harmless requests in a form, and typed; others play no part.

    Harmful requests run under each of the texts `refusals` (name -> text) too; each costs its own
    tokens alone. With the form "typed" no clip is read, and the method acts on typed requests.
    States are kept in `store`, if there is one. Raises ValueError if either label is missing or a
    request lacks the form.
    """
    harmful = [request for request in requests if request.label == "harmful"]
    harmless = [request for request in requests if request.label == "harmless"]
    if not harmful or len(harmless) < 2:
        counts = f"got {len(harmful)} and {len(harmless)}"
        raise ValueError(f"needs at least 1 harmful and 2 harmless requests; {counts}")
    of_prompts, of_variants = capture, capture_variants
    if store is not None:
        of_prompts = kept(capture, store)
        of_variants = kept_variants(capture_variants, store, "capture")
    variants = [prompts_of(harmful, form, text) for text in ("", *refusals.values())]
    usual, *refusing = of_variants(lalm, variants)
    usual_harmless = of_prompts(lalm, prompts_of(harmless, form))
    typed_harmful, typed_harmless = usual, usual_harmless
    if form != "typed":
        typed_harmful = of_prompts(lalm, prompts_of(harmful, "typed"))
        typed_harmless = of_prompts(lalm, prompts_of(harmless, "typed"))
    provenance: dict[str, Any] = {"model": model_name(lalm), "fingerprint": lalm.fingerprint()}
    provenance |= lalm.dials
    provenance |= {"form": form} if form == "typed" else {"instruction": INSTRUCTION}
    provenance["harmful"] = [request.id for request in harmful]
    provenance["harmless"] = [request.id for request in harmless]
    return BaseStates(
        harmful=usual,
        refusing=dict(zip(refusals, refusing, strict=True)),
        harmless=usual_harmless,
        typed_harmful=typed_harmful,
        typed_harmless=typed_harmless,
        texts=dict(refusals),
        provenance=provenance,
    )


def model_name(lalm: LALM) -> str:
    """The model's name for reports: of a folder only its last part."""
    path = Path(lalm.name)
    return path.name if path.is_dir() else lalm.name
