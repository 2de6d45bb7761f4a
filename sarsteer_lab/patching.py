"""Activation patching: put states into a forward pass, and see what the model then does.

A `Patch` says what stands at some positions of a prompt after a layer: other states in place of its
own, or something added to them. `patch` holds patches while its block lasts. They act where prompts
are read. Tokens that are generated afterwards are left alone, but they read what was patched.

    [typed] = capture(lalm, [request.typed()])  # layer d_model
    with patch(lalm, [Patch(15, [-1], typed[15])]):
        print(lalm.generate([request.spoken()]))

What cannot be patched correctly is refused as for steering (`steering_guard`). Which positions hear
some seconds of a clip: `windows`. (Causal tracing: Vig et al. 2020, arXiv 2004.12265; Meng et al.
2022, arXiv 2202.05262.)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from sarsteer_lab.access import SteeringError
from sarsteer_lab.batch import Batch
from sarsteer_lab.families import Output, residual_stream
from sarsteer_lab.lalm import LALM
from sarsteer_lab.steering import attached
from sarsteer_lab.steering_guard import (
    Options,
    holds_prompts,
    prompts_of_rows,
    refuse_compiled,
    refuse_layers_alone,
    tokens_and_cached,
)


class Patch(NamedTuple):
    """What stands after a layer at some positions of a prompt while `patch` lasts.

    `layer` and `positions` may count from the end, and `states` has a row for each of the positions
    or one for all. `prompt` is the number of the prompt in the call (for direct calls of the model:
    of the row), None for all of them. With `added` the states come to the prompt's own, else they
    take their place.
    """

    layer: int
    positions: Sequence[int]
    states: Float[Tensor, "#position d_model"]
    prompt: int | None = None
    added: bool = False


@contextmanager
def patch(lalm: LALM, patches: Sequence[Patch]) -> Iterator[None]:
    """Have these states stand where prompts are read while the block lasts.

    Patches of one layer act in their order. Blocks nest, and act in the order in which they were
    entered, with those of `steer`. Afterwards the model is what it was, bit for bit.

    Raises ValueError for layers, widths and numbers of states that do not fit. When a prompt is
    read, ValueError for positions that it does not have, and SteeringError for what would be
    patched wrongly: prompts that have been read before the block, but for their last position, and
    all that steering refuses.
    """
    by_layer: dict[int, list[Patch]] = {}
    for one in patches:
        [layer] = lalm.layer_indices([one.layer])
        states = _fitting(lalm, one)
        device = next(lalm.layers[layer].parameters()).device
        by_layer.setdefault(layer, []).append(one._replace(states=states.detach().to(device)))
    refuse_compiled(lalm)
    with attached(lalm, Patching(lalm, by_layer), list(by_layer)):
        yield


def _fitting(lalm: LALM, one: Patch) -> Float[Tensor, "#position d_model"]:
    """A patch's states, a single one as a row. Raises ValueError if they do not fit."""
    states = one.states
    if states.ndim == 1:
        states = states[None]
    fits = states.ndim == 2 and states.shape[-1] == lalm.d_model
    if not fits or len(states) not in (1, len(one.positions)) or not len(one.positions):
        wanted = f"{len(one.positions)} positions of {lalm.name}, whose width is {lalm.d_model}"
        raise ValueError(f"states of shape {tuple(one.states.shape)} do not fit {wanted}")
    return states


class Patching:
    """The hooks of `patch`, and what they know of the forward pass that runs.

    `batch` is what the library announces (`LALM.announce`); None in direct calls of the model.
    `at_prompt` and `row_alphas` are for the guard: whether prompts run, and whether any has.
    """

    def __init__(self, lalm: LALM, by_layer: Mapping[int, Sequence[Patch]]) -> None:
        self.text_config, self.access = lalm.text_config, lalm.access
        self.by_layer = by_layer
        self.batch: Batch | None = None
        self.at_prompt: bool | None = None  # None: no pass of the model runs
        self.row_alphas: float | None = None
        self.edits: dict[int, list[_Edit]] = {}  # by layer, for the pass that runs

    def before_forward(self, _module: nn.Module, args: tuple[Tensor, ...], kwargs: Options) -> None:
        """Hook of the trunk: find out what this pass holds, and where it is to be patched."""
        tokens, n_cached = tokens_and_cached(args, kwargs)
        self.at_prompt = holds_prompts(n_cached, self.batch)
        self.edits = {}
        if not self.at_prompt:
            return
        self.row_alphas = 1.0
        n_rows, n_columns = tokens.shape[:2]
        width, mask = n_columns, kwargs.get("attention_mask")
        if self.batch is not None:
            mask = self.batch.inputs["attention_mask"]
            width = self.batch.inputs["input_ids"].shape[1]
        lengths = [n_columns] * n_rows
        if isinstance(mask, Tensor) and mask.ndim == 2:
            lengths = mask.sum(1).repeat_interleave(n_rows // len(mask)).tolist()
        prompt_of_row = prompts_of_rows(n_rows, self.batch)
        for layer, patches in self.by_layer.items():
            edits = self.edits[layer] = []
            for row, prompt in enumerate(prompt_of_row):
                for one in patches:
                    if one.prompt in (None, prompt):
                        behind = _from_end(one.positions, lengths[row], prompt)
                        columns = [width + position for position in behind]
                        edits += self._edit(one, row, columns, n_columns)

    def _edit(self, one: Patch, row: int, columns: list[int], n_columns: int) -> list["_Edit"]:
        """A patch of a row, as far as its columns are in this pass."""
        if min(columns) < 0:
            raise SteeringError(
                "all of these prompts but their last position was read outside of this `with "
                "patch`, which patches earlier positions; read them inside"
            )
        here = [place for place, column in enumerate(columns) if column < n_columns]
        if not here:
            return []
        states = one.states
        if len(states) > 1:
            states = states[here]
        return [_Edit(row, [columns[place] for place in here], states, one.added)]

    def edit(self, layer: int, _module: nn.Module, _args: object, output: Output) -> None:
        """Hook of a layer: write in place, so that all who hold the output see it."""
        self.access.refuse_others()
        refuse_layers_alone(self.at_prompt)
        stream = residual_stream(output, self.text_config)
        for edit in self.edits.get(layer, ()):
            states = edit.states
            if edit.added:
                states = stream[edit.row, edit.columns].float() + states  # rounds once
            stream[edit.row, edit.columns] = states.to(stream.dtype)


class _Edit(NamedTuple):
    """A patch, where it acts in a forward pass."""

    row: int
    columns: list[int]
    states: Float[Tensor, "#position d_model"]
    added: bool


def _from_end(positions: Sequence[int], length: int, number: int) -> list[int]:
    """Positions of a prompt of this length, counted from its end: -1 is the last.

    Raises ValueError if the prompt does not have them.
    """
    behind = []
    for position in positions:
        if not -length <= position < length:
            raise ValueError(
                f"prompt {number} has {length} positions, 0 to {length - 1} (or from the end, "
                f"-{length} to -1): there is no position {position} to patch"
            )
        behind.append(position if position < 0 else position - length)
    return behind
