"""Ways of running a model in which steering would act on the wrong positions: they are refused by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab.lalm import LALM

SEVERAL_AT_ONCE = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "custom_generate")
"""Options of `generate` that decode several positions at once."""


WITHOUT_CACHE = "generate(use_cache=False) runs old positions again unsteered; leave the cache on"


class SteeringError(RuntimeError):
    """What is being run cannot be steered correctly. The message says why and what to do instead."""


def refuse_options(options: Mapping[str, Any], defaults: Any) -> None:
    """Raise SteeringError for options of `generate` in which the last position is not the last that was
    decoded. `defaults` is the model's generation configuration.
    """
    chosen: Any = options.get("generation_config")
    sources = (options, vars(chosen) if chosen else {}, vars(defaults))
    names = ("use_cache", "prefill_chunk_size", *SEVERAL_AT_ONCE)
    found = {n: next((s[n] for s in sources if s.get(n) is not None), None) for n in names}
    if found["use_cache"] is False:
        raise SteeringError(WITHOUT_CACHE)
    for name in SEVERAL_AT_ONCE:
        if found[name] is not None:
            raise SteeringError(
                f"{name} decodes several positions at once, which cannot be steered; leave it out"
            )
    if found["prefill_chunk_size"] is not None:
        raise SteeringError("with prefill_chunk_size the prompt's last position is not known; leave it out")


def is_repeated(inputs: dict[str, Any], batch: int, times: int) -> bool:
    """Whether all inputs of a forward pass hold each prompt so many times in a row, as beams do."""
    if times == 1:
        return True
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.ndim]
    blocks = [value.reshape(batch // times, times, -1) for value in tensors if len(value) % batch == 0]
    return bool(blocks) and all(torch.equal(block, block[:, :1].expand_as(block)) for block in blocks)


def refuse_compiled(lalm: LALM) -> None:
    """Raise SteeringError for a compiled model: its graph is fixed, and new hooks are silently ignored."""
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
