"""Hooks, replaced code and autocast are found: does a model compute by its own code?

Weights and settings say nothing of these, so results of a model that runs other code could not be
told from its own.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import nn

from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.results import HookedModelError

LIBRARIES = frozenset(
    "torch torchvision torchaudio transformers transformers_modules peft bitsandbytes timm "
    "sarsteer_lab".split()
)
"""Packages that models and their parts come from."""

HARMLESS = ("accelerate.hooks", "accelerate.big_modeling")
"""Modules that put parts on several devices, and change no number."""


def refuse_foreign(model: nn.Module, name: str) -> None:
    """Raise HookedModelError for a model, called `name`, that computes by more than its own code.

    For those who keep what is computed: when they make a key, and before they write.
    """
    refuse_autocast(next(model.parameters()).device)
    reason = "what it computes cannot be kept as the plain model's"
    if foreign_hooks(model):
        advice = "do this outside of `with steer(...)`, without hooks of your own"
        raise HookedModelError(f"hooks are on {name}, so {reason}: {advice}")
    change = next(replaced_code(model), None)
    if change is not None:
        raise HookedModelError(f"{name} runs other code ({change}), so {reason}: load it anew")


def refuse_autocast(device: torch.device) -> None:
    """Raise HookedModelError if torch.autocast is on for a model's device."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        kind = str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
        reason = "is on, with other numbers than those of the model's own dtype"
        advice = f"leave its block, or load the model with dtype={kind!r}"
        raise HookedModelError(f"torch.autocast ({kind}) {reason}: {advice}")


def refuse_passed_by(around: Iterable[nn.Module], name: str) -> None:
    """Raise HookedModelError for parts `around` the trunk of a model `name` with replaced methods.

    What reads states runs the trunk alone, and would pass them by.
    """
    for part in around:
        for attribute in replaced_attributes(part):
            reason = f"{attribute} of {type(part).__name__} is replaced"
            advice = "captures would pass it by: hand over the model as it was loaded"
            raise HookedModelError(f"{name}: {reason}, and {advice}")


def replaced_code(model: nn.Module) -> Iterator[str]:
    """In words, parts that are not of the libraries' classes, and methods put in others' place."""
    libraries = LIBRARIES | {_package(type(model).__module__)} - {"__main__"}
    looked_at: set[type] = set()
    for name, part in model.named_modules():
        kind = type(part)
        where = f"{name or 'the model'} is a {kind.__name__}"
        if kind not in looked_at:
            looked_at.add(kind)
            if _package(kind.__module__) not in libraries:
                yield f"{where} of {kind.__module__}"
            elif _is_foreign(kind.forward, libraries):
                yield f"{where}, whose forward is replaced"
        for attribute in replaced_attributes(part, libraries):
            yield f"{where}, whose {attribute} is replaced"


def replaced_attributes(part: nn.Module, libraries: frozenset[str] = LIBRARIES) -> Iterator[str]:
    """Names of functions that were put into a part itself, and come from none of the libraries."""
    for name, value in vars(part).items():
        if callable(value) and _is_foreign(value, libraries):
            yield name


def _is_foreign(code: Callable[..., object], libraries: frozenset[str]) -> bool:
    """Whether a callable, or one that it wraps, was written in none of these libraries."""
    if isinstance(code, partial):
        wrapped = [part for part in (code.func, *code.args) if callable(part)]
        return any(_is_foreign(part, libraries) for part in wrapped)
    function = getattr(code, "__func__", code)
    # A decorator may give a function another's name and `__module__`, but not its globals.
    written_in = getattr(function, "__globals__", {}).get("__name__") or function.__module__
    return written_in not in HARMLESS and _package(written_in or "torch") not in libraries


def _package(module: str) -> str:
    return module.partition(".")[0]
