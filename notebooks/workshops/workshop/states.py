"""Checks of workshop 1: hidden states caught by hooks, and a ruler for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sarsteer_lab import capture as library_capture
from sarsteer_lab import capture_positions
from sarsteer_lab.activations import record_states
from sarsteer_lab.course.checks.tools import call, gaussian, need, need_close, need_tensor
from sarsteer_lab.geometry import centroid_distance
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from workshop.ears import hooks_counted, need_same, requests, same
from workshop.mine import step


@step
def check_record_last(record_last: object) -> str:
    """`record_last(kept)`: a forward hook that appends the last position's state to a list."""
    for dtype in (torch.float32, torch.bfloat16):
        stream = gaussian((4, 4, 4))[0].to(dtype)
        before = stream.clone()
        for output in (stream, (stream, "cache")):
            kept: list[Any] = []
            hook = call(record_last, kept)
            need(callable(hook), "`record_last` has to return a function: the hook")
            try:
                returned = hook(None, (), output)
            except (TypeError, IndexError, AttributeError) as error:
                need(output is stream, "some layers return a tuple: the stream is its first entry")
                need(False, f"your hook stops with {type(error).__name__}: {error}")
            need(
                returned is None,
                f"your hook returns a {type(returned).__name__}: what a hook returns takes the place of the layer's "
                "output, and the model goes on with it",
            )
            need(len(kept) == 1, f"one state is to be appended for each pass; {len(kept)} were")
            need(
                torch.equal(stream, before),
                "the stream has changed: a hook that records only looks",
            )
            state = kept[0]
            need(isinstance(state, Tensor), f"a tensor is to be kept, not a {type(state).__name__}")
            need(
                state.shape != stream.shape,
                "the whole stream is kept: only the last position is wanted",
            )
            mistakes = {
                "this is the first position": before[:, 0],
                "this is the position before the last": before[:, -2],
                "this is the mean over positions": before.float().mean(1),
                "the wrong axis: these are all positions of the batch's last prompt": before[-1],
                "the wrong axis: this is the last number of each state": before[..., -1],
            }
            state = need_tensor(state.reshape(state.shape), (4, 4), "the state")
            need_close(
                state, before[:, -1], "this is not the last position's state", mistakes, within=1e-6
            )
            need(
                state.dtype == torch.float32,
                f"the state is kept as {state.dtype}: float32 is wanted",
            )
            stream += 1
            need_close(
                state,
                before[:, -1],
                "a view is kept: when something edits the stream later (steering does), the kept state changes "
                "too: copy it",
                within=1e-6,
            )
            stream.copy_(before)
    return "one state for each prompt and pass, a copy in float32"


@step
def check_hooked(hooked: object) -> str:
    """`hooked(layers, hooks)`: a context manager that puts hook i on layer i while the block
    lasts."""
    layers, calls = nn.ModuleList(nn.Identity() for _ in range(3)), []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    def run() -> list[str]:
        calls.clear()
        for layer in layers:
            layer(torch.zeros(1))
        return list(calls)

    layers[1].register_forward_hook(note("another's"))
    names = ["hook 0", "hook 1", "hook 2"]
    manager = call(hooked, layers, [note(name) for name in names])
    enters = hasattr(manager, "__enter__")
    need(
        enters,
        f"a {type(manager).__name__} cannot be used with `with`: is @contextmanager missing?",
    )
    with manager:
        said = run()
    expected = ["hook 0", "another's", "hook 1", "hook 2"]
    need(len(said) > 1, "no hook ran in the block: are they registered before `yield`?")
    need(
        "another's" in said,
        "a hook that somebody else had put there is gone: remove your own alone",
    )
    need(
        said == expected, f"the layers ran {said}, but hook i belongs on layer i, and nothing else"
    )
    said = run()
    need(said != expected, "the hooks are still there after the block: remove them after `yield`")
    need(
        said == ["another's"], f"after the block {said} ran, but only what was there before should"
    )
    try:
        with hooked(layers, [note(name) for name in names]):  # type: ignore[operator]
            raise KeyError("made up")
    except KeyError:
        pass
    else:
        need(False, "an error in the block is swallowed: whoever steers would not see it")
    need(run() == ["another's"], "when the block fails, the hooks stay: `finally` is for that")
    layers[2].register_forward_hook(note("another's"))
    with hooked(layers, [note(name) for name in names]):  # type: ignore[operator]
        pass
    need(run() == ["another's"] * 2, "somebody else's hook on the last layer is gone")
    return "whatever happens in the block, the model is as it was"


@step
def check_capture(capture: object, lalm: LALM) -> str:
    """`capture(lalm, prompts, batch_size)`: last-token states, (prompt, layer, d_model)."""
    spoken = [request.spoken() for request in requests(5)]
    right = library_capture(lalm, spoken)
    lalm.tokenizer.padding_side = "right"
    with hooks_counted(lalm) as left:
        found = call(capture, lalm, spoken, 3)
        need(not left(), "your hooks are still on the model afterwards")
    need(isinstance(found, Tensor), f"a tensor is wanted, not a {type(found).__name__}")
    shape, n = tuple(found.shape), lalm.n_layers
    need(
        shape != (n, 5, lalm.d_model),
        "prompts and layers have changed places: stack the layers along axis 1",
    )
    need(
        shape != (5, n + 1, lalm.d_model),
        "one layer too many: `hidden_states` begins with the embeddings",
    )
    need(shape != (3, n, lalm.d_model), "only the first batch has come out")
    need(shape != (2, n, lalm.d_model), "only the last batch has come out")
    found = need_tensor(found, (5, n, lalm.d_model), "the states")
    need(
        not found.requires_grad,
        "gradients are recorded: with torch.no_grad() half of the memory is saved",
    )

    def hidden(at: Any) -> Tensor:
        states = _hidden_states(lalm, spoken)
        return torch.stack([state[:, -1] for state in states], dim=1)[:, at]

    def last_audio() -> Tensor:
        return torch.stack([states[-1] for states in capture_positions(lalm, spoken, "audio")])

    def averaged() -> Tensor:
        return torch.stack([states.mean(0) for states in capture_positions(lalm, spoken, "all")])

    def before_last() -> Tensor:
        return torch.stack([states[-2] for states in capture_positions(lalm, spoken, "all")])

    mistakes = {
        "shifted by one layer: this begins with the embeddings, and the last layer is missing": lambda: (
            hidden(slice(0, -1))
        ),
        "the last layer's state has been through the final norm: transformers' `hidden_states[-1]` has": lambda: (
            hidden(slice(1, None))
        ),
        "you used the last audio position, not the last position of the prompt": last_audio,
        "this is the mean over all positions, not the last one": averaged,
        "this is the position before the last": before_last,
        "padding on the right: for all but the longest prompt this is the state of padding": lambda: (
            torch.cat([_padded_right(lalm, spoken[:3]), _padded_right(lalm, spoken[3:])])
        ),
        "the layers are in reverse order": right.flip(1),
    }
    swapped = not same(found, right, lalm) and all(
        any(same(o, r, lalm) for r in right) for o in found
    )
    need(not swapped, "the states are right, but in another order than the prompts")
    need_same(
        found[1:2],
        right[1:2],
        "the states differ, even those of unpadded prompts",
        _rows(mistakes, 1),
        lalm,
    )
    others = [row for row in range(5) if not same(found[row], right[row], lalm)]
    if others:
        need_same(
            found, right, f"only prompts {others} differ: look at their padding", mistakes, lalm
        )
    return f"{tuple(found.shape)}: prompt, layer, d_model, as the library captures them"


def _rows(mistakes: dict[str, Any], row: int) -> dict[str, Any]:
    def of(make: Any) -> Callable[[], Tensor]:
        return lambda: (make() if callable(make) else make)[row : row + 1]

    return {words: of(make) for words, make in mistakes.items()}


@torch.no_grad()
def _hidden_states(lalm: LALM, prompts: list[Prompt]) -> Any:
    return lalm.core(
        **lalm.inputs(prompts), output_hidden_states=True, use_cache=False
    ).hidden_states


@torch.no_grad()
def _padded_right(lalm: LALM, prompts: list[Prompt]) -> Tensor:
    inputs = lalm.inputs(prompts)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        for key in ("input_ids", "attention_mask"):
            values = inputs[key][row]
            inputs[key][row] = torch.cat([values[mask], values[~mask]])
    with record_states(lalm, lalm.layer_indices()) as recorded:
        lalm.trunk(**inputs, use_cache=False)
    return torch.stack([passes[0] for passes in recorded], dim=1)


@step
def check_distance(distance: object) -> str:
    """`distance(first, second)`, (prompt, layer, d_model) each: of the mean states, in units of
    spread."""
    first, second, shift = gaussian((9, 5, 5), (7, 5, 5), (5, 5))
    first = first * torch.arange(1, 6)[:, None]
    second = 2 * second + 3 * shift
    found = need_tensor(call(distance, first, second), (5,), "the distance")
    apart = first.mean(0) - second.mean(0)
    sets = [s - s.mean(0) for s in (first, second)]
    variances = torch.stack([s.square().sum(-1).mean(0) for s in sets])
    pooled = torch.cat([first, second])
    pooled = (pooled - pooled.mean(0)).square().sum(-1).mean(0)
    mistakes = {
        "this is the plain distance: divide by the spread of the sets, or layers cannot be compared": apart.norm(
            dim=-1
        ),
        "you divide by the variance: take its root, so that the unit is a distance": apart.norm(
            dim=-1
        )
        / variances.mean(0),
        "the spread is that of all states about one common mean, which holds the distance itself": apart.norm(
            dim=-1
        )
        / pooled.sqrt(),
        "the spread is that of the first set alone": apart.norm(dim=-1) / variances[0].sqrt(),
        "the spread is that of the second set alone": apart.norm(dim=-1) / variances[1].sqrt(),
        "the norm went over the wrong axis: over layers": apart.norm(dim=0)
        / variances.mean(0).sqrt(),
    }
    right = centroid_distance(first, second)
    need_close(
        found,
        right,
        "this is not the distance of the means over their spread",
        mistakes,
        within=1e-3,
    )
    return "a ruler that does not grow with the residual stream"
