"""SARSteer Lab: look inside an audio-language model, and steer what it does with a spoken request.

The names below are the public API. Each is imported when it is first asked for (PEP 562), so that importing
the package is cheap: torch and transformers are only imported by the modules that need them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sarsteer_lab.activations import capture
    from sarsteer_lab.derivation import derive
    from sarsteer_lab.directions import difference_in_means, text_refusal_direction
    from sarsteer_lab.lalm import LALM
    from sarsteer_lab.loading import load_lalm
    from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, REFUSALS, Prompt, SpokenPrompt, load_prompts
    from sarsteer_lab.safe_space import ablate, principal_space
    from sarsteer_lab.speech import read_clip
    from sarsteer_lab.steering import project_out, steer
    from sarsteer_lab.store import cache_folder, data_folder
    from sarsteer_lab.vectors import SteeringVectors

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

__all__ = [
    "INSTRUCTION",
    "LALM",
    "REFUSAL",
    "REFUSALS",
    "Prompt",
    "SpokenPrompt",
    "SteeringVectors",
    "__version__",
    "ablate",
    "cache_folder",
    "capture",
    "data_folder",
    "derive",
    "difference_in_means",
    "load_lalm",
    "load_prompts",
    "principal_space",
    "project_out",
    "read_clip",
    "steer",
    "text_refusal_direction",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
