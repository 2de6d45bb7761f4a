"""Did the model hear the clip? Word errors of its own read-out.

A spoken request that was misheard is answered differently for a reason that has nothing to do with
safety. So before typed and spoken behaviour are compared, the model is asked to repeat every clip.
"""

import re
from collections.abc import Sequence

import jiwer
import numpy as np
from jaxtyping import Float

from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request

REPEAT = "\n\nRepeat the audio above exactly, word for word."
"""The text part of the prompt that asks for a transcript.

Of some twenty wordings tried with the sentence *typed* in the clip's place, the pocket model's
language model follows this one best (cross-entropy 1.15 nats a token; "Repeat what is said in the
audio." 1.52).
"""

REPEAT_TOKENS = 32
"""Length of a transcript in tokens: the longest shipped request fits."""

HEARD_RIGHT = 0.1
"""A clip is heard right if at most this share of its words is wrong: none of up to nine words."""

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
_QUOTED = re.compile(r'["\u201c](.+?)["\u201d]', re.DOTALL)


def words(text: str) -> list[str]:
    """The words of a sentence as they are compared: in lower case, without punctuation.

    "Don't!" is "don't".
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def transcript(answer: str) -> str:
    """What a model claims to have heard: the quoted part if there is one, else all.

    Quoted is, for instance, `He says: "..."`.
    """
    quoted = _QUOTED.search(answer)
    return quoted.group(1) if quoted else answer


def word_errors(reference: str, heard: str) -> int:
    """Substitutions, deletions and insertions that turn `reference` into `heard`, in words."""
    edits = jiwer.process_words(" ".join(words(reference)), " ".join(words(heard)))
    return edits.substitutions + edits.deletions + edits.insertions


def differs(request: str, heard: str) -> bool:
    """Whether something else was heard than these words; False where they are not known."""
    n_words = len(words(request))
    return n_words > 0 and word_errors(request, heard) > HEARD_RIGHT * n_words


def read_out(lalm: LALM, waveform: Float[np.ndarray, "samples"]) -> str:
    """What the model says that it heard, asked to repeat the clip. Raises as `generate` does."""
    [answer] = lalm.generate([Prompt(REPEAT, waveform)], max_new_tokens=REPEAT_TOKENS)
    return transcript(answer)


def word_error_rate(references: Sequence[str], heard: Sequence[str]) -> float:
    """Word errors of all sentences together per word of the references.

    It is above 1 if much was made up. Raises ValueError if the two differ in number or the
    references hold no word.
    """
    n_words = sum(len(words(reference)) for reference in references)
    if not n_words or len(references) != len(heard):
        raise ValueError(
            f"needs sentences with words in them, one heard per reference; {n_words} words given"
        )
    return sum(map(word_errors, references, heard)) / n_words


def forms(lalm: LALM, prompt: Request | Prompt) -> dict[str, Prompt]:
    """A request "typed" and, if it has a clip and the model ears, "spoken".

    A `Prompt` has one form. Words that are about a clip are no request without it.
    """
    if isinstance(prompt, Prompt):
        return {"typed" if prompt.audio is None else "spoken": prompt}
    prompts = {}
    if not prompt.text:
        prompts["typed"] = prompt.typed()
    if prompt.clip is not None and lalm.audio_token_id is not None:
        prompts["spoken"] = prompt.spoken()
    return prompts
