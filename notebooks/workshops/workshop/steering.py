"""Checks of workshop 4: the steering hook, its context manager, and what strength does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sarsteer_lab import capture, steer
from sarsteer_lab.course.checks.tools import call, gaussian, need, need_close, need_tensor
from sarsteer_lab.directions import random_like
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from workshop.ears import hooks_counted, requests, same
from workshop.mine import step


def need_hook(make_hook: object) -> None:
    """Raise `Wrong` unless `push(vector, alpha)` makes a hook that steers the last position."""
    vector = torch.linspace(-1, 1, 6)
    for shape in ((2, 5, 6), (3, 1, 6)):  # a prompt, and a decoding step
        [stream] = gaussian(shape)
        before = stream.clone()
        hook = call(make_hook, vector, 0.5)
        need(callable(hook), "`push` has to return a function: the hook")
        after = need_tensor(_behind(hook, stream), shape, "what goes on to the next layer")
        unmoved = torch.equal(after, before)
        need(not unmoved, "nothing is added: does your sum reach the next layer?")
        otherwise = "positions before the last one have changed: only the last one is steered"
        need_close(after[:, :-1], before[:, :-1], otherwise, within=0)
        moved = after[:, -1] - before[:, -1]
        whole = vector.expand_as(moved)
        mistakes = {"the vector is added, but not `alpha` times it": whole}
        otherwise = "the last position moves by something else than alpha times the vector"
        need_close(moved, 0.5 * whole, otherwise, mistakes, within=1e-5)
    stream = torch.zeros(1, 2, 6, dtype=torch.bfloat16)
    after = _behind(call(make_hook, vector, 0.5), stream)
    otherwise = "a bfloat16 stream has become another type: the next layer will fail"
    need(after.dtype == torch.bfloat16, otherwise)


def _behind(hook: Callable[..., Tensor | None], stream: Tensor) -> Tensor:
    """What the next layer gets: a hook may return a new stream or change the one it is given."""
    returned = hook(None, (), stream)
    return stream if returned is None else returned


@step
def check_push(push: object) -> str:
    """`push(vector, alpha)`: a forward hook that adds `alpha * vector` at the last position."""
    (stream,) = gaussian((2, 5, 6))
    vector = torch.linspace(-1, 1, 6)
    hook = call(push, vector, 0.5)
    need(callable(hook), "`push` has to return a function: the hook")
    returned = hook(None, (), stream.clone())
    need(
        not isinstance(returned, tuple),
        "your hook returns a tuple, but the layer had given a plain tensor: the next layer cannot read it",
    )
    need_hook(push)
    inside = (stream.clone(), "cache")
    returned = hook(None, (), inside)
    after = inside if returned is None else returned
    need(
        isinstance(after, tuple) and after[1] == "cache",
        "some layers return a tuple, and your hook loses the rest of it: change only its first entry",
    )
    otherwise = "some layers return a tuple: the stream is its first entry"
    need_close(after[0][:, -1], stream[:, -1] + 0.5 * vector, otherwise, within=1e-5)
    half = torch.full((1, 1, 6), 1.0, dtype=torch.bfloat16)
    fine = torch.full((6,), 2**-8 + 1e-6)  # just beyond the middle between two numbers of bfloat16
    right = (half.float() + fine).bfloat16()
    returned = call(push, fine, 1.0)(None, (), half)
    after = half if returned is None else returned
    need(
        torch.equal(after, right),
        "the vector is rounded to bfloat16 before it is added: add in float32, round the sum once",
    )
    return "the stream is edited at one position, in its own type"


def library_logits(
    lalm: LALM, prompts: list[Prompt], vectors: Tensor, alpha: float, **options: Any
) -> Tensor:
    """The first token's logits under the library's steering."""
    with steer(lalm, vectors, alpha, **options):
        return lalm.next_token_logits(prompts)


def pushes(lalm: LALM, prompts: list[Prompt]) -> Tensor:
    """Random vectors of the size of the states, another one in each layer."""
    return random_like(capture(lalm, prompts).mean(0), seed=1, shared=False)


@step
def check_steering(steering: object, lalm: LALM) -> str:
    """`steering(lalm, vectors, alpha)`: a context manager; steers every layer while the block
    lasts."""
    prompts, alpha = [request.spoken() for request in requests(2)], 0.2
    vectors = pushes(lalm, prompts)
    plain = lalm.next_token_logits(prompts)
    with hooks_counted(lalm) as left:
        manager = call(steering, lalm, vectors, alpha)
        enters = hasattr(manager, "__enter__")
        need(
            enters,
            f"a {type(manager).__name__} cannot be used with `with`: is @contextmanager missing?",
        )
        with manager:
            found = lalm.next_token_logits(prompts)
        need(
            not left(),
            f"{left()} hooks are left on the model: everything after the block is steered too",
        )
        after = lalm.next_token_logits(prompts)
        changed = (
            "the model is not bit-identical after the block: what has changed it? (Load it again.)"
        )
        need(torch.equal(after, plain), changed)
        _need_steered(found, plain, lalm, prompts, vectors, alpha)
        try:
            with steering(lalm, vectors, alpha):  # type: ignore[operator]
                raise KeyError("made up")
        except KeyError:
            need(not left(), "when the block fails, the hooks stay on the model: use `finally`")
        else:
            need(False, "an error in the block is swallowed")
        with steering(lalm, vectors, 0.0):  # type: ignore[operator]
            need(
                torch.equal(lalm.next_token_logits(prompts), plain),
                "alpha = 0 changes the logits: what else does your hook do to the stream?",
            )
        with steering(lalm, vectors, alpha / 2), steering(lalm, vectors, alpha / 2):  # type: ignore[operator]
            twice = lalm.next_token_logits(prompts)
        otherwise = "two blocks, one in the other, do not add up: does the inner one replace hooks?"
        need(same(twice, found, lalm), otherwise)
        with steering(lalm, vectors, alpha):  # type: ignore[operator]
            mine = lalm.generate(prompts, max_new_tokens=6)
    with steer(lalm, vectors, alpha):
        right = lalm.generate(prompts, max_new_tokens=6)
    need(
        mine == right,
        "the first token is right, later ones are not: every generated token is steered too",
    )
    return "steered inside, bit-identical outside: SARSteer's step 5"


def _need_steered(
    found: Tensor, plain: Tensor, lalm: LALM, prompts: list[Prompt], vectors: Tensor, alpha: float
) -> None:
    if same(found, library_logits(lalm, prompts, vectors, alpha), lalm):
        return
    need(
        not torch.equal(found, plain),
        "nothing is steered in the block: do the hooks reach the layers?",
    )
    last, first = vectors[-1:].expand_as(vectors), vectors[:1].expand_as(vectors)
    shifted, layers = vectors.roll(1, 0), list(range(lalm.n_layers))
    for words, (values, strength, options) in {
        "every layer gets the last layer's vector: a function made in a loop sees the loop's last value": (
            last,
            alpha,
            {},
        ),
        "every layer gets the first layer's vector": (first, alpha, {}),
        "the vectors sit one layer too late": (shifted, alpha, {}),
        "the vectors sit one layer too early": (vectors.roll(-1, 0), alpha, {}),
        "the vectors are added without alpha": (vectors, 1.0, {}),
        "alpha counts twice": (vectors, alpha**2, {}),
        "the sign is turned: add the vectors, do not subtract them": (vectors, -alpha, {}),
        "every position is steered; only the last one should be": (
            vectors,
            alpha,
            {"positions": "all"},
        ),
        "only the last layer is steered": (vectors, alpha, {"layers": layers[-1:]}),
        "only the first layer is steered": (vectors, alpha, {"layers": layers[:1]}),
        "the last layer is left out": (vectors, alpha, {"layers": layers[:-1]}),
        "the first layer is left out": (vectors, alpha, {"layers": layers[1:]}),
    }.items():
        need(
            not same(found, library_logits(lalm, prompts, values, strength, **options), lalm), words
        )
    need(
        False,
        "the steered logits are not the library's: add alpha times vector l to the output of layer l",
    )


@step
def check_relative_push(relative_push: object) -> str:
    """`relative_push(states, vectors, alpha)`: length of the push over the mean length of the
    states."""
    states, vectors = gaussian((5, 5, 5), (5, 5))
    states = states * torch.arange(1, 6)[:, None] + 1
    found = need_tensor(call(relative_push, states, vectors, 0.3), (5,), "the relative push")
    push, lengths = vectors.norm(dim=-1), states.norm(dim=-1)
    right = 0.3 * push / lengths.mean(0)
    mistakes = {
        "alpha is missing": right / 0.3,
        "this is the length of the mean state, which is shorter than a typical state": 0.3
        * push
        / states.mean(0).norm(dim=-1),
        "the mean went over the wrong axis: over layers": 0.3 * push / lengths.mean(1),
        "the ratio is upside down": 1 / right,
        "the vectors' norm went over the wrong axis: over layers": 0.3
        * vectors.norm(dim=0)
        / lengths.mean(0),
    }
    need_close(found, right, "these are not alpha |v_l| divided by the mean of |h_l|", mistakes)
    return "where this is a sizeable part of 1, later layers read what they never saw in training"


@step
def check_dose_response(dose_response: object, lalm: LALM) -> str:
    """`dose_response(lalm, prompts, vectors, alphas, max_new_tokens)`: a dictionary, alpha to
    answers."""
    prompts, alphas = [request.spoken() for request in requests(2)], [0.1, 0.3, 0.0]
    vectors = pushes(lalm, prompts)
    with hooks_counted(lalm) as left:
        found = call(dose_response, lalm, prompts, vectors, alphas, 6)
        need(not left(), "hooks are left on the model afterwards")
    need(
        isinstance(found, dict),
        f"a dictionary is wanted, alpha to answers, not a {type(found).__name__}",
    )
    need(list(found) == alphas, f"its keys are {list(found)}; the alphas in their order are wanted")

    def said(alpha: float) -> list[str]:
        with steer(lalm, vectors, alpha):
            return lalm.generate(prompts, max_new_tokens=6)

    right = {alpha: said(alpha) for alpha in alphas}
    if found != right:
        wrong = next(alpha for alpha in alphas if list(found[alpha]) != right[alpha])
        flat = all(list(found[alpha]) == right[0.0] for alpha in alphas)
        need(not flat, "all answers are unsteered: the answers have to be made inside of the block")
        need(
            list(found[wrong]) != said(0.4),
            "the pushes of several alphas add up: leave one block, then enter the next",
        )
        need(False, f"the answers at alpha = {wrong} are not those under alpha times the vectors")
    return "from nothing to the break, with the same vectors"
