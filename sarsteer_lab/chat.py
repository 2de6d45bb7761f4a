"""A conversation in the chat format, and a processor's inputs for it: the ways families have."""

import logging
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import soundfile
from jaxtyping import Float
from jinja2 import TemplateError
from transformers import BatchFeature

from sarsteer_lab.access import float32_by_default
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE
from sarsteer_lab.thoughts import special_tokens

Processor: TypeAlias = Any
"""transformers' processors and tokenizers have no common type."""

Messages = list[dict[str, Any]]
"""A conversation as chat templates take it."""

Clip = Float[np.ndarray, "samples"]

_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def conversation(prompt: Prompt) -> Messages:
    """One user turn, the clip before the text, and a system turn if one is given.

    Without one most chat templates insert their default, with which the model was trained.
    """
    content = []
    if prompt.audio is not None:
        content.append({"type": "audio"})
    if prompt.text:
        content.append({"type": "text", "text": prompt.text})
    user = {"role": "user", "content": content}
    if prompt.system is None:
        return [user]
    return [{"role": "system", "content": prompt.system}, user]


def tokenizer_of(processor: Processor) -> Processor:
    """A processor's tokenizer; that of a text model is its processor.

    One without a padding token pads with its end token from now on.
    """
    tokenizer: Processor = getattr(processor, "tokenizer", processor)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def refuse_control_tokens(tokenizer: Processor, prompt: Prompt) -> None:
    """Raise ValueError for a text that spells a control token which would be read as one."""
    text = f"{prompt.system or ''}\0{prompt.text}"
    for token, number in special_tokens(tokenizer).items():
        if token.strip() and token in text:
            # mistral-common's tokenizers read such a text as characters.
            if number in tokenizer.encode(token, add_special_tokens=False):
                reason = "a control token of this model, and would not be read as characters"
                raise ValueError(f"the text holds {token!r}, {reason}: write it in another way")


def dated_template(processor: Processor, day: date) -> dict[str, str]:
    """An option of `apply_chat_template`: the template, writing `day` where it writes today's date.

    Nothing for templates that write no date.
    """
    template = getattr(processor, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template or "strftime_now" not in template:
        return {}
    return {"chat_template": _TODAY.sub(lambda call: repr(day.strftime(call[2])), template)}


def render_chat(processor: Processor, messages: Messages, day: date) -> str:
    """The conversation in the chat format, generation prompt included, one placeholder per clip.

    `day` is what a template writes that writes a date.
    """
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    options |= dated_template(processor, day)
    with broken_template_named():
        if hasattr(processor, "tokenizer"):
            return processor.apply_chat_template(messages, **options)
        return _render_text(processor, messages, options)


@contextmanager
def broken_template_named() -> Iterator[None]:
    """Turn what a chat template raises, which may be anything, into a ValueError that says so."""
    try:
        yield
    except (TemplateError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the chat template cannot write this conversation ({reason})") from error


def _render_text(tokenizer: Processor, messages: Messages, options: Mapping[str, object]) -> str:
    """The conversation by a text model's tokenizer, whose template wants plain strings."""
    *system, user = messages
    text = "".join(part["text"] for part in user["content"])
    turns = [*system, {"role": "user", "content": text}]
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except TemplateError:
        if not system:
            raise
        # A template without system turns: what one would say opens the user's.
        opened = {"role": "user", "content": f"{system[0]['content']}\n\n{text}"}
        return tokenizer.apply_chat_template([opened], **options)


def refuse_left_out(prompt: Prompt, text: str) -> None:
    """Raise ValueError if a prompt's words do not stand in what a chat template wrote, `text`."""
    written = "".join(text.split())
    for what, words in {"system turn": prompt.system, "text": prompt.text}.items():
        if "".join((words or "").split()) not in written:
            reason = "or changes it, so the model would not read what was asked"
            raise ValueError(f"the chat template leaves out the prompt's {what}, {reason}")


def render_mistral(processor: Processor, messages: Messages, _day: date) -> str:
    """The same for Voxtral, whose tokenizer renders no clip: "[AUDIO]" stands for it."""
    shown = _clips_replaced(messages, {"type": "text", "text": "[AUDIO]"})
    # mistral-common warns that such text should not be tokenised. It is shown and hashed alone.
    log = logging.getLogger("transformers.tokenization_mistral_common")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return processor.tokenizer.apply_chat_template(shown, tokenize=False)
    finally:
        log.setLevel(level)


def _clips_replaced(messages: Messages, clip: dict[str, str]) -> Messages:
    *system, user = messages
    content = [clip if part["type"] == "audio" else part for part in user["content"]]
    return [*system, {"role": "user", "content": content}]


@float32_by_default()
def encode_together(
    processor: Processor,
    _conversations: Sequence[Messages],
    texts: Sequence[str],
    clips: Sequence[Clip | None],
) -> BatchFeature:
    """One call of the processor for typed and spoken prompts: clips go to their placeholders."""
    tokenizer = tokenizer_of(processor)
    # A template that writes the bos token itself must not get a second one from the tokenizer.
    written = bool(tokenizer.bos_token) and texts[0].startswith(tokenizer.bos_token)
    # On the left: captured and steered positions count from the end.
    # A text model's template writes all special tokens, as transformers has it.
    adds = not written and tokenizer is not processor
    text_options = {"padding": True, "padding_side": "left", "add_special_tokens": adds}
    options: dict[str, Any] = {"text": list(texts), "return_tensors": "pt"}
    if tokenizer is processor:
        # Decoders take no token_type_ids, which some tokenizers give.
        options |= {"return_token_type_ids": False, **text_options}
        return BatchFeature(tokenizer(**options))
    # Or an audio processor would take `padding` for its own and leave its fixed window.
    options["text_kwargs"] = text_options
    heard = [clip for clip in clips if clip is not None]
    if heard:
        options |= {"audio": heard, "audio_kwargs": {"sampling_rate": SAMPLE_RATE}}
    return processor(**options)


def encode_apart(
    processor: Processor,
    conversations: Sequence[Messages],
    texts: Sequence[str],
    clips: Sequence[Clip | None],
) -> BatchFeature:
    """Typed and spoken prompts in two calls, then padded together.

    For processors that want a clip a text.
    """
    token_ids: list[list[int]] = [[]] * len(texts)
    batch = BatchFeature()
    for spoken in (False, True):
        numbers = [n for n, clip in enumerate(clips) if (clip is not None) == spoken]
        if not numbers:
            continue
        own_texts = [texts[number] for number in numbers]
        own_clips = [clips[number] for number in numbers]
        part = encode_together(processor, conversations, own_texts, own_clips)
        padded, masks = part.pop("input_ids"), part.pop("attention_mask")
        for number, ids, mask in zip(numbers, padded, masks, strict=True):
            token_ids[number] = ids[mask.bool()].tolist()
        batch.update(part)
    unpadded = {"input_ids": token_ids}
    left = {"padding": True, "padding_side": "left"}
    batch.update(processor.tokenizer.pad(unpadded, **left, return_tensors="pt"))
    return batch


@float32_by_default()
def encode_mistral(
    processor: Processor,
    conversations: Sequence[Messages],
    _texts: Sequence[str],
    clips: Sequence[Clip | None],
) -> BatchFeature:
    """Voxtral: the processor takes whole conversations, their clips as WAV files in base64."""
    filled = []
    for messages, clip in zip(conversations, clips, strict=True):
        if clip is not None:
            wav = BytesIO()
            soundfile.write(wav, clip, SAMPLE_RATE, format="WAV", subtype="FLOAT")
            encoded = b64encode(wav.getvalue()).decode()
            messages = _clips_replaced(messages, {"type": "audio", "base64": encoded})
        filled.append(messages)
    side = processor.tokenizer.padding_side
    try:
        processor.tokenizer.padding_side = "left"
        return processor.apply_chat_template(filled)
    finally:
        processor.tokenizer.padding_side = side
