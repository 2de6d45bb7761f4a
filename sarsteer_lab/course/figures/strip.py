"""The way of a request through the loaded model, drawn with the shapes that it really has."""

import re
import textwrap
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from torch import Tensor, nn

from sarsteer_lab.course.figures import base
from sarsteer_lab.course.hearing import forms
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
    called: list[tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = []

    def note(module: nn.Module, args: Any, options: Any, output: Any) -> None:
        given = next(
            (value for value in (*args, *options.values()) if isinstance(value, Tensor)), None
        )
        made = getattr(output, "last_hidden_state", output)
        if (
            isinstance(made, Tensor)
            and made.ndim > 1
            and given is not None
            and given.is_floating_point()
        ):
            called.append((module, tuple(given.shape[-2:]), tuple(made.shape[-2:])))

    inside = {id(part) for part in lalm.layers.modules()}
    batch = lalm.batch(lalm.encode([prompt]), [0])
    inputs = batch.inputs
    with ExitStack() as hooks:
        for path, part in lalm.trunk.named_modules():
            if any(word in path.lower() for word in EARS) and id(part) not in inside:
                hooks.enter_context(part.register_forward_hook(note, with_kwargs=True))
        lalm.read(batch)
    spoken = inputs["input_ids"][0].cpu() == lalm.audio_token_id  # False for a model without ears
    spoken = torch.as_tensor(spoken).expand(inputs["input_ids"].shape[1])
    total, heard = len(spoken), int(spoken.sum())
    found: dict[str, Stage] = {}
    if (waveform := lalm.waveform(prompt)) is not None:
        seconds, mel = len(waveform) / SAMPLE_RATE, _mel(lalm, inputs)
        found["waveform"] = Stage(waveform.shape, f"{seconds:.1f} s of sound at 16 kHz", waveform)
        padded = " (padded to the window)" * (mel.shape[1] > 110 * seconds)
        found["mel"] = Stage(tuple(mel.shape), f"log energies, bins by frames{padded}", mel)
        tower, out, blocks = next(
            (part, made, n) for part, _, made in called if (n := _blocks(part))
        )
        others = [
            each
            for each in called
            if each[0] is not tower and any(True for _ in each[0].parameters())
        ]
        projector, given, made = [
            each for each in others if each[2][-1] == lalm.d_model and each[2][0] > 1
        ][-1]
        # Where the projector is the tower's own last layer, the tower proper ends before it.
        out = given if out[-1] == lalm.d_model else out
        found["tower"] = Stage(out, f"{blocks} layers of {_spaced(tower)}", blocks)
        clip = f"; {heard} are the clip's" * (heard < made[0])
        found["projector"] = Stage(
            made, f"{_spaced(projector)}: vectors as wide as the text's{clip}"
        )
    words = f"{total - heard} positions of text" + f", {heard} of audio" * (heard > 0)
    found["sequence"] = Stage((total, lalm.d_model), words, spoken.tolist())
    stream = f"the residual stream in {_spaced(lalm.decoder)}"
    found["layers"] = Stage((lalm.n_layers, total, lalm.d_model), stream, lalm.n_layers)
    found["head"] = Stage((int(lalm.text_config.vocab_size),), "a logit for every next token")
    return found


def _mel(lalm: LALM, inputs: Any) -> Float[Tensor, "bin frame"]:
    """The features that the audio tower gets, whichever way the family lays them."""
    features = (
        next(inputs[name] for name in inputs if name.endswith("input_features"))[0].float().cpu()
    )
    bins = getattr(getattr(lalm.processor, "feature_extractor", None), "feature_size", None)
    return (
        features
        if features.shape[0] == (bins if bins in features.shape else min(features.shape))
        else features.T
    )


def _spaced(part: nn.Module) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(part).__name__)


def _blocks(part: nn.Module) -> int:
    return max(
        (len(child) for child in part.children() if isinstance(child, nn.ModuleList)), default=0
    )


@base.drawn_without_grid
def architecture(lalm: LALM, prompt: Request | Prompt) -> Figure:
    """From the waveform to the next token: what each part of this model makes of this prompt, in
    real shapes.

    A spoken request if the model hears and there is a clip, else its words. Runs the model once.
    """
    found = stages(lalm, [*forms(lalm, prompt).values()][-1])
    title = f"{lalm.name}: the way of a {'spoken' if 'mel' in found else 'typed'} request"
    fig, axes = base.panels(len(found), (2.05 * len(found) + 0.6, 4.6), title)
    fig.get_layout_engine().set(wspace=0.16)
    for ax, (name, stage) in zip(axes, found.items(), strict=True):
        ax.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1), title=name)
        ax.spines[:].set_visible(False)
        if name == "waveform":
            sound = 0.5 + 0.48 * stage.content / np.abs(stage.content).max()
            ax.plot(np.linspace(0, 1, len(sound)), sound, color=base.BLACK, linewidth=0.5)
        elif name == "mel":
            ax.imshow(
                stage.content, origin="lower", aspect="auto", cmap="viridis", extent=(0, 1, 0, 1)
            )
        elif name in ("projector", "head"):
            corners, colour = [(0.1, 0.3), (0.1, 0.7), (0.9, 0.95), (0.9, 0.05)], base.ORANGE
            ax.add_patch(Polygon(corners, color=colour if name == "projector" else base.SKY))
        elif name == "sequence":
            for at, heard in enumerate(stage.content):
                place = (at / stage.shape[0], 0.35), 1 / stage.shape[0], 0.3
                ax.add_patch(
                    Rectangle(*place, color=base.VERMILION if heard else base.BLUE, linewidth=0)
                )
            for x, form, colour, side in (
                (0, "text", base.BLUE, "left"),
                (1, "audio", base.VERMILION, "right"),
            ):
                if form == "text" or any(stage.content):
                    ax.text(x, 0.7, form, color=colour, fontweight="bold", ha=side)
        else:
            colour, step = base.GREEN if name == "layers" else base.PURPLE, 1 / stage.content
            for at in range(stage.content):
                ax.add_patch(
                    Rectangle((0.15, (at + 0.1) * step), 0.7, 0.8 * step, color=colour, linewidth=0)
                )
        told = " \u00d7 ".join(f"{size:,}" for size in stage.shape)
        ax.set_xlabel(f"{told}\n{textwrap.fill(stage.words, 18)}", fontsize=12, linespacing=1.4)
        if ax is not axes[0]:
            look = {"arrowstyle": "-|>", "color": base.BLACK, "linewidth": 2}
            ax.annotate(
                "",
                (-0.01, 0.5),
                (-0.17, 0.5),
                "axes fraction",
                arrowprops=look,
                annotation_clip=False,
            )
    return fig
