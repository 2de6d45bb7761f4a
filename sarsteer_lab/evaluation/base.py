"""The states that defences are derived from, collected once, and the requests and texts behind
them."""

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
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, REFUSALS, Request
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors

PAPER_TEXT = {"paper": REFUSAL}
"""The paper's refusal text under its name in `prompts.REFUSALS`."""


def refusal_text(given: str) -> tuple[str, str]:
    """A refusal text by its name in `REFUSALS`, or one of your own: its name ("own text"), and the
    text.

    Raises ValueError for a single word that names none.
    """
    if given in REFUSALS:
        return given, REFUSALS[given]
    if len(given.split()) < 2:
        raise ValueError(
            f"there is no refusal text {given!r}: choose {', '.join(REFUSALS)}, or give a sentence"
        )
    return "own text", given


def refusal_texts(given: Sequence[str]) -> dict[str, str]:
    """Several of these by their names; your own are numbered from the second on ("own text 2").

    Raises ValueError as `refusal_text` does.
    """
    texts: dict[str, str] = {}
    for name, text in map(refusal_text, dict.fromkeys(given)):
        own = sum(other.startswith(name) for other in texts) if name not in REFUSALS else 0
        texts[f"{name} {own + 1}" if own else name] = text
    return texts


def evenly(requests: Sequence[Request], n: int) -> list[Request]:
    """So many requests evenly over those given, and so over their topics if these stand together;
    or all."""
    n = min(n, len(requests))
    return [requests[i * len(requests) // n] for i in range(n)]


@dataclass(frozen=True, eq=False)
class BaseStates:
    """Last-token states of one set of requests in the ways that defences are derived from.

    `refusing` are the harmful clips with a refusal text added, row by row, under each text's name;
    `texts` are these texts. Methods take a text by its name.
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
        """SARSteer's direction, safe space and vectors (see `derivation.derive`), which record the
        text.

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
    cache: Store | None = None,
) -> BaseStates:
    """The states of harmful and harmless requests, spoken and typed; requests with other labels
    play no part.

    Harmful clips run under each of the texts `refusals` (name -> text) too; each costs its own
    tokens alone. Raises ValueError if either label is missing or a request has no clip.
    """
    by_label = {
        label: [r for r in requests if r.label == label] for label in ("harmful", "harmless")
    }
    harmful, harmless = by_label["harmful"], by_label["harmless"]
    if not harmful or len(harmless) < 2:
        raise ValueError(
            f"needs at least 1 harmful and 2 harmless requests; got {len(harmful)} and {len(harmless)}"
        )

    states, variant_states = capture, capture_variants
    if cache is not None:
        states = kept(capture, cache)
        variant_states = kept_variants(capture_variants, cache, "capture")
    texts = [
        [request.spoken(refusal=text) for request in harmful] for text in ("", *refusals.values())
    ]
    base, *refusing = variant_states(lalm, texts)
    return BaseStates(
        harmful=base,
        refusing=dict(zip(refusals, refusing, strict=True)),
        harmless=states(lalm, [request.spoken() for request in harmless]),
        typed_harmful=states(lalm, [request.typed() for request in harmful]),
        typed_harmless=states(lalm, [request.typed() for request in harmless]),
        provenance={
            "model": model_name(lalm),
            "fingerprint": lalm.fingerprint(),
            "safety": lalm.safety,
            "harmful": [request.id for request in harmful],
            "harmless": [request.id for request in harmless],
            "instruction": INSTRUCTION,
        },
        texts=dict(refusals),
    )


def model_name(lalm: LALM) -> str:
    """The model's name for reports: of a folder only its last part."""
    return Path(lalm.name).name if Path(lalm.name).is_dir() else lalm.name
