"""How answers are decoded: their length, the options that work, and a look at every logit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

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


class NonFiniteError(RuntimeError):
    """A model has given numbers that are none (nan, inf). The message names the prompt."""

    def __init__(self, prompt: int, what: str) -> None:
        advice = "try another dtype (bfloat16, float32) or attention, or a smaller alpha if steered"
        super().__init__(f"prompt {prompt}: its {what} are not finite (nan or inf): {advice}")


def check_decoding(options: Mapping[str, object]) -> None:
    """Raise ValueError for options of `generate` that are not in `DECODING`."""
    refused = sorted(name for name in options.keys() - DECODING if options[name] is not None)
    if refused:
        reason = "a prompt gets one answer, token by token on the default cache, by"
        choices = ", ".join(sorted(DECODING))
        raise ValueError(f"generate takes no {', '.join(refused)}: {reason} {choices}")


def decoding_settings(pad_token_id: int, options: Mapping[str, object]) -> dict[str, Any]:
    """What `generate` is told: greedy, unless `options` say otherwise.

    Without a checkpoint's own repetition penalty and sampling, so that greedy means greedy.
    """
    settings: dict[str, Any] = {"repetition_penalty": 1.0, "num_beams": 1, "do_sample": False}
    settings["pad_token_id"] = pad_token_id
    if not options.get("do_sample"):
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    return settings | dict(options)


@contextmanager
def head_on_last_position(core: Any, rows: Sequence[int]) -> Iterator[None]:
    """Let the vocabulary head see only the last position: no other logits are ever used.

    (Qwen2-Audio has no `logits_to_keep`: 16 prompts of 300 positions would give 1.5 GB of them in
    bfloat16.) Its logits for the prompts `rows` are checked (NonFiniteError).
    """
    head = core.get_output_embeddings()
    with ExitStack() as hooks:
        hooks.enter_context(
            head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]))
        )
        hooks.enter_context(
            head.register_forward_hook(lambda _module, _args, logits: check_logits(logits, rows))
        )
        yield


def check_logits(logits: Float[Tensor, "row *position vocab"], rows: Sequence[int]) -> None:
    """Raise NonFiniteError for logits of the prompts `rows` that are none; beams stand together."""
    finite = logits.isfinite().flatten(1).all(1)
    if finite.all():
        return
    first = int(finite.byte().argmin())
    beams = len(finite) // len(rows)
    raise NonFiniteError(rows[first // beams], "logits")
