"""Steering while a `with` block lasts: add vectors to decoder layers' outputs, or project a
direction out.

Every hook goes whatever happens in the block, and no weight is touched. Blocks nest, and act in the
order in which they were entered: two `steer` add up, and a `project_out` inside a `steer` also
removes its direction from what was added, one around it does not. Both are made of `pushing`, as
steering of one's own is: a `Push` says what is added at a layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.activations import chosen_layers
from sarsteer_lab.families import residual_stream
from sarsteer_lab.lalm import LALM, Running
from sarsteer_lab.vectors import SteeringVectors

Where = Literal["last", "every"]
Alpha = float | Sequence[float] | Float[Tensor, "prompt"]
Strength = float | Float[Tensor, "prompt"]
RowAlpha = float | Float[Tensor, "row 1 1"]

UNSTEERABLE = {
    "use_cache": "runs old positions again unsteered if it is off; leave the cache on",
    "prefill_chunk_size": "hides which position is the prompt's last; leave it out",
} | dict.fromkeys(
    ("prompt_lookup_num_tokens", "assistant_early_exit"),
    "decodes several positions at once, which cannot be steered; leave it out",
)
"""Settings, the checkpoint's too, with which the last position is not the one decoded last, and
why."""


class SteeringError(RuntimeError):
    """What is being run cannot be steered correctly. The message says why and what to do
    instead."""


class Push(Protocol):
    """What steering adds to the output of a layer."""

    def __call__(
        self, layer: int, states: Float[Tensor, "row position d_model"] | None, alpha: RowAlpha
    ) -> Float[Tensor, "*row_position d_model"]:
        """What to add at `layer`, in float32 on the states' device, `alpha` times the whole of it.

        `states` are those at the prompts' ends (one position), and the same is added at every
        generated token until the next prompt; None if a prompt ran before the block. With
        positions="every" they are the whole stream, in each forward pass, and each position gets
        what belongs to it.
        """
        ...


@contextmanager
def steer(
    lalm: LALM,
    vectors: SteeringVectors | Float[Tensor, "layer d_model"],
    alpha: Alpha = 0.1,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Add `alpha * vectors[l]` to the output of decoder layer l while the block lasts (SARSteer,
    step 5).

    It is added at the prompt's last position and at every generated token, in float32, and cast
    back. `layers` (default: all that have a vector) may count from the end.

    `alpha` may hold one value per prompt of the call (`lalm.generate`, `next_token_logits`,
    `capture`; for direct calls of the model: per row of the batch), so that a sweep is one batch;
    beams of a prompt share its value. `alpha=0` attaches nothing: outputs are bit-identical.

    Right for greedy decoding, sampling, beam search and plain forward passes. Raises ValueError for
    vectors that do not fit the model and an alpha that is not finite, and `SteeringError` for what
    would be steered wrongly: compiled models, generation without cache, assisted decoding, chunked
    prefill, static caches, right padding, a cache filled outside of the model.
    """
    on_layer = _placed(lalm, vectors, layers)
    with pushing(lalm, lambda layer, states, alpha: alpha * on_layer[layer], [*on_layer], alpha):
        yield


@contextmanager
def project_out(
    lalm: LALM,
    direction: SteeringVectors | Float[Tensor, "d_model"] | Float[Tensor, "layer d_model"],
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Project a direction out of decoder layers' outputs at every position while the block lasts.

    `h <- h - (h . u) u` with u the direction at unit length, in float32 and cast back (directional
    ablation, Arditi et al. 2024, eq. 4, applied to each layer's output). One direction serves all
    layers, or each has its own. Every way of decoding is right. Raises ValueError for a zero
    direction or one that does not fit the model, and `SteeringError` for a compiled model.
    """
    if isinstance(direction, Tensor) and direction.ndim == 1:
        direction = direction.expand(lalm.n_layers, -1)
    units = _placed(lalm, direction, layers)
    if not all(vector.any() for vector in units.values()):
        raise ValueError("a zero vector cannot be projected out: it has no direction")
    units = {layer: nn.functional.normalize(vector, dim=0) for layer, vector in units.items()}

    def push(
        layer: int, states: Tensor | None, alpha: Any
    ) -> Float[Tensor, "row position d_model"]:
        assert states is not None
        return (states @ -units[layer])[..., None] * units[layer]

    with pushing(lalm, push, [*units], 1.0, "every"):
        yield


@contextmanager
def pushing(
    lalm: LALM, push: Push, layers: Sequence[int], alpha: Alpha = 1.0, positions: Where = "last"
) -> Iterator[None]:
    """Add to the outputs of `layers` (see `chosen_layers`) what `push` says, while the block lasts.

    `alpha` as for `steer`. `positions`: "last" as there; "every" is each position of each pass by
    its own state, alpha 1.
    """
    strength = _strength(alpha)
    _refuse_compiled(lalm)
    if isinstance(strength, float) and strength == 0:
        yield
        return
    watch = Watch(lalm, push, strength, positions)
    with ExitStack() as hooks:
        if positions != "every":
            hooks.enter_context(
                lalm.trunk.register_forward_pre_hook(watch.before_forward, with_kwargs=True)
            )
            hooks.enter_context(
                lalm.trunk.register_forward_hook(watch.after_forward, always_call=True)
            )
        for layer in layers:
            hooks.enter_context(
                lalm.layers[layer].register_forward_hook(partial(watch.edit, layer))
            )
        yield


class Watch:
    """Knows, for the layers' hooks, which positions the running forward pass holds and what to add
    to them.

    A hook on the trunk tells the prompt (empty cache) from a decoding step (one position onto a
    filled cache); which prompts the rows are, `lalm.now` tells where the library runs the model.
    """

    def __init__(self, lalm: LALM, push: Push, alpha: Strength, positions: Where) -> None:
        self.lalm, self.push, self.alpha, self.positions = lalm, push, alpha, positions
        self.text_config = lalm.text_config
        self.phase: Literal["prompt", "step"] | None = None
        self.row_alphas: RowAlpha | None = alpha if isinstance(alpha, float) else None
        # What the steps add at each layer; with a row for each row of the batch in which these
        # prompts ran.
        self.added: dict[int, Tensor] = {}
        self.rows: Sequence[int] | None = None
        # Of direct calls: the last cache and how far it was filled, or what a pass without a cache
        # was given.
        self.filled: tuple[int, int] | None = None
        self.uncached: Tensor | None = None

    def before_forward(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Find out what this forward pass is; refuse what would be steered wrongly."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        given = ids if ids is not None else kwargs["inputs_embeds"]
        batch, length = given.shape[:2]
        cache, now = kwargs.get("past_key_values"), self.lalm.now
        if "cu_seq_lens_q" in kwargs or "block_table" in kwargs:
            raise SteeringError("packed batches hold several prompts a row; use generate")
        if getattr(cache, "is_compileable", False):
            raise SteeringError(
                "static caches compile the model, which drops hooks; use the default cache"
            )
        held = cache.get_seq_length() if cache is not None else 0
        if held and not (now is not None and now.at_end):
            self._before_step(length, (id(cache), held), now)
            return
        self._refuse_decoding(now, given if cache is None else None)
        self.filled = (id(cache), held + length)
        self.phase = "prompt"
        mask = kwargs.get("attention_mask")
        if mask is not None and not (
            isinstance(mask, Tensor) and mask.ndim == 2 and mask[:, -1].all()
        ):
            raise SteeringError(
                "the last position has to be the prompt's last token: pad on the left"
            )
        self.rows = None if now is None else now.rows
        if isinstance(self.alpha, Tensor):
            # `lalm` may have sorted and split the prompts; beams of one stand behind one another.
            rows, total = (range(batch), batch) if now is None else (now.rows, len(now.prompts))
            repeats, more = divmod(batch, len(rows))
            if more or len(self.alpha) != total:
                given = f"alpha has {len(self.alpha)} values for {total} prompts"
                raise SteeringError(f"{given}; give one value per prompt")
            self.row_alphas = self.alpha[list(rows)].repeat_interleave(repeats)[:, None, None]

    def _before_step(self, length: int, filled: tuple[int, int], now: Running | None) -> None:
        """The same for what goes onto a cache that is filled so far."""
        if length > 1:
            raise SteeringError(
                f"{length} positions onto a filled cache (assisted decoding, chunked prefill or a chat): "
                "which of them to steer is not known; run the whole prompt at once"
            )
        if now is None and self.filled is not None and self.filled[0] == filled[0]:
            if self.filled[1] != filled[1]:
                raise SteeringError("positions were taken back from the cache (assisted decoding)")
            self.filled = (filled[0], filled[1] + 1)
        if self.row_alphas is None:
            raise SteeringError(
                "the prompt ran outside of this `with steer`, so its rows are not known"
            )
        if now is not None and self.rows is not None and now.rows is not self.rows:
            # Some prompts have ended, and their rows have left the batch.
            left = [self.rows.index(row) for row in now.rows]
            self.added |= {at: added[left] for at, added in self.added.items() if added.ndim == 3}
            self.rows = now.rows
        self.phase = "step"

    def _refuse_decoding(self, now: Running | None, uncached: Tensor | None) -> None:
        """Refuse ways of decoding in which the last position is not the last that was decoded."""
        if now is not None and now.decoding is not None:
            sources = (now.decoding, vars(self.lalm.core.generation_config))
            for name, why in UNSTEERABLE.items():
                value = next(
                    (source[name] for source in sources if source.get(name) is not None), None
                )
                if value is not None and (name != "use_cache" or not value):
                    raise SteeringError(f"{name} {why}")
        before, self.uncached = self.uncached, uncached if now is None else None
        if before is None or self.uncached is None or self.uncached.shape[1] != before.shape[1] + 1:
            return
        grown = self.uncached[:, None, :-1]  # beams change places, so a row may go on from any
        if (
            grown.shape[2:] == before.shape[1:]
            and (grown == before).flatten(2).all(-1).any(1).all()
        ):
            raise SteeringError(f"use_cache {UNSTEERABLE['use_cache']}")

    def after_forward(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Whatever runs layers from now on does not come through the trunk."""
        self.phase = None

    def edit(self, layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of a layer. Edits in place: one addition, and all who hold the output see
        it."""
        # In-place addition of a float32 tensor computes in float32 and rounds once.
        stream, prompt = residual_stream(output, self.text_config), self.phase == "prompt"
        if self.positions == "every":
            stream.add_(self.push(layer, stream.float(), 1.0))
            return
        if self.phase is None:
            raise SteeringError("decoder layers ran outside of the model's forward; call the model")
        if prompt or layer not in self.added:
            alpha: Any = self.row_alphas
            alpha = alpha.to(stream.device) if isinstance(alpha, Tensor) else alpha
            self.added[layer] = self.push(layer, stream[:, -1:].float() if prompt else None, alpha)
        stream[:, -1:].add_(self.added[layer])  # a step has one position


def _strength(alpha: Alpha) -> Strength:
    """A number, or float32 numbers, one per prompt. Raises ValueError for others."""
    try:
        values = torch.as_tensor(alpha).detach().float()
    except (TypeError, ValueError, RuntimeError):  # strings, None, ragged lists
        values = torch.tensor(torch.nan)
    if values.ndim > 1 or not len(values.reshape(-1)) or not values.isfinite().all():
        raise ValueError(
            f"alpha has to be a finite number or finite numbers, one per prompt; got {alpha!r}"
        )
    return values if values.ndim == 1 else float(alpha)  # type: ignore[arg-type]


def _placed(
    lalm: LALM,
    vectors: SteeringVectors | Float[Tensor, "layer d_model"],
    layers: Sequence[int] | None,
) -> dict[int, Float[Tensor, "d_model"]]:
    """The vectors of the layers to act on, each where its layer lives."""
    vectors = vectors if isinstance(vectors, SteeringVectors) else SteeringVectors(vectors)
    chosen = chosen_layers(lalm, vectors, layers)
    return {
        layer: vectors[layer].to(next(lalm.layers[layer].parameters()).device) for layer in chosen
    }


def _refuse_compiled(lalm: LALM) -> None:
    """A compiled graph is fixed: hooks added afterwards are silently ignored."""
    for module in (lalm.model, lalm.core, lalm.trunk, lalm.decoder, *lalm.layers):
        compiled = (
            isinstance(module, torch._dynamo.OptimizedModule)
            or module._compiled_call_impl is not None
        )
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            what = type(module).__name__
            raise SteeringError(
                f"{what} is compiled (torch.compile): it ignores new hooks; load it plain"
            )
