"""What steering refuses: ways of running a model in which it cannot know what to steer.

`steering` is right where a forward pass holds whole prompts, or one more token for each answer.
Packed batches, caches filled elsewhere, loops without a cache, assisted decoding, right padding,
static caches and compiled graphs are something else; each would be steered wrongly without a word.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sarsteer_lab.access import SteeringError
from sarsteer_lab.batch import Batch
from sarsteer_lab.lalm import LALM

UNSTEERABLE = {
    "use_cache": "runs old positions again unsteered if it is off; leave the cache on",
    "prefill_chunk_size": "hides which position is the prompt's last; leave it out",
    "prompt_lookup_num_tokens": "decodes several positions at once, not steered; leave it out",
    "assistant_early_exit": "decodes several positions at once, not steered; leave it out",
}
"""Settings, the checkpoint's too, with which the last position is not the one decoded last."""


class Guarded(Protocol):
    """What the guard knows of steering: the announced batch, and whether rows have strengths."""

    batch: Batch | None
    at_prompt: bool | None

    @property
    def strengths(self) -> object:
        """Of the rows of the pass; None if they are not known."""


@contextmanager
def guarded(lalm: LALM, steering: Guarded) -> Iterator[None]:
    """Refuse, while the block lasts, forward passes that would be steered wrongly."""
    guard = Guard(lalm, steering)
    with ExitStack() as hooks:
        before = lalm.trunk.register_forward_pre_hook(guard.before_forward, with_kwargs=True)
        hooks.enter_context(before)
        after = lalm.trunk.register_forward_hook(guard.after_forward, always_call=True)
        hooks.enter_context(after)
        yield


class Guard:
    """The hooks of `guarded`, and what they remember of direct calls of the model."""

    def __init__(self, lalm: LALM, steering: Guarded) -> None:
        self.lalm, self.steering = lalm, steering
        self.cache_id = 0
        self.cache_length = 0
        self.uncached: Tensor | None = None  # what the last pass without a cache was given

    def before_forward(
        self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> None:
        """Hook of the trunk. Raises SteeringError."""
        self.lalm.access.refuse_others()
        if "cu_seq_lens_q" in kwargs or "block_table" in kwargs:
            raise SteeringError("packed batches hold several prompts a row; use generate")
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            advice = "use the default cache"
            raise SteeringError(f"static caches compile the model, which drops hooks; {advice}")
        given = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs["inputs_embeds"] if given is None else given
        batch = self.steering.batch
        filled = 0 if cache is None else int(cache.get_seq_length())
        if filled and not (batch is not None and batch.at_end):
            self._check_step(given.shape[1], cache, filled)
            return
        self.cache_id, self.cache_length = id(cache), filled + given.shape[1]
        if batch is not None and batch.decoding is not None:
            refuse_decoding(batch.decoding, vars(self.lalm.core.generation_config))
        self._check_uncached(given if cache is None and batch is None else None)
        mask = kwargs.get("attention_mask")
        flat = isinstance(mask, Tensor) and mask.ndim == 2
        if mask is not None and not (flat and mask[:, -1].all()):
            wanted = "the last position has to be the prompt's last token"
            raise SteeringError(f"{wanted}: pad on the left")

    def _check_step(self, length: int, cache: Any, filled: int) -> None:
        """Refuse all but one more token onto a cache that holds `filled` positions."""
        if length > 1:
            raise SteeringError(
                f"{length} positions onto a filled cache (assisted decoding, chunked prefill or a "
                "chat): which of them to steer is not known; run the whole prompt at once"
            )
        if self.steering.batch is None and self.cache_id == id(cache):
            if self.cache_length != filled:
                taken = "positions were taken back from the cache"
                raise SteeringError(f"{taken} (assisted decoding)")
            self.cache_length += 1
        if self.steering.strengths is None:
            unknown = "so its rows are not known"
            raise SteeringError(f"the prompt ran outside of this `with steer`, {unknown}")

    def _check_uncached(self, given: Tensor | None) -> None:
        """Refuse a loop that reads all it has so far, and one position more, without a cache."""
        before, self.uncached = self.uncached, given
        if before is None or given is None or given.shape[1] != before.shape[1] + 1:
            return
        earlier = given[:, None, :-1]  # beams change places, so a row may go on from any
        if earlier.shape[2:] != before.shape[1:]:
            return
        goes_on = (earlier == before).flatten(2).all(-1).any(1)
        if goes_on.all():
            raise SteeringError(f"use_cache {UNSTEERABLE['use_cache']}")

    def after_forward(self, _module: nn.Module, _args: object, _output: object) -> None:
        """Whatever runs layers from now on does not come through the trunk."""
        if not self.lalm.access.is_elsewhere:
            self.steering.at_prompt = None


def refuse_decoding(options: Mapping[str, object], checkpoint: Mapping[str, object]) -> None:
    """Raise SteeringError for options of `generate`, or a checkpoint's own, that hide positions."""
    for name, reason in UNSTEERABLE.items():
        value = options.get(name)
        value = checkpoint.get(name) if value is None else value
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
