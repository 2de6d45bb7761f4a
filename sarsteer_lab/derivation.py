"""From prompts to steering vectors: the states SARSteer needs, its direction, safe space and vectors.

This joins `activations`, `directions` and `safe_space` in the order of the paper (arXiv 2510.17633, steps
1 to 4).
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.activations import activation_store, capture
from sarsteer_lab.directions import text_refusal_direction
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, SpokenPrompt
from sarsteer_lab.safe_space import SafeSpace, ablate, principal_space
from sarsteer_lab.steering import SteeringVectors
from sarsteer_lab.store import Store, cache_folder

States = Float[Tensor, "prompt layer d_model"]


@dataclass(frozen=True, eq=False)
class Derivation:
    """What the derive split gives: last-token states, refusal direction, safe space and steering vectors.

    `harmful_base` and `harmful_refusal` are the states of the same harmful clips without and with the
    refusal sentence in the text, `harmless_base` those of the harmless clips. `direction` is not ablated,
    `vectors` are.
    """

    harmful_base: States
    harmful_refusal: States
    harmless_base: States
    direction: SteeringVectors
    space: SafeSpace
    vectors: SteeringVectors


def derive(
    lalm: LALM,
    harmful: Sequence[SpokenPrompt],
    harmless: Sequence[SpokenPrompt],
    *,
    lam: float = 1.0,
    k: int = 10,
    cache: Store | None = None,
) -> Derivation:
    """SARSteer's vectors from harmful and harmless spoken requests (steps 1 to 4).

    Raises ValueError for a prompt without a clip, for no harmful or fewer than two harmless prompts, and
    for k < 1.
    """
    _need_enough(len(harmful), len(harmless))
    texts = [[p.spoken() for p in harmful], [p.spoken(refusal=REFUSAL) for p in harmful]]
    harmful_base, harmful_refusal = capture_variants(lalm, texts, cache=cache)
    harmless_base = capture(lalm, [prompt.spoken() for prompt in harmless], cache=cache)
    direction = text_refusal_direction(harmful_base, harmful_refusal)
    space = principal_space(harmless_base, k)
    origin = _origin(lalm, len(harmful), len(harmless))
    return Derivation(
        harmful_base,
        harmful_refusal,
        harmless_base,
        SteeringVectors(direction, {"method": "text-derived refusal direction", **origin}),
        space,
        SteeringVectors(ablate(direction, space, lam), {"method": "SARSteer", "lam": lam, "k": k, **origin}),
    )


def _need_enough(harmful: int, harmless: int) -> None:
    if not harmful or harmless < 2:
        raise ValueError(
            f"needs at least 1 harmful and 2 harmless requests to derive vectors from; got {harmful} and "
            f"{harmless}"
        )


def _origin(lalm: LALM, harmful: int, harmless: int) -> dict[str, Any]:
    """What vectors' provenance says of the model and the requests."""
    return {
        "model": model_name(lalm),
        "fingerprint": lalm.fingerprint,
        "safety": lalm.safety,
        "harmful_prompts": harmful,
        "harmless_prompts": harmless,
        "instruction": INSTRUCTION,
        "refusal": REFUSAL,
    }


def cached_vectors(
    lalm: LALM, prompts: Sequence[SpokenPrompt], *, lam: float = 1.0, k: int = 10
) -> SteeringVectors:
    """SARSteer's vectors from the derive split of `prompts`, kept in the user's cache after the first time.

    The file's name hashes all that they depend on: model fingerprint, requests, clips, texts, `lam` and
    `k`. Raises ValueError and `ClipError` as `derive` does.
    """
    harmful, harmless = (
        [prompt for prompt in prompts if prompt.split == "derive" and prompt.label == label]
        for label in ("harmful", "harmless")
    )
    digest = hashlib.sha256(f"{lalm.fingerprint} {lalm.dtype} {INSTRUCTION} {REFUSAL} {lam} {k}".encode())
    for prompt in (*harmful, *harmless):
        digest.update(f"\0{prompt.id}\0{prompt.label}\0".encode())
        if prompt.clip is not None and prompt.clip.is_file():
            digest.update(prompt.clip.read_bytes())
    path = cache_folder() / "vectors" / f"{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        return SteeringVectors.load(path)
    vectors = derive(lalm, harmful, harmless, lam=lam, k=k, cache=activation_cache()).vectors
    path.parent.mkdir(exist_ok=True)
    # Written aside and renamed, so that an interrupted run leaves no half file under the final name.
    handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    vectors.save(scratch)
    os.replace(scratch, path)
    return vectors


def activation_cache() -> Store:
    """The cache of hidden states in the user's cache folder."""
    return activation_store()


def model_name(lalm: LALM) -> str:
    """The model's name for reports: of a folder only its last part."""
    return Path(lalm.name).name if Path(lalm.name).is_dir() else lalm.name
