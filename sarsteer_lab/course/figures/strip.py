"""The way of a request through the loaded model, drawn with the shapes that it really has."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from sarsteer_lab.course.figures.base import (
    WHOLE_PICTURE,
    drawn_without_grid,
    panels,
)
from sarsteer_lab.course.hearing import forms
from sarsteer_lab.course.palette import INK, PARTS, SCORES
from sarsteer_lab.engine.audio_cache import EARS
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Stage:
    """What a part of the model gives: its shape, a few words on it, and what is drawn of it."""

    shape: tuple[int, ...]
    words: str
    content: Any = 0


@torch.no_grad()
def stages(lalm: LALM, prompt: Prompt) -> dict[str, Stage]:
    """What each part makes of a prompt, watched in one forward pass.

    Spoken prompts have "waveform" (samples), "mel" (bins, frames), "tower" and "projector"
    (vectors, width); all have "sequence" (positions, d_model), "layers" (layers, positions,
    d_model) and "head" (vocabulary). Raises what `lalm.inputs` does.
    """
    inputs, called = _watched(lalm, prompt)
    ids = inputs["input_ids"][0].cpu()
    spoken = torch.zeros_like(ids, dtype=torch.bool)
    if lalm.audio_token_id is not None:  # a model with ears
        spoken = ids == lalm.audio_token_id
    total, heard = len(ids), int(spoken.sum())
    parts: dict[str, Stage] = {}
    waveform = lalm.waveform(prompt)
    if waveform is not None:
        seconds = len(waveform) / SAMPLE_RATE
        parts["waveform"] = Stage(waveform.shape, f"{seconds:.1f} s of sound at 16 kHz", waveform)
        mel = _mel(lalm, inputs)
        padded = " (padded to the window)" if mel.shape[1] > 110 * seconds else ""
        parts["mel"] = Stage(tuple(mel.shape), f"log energies, bins by frames{padded}", mel)
        parts |= _ears(lalm, called, heard)
    words = f"{total - heard} positions of text"
    if heard:
        words += f", {heard} of audio"
    parts["sequence"] = Stage((total, lalm.d_model), words, spoken.tolist())
    stream = f"the residual stream in {_spaced(lalm.decoder)}"
    parts["layers"] = Stage((lalm.n_layers, total, lalm.d_model), stream, lalm.n_layers)
    parts["head"] = Stage((int(lalm.text_config.vocab_size),), "a logit for every next token")
    return parts


class _Call(NamedTuple):
    """A part of the model in one call: the last two sizes of what it was given and made."""

    part: nn.Module
    given: tuple[int, ...]
    made: tuple[int, ...]


def _watched(lalm: LALM, prompt: Prompt) -> tuple[dict[str, Any], list[_Call]]:
    """A prompt's inputs, and the calls of the parts that hear, in their order."""
    calls: list[_Call] = []

    def note(part: nn.Module, args: Any, options: Any, output: Any) -> None:
        values = (*args, *options.values())
        given = next((value for value in values if isinstance(value, Tensor)), None)
        made = getattr(output, "last_hidden_state", output)
        if given is None or not isinstance(made, Tensor) or made.ndim < 2:
            return
        if given.is_floating_point():
            taken, left = given.shape[-2:], made.shape[-2:]
            calls.append(_Call(part, tuple(taken), tuple(left)))

    in_decoder = set(lalm.layers.modules())
    batch = lalm.batch(lalm.encode([prompt]), [0])
    with ExitStack() as hooks:
        for path, part in lalm.trunk.named_modules():
            if part not in in_decoder and any(word in path.lower() for word in EARS):
                hooks.enter_context(part.register_forward_hook(note, with_kwargs=True))
        lalm.read(batch)
    return batch.inputs, calls


def _ears(lalm: LALM, calls: Sequence[_Call], heard: int) -> dict[str, Stage]:
    """The audio tower, which is the first part with a list of layers, and the projector.

    The projector is the last part with weights that makes vectors as wide as the text's.
    """
    tower = next(call for call in calls if _blocks(call.part))
    projector = tower
    for call in calls:
        has_weights = any(True for _ in call.part.parameters())
        several, width = call.made
        if call.part is not tower.part and has_weights and width == lalm.d_model and several > 1:
            projector = call
    n_blocks = _blocks(tower.part)
    # Where the projector is the tower's own last layer, the tower proper ends before it.
    made = projector.given if tower.made[-1] == lalm.d_model else tower.made
    clip = f"; {heard} are the clip's" if heard < projector.made[0] else ""
    layers = Stage(made, f"{n_blocks} layers of {_spaced(tower.part)}", n_blocks)
    words = f"{_spaced(projector.part)}: vectors as wide as the text's{clip}"
    return {"tower": layers, "projector": Stage(projector.made, words)}


def _mel(lalm: LALM, inputs: Mapping[str, Any]) -> Float[Tensor, "bin frame"]:
    """The features that the audio tower gets, whichever way the family lays them."""
    name = next(name for name in inputs if name.endswith("input_features"))
    features = inputs[name][0].float().cpu()
    extractor = getattr(lalm.processor, "feature_extractor", None)
    bins = getattr(extractor, "feature_size", None)
    if bins not in features.shape:
        bins = min(features.shape)
    return features if len(features) == bins else features.T


def _spaced(part: nn.Module) -> str:
    """The name of a part's class in words: "AudioTower" is "Audio Tower"."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(part).__name__)


def _blocks(part: nn.Module) -> int:
    """How many layers a part's longest list of layers has."""
    lists = [child for child in part.children() if isinstance(child, nn.ModuleList)]
    return max(map(len, lists), default=0)


@drawn_without_grid
def architecture(lalm: LALM, prompt: Request | Prompt) -> Figure:
    """From the waveform to the next token: what each part makes of this prompt, in real shapes.

    A spoken request if the model hears and there is a clip, else its words. Runs the model once.
    """
    *_, prompt = forms(lalm, prompt).values()
    parts = stages(lalm, prompt)
    positions, width = parts["sequence"].shape
    form = "typed request"
    if "waveform" in parts:
        seconds = len(parts["waveform"].content) / SAMPLE_RATE
        form = f"spoken request of {seconds:.1f} s"
    title = f"A {form} becomes {positions} vectors of {width} numbers"
    size = (2.05 * len(parts) + 0.6, 4.6)
    fig, axes = panels(len(parts), size, f"{title}, which {lalm.n_layers} layers read")
    fig.get_layout_engine().set(wspace=0.16)
    for ax, (name, stage) in zip(axes, parts.items(), strict=True):
        ax.set(title=name, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        ax.spines[:].set_visible(False)
        _DRAWN[name](ax, stage)
        shape = " \u00d7 ".join(f"{size:,}" for size in stage.shape)
        words = textwrap.fill(stage.words, 18)
        ax.set_xlabel(f"{shape}\n{words}", fontsize=12, linespacing=1.4)
    for ax in axes[1:]:
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 2}
        start, end = (-0.17, 0.5), (-0.01, 0.5)
        ax.annotate("", end, start, "axes fraction", arrowprops=arrow, annotation_clip=False)
    return fig


def _waveform(ax: Axes, stage: Stage) -> None:
    sound = 0.5 + 0.48 * stage.content / np.abs(stage.content).max()
    ax.plot(np.linspace(0, 1, len(sound)), sound, color=INK, linewidth=0.5)


def _spectrogram(ax: Axes, stage: Stage) -> None:
    extent = (0, 1, 0, 1)
    ax.imshow(stage.content, cmap=SCORES, extent=extent, **WHOLE_PICTURE)


def _funnel(colour: str, ax: Axes, stage: Stage) -> None:
    ax.fill_between([0.1, 0.9], [0.3, 0.05], [0.7, 0.95], color=colour)


def _sequence(ax: Axes, stage: Stage) -> None:
    """A cell per position: what is text, and what is heard."""
    n = len(stage.content)
    colours = [PARTS["audio" if heard else "text"] for heard in stage.content]
    cells = {"width": 1 / n, "align": "edge", "color": colours, "linewidth": 0}
    ax.bar(np.arange(n) / n, 0.3, bottom=0.35, **cells)
    ax.text(0, 0.7, "text", color=PARTS["text"], fontweight="bold")
    if any(stage.content):
        ax.text(1, 0.7, "audio", color=PARTS["audio"], fontweight="bold", ha="right")


def _stack(colour: str, ax: Axes, stage: Stage) -> None:
    n = stage.content
    lower_ends = (np.arange(n) + 0.1) / n
    ax.bar(0.5, 0.8 / n, 0.7, lower_ends, color=colour, linewidth=0)


_DRAWN: dict[str, Callable[[Axes, Stage], None]] = {
    "waveform": _waveform,
    "mel": _spectrogram,
    "tower": partial(_stack, PARTS["tower"]),
    "projector": partial(_funnel, PARTS["projector"]),
    "sequence": _sequence,
    "layers": partial(_stack, PARTS["layers"]),
    "head": partial(_funnel, PARTS["head"]),
}
"""How each stage is drawn."""
