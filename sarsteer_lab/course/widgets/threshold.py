"""A threshold on readiness to refuse, and where it stands beside defences."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from sarsteer_lab.course.widgets import panels
from sarsteer_lab.evaluation.separation import Scores, roc_area

DIGITS = 8
"""With which readiness is kept: a threshold counts the same requests as with all of them."""

Point = tuple[str, float, float]
"""A defence: its name, the shares of harmful requests refused and of others answered."""


class Threshold(panels.Panel):
    """Chapter 06: refuse what is readier than a threshold, and see whom that hits.

    `readings` holds the refusal probability of requests by form and label, `defences` points to
    stand beside it. The reader chooses the form and the threshold as log-odds (`odds`); the view
    counts. Raises ValueError where a form has no harmful or no other requests.
    """

    def __init__(
        self, readings: Mapping[str, Mapping[str, Scores]], defences: Iterable[Point] = ()
    ) -> None:
        state = threshold_state(readings, defences)
        super().__init__("threshold", state, form=next(iter(readings)), odds=-2.0)
        self.areas = areas(readings)

    def static(self) -> str:
        """The areas as a table."""
        return self.areas.to_html(index=False, float_format="{:.2f}".format)


def threshold_state(
    readings: Mapping[str, Mapping[str, Scores]], defences: Iterable[Point]
) -> dict[str, object]:
    """What the view draws."""
    kept: dict[str, dict[str, list[float]]] = {}
    for form, by_label in readings.items():
        kept[form] = {}
        for label, scores in by_label.items():
            kept[form][label] = [round(float(score), DIGITS) for score in scores]
    return {"readings": kept, "defences": [list(defence) for defence in defences]}


def areas(readings: Mapping[str, Mapping[str, Scores]]) -> pd.DataFrame:
    """The area under the ROC curve of harmful requests against each other kind, by form.

    Raises ValueError where a form has no harmful or no other requests.
    """
    rows = []
    for form, by_label in readings.items():
        others = dict(by_label)
        harmful = others.pop("harmful", np.zeros(0))
        if not others:
            raise ValueError(f"the form {form!r} has no requests but harmful ones")
        for label, scores in others.items():
            area = roc_area(harmful, scores)
            rows.append((form, label, len(harmful), len(scores), area))
    return pd.DataFrame(rows, columns=["form", "against", "n harmful", "n others", "ROC area"])
