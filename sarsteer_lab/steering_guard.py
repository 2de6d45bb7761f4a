"""What steering refuses: ways of running a model in which it cannot know what to steer.

`steering` is right where a forward pass holds whole prompts, or one more token for each answer.
Packed batches, caches filled elsewhere, loops without a cache, assisted decoding, right padding,
static caches and compiled graphs are something else; each would be steered wrongly without a word.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sarsteer_lab.access import SteeringError
from sarsteer_lab.batch import Batch
from sarsteer_lab.decoding import OVERRULED
from sarsteer_lab.lalm import LALM

Options: TypeAlias = Mapping[str, Any]
"""What a forward pass is given by name."""

UNSTEERABLE = {
    "use_cache": "runs old positions again unsteered if it is off; leave the cache on",
    "prefill_chunk_size": "hides which position is the prompt's last; leave it out",
    "prompt_lookup_num_tokens": "decodes several positions at once, not steered; leave it out",
    "assistant_early_exit": "decodes several positions at once, not steered; leave it out",
}
"""Settings, the checkpoint's too, with which the last position is not the one decoded last."""


class Guarded(Protocol):
    """What the guard knows of steering: the announced batch, and whether its rows are known."""

    batch: Batch | None
    at_prompt: bool | None

    @property
    def row_alphas(self) -> object:
        """How strongly each row of the pass is steered; None if that is not known."""


@contextmanager
def guarded(lalm: LALM, steering: Guarded) -> Iterator[None]:
    """Refuse, while the block lasts, forward passes that would be steered wrongly."""
    guard = Guard(lalm, steering)
    with ExitStack() as hooks:
        look = lalm.trunk.register_forward_pre_hook(guard.before_forward, with_kwargs=True)
        hooks.enter_context(look)
        end = lalm.trunk.register_forward_hook(guard.after_forward, always_call=True)
        hooks.enter_context(end)
        yield


def holds_prompts(n_cached: int, batch: Batch | None) -> bool:
    """Whether a pass holds prompts, or their ends; else it is one more token of each answer."""
    return not n_cached or (batch is not None and batch.at_end)


def prompts_of_rows(n_rows: int, batch: Batch | None) -> list[int]:
    """The number of each row's prompt in the call: a prompt's beams stand together.

    In direct calls of the model each row is a prompt.
    """
    if batch is None:
        return list(range(n_rows))
    n_beams = n_rows // len(batch.prompt_numbers)
    return [number for number in batch.prompt_numbers for _ in range(n_beams)]


def refuse_layers_alone(at_prompt: bool | None) -> None:
    """Raise SteeringError where a layer runs, and no pass of the model has said what it holds."""
    if at_prompt is None:
        raise SteeringError("decoder layers ran outside of the model's forward; call the model")


def tokens_and_cached(args: tuple[Tensor, ...], kwargs: Options) -> tuple[Tensor, int]:
    """The ids or embeddings that a forward pass is given, and how many positions its cache holds.

    Of the first, `row position` come first.
    """
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs["inputs_embeds"] if tokens is None else tokens
    cache = kwargs.get("past_key_values")
    return tokens, 0 if cache is None else int(cache.get_seq_length())


class Guard:
    """The hooks of `guarded`, and what they remember of direct calls of the model."""

    def __init__(self, lalm: LALM, steering: Guarded) -> None:
        self.lalm, self.steering = lalm, steering
        self.cache_id = 0
        self.cache_length = 0
        self.uncached: Tensor | None = None  # the tokens of the last pass without a cache

    def before_forward(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: Options) -> None:
        """Hook of the trunk. Raises SteeringError."""
        self.lalm.access.refuse_others()
        if "cu_seq_lens_q" in kwargs or "block_table" in kwargs:
            raise SteeringError("packed batches hold several prompts a row; use generate")
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            advice = "use the default cache"
            raise SteeringError(f"static caches compile the model, which drops hooks; {advice}")
        tokens, n_cached = tokens_and_cached(args, kwargs)
        length = tokens.shape[1]
        if holds_prompts(n_cached, self.steering.batch):
            self.cache_id, self.cache_length = id(cache), n_cached + length
            self._check_prompt(tokens, cache, kwargs.get("attention_mask"))
        else:
            self._check_step(length, cache, n_cached)

    def _check_prompt(self, tokens: Tensor, cache: Any, mask: Tensor | None) -> None:
        """Refuse prompts whose last position is not the last, or that are to be run again."""
        batch = self.steering.batch
        if batch is not None and batch.decoding is not None:
            refuse_decoding(batch.decoding, vars(self.lalm.core.generation_config))
        self._check_uncached(tokens if cache is None and batch is None else None)
        by_position = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        ends_right = by_position is not None and bool(by_position[:, -1].all())
        if mask is not None and not ends_right:
            wanted = "the last position has to be the prompt's last token"
            raise SteeringError(f"{wanted}: pad on the left")

    def _check_step(self, length: int, cache: object, n_cached: int) -> None:
        """Refuse all but one more token onto a cache that holds `n_cached` positions."""
        if length > 1:
            raise SteeringError(
                f"{length} positions onto a filled cache (assisted decoding, chunked prefill or a "
                "chat): which of them to steer is not known; run the whole prompt at once"
            )
        if self.steering.batch is None and self.cache_id == id(cache):
            if self.cache_length != n_cached:
                taken = "positions were taken back from the cache"
                raise SteeringError(f"{taken} (assisted decoding)")
            self.cache_length += 1
        if self.steering.row_alphas is None:
            unknown = "so its rows are not known"
            raise SteeringError(f"the prompt ran outside of this `with steer`, {unknown}")

    def _check_uncached(self, tokens: Tensor | None) -> None:
        """Refuse a loop that reads all it has so far, and one position more, without a cache."""
        previous, self.uncached = self.uncached, tokens
        if previous is None or tokens is None or tokens.shape[1] != previous.shape[1] + 1:
            return
        begun = tokens[:, None, :-1]  # row 1 position: all but the newest
        if begun.shape[2:] != previous.shape[1:]:
            return
        # Beams change places, so a row may go on from any of the previous ones.
        same = (begun == previous).flatten(2).all(-1)  # row previous_row
        if same.any(1).all():
            raise SteeringError(f"use_cache {UNSTEERABLE['use_cache']}")

    def after_forward(self, _module: nn.Module, _args: object, _output: object) -> None:
        """Whatever runs layers from now on does not come through the trunk."""
        if not self.lalm.access.is_elsewhere:
            self.steering.at_prompt = None


def refuse_decoding(options: Mapping[str, object], checkpoint: Mapping[str, object]) -> None:
    """Raise SteeringError for options of `generate`, or a checkpoint's own, that hide positions."""
    for name, reason in UNSTEERABLE.items():
        value = options.get(name)
        if value is None and name not in OVERRULED:  # those are off whatever the checkpoint says
            value = checkpoint.get(name)
        off = value is None or (name == "use_cache" and value)
        if not off:
            raise SteeringError(f"{name} {reason}")


def refuse_compiled(lalm: LALM) -> None:
    """Raise SteeringError for a compiled graph: it is fixed, and ignores hooks added afterwards."""
    for module in (lalm.model, lalm.core, lalm.trunk, lalm.decoder, *lalm.layers):
        compiled = isinstance(module, torch._dynamo.OptimizedModule)
        compiled = compiled or module._compiled_call_impl is not None
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            kind = type(module).__name__
            advice = "it ignores new hooks; load it plain"
            raise SteeringError(f"{kind} is compiled (torch.compile): {advice}")
