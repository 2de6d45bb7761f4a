"""Checks of workshops 2 and 3: the refusal direction, and the safe space."""

from typing import Any

import torch
from torch import Tensor

from sarsteer_lab import capture
from sarsteer_lab import safe_space as library
from sarsteer_lab.course.checks.tools import call, gaussian, need, need_close, need_tensor
from sarsteer_lab.lalm import LALM
from workshop.ears import need_same, requests, same
from workshop.mine import step

TEXT = "I cannot assist with that."


class Judge:
    """A judge that notes what it is given; its outcomes come in turn."""

    outcomes = ("refused", "answered", "broken")

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def judge(self, request: str, response: str) -> str:
        """Note a pair."""
        self.heard.append((request, response))
        return self.outcomes[(len(self.heard) - 1) % 3]


# 2: the direction


@step
def check_refused_with(refused_with: object, lalm: LALM) -> str:
    """`refused_with(lalm, requests, text, judge)`: of each request, whether it is refused with the
    text."""
    asked, judge = requests(3), Judge()
    found = call(refused_with, lalm, asked, TEXT, judge)
    need(
        not isinstance(found, int | float) or isinstance(found, bool),
        "this is a count: keep one True or False for each request, so that requests can be compared later",
    )
    need(
        isinstance(found, list | tuple) and len(found) == 3,
        "a list is wanted: True or False for each request",
    )
    need(
        len(judge.heard) == 3,
        f"the judge was asked {len(judge.heard)} times for 3 requests: use the one passed in",
    )
    words, answers = ([p.request for p in asked], [response for _, response in judge.heard])
    said = {
        name: lalm.generate(prompts, max_new_tokens=12)
        for name, prompts in {
            "right": [p.spoken(refusal=TEXT) for p in asked],
            "without the text": [p.spoken() for p in asked],
            "of the typed requests: ask the spoken ones": [p.typed(TEXT) for p in asked],
            "to prompts in which the text has replaced the instruction: it belongs behind it": [
                p.spoken(TEXT) for p in asked
            ],
        }.items()
    }
    right = said.pop("right")
    need(
        judge.heard != list(zip(right, words, strict=True)),
        "the judge takes the request first, then the answer",
    )
    if answers != right:
        for mistake, wrong in said.items():
            need(answers != wrong, f"these are answers {mistake}")
        need(
            False,
            "the judge reads other answers than those of 12 tokens to the prompts with the text",
        )
    given = [request for request, _ in judge.heard]
    need(
        given == words, f"the judge is given {given[0]!r:.60} as the request; its words are wanted"
    )
    outcomes = any(isinstance(each, str) for each in found)
    need(
        not outcomes, "these are the outcomes themselves: is each of them a refusal, True or False?"
    )
    need(
        list(found) != [True, False, True],
        "a broken answer counts as refused here: it is neither refused nor answered",
    )
    need(
        list(found) == [True, False, False],
        f"the judge said {', '.join(judge.outcomes)}, you say {found}",
    )
    return "the precondition: no text that is not followed gives a direction that acts"


@step
def check_with_and_without(with_and_without: object, lalm: LALM) -> str:
    """`with_and_without(lalm, requests, text)`: states of the same clips without, and with the
    text."""
    asked = requests(3)
    found = call(with_and_without, lalm, asked, TEXT)
    need(
        isinstance(found, tuple | list) and len(found) == 2,
        "a tuple of two is wanted: without, with the text",
    )
    base, refusing = (capture(lalm, [p.spoken(refusal=text) for p in asked]) for text in ("", TEXT))
    names = ("the states without the text", "the states with the text")
    first, second = (
        need_tensor(f, tuple(base.shape), name) for f, name in zip(found, names, strict=True)
    )

    def states(make: Any) -> Any:
        return lambda: capture(lalm, [make(p) for p in asked])

    swapped = same(first, refusing, lalm) and same(second, base, lalm)
    need(not swapped, "the two have changed places: first without the text, then with it")
    mistakes = {
        "the first are of typed requests: the clip has to stay": states(lambda p: p.typed()),
        "the first are with the text: first without it, then with it": refusing,
        "the first are in another order than the requests": base.flip(0),
        "the first are not the plain prompts: the text has replaced the instruction": states(
            lambda p: p.spoken(TEXT)
        ),
    }
    need_same(
        first, base, "the first are not the states of the plain spoken prompts", mistakes, lalm
    )
    mistakes = {
        "the second are the same as the first: the text is not in the prompt": base,
        "the second are of typed requests: the clip has to stay": states(lambda p: p.typed(TEXT)),
        "the text has replaced the instruction; it belongs behind it": states(
            lambda p: p.spoken(TEXT)
        ),
        "the text stands before the instruction; it belongs behind it": states(
            lambda p: p.spoken(f"{TEXT} {p.spoken().text}")
        ),
        "instruction and text are stuck together without a space": states(
            lambda p: p.spoken(p.spoken().text + TEXT)
        ),
    }
    need_same(
        second,
        refusing,
        "the second are not the states with the text behind the instruction",
        mistakes,
        lalm,
    )
    return "the same clips twice: what differs is the text alone"


@step
def check_refusal_direction(refusal_direction: object) -> str:
    """`refusal_direction(base, refusing)`, (prompt, layer, d_model) each: one shift for each
    layer."""
    # As many prompts as layers, so that the wrong axis gives the right shape.
    base, shift = gaussian((5, 5, 5), (5, 5, 5))
    shift = shift + torch.arange(5)[:, None]
    found = call(refusal_direction, base, base + shift)
    shape = tuple(getattr(found, "shape", (0,)))
    need(shape != (5, 5, 5), "these are the shifts of single prompts: their mean is wanted")
    need(
        shape != (),
        "one number came out: the mean went over all axes, but only prompts are averaged",
    )
    found = need_tensor(found, (5, 5), "the direction")
    right = shift.mean(0)
    mistakes = {
        "you took the mean over the wrong axis: over layers, not over prompts": shift.mean(1),
        "you took the mean over the wrong axis: over the width": shift.mean(2),
        "the sign is the wrong way round: adding it would undo a refusal": -right,
        "this is the sum over prompts, not the mean": 5 * right,
        "every layer's direction has length 1: SARSteer keeps the natural lengths": _unit(right),
        "each shift has length 1 before the mean: SARSteer keeps the natural lengths": _unit(
            shift
        ).mean(0),
        "this is the mean state with the text, not the shift": (base + shift).mean(0),
        "this is the median over prompts; the paper takes the mean": shift.median(0).values,
    }
    need_close(
        found, right, "the values differ: with the text minus without, mean over prompts", mistakes
    )
    half = call(refusal_direction, base.bfloat16(), base.bfloat16())
    need(
        half.dtype == torch.float32,
        "states in bfloat16 give a direction in bfloat16: take float32 first",
    )
    return "SARSteer's step 2: one vector for each layer, in the stream's own units"


@step
def check_random_like(random_like: object) -> str:
    """`random_like(direction, seed)`: a random direction that all layers share, as long in each."""
    (direction,) = gaussian((5, 64))
    direction = direction * torch.tensor([1.0, 2, 4, 8, 16])[:, None]
    state = torch.random.get_rng_state()
    found = need_tensor(call(random_like, direction, 7), (5, 64), "the random direction")
    touched = not torch.equal(state, torch.random.get_rng_state())
    again, other = call(random_like, direction, 7), call(random_like, direction, 8)
    need(
        torch.equal(found, again),
        "the same seed gives another direction: nobody could repeat your experiment",
    )
    need(not torch.equal(found, other), "another seed gives the same direction")
    cosine = torch.cosine_similarity(found, direction, dim=-1).abs()
    need(cosine.max() < 0.9, "it still points along the direction itself: draw it anew")
    lengths, right = found.norm(dim=-1), direction.norm(dim=-1)
    mistakes = {
        "every layer has length 1: give it the direction's length": torch.ones(5),
        "every layer is as long: match each layer's own length": direction.norm()
        / 5**0.5
        * torch.ones(5),
    }
    otherwise = "the lengths are not the direction's, layer by layer"
    if torch.isclose(found.norm(), direction.norm(), rtol=1e-3):
        otherwise = (
            "the total length is right, but not each layer's: divide by each layer's own norm"
        )
    need_close(lengths, right, otherwise, mistakes, within=1e-3)
    units = _unit(found)
    need(
        (units @ units[0]).min() > 0.99,
        "another direction is drawn in each layer: these pushes cancel out, while those of a refusal direction add "
        "up. Draw one that all layers share",
    )
    need(
        not touched,
        "torch's global random state has moved, which changes what others draw after you: use a torch.Generator",
    )
    return "the control: a push of this size that means nothing"


@step
def check_cosines(cosines: object) -> str:
    """`cosines(first, second)`, (layer, d_model) each: one cosine for each layer."""
    first, second = gaussian((5, 5), (5, 5))
    first, second = 3 * first, second + 0.5
    found = call(cosines, first, second)
    flat = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    one = isinstance(found, float) or (isinstance(found, Tensor) and found.ndim == 0)
    need(not one, "one number came out: the layers are to be compared one by one")
    every = isinstance(found, Tensor) and found.shape == (5, 5)
    need(not every, "every layer with every layer: only the same layer of both is compared")
    found = need_tensor(found, (5,), "the cosines")
    mistakes = {
        "these are dot products: divide by both lengths": (first * second).sum(-1),
        "the wrong axis: over layers, not over the width": torch.cosine_similarity(
            first, second, dim=0
        ),
        "these are cosines without their signs": torch.cosine_similarity(
            first, second, dim=-1
        ).abs(),
        "the lengths are those of all layers together: each layer has its own": (
            first * second
        ).sum(-1)
        / (first.norm() * second.norm()),
        "these are the cosine of all layers at once": flat.expand(5),
    }
    right = torch.cosine_similarity(first, second, dim=-1)
    need_close(found, right, "the values differ: dot product over both lengths", mistakes)
    return "1 the same direction, 0 orthogonal"


# 3: the safe space


@step
def check_safe_space(safe_space: object) -> str:
    """`safe_space(states, k)`, (prompt, layer, d_model): the top k principal directions, (layer, k,
    d_model)."""
    spread, mean = gaussian((14, 3, 8), (3, 8))
    states = spread * torch.tensor([6.0, 4, 2, 1, 1, 1, 1, 1]) + 10 * mean
    states[:, 1] = states[:, 1].flip(-1)  # another space in each layer
    found = call(safe_space, states, 2)
    need(
        isinstance(found, Tensor),
        f"a tensor is wanted, not a {type(found).__name__}: the directions alone",
    )
    shape = tuple(found.shape)
    need(shape != (3, 8, 2), "directions are columns here: rows are wanted, (layer, k, d_model)")
    need(shape != (2, 8), "one space came out: every layer has its own")
    need(shape != (3, 8, 8), "all directions came out: keep the first k")
    need(
        shape[1:] not in ((14, 2), (2, 14)),
        "these are as long as there are prompts: take the other factor of the SVD (V)",
    )
    found = need_tensor(found, (3, 2, 8), "the safe space")
    eye = torch.eye(2).expand(3, 2, 2)
    need_close(
        found @ found.transpose(1, 2), eye, "the directions are not orthonormal rows", within=1e-3
    )

    def space(of: Tensor, rows: slice = slice(0, 2)) -> Tensor:
        directions = torch.linalg.svd(of.transpose(0, 1), full_matrices=False).Vh[:, rows]
        return directions.transpose(1, 2) @ directions

    pooled = (states - states.mean((0, 1))).flatten(0, 1)[:, None]
    mistakes = {
        "the mean is not taken off, so the first direction is the mean itself": space(states),
        "one mean is taken off all layers: every layer has its own": space(
            states - states.mean((0, 1))
        ),
        "the mean went over the wrong axis: over layers": space(
            states - states.mean(1, keepdim=True)
        ),
        "the mean went over the wrong axis: over the width": space(
            states - states.mean(2, keepdim=True)
        ),
        "these are the directions of *least* variance: the first singular vectors are wanted": space(
            states - states.mean(0), slice(-2, None)
        ),
        "one space of all layers' states serves all layers: every layer has its own": space(
            pooled
        ).expand(3, 8, 8),
    }
    right = space(states - states.mean(0))
    need_close(
        found.transpose(1, 2) @ found,
        right,
        "not the space of most variance",
        mistakes,
        within=1e-2,
    )
    return "SARSteer's step 3: the directions in which harmless requests differ most"


@step
def check_inside(inside: object) -> str:
    """`inside(vectors, space)`, (layer, d_model) and (layer, k, d_model): the part that lies in the
    space."""
    vectors, space = _vectors_and_space()
    found = call(inside, vectors, space)
    need(
        not isinstance(found, Tensor) or found.shape != (4, 2),
        "these are the coordinates along the k directions: multiply the directions by them and add up",
    )
    found = need_tensor(found, (4, 6), "the part inside")
    right = _projected(vectors, space)
    mistakes = {
        "this is what lies outside; the part inside is wanted": vectors - right,
        "the first layer's space is used for all layers": _projected(
            vectors, space[:1].expand_as(space)
        ),
        "nothing has been projected": vectors,
        "only the first direction is used": _projected(vectors, space[:, :1]),
        "all of it is zero: multiply the directions by their coordinates, and add up": right * 0,
    }
    need_close(found, right, "the values differ: U U^T v in each layer", mistakes)
    return "the part inside is never longer than the vector"


@step
def check_ablate(ablate: object) -> str:
    """`ablate(vectors, space, lam)`: the vectors without the share `lam` of what lies in the
    space."""
    vectors, space = _vectors_and_space()
    before, part = vectors.clone(), _projected(vectors, space)
    whole = need_tensor(call(ablate, vectors, space, 1.0), (4, 6), "the ablated vectors")
    need(
        torch.equal(vectors, before),
        "the vectors that came in were changed in place: the next lambda starts wrong",
    )
    mistakes = {
        "this is the part inside the space; the rest is wanted": part,
        "the part inside is added, not taken away": vectors + part,
        "the first layer's space is used for all layers": vectors
        - _projected(vectors, space[:1].expand_as(space)),
        "the result has the old length again: SARSteer does not stretch it": _unit(vectors - part)
        * vectors.norm(dim=-1, keepdim=True),
    }
    left = float(torch.einsum("lkd,ld->lk", space, whole).abs().max())
    otherwise = f"a component of up to {left:.2g} is left in the space at lambda = 1"
    if left < 1e-4:
        otherwise = "nothing is left in the space, but something outside it has changed too"
    need_close(whole, vectors - part, otherwise, mistakes)
    half, none = (call(ablate, vectors, space, lam) for lam in (0.5, 0.0))
    need_close(
        none, vectors, "at lambda = 0 the vectors should come out as they came in: is lambda used?"
    )
    mistakes = {"lambda counts twice: half of it takes a quarter": vectors - part / 4}
    need_close(
        half, vectors - part / 2, "at lambda = 0.5 half of the part inside should go", mistakes
    )
    return "SARSteer's step 4"


@step
def check_share(share: object) -> str:
    """`share(vectors, space)`: of each layer's squared length, the share that lies in the space."""
    vectors, space = _vectors_and_space()
    found = need_tensor(call(share, vectors, space), (4,), "the share")
    right = library.share_in_space(vectors, library.SafeSpace(space, torch.zeros(4, 2)))
    part = _projected(vectors, space)
    mistakes = {
        "a share of the length: square it, so that inside and outside add up to 1": right.sqrt(),
        "this is the share outside": 1 - right,
        "this is the squared length inside: divide by the whole": part.square().sum(-1),
        "all layers are added up first": (part.square().sum() / vectors.square().sum()).expand(4),
    }
    need_close(
        found, right, "the values differ: squared length inside over squared length", mistakes
    )
    return "a random vector has k / d_model of its squared length inside, on average"


@step
def check_stretch(stretch: object) -> str:
    """`stretch(vectors, like)`: the vectors' directions at the other's length in each layer."""
    like, factors = gaussian((4, 6), (4, 6))
    like *= torch.tensor([1.0, 2, 4, 8])[:, None]
    vectors = like * factors.sigmoid()
    answer = need_tensor(call(stretch, vectors, like), (4, 6), "the control")
    units = _unit(vectors)
    need_close(_unit(answer), units, "a direction has changed: only lengths may")
    mistakes = {
        "one factor was used for all layers: match each layer's length": (
            vectors * like.norm() / vectors.norm()
        )
    }
    otherwise = "the lengths are not the other vector's, layer by layer"
    need_close(answer, units * like.norm(dim=-1, keepdim=True), otherwise, mistakes)
    return "now ablated and full vector differ in direction alone, and can be compared at the same alpha"


def _vectors_and_space() -> tuple[Tensor, Tensor]:
    vectors, columns = gaussian((4, 6), (4, 6, 2))
    return 3 * vectors, torch.linalg.qr(columns).Q.transpose(1, 2).contiguous()


def _projected(vectors: Tensor, space: Tensor) -> Tensor:
    return library.projection(vectors, library.SafeSpace(space, vectors))


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
