"""A cache on disk for a function of prompts, as `capture` is: what is computed once is then read.

    states = kept(capture)(lalm, prompts)

gives what `capture(lalm, prompts)` gives. Prompts that are kept are not run again.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab.access import alone
from sarsteer_lab.batch import Encoded, Prompts
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
    the function's name (and what it says, if it is not of this package), its settings but
    `batch_size`, and the prompt as it is heard. Raises ValueError for a lambda, and
    HookedModelError inside of `with steer(...)` and under other hooks: what is computed then could
    not be told from the plain model's.
    """

    def of_one_text(lalm: LALM, variants: Sequence[Prompts], **settings: object) -> list[Any]:
        return [function(lalm, prompts, **settings) for prompts in variants]

    def read(lalm: LALM, prompts: Prompts, **settings: object) -> Any:
        chosen = activation_store() if store is None else store
        read_variants = kept_variants(of_one_text, chosen, _called(function))
        [results] = read_variants(lalm, [prompts], **settings)
        return results

    return read


def _called(function: PerPrompt) -> str:
    """What keys call a function: its name; one's own by what it says, too, for it may be edited.

    Raises ValueError for a lambda, and OSError where Python does not know the source.
    """
    name = function.__name__
    if function.__module__.startswith("sarsteer_lab."):
        return name
    if name == "<lambda>":
        raise ValueError("a lambda has no name to keep its results under: define a function")
    return f"{name} {content_key(inspect.getsource(function))}"


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
        model_store = lalm.results.store(store)
        kept = [_KeptResults(model_store, model_key, prompts) for prompts in encoded]
        lacking = [of_variant for of_variant in kept if of_variant.missing]
        if lacking:
            numbers = sorted(set().union(*(of_variant.missing for of_variant in lacking)))
            asked = []
            for of_variant in lacking:
                asked.append([of_variant.prompts[number] for number in numbers])
            first = lacking[0]
            lalm.results.missing(name, first.prompts[min(first.missing)], deciding)
            computed = function(lalm, asked, **settings)
            # Hooks of one's own may have come meanwhile, from another thread.
            refuse_foreign(lalm.model, lalm.name)
            for of_variant, results in zip(lacking, computed, strict=True):
                of_variant.add(numbers, results)
        return [_together(of_variant.results, lalm) for of_variant in kept]

    return read


class _KeptResults:
    """What a store holds for each prompt of a variant; None, and `missing`, where nothing."""

    def __init__(self, store: Store, model_key: str, prompts: Sequence[Encoded]) -> None:
        self.store, self.prompts = store, prompts
        self.keys = [content_key(model_key, prompt.key) for prompt in prompts]
        self.results = [store.read(key) for key in self.keys]
        self.missing = {number for number, kept in enumerate(self.results) if kept is None}

    def add(self, numbers: Sequence[int], results: Sequence[Any]) -> None:
        """Keep results for the prompts of these numbers. What is kept stays, where something is:
        another batch gives other last digits."""
        for number, result in zip(numbers, results, strict=True):
            if number in self.missing:
                self.results[number] = self.store.write(self.keys[number], result)


def _together(results: list[Any], lalm: LALM) -> Any:
    """Results as the function gives them: last-token states as one tensor, all else as a list."""
    if not isinstance(results[0], Tensor):
        return results
    tensors = [result.to(lalm.device) for result in results]
    return torch.stack(tensors) if tensors[0].ndim == 2 else tensors
