"""The interactive panels: a dial, two maps, live steering, and a board of defences.

Each function returns a panel to be displayed as the last value of a cell. Slider moves are answered within
about two seconds on two CPU cores with the pocket model, because what does not change is kept: states are
given, a clip is read once (`live.LivePrompt`), an answer is computed once per setting. Longer work shows a
progress bar and can be stopped. Panels use ipywidgets' own controls alone, and show a still where there is no
kernel. None of them leaves a trace in the model.
"""

from collections.abc import Sequence

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.course.widgets.board import OverRefusalBoard
from sarsteer_lab.course.widgets.maps import GapExplorer, SafeSpaceExplorer
from sarsteer_lab.course.widgets.speech import DialPanel, SteerPanel, as_vectors
from sarsteer_lab.evaluation.run import Response
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import SpokenPrompt
from sarsteer_lab.steering import SteeringVectors

__all__ = ["dial_panel", "gap_explorer", "over_refusal_board", "safe_space_explorer", "steer_panel"]

MOST_TOKENS = 16


def dial_panel(lalm: LALM, prompts: Sequence[SpokenPrompt] = (), *, max_new_tokens: int = 12) -> DialPanel:
    """Chapter 00: turn the safety dial, and see a request answered typed and spoken.

    A request is one of `prompts` (their clips have to be there), a sentence typed into the panel and spoken
    at once, or an uploaded clip. The model's own dial stays where it is. Raises ValueError for a model
    without a dial or more than 16 new tokens.
    """
    return DialPanel(lalm, prompts, max_new_tokens=_short(max_new_tokens))


def gap_explorer(
    typed: Float[Tensor, "prompt layer d_model"],
    spoken: Float[Tensor, "prompt layer d_model"],
    prompts: Sequence[SpokenPrompt],
    *,
    layer: int | None = None,
    limit: int = 60,
) -> GapExplorer:
    """Chapter 01: typed and spoken last-token states of the same requests on a map, layer by layer.

    Row i of both inputs is `prompts[i]`. Hover over a point to read its request, click it to hear it; PCA or
    UMAP. At most `limit` requests are drawn, evenly picked; `layer` (default: the middle one) is where it
    starts. Raises ValueError if the numbers of states and prompts differ.
    """
    middle = typed.shape[1] // 2
    return GapExplorer(typed, spoken, prompts, layer=middle if layer is None else layer, limit=limit)


def safe_space_explorer(
    direction: SteeringVectors | Float[Tensor, "layer d_model"],
    harmless: Float[Tensor, "prompt layer d_model"],
    *,
    lalm: LALM | None = None,
    layer: int | None = None,
    k: int = 10,
    lam: float = 1.0,
) -> SafeSpaceExplorer:
    """Chapter 03: what safe-space ablation removes from a refusal direction, for every k and lambda.

    `harmless` are the states that span the space (all of the model's layers). With `lalm` the tokens that
    the removed and the kept part raise are listed too (logit lens). `layer` (default: the middle one) is
    where it starts.
    """
    vectors = as_vectors(direction)
    middle = vectors.layers[len(vectors.layers) // 2]
    return SafeSpaceExplorer(vectors, harmless, lalm, layer=middle if layer is None else layer, k=k, lam=lam)


def steer_panel(
    lalm: LALM,
    direction: SteeringVectors | Float[Tensor, "layer d_model"],
    harmless: Float[Tensor, "prompt layer d_model"],
    prompts: Sequence[SpokenPrompt] = (),
    *,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    max_new_tokens: int = 14,
) -> SteerPanel:
    """Chapter 04: steer the answer to any request, with sliders for alpha, lambda, k and the layers.

    `direction` is the refusal direction before ablation, `harmless` the harmless states that span the safe
    space (all of the model's layers). Requests as in `dial_panel`. The sliders start at `alpha`, `lam` and
    `k`. Raises ValueError for more than 16 new tokens.
    """
    return SteerPanel(
        lalm,
        as_vectors(direction),
        harmless,
        prompts,
        alpha=alpha,
        lam=lam,
        k=k,
        max_new_tokens=_short(max_new_tokens),
    )


def over_refusal_board(responses: Sequence[Response], outcomes: pd.DataFrame) -> OverRefusalBoard:
    """Chapter 05: pick defences and sets, see what they refuse, and click a cell to read its responses.

    `responses` from `run.run`, `outcomes` one judge's from
    `evaluation.judge_responses`. Of every response the first 20 words at most are shown. Raises ValueError
    if there are outcomes of several judges or a response has none.
    """
    return OverRefusalBoard(responses, outcomes)


def _short(max_new_tokens: int) -> int:
    """Raises ValueError for answers too long to be live (and, of harmful requests, to be shown)."""
    if not 1 <= max_new_tokens <= MOST_TOKENS:
        raise ValueError(f"max_new_tokens={max_new_tokens}: a panel's answers have 1 to {MOST_TOKENS} tokens")
    return max_new_tokens
