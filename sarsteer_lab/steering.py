"""Steering while a `with` block lasts: add vectors to decoder layers' outputs, or project a direction out.

Both undo themselves whatever happens in the block: no weight is touched, and every hook goes. Blocks nest.
Hooks run in the order in which their blocks were entered, so two `steer` add up (in either order, up to
rounding), and an `ablate` inside a `steer` also removes its direction from what was added, one around it
does not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sarsteer_lab.activations import layer_indices
from sarsteer_lab.families import residual_stream
from sarsteer_lab.lalm import LALM
from sarsteer_lab.vectors import SteeringVectors

__all__ = ["SteeringError", "SteeringVectors", "ablate", "steer"]

Positions = Literal["last", "all", "audio"]

PROMPT_END = "holds_all_but_the_prompts_last_position"
"""Attribute of a cache that `prepared.PreparedBatch` fills: the step that follows is the prompt's end."""

ROWS = "holds_only_these_rows"
"""Attribute of a cache from which `prepared.PreparedBatch` has dropped rows: the numbers of those left."""


class SteeringError(RuntimeError):
    """What is being run cannot be steered correctly. The message says why and what to do instead."""


@contextmanager
def steer(
    lalm: LALM,
    vectors: SteeringVectors | Float[Tensor, "layer d_model"],
    alpha: float | Float[Tensor, "prompt"] = 0.1,
    layers: Sequence[int] | None = None,
    positions: Positions = "last",
) -> Iterator[None]:
    """Add `alpha * vectors[l]` to the output of decoder layer l while the block lasts (SARSteer, step 5).

    `positions` "last": the prompt's last position and every generated token, as in the paper; "all": every
    position of the prompt and every generated token; "audio": the clip's positions of the prompt, nothing
    else. The sum is taken in float32 and cast back. `layers` (default: all that have a vector) may count
    from the end.

    `alpha` may hold one value per prompt of the call (`lalm.generate`, `next_token_logits`, `capture`; for
    direct calls of the model: per row of the batch), so that a sweep is one batch; beams and returned
    sequences of a prompt share its value. `alpha=0` attaches nothing: outputs are bit-identical.

    Right for greedy decoding, sampling, beam search and plain forward passes. Raises ValueError for vectors
    that do not fit the model, and `SteeringError` for what would be steered wrongly: compiled models,
    generation without cache, assisted decoding, chunked prefill, static caches, right padding, a cache
    filled outside of the model.
    """
    vectors = vectors if isinstance(vectors, SteeringVectors) else SteeringVectors(vectors)
    chosen = _chosen_layers(lalm, vectors, layers)
    if positions not in ("last", "all", "audio"):
        raise ValueError(f"positions={positions!r}: choose 'last', 'all' or 'audio'")
    alpha = _strength(alpha)
    _refuse_compiled(lalm)
    if isinstance(alpha, float) and alpha == 0:
        yield
        return
    # alpha * v is formed once, where its layer lives; a decoding step then costs one addition per layer.
    on_layer = {layer: vectors[layer].to(_device(lalm.layers[layer])) for layer in chosen}
    watch = _Watch(lalm, alpha, on_layer, positions)
    with ExitStack() as undo:
        undo.callback(watch.detach)
        watch.attach()
        for layer in chosen:
            hook = partial(watch.edit, layer)
            undo.callback(lalm.layers[layer].register_forward_hook(hook).remove)
        yield


@contextmanager
def ablate(
    lalm: LALM,
    direction: SteeringVectors | Float[Tensor, "d_model"] | Float[Tensor, "layer d_model"],
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Project a direction out of decoder layers' outputs at every position while the block lasts.

    `h <- h - (h . u) u` with u the direction at unit length, in float32 and cast back (directional
    ablation, Arditi et al. 2024, eq. 4, applied to each layer's output). One direction serves all layers,
    or each has its own. It holds at every position alike, so every way of decoding is right. Raises
    ValueError for a zero direction or one that does not fit the model, and `SteeringError` for a compiled
    model.
    """
    if isinstance(direction, Tensor) and direction.ndim == 1:
        direction = direction.expand(lalm.n_layers, -1)
    vectors = direction if isinstance(direction, SteeringVectors) else SteeringVectors(direction)
    chosen = _chosen_layers(lalm, vectors, layers)
    if any(not vectors[layer].any() for layer in chosen):
        raise ValueError("a zero vector cannot be projected out: it has no direction")
    _refuse_compiled(lalm)
    text_config = lalm.text_config

    def hook(_module: Any, _args: Any, output: Any, unit: Tensor) -> None:
        stream = residual_stream(output, text_config)
        exact = stream.float()
        stream.copy_(exact - (exact @ unit)[..., None] * unit)

    with ExitStack() as undo:
        for layer in chosen:
            unit = torch.nn.functional.normalize(vectors[layer], dim=0).to(_device(lalm.layers[layer]))
            undo.callback(lalm.layers[layer].register_forward_hook(partial(hook, unit=unit)).remove)
        yield


class _Watch:
    """Knows, for the layers' hooks, which positions the running forward pass holds and what to add to them.

    A hook on the trunk tells the prompt (empty cache) from a decoding step (one position onto a filled
    cache), and a wrapper around `generate`, on this instance only, tells what the hooks cannot see: beams
    and ways of decoding.
    """

    def __init__(
        self, lalm: LALM, alpha: float | Tensor, vectors: dict[int, Tensor], positions: Positions
    ) -> None:
        self.lalm = lalm
        self.alpha = alpha
        self.vectors = vectors
        self.positions = positions
        self.text_config = lalm.text_config
        self.rows_per_prompt = 1
        self.phase: Literal["prompt", "step"] | None = None
        self.audio: Bool[Tensor, "batch position 1"] | None = None
        self.added: dict[int, Tensor] = {}
        self.rows: Int[Tensor, "row"] | None = None
        # Whether a step runs that adds to all rows in their first order: most hooks then look no further.
        self.plain_step = False
        if isinstance(alpha, float):
            self.added = {layer: alpha * vector for layer, vector in vectors.items()}
        self.handles: list[Any] = []
        self.outer: Any = None
        self.wrapped = False

    def attach(self) -> None:
        """Hook the trunk and wrap `generate`."""
        trunk, core = self.lalm.trunk, self.lalm.core
        self.handles.append(trunk.register_forward_pre_hook(self.before_forward, with_kwargs=True))
        self.handles.append(trunk.register_forward_hook(self.after_forward, always_call=True))
        self.outer = core.__dict__.get("generate")
        core.__dict__["generate"] = partial(self.generate, core.generate)
        self.wrapped = True

    def detach(self) -> None:
        """Undo `attach`, however far it came."""
        for handle in self.handles:
            handle.remove()
        if self.wrapped and self.outer is None:
            del self.lalm.core.__dict__["generate"]
        elif self.wrapped:
            self.lalm.core.__dict__["generate"] = self.outer

    def generate(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`, after a look at how it is going to decode."""
        config = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)

        def setting(name: str) -> Any:
            for source in (kwargs, vars(config) if config else {}, vars(self.lalm.core.generation_config)):
                if source.get(name) is not None:
                    return source[name]
            return None

        if setting("use_cache") is False:
            raise SteeringError(
                "generate(use_cache=False) runs old positions again unsteered; leave the cache on"
            )
        for name in (
            "assistant_model",
            "prompt_lookup_num_tokens",
            "assistant_early_exit",
            "custom_generate",
        ):
            if setting(name) is not None:
                raise SteeringError(
                    f"{name} decodes several positions at once, which cannot be steered; leave it out"
                )
        if setting("prefill_chunk_size") is not None:
            raise SteeringError(
                "with prefill_chunk_size the prompt's last position is not known; leave it out"
            )
        self.rows_per_prompt = max(setting("num_beams") or 1, setting("num_return_sequences") or 1)
        try:
            return plain(*args, **kwargs)
        finally:
            self.rows_per_prompt = 1

    def before_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out what this forward pass is; refuse what would be steered wrongly."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        batch, length = (ids if ids is not None else kwargs["inputs_embeds"]).shape[:2]
        cache = kwargs.get("past_key_values")
        if "cu_seq_lens_q" in kwargs or "block_table" in kwargs:
            raise SteeringError(
                "packed batches (continuous batching) hold several prompts a row; use generate"
            )
        if getattr(cache, "is_compileable", False):
            raise SteeringError(
                "static caches compile the model, which drops hooks; use the default dynamic cache"
            )
        ends_prompt = getattr(cache, PROMPT_END, False)
        if ends_prompt and self.positions != "last":
            raise SteeringError(
                f"positions={self.positions!r} are not all here: the prompt ran before but for its last one"
            )
        if cache is not None and cache.get_seq_length() > 0 and not ends_prompt:
            if length > 1:
                raise SteeringError(
                    f"{length} positions onto a filled cache (assisted decoding, chunked prefill or a chat): "
                    "which of them to steer is not known; run the whole prompt at once"
                )
            self.phase = "step"
            self.rows = getattr(cache, ROWS, None)
            self.plain_step = self.rows is None and self.positions != "audio" and bool(self.added)
            if isinstance(self.alpha, Tensor) and not self.added:
                raise SteeringError("the prompt ran outside of this `with steer`, so its rows are not known")
            return
        self.phase = "prompt"
        self.rows = None
        mask = kwargs.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2 and mask[:, -1].all()):
            raise SteeringError(
                "the last position has to be the prompt's last token: pad on the left, 2-D mask"
            )
        if self.positions == "audio":
            if ids is None:
                raise SteeringError("positions='audio' needs input_ids to find the clip; got inputs_embeds")
            self.audio = (ids == self.lalm.audio_token_id)[..., None]
        if isinstance(self.alpha, Tensor):
            alpha = self._row_alphas(self.alpha, batch)
            self.added = {
                layer: alpha.to(vector.device)[:, None, None] * vector
                for layer, vector in self.vectors.items()
            }

    def after_forward(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Whatever runs layers from now on does not come through the trunk."""
        self.phase, self.plain_step = None, False

    def edit(self, layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of a layer. Edits in place: one addition, and all who hold the output see it."""
        stream = residual_stream(output, self.text_config)
        if self.plain_step:
            stream.add_(self.added[layer])
            return
        added = self.added[layer]
        if self.rows is not None and added.ndim == 3:  # one vector per prompt, and some prompts have ended
            added = added[self.rows.to(added.device)]
        if self.phase == "step":
            # In-place addition of a float32 tensor computes in float32 and rounds once.
            if self.positions != "audio":
                stream.add_(added)
        elif self.phase is None:
            raise SteeringError(
                "decoder layers ran outside of the model's forward; call the model or its trunk"
            )
        elif self.positions == "last":
            stream[:, -1:].add_(added)
        elif self.positions == "all":
            stream.add_(added)
        else:
            assert self.audio is not None
            # Gemma 4's last layers, which reuse keys and values, see the prompt's last positions alone.
            where = self.audio[:, -stream.shape[1] :].to(stream.device)
            stream.copy_(torch.where(where, (stream + added).to(stream.dtype), stream))

    def _row_alphas(self, alpha: Float[Tensor, "prompt"], batch: int) -> Float[Tensor, "batch"]:
        """The value of each row of the running batch, whose prompts `lalm` may have sorted and split."""
        running, repeats = self.lalm.running, self.rows_per_prompt
        total = running.total if running else batch // repeats
        rows = running.rows if running else list(range(total))
        if len(alpha) != total or len(rows) * repeats != batch:
            raise SteeringError(
                f"alpha has {len(alpha)} values for {total} prompts (a batch of {batch} rows, {repeats} per "
                "prompt); give one value per prompt"
            )
        return alpha[rows].repeat_interleave(repeats)


def _strength(alpha: float | Float[Tensor, "prompt"]) -> float | Float[Tensor, "prompt"]:
    """A number, or float32 numbers, one per prompt. Raises ValueError for others."""
    if not isinstance(alpha, Tensor) or alpha.ndim == 0:
        return float(alpha)
    alpha = alpha.detach().float()
    if alpha.ndim != 1 or not alpha.isfinite().all():
        raise ValueError(f"alpha has to be a number or finite numbers, one per prompt; got {alpha}")
    return alpha


def _chosen_layers(lalm: LALM, vectors: SteeringVectors, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to act on. Raises ValueError if the vectors do not fit the model or lack one of them."""
    if vectors.d_model != lalm.d_model or max(vectors.layers) >= lalm.n_layers:
        raise ValueError(
            f"vectors of width {vectors.d_model} for layers up to {max(vectors.layers)} do not fit "
            f"{lalm.name}, which has {lalm.n_layers} layers of width {lalm.d_model}"
        )
    chosen = vectors.layers if layers is None else layer_indices(lalm, layers)
    if missing := set(chosen) - set(vectors.layers):
        raise ValueError(f"no vector for layers {sorted(missing)}; there are {vectors.layers}")
    return chosen


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def _refuse_compiled(lalm: LALM) -> None:
    """A compiled graph is fixed: hooks added afterwards are silently ignored."""
    for module in (lalm.model, lalm.core, lalm.trunk, lalm.decoder, *lalm.layers):
        compiled = (
            isinstance(module, torch._dynamo.OptimizedModule)
            or module._compiled_call_impl is not None
            or hasattr(module.forward, "_torchdynamo_orig_callable")
        )
        if compiled:
            raise SteeringError(
                f"{type(module).__name__} is compiled (torch.compile): it ignores new hooks; load it plain"
            )
