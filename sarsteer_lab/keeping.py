"""What is computed for prompts once, and then read from disk: one wrapper around a function.

    states = kept(capture)(lalm, prompts)

gives what `capture(lalm, prompts)` gives. Prompts that are kept are not run again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab.access import alone
from sarsteer_lab.batch import Prompts
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.own_code import refuse_foreign
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import CacheStore, Store

PerPrompt = Callable[..., Any]
"""A function of a model, prompts and settings that gives one result for each prompt."""


def activation_store() -> Store:
    """Captured states in the user's cache folder."""
    return CacheStore(cache_folder() / "activations")


def kept(function: PerPrompt, store: Store | None = None) -> PerPrompt:
    """`function(lalm, prompts, **settings)`, one result for each prompt, kept in a store.

    Without a store: in that of the user's cache (`activation_store`). A key is made of the model,
    the function's name, its settings but `batch_size`, and the prompt as it is heard. Raises
    HookedModelError inside of `with steer(...)` and under other hooks: what is computed then could
    not be told from the plain model's.
    """

    def of_one_text(lalm: LALM, variants: Sequence[Prompts], **settings: object) -> list[Any]:
        return [function(lalm, prompts, **settings) for prompts in variants]

    def read(lalm: LALM, prompts: Prompts, **settings: object) -> Any:
        place = activation_store() if store is None else store
        [results] = kept_variants(of_one_text, place, function.__name__)(
            lalm, [prompts], **settings
        )
        return results

    return read


def kept_variants(function: PerPrompt, store: Store, name: str) -> PerPrompt:
    """The same for several lists of prompts at once: the same clips, row by row, under other texts.

    `function(lalm, variants, **settings)` gives for each variant what the function called `name`
    gives for one list of prompts.
    """

    @alone
    def read(lalm: LALM, variants: Sequence[Prompts], **settings: object) -> list[Any]:
        encoded = [lalm.encode(prompts) for prompts in variants]
        if not any(encoded):
            return function(lalm, encoded, **settings)
        deciding = dict(settings)
        deciding.pop("batch_size", None)
        model_key = lalm.key(name, deciding)
        own_store = lalm.results.store(store)
        keys = []  # by variant and row
        for prompts in encoded:
            keys.append([content_key(model_key, prompt.key) for prompt in prompts])
        results = []
        for of_variant in keys:
            results.append([own_store.read(key) for key in of_variant])
        missing = [_missing(of_variant) for of_variant in results]
        rows = sorted(set().union(*missing))
        lacking = [number for number, of_variant in enumerate(missing) if of_variant]
        if lacking:
            asked = []
            for number in lacking:
                asked.append([encoded[number][row] for row in rows])
            first = lacking[0]
            lalm.results.missing(name, encoded[first][min(missing[first])], deciding)
            computed = function(lalm, asked, **settings)
            # Hooks of one's own may have come meanwhile, from another thread.
            refuse_foreign(lalm.model, lalm.name)
            for number, values in zip(lacking, computed, strict=True):
                for row, value in zip(rows, values, strict=True):
                    # What is kept stays: another batch gives other last digits.
                    if row in missing[number]:
                        results[number][row] = own_store.write(keys[number][row], value)
        return [_together(of_variant, lalm) for of_variant in results]

    return read


def _missing(results: Sequence[object]) -> set[int]:
    """Rows for which nothing is kept."""
    return {row for row, result in enumerate(results) if result is None}


def _together(results: list[Any], lalm: LALM) -> Any:
    """Results as the function gives them: last-token states as one tensor, all else as a list."""
    if not isinstance(results[0], Tensor):
        return results
    tensors = [result.to(lalm.device) for result in results]
    return torch.stack(tensors) if tensors[0].ndim == 2 else tensors
