"""How answers are decoded: their length, the options that work, and a look at every logit."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList

from sarsteer_lab.access import in_this_thread
from sarsteer_lab.thoughts import Tokenizer

Core: TypeAlias = Any
"""The part of a model that generates text (`families.find_core`); these have no common type."""

ANSWER_TOKENS = 40
"""Length of an answer in tokens. Where it is another, a reason stands beside it."""

DECODING = frozenset(
    "max_new_tokens min_new_tokens min_length max_time do_sample num_beams early_stopping "
    "length_penalty temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff "
    "renormalize_logits repetition_penalty encoder_repetition_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids suppress_tokens begin_suppress_tokens "
    "sequence_bias forced_eos_token_id stop_strings exponential_decay_length_penalty "
    "watermarking_config remove_invalid_values pad_token_id eos_token_id logits_processor "
    "stopping_criteria prefix_allowed_tokens_fn streamer tokenizer use_cache".split()
)
"""Options of transformers' `generate` that work here, steered too (`use_cache` only unsteered)."""


UNHEEDED = (
    "stop_strings max_time forced_eos_token_id guidance_scale token_healing constraints "
    "force_words_ids".split()
)
"""A checkpoint's generation settings that are more than a rule for the next token's logits."""


OVERRULED: dict[str, object] = {
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "is_assistant": False,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "prefill_chunk_size": None,
    "cache_implementation": None,
}
"""A checkpoint's generation settings that are off here: a prompt gets one answer, decoded token by
token, as its tokens alone."""


class NonFiniteError(RuntimeError):
    """A model has given numbers that are none (nan, inf). The message names the prompt."""

    def __init__(self, prompt: int, what: str) -> None:
        advice = "try another dtype (bfloat16, float32) or attention, or a smaller alpha if steered"
        super().__init__(f"prompt {prompt}: its {what} are not finite (nan or inf): {advice}")


def check_decoding(options: Mapping[str, object]) -> None:
    """Raise ValueError for options of `generate` that are not in `DECODING`, and odd lengths."""
    length = options.get("max_new_tokens")
    if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
        raise ValueError(f"max_new_tokens={length!r}: give a whole number from 1 on")
    refused = sorted(name for name in options.keys() - DECODING if options[name] is not None)
    if refused:
        reason = "a prompt gets one answer, token by token on the default cache, by"
        choices = ", ".join(sorted(DECODING))
        raise ValueError(f"generate takes no {', '.join(refused)}: {reason} {choices}")


def tell_overruled(core: Core, name: str) -> None:
    """Warn of settings that a checkpoint, called `name`, brings, and that are off here.

    A repetition penalty would punish an answer for words of its prompt, a refusal's among them.
    """
    penalty = getattr(getattr(core, "generation_config", None), "repetition_penalty", None)
    if penalty not in (None, 1):
        reason = f"brings repetition_penalty={penalty}, which is off here: greedy means greedy"
        warnings.warn(f"{name} {reason} (lalm.generate takes it as an option)", stacklevel=3)
    if others := overruled(core):
        told = ", ".join(f"{setting}={value!r}" for setting, value in others.items())
        reason = "which is off here: a prompt gets one answer, token by token"
        warnings.warn(f"{name} brings {told}, {reason}", stacklevel=3)


def overruled(core: Core) -> dict[str, object]:
    """Those of `OVERRULED` that a checkpoint's generation settings change, as it has them."""
    settings = getattr(core, "generation_config", None)
    changed = {}
    for name, value in OVERRULED.items():
        own = getattr(settings, name, None)
        if own not in (None, value):
            changed[name] = own
    return changed


def end_tokens(core: Core, tokenizer: Tokenizer) -> list[int]:
    """Ids of tokens that end an answer.

    Where the part that runs names none (the thinkers of Qwen's Omnis, whose whole model does), the
    tokenizer's. Raises ValueError without either.
    """
    settings = getattr(core, "generation_config", None)
    ids = getattr(settings, "eos_token_id", None)
    ids = tokenizer.eos_token_id if ids is None else ids
    if ids is None:
        setting = "lalm.core.generation_config.eos_token_id"
        raise ValueError(f"{type(core).__name__} names no token that ends an answer: set {setting}")
    return list(ids) if isinstance(ids, Sequence) else [int(ids)]


def decoding_settings(
    core: Core, tokenizer: Tokenizer, options: Mapping[str, object]
) -> dict[str, Any]:
    """What `generate` is told: greedy, unless `options` say otherwise.

    Without a checkpoint's own repetition penalty and sampling, so that greedy means greedy.
    """
    settings: dict[str, Any] = {"repetition_penalty": 1.0, "num_beams": 1, "do_sample": False}
    settings |= {name: OVERRULED[name] for name in overruled(core)}
    settings["pad_token_id"] = tokenizer.pad_token_id
    settings["eos_token_id"] = end_tokens(core, tokenizer)
    checkpoint = getattr(core, "generation_config", None)
    if options.get("stop_strings") or getattr(checkpoint, "stop_strings", None):
        settings["tokenizer"] = tokenizer
    if not options.get("do_sample"):
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    return settings | dict(options)


def greedy_rules(
    core: Core, ids: Int[Tensor, "row position"], mask: Tensor, settings: Mapping[str, object]
) -> LogitsProcessorList:
    """What a checkpoint's own generation settings make of logits: transformers' processors.

    Suppressed and forced tokens, n-grams, the least length, ...: with them answers that are decoded
    step by step behind the prompts `ids` are those of `core.generate(**settings)`. Raises
    ValueError, by name, for settings in `UNHEEDED`.
    """
    config = copy.deepcopy(core.generation_config)
    for name in UNHEEDED:
        value = getattr(config, name, None)
        if value not in (None, False) and (name, value) != ("guidance_scale", 1):
            raise ValueError(
                f"the checkpoint's generation settings have {name}={value!r}, which is heeded by "
                f"lalm.generate alone: use it, or set lalm.core.generation_config.{name} = None"
            )
    config.update(**settings)
    config._eos_token_tensor = torch.tensor(settings["eos_token_id"], device=ids.device)
    return core._get_logits_processor(
        config,
        ids.shape[1],
        encoder_input_ids=ids,
        device=ids.device,
        model_kwargs={"attention_mask": mask},
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` on the CPU and on a device, while the block lasts.

    Afterwards both go on where they were. `torch.manual_seed` would seed all other devices, too.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        number = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[number])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


@contextmanager
def head_on_last_position(core: Core, prompt_numbers: Sequence[int]) -> Iterator[None]:
    """Let the vocabulary head see only the last position: no other logits are ever used.

    (Qwen2-Audio has no `logits_to_keep`: 16 prompts of 300 positions would give 1.5 GB of them in
    bfloat16.) The logits of its prompts are checked (NonFiniteError).
    """
    head = core.get_output_embeddings()
    with ExitStack() as hooks:
        cut = in_this_thread(lambda _module, args: (args[0][:, -1:], *args[1:]))
        hooks.enter_context(head.register_forward_pre_hook(cut))
        check = in_this_thread(lambda _module, _args, logits: check_logits(logits, prompt_numbers))
        hooks.enter_context(head.register_forward_hook(check))
        yield


def check_logits(
    logits: Float[Tensor, "row *position vocab"], prompt_numbers: Sequence[int]
) -> None:
    """Raise NonFiniteError for logits that are no numbers; a prompt's beams stand together."""
    finite = logits.isfinite().flatten(1).all(1)  # row
    if finite.all():
        return
    first = int(finite.byte().argmin())
    n_beams = len(finite) // len(prompt_numbers)
    raise NonFiniteError(prompt_numbers[first // n_beams], "logits")
