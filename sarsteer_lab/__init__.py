"""SARSteer Lab: look inside an audio-language model, and steer what it does with a spoken request.

The names below are the public API. Each is imported when it is first asked for (PEP 562), so that importing
the package is cheap: torch and transformers are only imported by the modules that need them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Re-exported, which is what `as` says to type checkers; at run time `__getattr__` finds them.
if TYPE_CHECKING:
    from sarsteer_lab.activations import capture as capture
    from sarsteer_lab.derivation import derive as derive
    from sarsteer_lab.directions import difference_in_means as difference_in_means
    from sarsteer_lab.directions import text_refusal_direction as text_refusal_direction
    from sarsteer_lab.lalm import LALM as LALM
    from sarsteer_lab.loading import load_lalm as load_lalm
    from sarsteer_lab.prompts import INSTRUCTION as INSTRUCTION
    from sarsteer_lab.prompts import REFUSAL as REFUSAL
    from sarsteer_lab.prompts import REFUSALS as REFUSALS
    from sarsteer_lab.prompts import Prompt as Prompt
    from sarsteer_lab.prompts import SpokenPrompt as SpokenPrompt
    from sarsteer_lab.prompts import load_prompts as load_prompts
    from sarsteer_lab.safe_space import ablate as ablate
    from sarsteer_lab.safe_space import principal_space as principal_space
    from sarsteer_lab.speech import read_clip as read_clip
    from sarsteer_lab.steering import project_out as project_out
    from sarsteer_lab.steering import steer as steer
    from sarsteer_lab.store import cache_folder as cache_folder
    from sarsteer_lab.store import data_folder as data_folder
    from sarsteer_lab.vectors import SteeringVectors as SteeringVectors

_HOMES = {
    "activations": ("capture",),
    "derivation": ("derive",),
    "directions": ("difference_in_means", "text_refusal_direction"),
    "lalm": ("LALM",),
    "loading": ("load_lalm",),
    "prompts": ("INSTRUCTION", "REFUSAL", "REFUSALS", "Prompt", "SpokenPrompt", "load_prompts"),
    "safe_space": ("ablate", "principal_space"),
    "speech": ("read_clip",),
    "steering": ("project_out", "steer"),
    "store": ("cache_folder", "data_folder"),
    "vectors": ("SteeringVectors",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
