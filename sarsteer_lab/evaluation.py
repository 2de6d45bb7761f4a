"""Defences x sets of requests -> responses on disk -> a table with intervals."""

from sarsteer_lab.intervals import wilson

__all__ = ["wilson"]
