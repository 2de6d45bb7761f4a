"""What is computed for prompts once, and then read from disk: one wrapper around a function.

    states = kept(capture)(lalm, prompts)

gives what `capture(lalm, prompts)` gives. Prompts that are kept are not run again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab.activations import Prompts
from sarsteer_lab.keys import content_key
from sarsteer_lab.lalm import LALM
from sarsteer_lab.paths import cache_folder
from sarsteer_lab.store import Store


def activation_store() -> Store:
    """Captured states in the user's cache folder."""
    return Store(cache_folder() / "activations")


def kept(function: Callable[..., Any], store: Store | None = None) -> Callable[..., Any]:
    """`function(lalm, prompts, **settings)`, one result for each prompt, kept in a store.

    Without a store: in that of the user's cache (`activation_store`).
    A key is made of the model, the function's name, its settings but `batch_size`, and the prompt
    as it is heard. Raises HookedModelError inside of `with steer(...)` and under other hooks: what
    is computed then could not be told from the plain model's.
    """

    def one_text(lalm: LALM, variants: Sequence[Prompts], **settings: Any) -> list[Any]:
        return [function(lalm, prompts, **settings) for prompts in variants]

    def read(lalm: LALM, prompts: Prompts, **settings: Any) -> Any:
        place = activation_store() if store is None else store
        return kept_variants(one_text, place, function.__name__)(lalm, [prompts], **settings)[0]

    return read


def kept_variants(function: Callable[..., Any], store: Store, name: str) -> Callable[..., Any]:
    """The same for a `function(lalm, variants, **settings)` of several lists of prompts, row by
    row the same clips under other texts; `name` is that of the function of one list whose results
    these are.
    """

    def read(lalm: LALM, variants: Sequence[Prompts], **settings: Any) -> list[Any]:
        encoded = [lalm.encode(prompts) for prompts in variants]
        if not any(encoded):
            return function(lalm, encoded, **settings)
        deciding = {name: value for name, value in settings.items() if name != "batch_size"}
        model_key = lalm.key(name, deciding)
        results: dict[str, Any] = {}
        keys = []
        for prompts in encoded:
            keys.append([content_key(model_key, prompt.key) for prompt in prompts])
            for key in keys[-1]:
                results[key] = store.read(key)
        lacking = [
            number for number, own in enumerate(keys) if any(results[k] is None for k in own)
        ]
        missing = sorted(
            {row for n in lacking for row, k in enumerate(keys[n]) if results[k] is None}
        )
        if missing:
            asked = [[encoded[number][row] for row in missing] for number in lacking]
            made = function(lalm, asked, **settings)
            lalm.key()  # hooks that came meanwhile, from another thread, are an error as well
            for number, values in zip(lacking, made, strict=True):
                for row, value in zip(missing, values, strict=True):
                    # What is kept stays: another batch gives other last digits.
                    if results[keys[number][row]] is None:
                        results[keys[number][row]] = store.write(keys[number][row], value)
        return [_together([results[key] for key in own], lalm) for own in keys]

    return read


def _together(values: list[Any], lalm: LALM) -> Any:
    """Results as the function gives them: states of one shape as one tensor, else a list."""
    if not values or not isinstance(values[0], Tensor):
        return values
    tensors = [value.to(lalm.device) for value in values]
    alike = len({value.shape for value in tensors}) == 1 and tensors[0].ndim == 2
    return torch.stack(tensors) if alike else tensors
