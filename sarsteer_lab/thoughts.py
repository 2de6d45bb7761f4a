"""Reasoning models' blocks of thoughts, in which they think aloud before they answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jaxtyping import Int
from torch import Tensor

Tokenizer: TypeAlias = Any
"""transformers' tokenizers have no common type."""

# Qwen's and others' tags, Mistral's brackets (Voxtral), Gemma 4's channel.
_THOUGHTS = "think(?:ing)?|thoughts?|reason(?:ing)?"
BEGIN = re.compile(rf"<(?:{_THOUGHTS})>|\[(?:{_THOUGHTS})\]|<\|channel>", re.IGNORECASE)
END = re.compile(rf"</(?:{_THOUGHTS})>|\[/(?:{_THOUGHTS})\]|<channel\|>", re.IGNORECASE)
_AT_END = re.compile(rf"(?:{BEGIN.pattern})\s*$", re.IGNORECASE)


def opened_by(prompt: str) -> str:
    """The mark with which a prompt in the chat format opens a block of thoughts; "" if it does not.

    Its answer then has the closing mark alone or, cut off, none.
    """
    mark = _AT_END.search(prompt)
    return mark[0].strip() if mark else ""


def own_words(response: str) -> str:
    """A response without thoughts; nothing is left of a block that does not end."""
    after_thoughts = END.split(response)[-1]
    return BEGIN.split(after_thoughts)[0].strip()


def answer_texts(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    tokens: Sequence[Sequence[int]] | Int[Tensor, "row token"],
) -> list[str]:
    """Answers (row token) as texts, without special tokens but for those that mark thoughts.

    A block that a prompt in the chat format has opened stands at its answer's beginning.
    """
    marks = {}
    for mark, number in special_tokens(tokenizer).items():
        if BEGIN.fullmatch(mark) or END.fullmatch(mark):
            marks[number] = mark
    texts = []
    for prompt, answer in zip(prompts, tokens, strict=True):
        pieces, start = [opened_by(prompt)], 0
        places = [place for place, token in enumerate(answer) if int(token) in marks]
        for place in places:
            pieces.append(tokenizer.decode(answer[start:place], skip_special_tokens=True))
            pieces.append(marks[int(answer[place])])
            start = place + 1
        pieces.append(tokenizer.decode(answer[start:], skip_special_tokens=True))
        texts.append("".join(pieces).strip())
    return texts


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """A tokenizer's control tokens, as they are spelt, and their ids."""
    names = set(tokenizer.all_special_tokens)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if isinstance(added, Mapping):  # mistral-common's tokenizers have a method of this name
        names |= {token.content for token in added.values() if token.special}
    return {name: int(tokenizer.convert_tokens_to_ids(name)) for name in sorted(names)}
