"""`LALM.results`: what cache and runner ask where results are kept; recordings put in another."""

from collections.abc import Mapping
from typing import Any

from sarsteer_lab.batch import Encoded
from sarsteer_lab.keys import content_key
from sarsteer_lab.store import Store


class HookedModelError(RuntimeError):
    """Hooks are on a model whose results were to be kept: they are not the plain model's."""


class Results:
    """What `LALM.results` is for a model as it is loaded: what is not kept is computed.

    While a course is recorded, and for a recorded model, another takes its place
    (`probe.recorded`). Those who keep a model's results ask it.
    """

    def store(self, store: Store) -> Store:
        """The store of what would be kept in this one."""
        return store

    def missing(self, what: str, prompt: Encoded, settings: Mapping[str, Any]) -> None:
        """Called before `what` is computed with these settings, for a prompt and maybe others."""

    def push_key(self, effect: Mapping[str, Any] | None) -> str:
        """A key for what a push does to states: its settings, tensors and all; None: nothing."""
        return content_key(effect)
