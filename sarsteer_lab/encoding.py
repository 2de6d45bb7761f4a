"""Encoding a prompt, once: its text in the chat format, and its clip as the model hears it.

`LALM.encode` is what callers use; every way to a result goes through here, and no prompt twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sarsteer_lab.batch import Encoded, Prompts
from sarsteer_lab.chat import Messages, conversation, refuse_control_tokens, refuse_left_out
from sarsteer_lab.prompts import Prompt, as_prompt, in_a_list
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform, read_clip

if TYPE_CHECKING:
    from sarsteer_lab.lalm import LALM


def encode(lalm: LALM, prompts: Prompts) -> list[Encoded]:
    """Each prompt in the chat format, with its clip as the model hears it (see `LALM.encode`)."""
    encoded = []
    for number, prompt in enumerate(in_a_list(prompts)):
        if not isinstance(prompt, Encoded):
            prompt = as_prompt(prompt, number)
            messages = conversation(prompt)
            text = chat_text(lalm, prompt, messages)  # a model that hears nothing reads no clip
            prompt = Encoded(messages, text, read_waveform(lalm, prompt))
        encoded.append(prompt)
    return encoded


def encode_variants(lalm: LALM, prompts: Sequence[Prompt]) -> list[Encoded]:
    """One clip under several texts, read once. Raises ValueError if it is not one clip."""
    first = prompts[0]
    for prompt in prompts:
        refuse_another_clip(first, prompt)
    conversations = [conversation(prompt) for prompt in prompts]
    texts = []
    for prompt, messages in zip(prompts, conversations, strict=True):
        texts.append(chat_text(lalm, prompt, messages))
    waveform = read_waveform(lalm, first)
    pairs = zip(conversations, texts, strict=True)
    return [Encoded(messages, text, waveform) for messages, text in pairs]


def refuse_another_clip(first: Prompt, other: Prompt) -> None:
    """Raises ValueError for prompts that are asked together and do not share their clip."""
    if other.audio is not first.audio and not np.array_equal(other.audio, first.audio):
        raise ValueError("questions that are asked together have to share their clips")


def chat_text(lalm: LALM, prompt: Prompt, messages: Messages) -> str:
    """The prompt in the chat format, generation prompt included; a clip is its placeholder.

    Raises ValueError for an empty prompt, a spoken one if this model takes no audio, and for a
    text that holds the audio placeholder or another control token, or that the chat template leaves
    out.
    """
    if not prompt.text and prompt.audio is None:
        raise ValueError("a prompt needs text, audio or both; this one has neither")
    if lalm.audio_token_id is not None:
        token = lalm.tokenizer.convert_ids_to_tokens(lalm.audio_token_id)
        if token in prompt.text or token in (prompt.system or ""):
            meaning = "it stands for audio; pass it as `audio`"
            raise ValueError(f"the text holds {token!r}, {meaning}")
    elif prompt.audio is not None:
        raise ValueError(f"{lalm.name} takes no audio: give it a typed prompt (audio=None)")
    refuse_control_tokens(lalm.tokenizer, prompt)
    text = lalm.family.render(lalm.processor, messages, lalm.day)
    refuse_left_out(prompt, text)
    return text


def read_waveform(lalm: LALM, prompt: Prompt) -> Float[np.ndarray, "samples"] | None:
    """The prompt's clip at 16 kHz, read and checked (ClipError); None for a typed prompt."""
    if prompt.audio is None:
        return None
    limit = lalm.max_audio_seconds
    if isinstance(prompt.audio, np.ndarray):
        return check_waveform(prompt.audio, SAMPLE_RATE, max_seconds=limit)
    return read_clip(prompt.audio, max_seconds=limit)
