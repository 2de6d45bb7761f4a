"""A conversation in the chat format, and a processor's inputs for it: the ways families have."""

import logging
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import soundfile
from jaxtyping import Float
from jinja2 import TemplateError
from transformers import BatchFeature

from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE

Processor: TypeAlias = Any
"""transformers' processors and tokenizers have no common type."""

Messages = list[dict[str, Any]]
"""A conversation as chat templates take it."""

Clip = Float[np.ndarray, "samples"]


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
    """A processor's tokenizer; that of a text model is its processor."""
    return getattr(processor, "tokenizer", processor)


def render_chat(processor: Processor, messages: Messages) -> str:
    """The conversation in the chat format, generation prompt included, one placeholder per clip."""
    options = {"tokenize": False, "add_generation_prompt": True}
    if hasattr(processor, "tokenizer"):
        return processor.apply_chat_template(messages, **options)
    # A text model's tokenizer: its template wants plain strings.
    *system, user = messages
    text = "".join(part["text"] for part in user["content"])
    turns = [*system, {"role": "user", "content": text}]
    try:
        return processor.apply_chat_template(turns, **options)
    except TemplateError:
        if not system:
            raise
        # A template without system turns: what one would say opens the user's.
        opened = {"role": "user", "content": f"{system[0]['content']}\n\n{text}"}
        return processor.apply_chat_template([opened], **options)


def render_mistral(processor: Processor, messages: Messages) -> str:
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
    text_options = {"padding": True, "add_special_tokens": not written}
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
    batch.update(processor.tokenizer.pad(unpadded, padding=True, return_tensors="pt"))
    return batch


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
    return processor.apply_chat_template(filled)
