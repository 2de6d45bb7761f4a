"""Steering while a `with` block lasts: add vectors to layers' outputs, or project a direction out.

Every hook goes whatever happens in the block, and no weight is touched. A steered model refuses the
calls of other threads (`access`). Blocks nest, and act in the order in which they were entered: two
`steer` add up, and a `project_out` inside a `steer` also removes its direction from what was added,
one around it does not. `steer` is made of `pushing`, as steering of one's own is: a `Push` says
what is added at a layer. What cannot be steered correctly is refused: `steering_guard`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.access import SteeringError
from sarsteer_lab.batch import Batch
from sarsteer_lab.families import Output, residual_stream
from sarsteer_lab.lalm import LALM
from sarsteer_lab.steering_guard import (
    Guarded,
    Options,
    guarded,
    holds_prompts,
    prompts_of_rows,
    refuse_compiled,
    refuse_layers_alone,
    tokens_and_cached,
)
from sarsteer_lab.vectors import SteeringVectors

Alpha = float | Sequence[float] | Float[Tensor, "prompt"]
RowAlphas = float | Float[Tensor, "row 1 1"]
Vectors = SteeringVectors | Float[Tensor, "layer d_model"]


class Push(Protocol):
    """What steering adds to the output of a layer."""

    def __call__(
        self,
        layer: int,
        states: Float[Tensor, "row 1 d_model"] | None,
        alpha: RowAlphas,
    ) -> Float[Tensor, "*row_position d_model"]:
        """What to add at `layer`, in float32 on the states' device, `alpha` times the whole of it.

        `states` are those at the prompts' ends, and the same is added at every generated token
        until the next prompt; None if a prompt ran before the block.
        """
        ...


@contextmanager
def steer(
    lalm: LALM, vectors: Vectors, alpha: Alpha = 0.1, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Add `alpha * vectors[l]` to layer l's output while the block lasts (SARSteer, step 5).

    It is added at the prompt's last position and at every generated token, in float32, and cast
    back. `layers` (default: all that have a vector) may count from the end.

    `alpha` may hold one value per prompt of the call (`lalm.generate`, `next_token_logits`,
    `capture`; for direct calls of the model: per row of the batch), so that a sweep is one batch;
    beams of a prompt share its value. `alpha=0` attaches nothing: outputs are bit-identical.

    Right for greedy decoding, sampling, beam search and plain forward passes. Raises ValueError for
    vectors that do not fit the model and an alpha that is not finite, and `SteeringError` for what
    would be steered wrongly (`steering_guard`).
    """
    by_layer = _placed(lalm, vectors, layers)
    with pushing(lalm, lambda layer, _, alpha: alpha * by_layer[layer], [*by_layer], alpha):
        yield


@contextmanager
def pushing(lalm: LALM, push: Push, layers: Sequence[int], alpha: Alpha = 1.0) -> Iterator[None]:
    """Add to the outputs of `layers` what `push` says, while the block lasts; else as `steer`."""
    alpha_tensor = _as_tensor(alpha)
    refuse_compiled(lalm)
    if not alpha_tensor.any():
        yield
        return
    with attached(lalm, Steering(lalm, push, alpha_tensor), layers):
        yield


class Watching(Guarded, Protocol):
    """What looks at each forward pass before it runs."""

    def before_forward(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: Options) -> None:
        """Hook of the trunk."""


class Attached(Watching, Protocol):
    """What also edits the outputs of layers in it."""

    def edit(self, layer: int, _module: nn.Module, _args: object, output: Output) -> None:
        """Hook of a layer."""


@contextmanager
def watched(lalm: LALM, watching: Watching) -> Iterator[None]:
    """Its look at each pass, while the block lasts: guarded, told which batch runs, in this thread
    alone."""
    with ExitStack() as hooks:
        hooks.enter_context(lalm.access.alone(steering=True))
        lalm.watchers.append(watching)
        hooks.callback(lalm.watchers.remove, watching)
        hooks.enter_context(guarded(lalm, watching))
        look = lalm.trunk.register_forward_pre_hook(watching.before_forward, with_kwargs=True)
        hooks.enter_context(look)
        yield


@contextmanager
def attached(lalm: LALM, steering: Attached, layers: Sequence[int]) -> Iterator[None]:
    """The same, with its hooks on these layers."""
    with ExitStack() as hooks:
        hooks.enter_context(watched(lalm, steering))
        for layer in layers:
            edit = partial(steering.edit, layer)
            hooks.enter_context(lalm.layers[layer].register_forward_hook(edit))
        yield


class Steering:
    """The hooks of `pushing`, and what they know of the forward pass that runs.

    A pass holds prompts (its cache is empty), or one more token of each answer. `batch` is what
    the library announces (`LALM.announce`); None in direct calls of the model.
    """

    def __init__(self, lalm: LALM, push: Push, alpha_tensor: Float[Tensor, "*prompt"]) -> None:
        self.text_config, self.access = lalm.text_config, lalm.access
        self.push, self.alpha_tensor = push, alpha_tensor
        self.batch: Batch | None = None
        self.at_prompt: bool | None = None  # None: no pass of the model runs
        self.row_alphas: RowAlphas | None = None if alpha_tensor.ndim else float(alpha_tensor)
        self.added: dict[int, Tensor] = {}  # by layer, for the answers that are being decoded
        self.prompt_numbers: Sequence[int] = ()  # whose they are, in announced batches

    def before_forward(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: Options) -> None:
        """Hook of the trunk: find out what this pass holds."""
        tokens, n_cached = tokens_and_cached(args, kwargs)
        self.at_prompt = holds_prompts(n_cached, self.batch)
        n_rows = len(tokens)
        numbers = range(n_rows) if self.batch is None else self.batch.prompt_numbers
        if self.at_prompt:
            self.row_alphas = self._row_alphas(n_rows)
        elif self.batch is not None and len(numbers) < len(self.prompt_numbers):
            self._leave([self.prompt_numbers.index(number) for number in numbers])
        self.prompt_numbers = numbers

    def _leave(self, stay: list[int]) -> None:
        """Some answers have ended: only these of their rows stay in the batch."""
        for layer, added in self.added.items():
            self.added[layer] = added[stay] if added.ndim == 3 else added

    def _row_alphas(self, n_rows: int) -> RowAlphas:
        """The alpha of each row of the pass."""
        if self.alpha_tensor.ndim == 0:
            return float(self.alpha_tensor)
        n_prompts = n_rows if self.batch is None else self.batch.total
        prompt_of_row = prompts_of_rows(n_rows, self.batch)
        if len(prompt_of_row) < n_rows or len(self.alpha_tensor) != n_prompts:
            counts = f"alpha has {len(self.alpha_tensor)} values for {n_prompts} prompts"
            raise SteeringError(f"{counts}; give one value per prompt")
        return self.alpha_tensor[prompt_of_row][:, None, None]

    def edit(self, layer: int, _module: nn.Module, _args: object, output: Output) -> None:
        """Hook of a layer: add in place, so that all who hold the output see it."""
        self.access.refuse_others()
        refuse_layers_alone(self.at_prompt)
        last = residual_stream(output, self.text_config)[:, -1:]  # row 1 d_model; of a step, all
        if self.at_prompt or layer not in self.added:
            assert self.row_alphas is not None  # the guard has seen to it
            row_alphas = self.row_alphas
            if isinstance(row_alphas, Tensor):
                row_alphas = row_alphas.to(last.device)
            states = last.float() if self.at_prompt else None
            self.added[layer] = self.push(layer, states, row_alphas)
        last.add_(self.added[layer])  # computes in float32 and rounds once


@contextmanager
def project_out(
    lalm: LALM,
    direction: Vectors | Float[Tensor, "d_model"],
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Project a direction out of layers' outputs at every position while the block lasts.

    `h <- h - (h . u) u` with u the direction at unit length, in float32 and cast back (directional
    ablation, Arditi et al. 2024, eq. 4, applied to each layer's output). One direction serves all
    layers, or each has its own. Every way of decoding is right. Raises ValueError for a zero
    direction or one that does not fit the model, and `SteeringError` for a compiled model.
    """
    if isinstance(direction, Tensor) and direction.ndim == 1:
        direction = direction.expand(lalm.n_layers, -1)
    by_layer = _placed(lalm, direction, layers)
    if not all(vector.any() for vector in by_layer.values()):
        raise ValueError("a zero vector cannot be projected out: it has no direction")
    refuse_compiled(lalm)

    def edit(unit: Tensor, _module: nn.Module, _args: object, output: Output) -> None:
        lalm.access.refuse_others()
        stream = residual_stream(output, lalm.text_config)
        along = stream.float() @ -unit  # row position
        stream.add_(along[..., None] * unit)

    with ExitStack() as hooks:
        hooks.enter_context(lalm.access.alone(steering=True))
        for layer, vector in by_layer.items():
            unit = nn.functional.normalize(vector, dim=0)
            hooks.enter_context(lalm.layers[layer].register_forward_hook(partial(edit, unit)))
        yield


def _as_tensor(alpha: Alpha) -> Float[Tensor, "*prompt"]:
    """A number, or one per prompt, in float32. Raises ValueError for others."""
    try:
        alpha_tensor = torch.as_tensor(alpha, dtype=torch.float32).detach()
    except (TypeError, ValueError, RuntimeError):  # strings, None, ragged lists
        alpha_tensor = torch.tensor(torch.nan)
    if alpha_tensor.ndim > 1 or not alpha_tensor.numel() or not alpha_tensor.isfinite().all():
        wanted = "a finite number or finite numbers, one per prompt"
        raise ValueError(f"alpha has to be {wanted}; got {alpha!r}")
    return alpha_tensor


def steered_layers(
    lalm: LALM, vectors: SteeringVectors, layers: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The layers of the model to act on with these vectors: `layers`, or all that have one.

    Raises ValueError if the vectors do not fit the model or lack one of the layers.
    """
    if vectors.d_model != lalm.d_model or max(vectors.layers) >= lalm.n_layers:
        given = f"vectors of width {vectors.d_model} for layers up to {max(vectors.layers)}"
        wanted = f"{lalm.name}, which has {lalm.n_layers} layers of width {lalm.d_model}"
        raise ValueError(f"{given} do not fit {wanted}")
    indices = vectors.layers if layers is None else lalm.layer_indices(layers)
    if missing := sorted(set(indices) - set(vectors.layers)):
        raise ValueError(f"no vector for layers {missing}; there are {vectors.layers}")
    return indices


def _placed(
    lalm: LALM, vectors: Vectors, layers: Sequence[int] | None
) -> dict[int, Float[Tensor, "d_model"]]:
    """The vectors of the layers to act on, each where its layer lives. Raises TypeError."""
    if isinstance(vectors, Tensor):  # not by the other's class, which autoreload makes anew
        vectors = SteeringVectors(vectors)
    if not hasattr(vectors, "d_model"):
        wanted = "SteeringVectors or a tensor (layer d_model)"
        kind = type(vectors).__name__
        raise TypeError(f"vectors are {wanted}, not a {kind}; SteeringVectors.load reads a file")
    by_layer = {}
    for layer in steered_layers(lalm, vectors, layers):
        device = next(lalm.layers[layer].parameters()).device
        by_layer[layer] = vectors[layer].to(device)
    return by_layer
