"""Openings of answers as a tokenizer writes them behind a prompt."""

from types import SimpleNamespace
from typing import cast

import tokenizers
from transformers import PreTrainedTokenizerFast

from sarsteer_lab.engine.openings import token_sequences
from sarsteer_lab.lalm import LALM


def test_openings_are_tokenised_as_they_stand_behind_a_prompt() -> None:
    """SentencePiece puts a space before a text that stands alone, and none before what follows."""
    letters = {letter: number for number, letter in enumerate("▁Sory:a")}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    model.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    lalm = cast(LALM, SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=model)))
    sorry = tuple(letters[letter] for letter in "Sorry")
    assert token_sequences(lalm, ["Sorry"]) == {(letters["▁"], *sorry)}
    behind = lalm.tokenizer("a:")["input_ids"]
    assert token_sequences(lalm, ["Sorry"], behind) == {sorry}
