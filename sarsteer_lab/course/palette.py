"""The course's colours: what each of them means, everywhere.

Requests are told apart by one palette, the forms that they reach the model in by another, what
becomes of them by a third, and these three share no colour but grey. Groups of defences and the
parts of the method have their own. Colours within a palette can be told apart by colour-blind
readers (a test simulates the three kinds), and no meaning hangs on colour alone: marker, line style
or hatching says it again. The colours are from Okabe and Ito's set and from Paul Tol's "muted" one.
"""

from typing import Any

from cycler import cycler

INK, PAPER, GREY = "#000000", "#FFFFFF", "#8C8C8C"
"""What is drawn and written in, what it stands on, and what stays in the background."""

GREEN, PURPLE, SKY = "#009E73", "#CC79A7", "#56B4E9"
_BLUE, _VERMILION, _ORANGE = "#0072B2", "#D55E00", "#E69F00"
_INDIGO, _WINE, _TEAL, _OLIVE, _SAND = "#332288", "#882255", "#44AA99", "#999933", "#DDCC77"

Look = dict[str, Any]
"""Colour, marker and line style of a line, by matplotlib's names."""

LABELS = {
    "harmful": (_WINE, "s", "-"),
    "harmless": (_TEAL, "o", "--"),
    "pseudo-harmful": (_OLIVE, "D", "-."),
    "everyday": (_SAND, "v", ":"),
}
"""Colour, marker and line style of the kinds of request."""

FORMS = {
    "typed": (_BLUE, "o", "-"),
    "spoken": (_VERMILION, "^", "-"),
}
"""Colour, marker and line style of the two ways in which a request reaches the model."""

OUTCOMES = {
    "refused": (_INDIGO, "", "s", "-"),
    "answered": (_ORANGE, "//", "o", "--"),
    "broken": (GREY, "xx", "X", ":"),
}
"""Colour, hatching, marker and line style of what becomes of a request."""

TOPICS = {
    "refused": OUTCOMES["refused"],
    "on topic": OUTCOMES["answered"],
    "off topic": ("#F7D58B", "..", "D", "-."),
    "broken": OUTCOMES["broken"],
}
"""The same where answers about what was asked are told apart from answers about something else."""

DEFENCES = {
    "no defence": (INK, "*"),
    "prompts": (PURPLE, "s"),
    "uniform pushes": (SKY, "o"),
    "conditional pushes": (GREEN, "D"),
    "others": (_SAND, "v"),
}
"""Colour and marker of the groups of defences in the trade-off plane."""

METHOD = {
    "direction": PURPLE,
    "inside": SKY,
    "vectors": GREEN,
    "control": INK,
}
"""The parts of SARSteer: the refusal direction, what of it lies in the safe space, and what is left
of it; and what they are compared with."""

PARTS = {
    "tower": PURPLE,
    "projector": SKY,
    "layers": GREEN,
    "head": GREY,
    "text": _BLUE,
    "audio": _VERMILION,
}
"""The parts of a model, and the positions of its prompt."""

BUILT_IN = "#F8F0DA"
"""The ground of layers that hold the safety adapter: the truth that was built in."""

CHANGE, SHADES, SCORES = "PuOr", "Purples", "viridis"
"""Maps of colours: of changes, of shares of attention, and of energies."""

_COLOURS = [GREEN, PURPLE, INK, SKY, GREY, _OLIVE, _INDIGO]
_MARKERS = ["o", "s", "^", "D", "v", "x", "P"]
_LINES: list[Any] = ["-", "--", "-.", (0, (5, 1)), ":", (0, (3, 1, 1, 1)), (0, (1, 1))]
SERIES = cycler(color=_COLOURS, marker=_MARKERS, linestyle=_LINES)
"""The looks of a figure's series that mean nothing else, in their order."""


def look_of(colour: str, marker: str, linestyle: str | tuple[int, tuple[int, ...]]) -> Look:
    """A look of its own, for a line that is not one of a series."""
    return {"color": colour, "marker": marker, "linestyle": linestyle}


STEERED = look_of(GREEN, "D", "--")
"""What happens under a push."""

DIRECTION = look_of(METHOD["direction"], "s", "--")
VECTORS = look_of(METHOD["vectors"], "o", "-")
CONTROL = look_of(METHOD["control"], "v", ":")
"""A push along the refusal direction, one along what ablation leaves of it, and a control."""

MEANINGS: dict[str, Look] = {
    "steered": STEERED,
    "spoken, steered": STEERED,
    "refusal direction": DIRECTION,
    "not ablated": DIRECTION,
    "ablated": VECTORS,
    "ablated, full length": look_of(METHOD["vectors"], "^", "-."),
    "harmful space ablated": look_of(METHOD["control"], "D", (0, (5, 1))),
    "random space ablated": CONTROL,
    "random space 0 ablated": CONTROL,  # 0 is its seed: `curves.controls`
}
"""The look of a series by its name, where that has a meaning of its own."""
for _palette in (LABELS, FORMS):
    for _name, _look in _palette.items():
        MEANINGS[_name] = look_of(*_look)
