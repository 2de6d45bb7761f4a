"""Whether a model and its tokenizer fit together: what fails deep inside of torch is named."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor, nn

from sarsteer_lab.chat import Processor
from sarsteer_lab.decoding import Core
from sarsteer_lab.weights import refuse_weightless

if TYPE_CHECKING:
    from sarsteer_lab.lalm import LALM


def refuse_unknown_tokens(
    ids: Int[Tensor, "row position"], core: Core, tokenizer: Processor, audio: int | None
) -> None:
    """Raise ValueError for tokens, but the `audio` placeholder, for which there is no embedding.

    On a GPU torch would stop the whole process.
    """
    size = len(core.get_input_embeddings().weight)
    for number in ids[ids >= size].tolist():
        if number != audio:
            token = f"{number} ({tokenizer.convert_ids_to_tokens(number)!r})"
            reason = "the tokenizer has tokens that the model was not resized for"
            advice = "call model.resize_token_embeddings(len(tokenizer)), or take its own tokenizer"
            size_is = f"beyond the model's vocabulary of {size}"
            raise ValueError(f"the token {token} is {size_is}: {reason}; {advice}")


def refuse_appended_end(
    ids: Int[Tensor, "row position"], texts: Sequence[str], tokenizer: Processor
) -> None:
    """Raise ValueError if the tokenizer ends a prompt with a token that its text does not hold.

    Some are set up to add the end of text, and the model would answer behind it.
    """
    end = tokenizer.eos_token
    for last, text in zip(ids[:, -1].tolist(), texts, strict=True):
        written = end is not None and (text.endswith(end) or text.rstrip().endswith(end))
        if last == tokenizer.eos_token_id and not written:
            reason = f"the tokenizer puts {end!r} behind every prompt"
            advice = "load it with add_eos_token=False, or take that out of its post-processor"
            raise ValueError(f"{reason}, and an answer would begin after the end; {advice}")


def warn_of_positions(positions: int, lalm: "LALM", what: str = "a prompt") -> None:
    """Warn of what is longer than the model was made for: it runs on, and says nothing."""
    longest = getattr(lalm.text_config, "max_position_embeddings", None)
    if isinstance(longest, int) and positions > longest:
        made_for = f"{lalm.name} was made for {longest} (max_position_embeddings)"
        warnings.warn(f"{what} takes {positions} positions, but {made_for}", stacklevel=4)


def check_inputs(ids: Int[Tensor, "row position"], texts: Sequence[str], lalm: "LALM") -> None:
    """Whether what a processor gave for these texts is what the model reads; ValueError if not."""
    refuse_unknown_tokens(ids, lalm.core, lalm.tokenizer, lalm.audio_token_id)
    refuse_appended_end(ids, texts, lalm.tokenizer)
    warn_of_positions(ids.shape[1], lalm)


ANSWERED = "a prompt with its answer"
"""What `warn_of_positions` calls a prompt and what was answered to it."""


def refuse_no_numbers(layers: Sequence[object]) -> None:
    """Raise TypeError for layers that are no whole numbers in a list."""
    if isinstance(layers, str) or not all(isinstance(layer, Integral) for layer in layers):
        raise TypeError(f"layers={layers!r}: give whole numbers in a list, or None for all")


@contextmanager
def misfits_named(model: nn.Module, name: str) -> Iterator[None]:
    """Say in one sentence what torch says of weights without numbers, or of dtypes that differ.

    Many a model holds several dtypes and casts between them, so only what fails is refused. Raises
    ValueError.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error) not in (RuntimeError, NotImplementedError):
            raise
        refuse_weightless(model)
        counts = Counter(weight.dtype for weight in model.parameters())
        if len(counts) == 1 or "type" not in str(error):
            raise
        usual, _ = counts.most_common(1)[0]
        told = ", ".join(f"{count} in {dtype}" for dtype, count in counts.most_common())
        odd = next(part for part, weight in model.named_parameters() if weight.dtype != usual)
        advice = f"bring it into one, such as model.to({usual})"
        dtypes = f"the weights of {name} do not go together ({told}: {odd}, ...)"
        raise ValueError(f"{dtypes}; {advice}") from error
