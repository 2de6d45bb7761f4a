"""The table of what differs between LALM families, and the recipes that find the same parts in all of them.

Nothing else in the package names a family. A model whose type has no row gets the last one, `auto`, which
trusts the recipes below and the processor's own chat template.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

Messages = list[dict[str, Any]]


def content_list_messages(system: str | None, text: str, has_audio: bool) -> Messages:
    """One user turn as a content list, the clip before the text; no system turn unless one is given.

    Without a system turn most chat templates insert their default one, which is what the model was trained
    with.
    """
    content = [{"type": "audio"}] if has_audio else []
    if text:
        content.append({"type": "text", "text": text})
    turns = [{"role": "system", "content": system}] if system is not None else []
    return [*turns, {"role": "user", "content": content}]


@dataclass(frozen=True)
class Family:
    """One row of the table: what has to be known about a family beyond the recipes.

    `model_types` are the `config.model_type` values it covers; `messages` turns (system, text, has_audio)
    into the conversation which the processor's chat template expects.
    """

    name: str
    model_types: tuple[str, ...]
    messages: Callable[[str | None, str, bool], Messages]


FAMILIES = (
    Family("qwen2_audio", ("qwen2_audio",), content_list_messages),
    Family("auto", (), content_list_messages),
)


def find_family(config: Any) -> Family:
    """The row for `config.model_type`, or the generic row `auto`."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    return FAMILIES[-1]


def find_core(model: nn.Module) -> nn.Module:
    """The part that reads audio and text and writes text: the thinker of a model that has one."""
    return getattr(model, "thinker", model)


def find_decoder(model: nn.Module) -> nn.Module:
    """The text decoder: the module whose `layers` (a ModuleList) carry the residual stream.

    Starts at `model.thinker` if there is one and follows `get_decoder()` until an object has a ModuleList
    `layers`. Raises ValueError if there is none.
    """
    seen: list[str] = []
    module: Any = find_core(model)
    while not isinstance(getattr(module, "layers", None), nn.ModuleList):
        seen.append(type(module).__name__)
        follow = getattr(module, "get_decoder", None)
        inner = follow() if follow is not None else None
        if inner is None or inner is module:
            raise ValueError(
                f"found no decoder layers in {type(model).__name__}: followed {' -> '.join(seen)}"
            )
        module = inner
    return module


def find_trunk(model: nn.Module) -> nn.Module:
    """The innermost module that takes token ids *and* audio: the model without its vocabulary head, if any.

    Running the trunk alone spares the head, which for a 7B model and 300 positions costs more memory than
    all else.
    """
    core: Any = find_core(model)
    base = core.base_model
    takes = inspect.signature(base.forward).parameters
    has_audio_input = any(name.startswith(("input_features", "audio_", "input_values")) for name in takes)
    return base if "input_ids" in takes and has_audio_input else core


def audio_token_id(model: nn.Module) -> int | None:
    """Id of the placeholder token whose positions the audio embeddings take; None if the model has none."""
    config = find_core(model).config
    for name in ("audio_token_id", "audio_token_index"):
        if (token_id := getattr(config, name, None)) is not None:
            return int(token_id)
    return None


def residual_stream(output: Any, text_config: Any) -> Float[Tensor, "batch position d_model"]:
    """The residual stream in a decoder layer's output, as a view, so that an in-place edit reaches the model.

    Layers return plain tensors in transformers 5; older remote code returns tuples. Gemma 3n's are 4-D
    (altup batch position d_model): the stream is the active altup entry.
    """
    if isinstance(output, tuple):
        output = output[0]
    return output[text_config.altup_active_idx] if output.ndim == 4 else output
