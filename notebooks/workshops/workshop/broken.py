"""Checks of workshop 8, the broken lab: whether a function is mended, told by what it does.

None looks at the source. Each asks for the symptom to be gone, and for what the function promised
to be kept.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from sarsteer_lab import capture, steer
from sarsteer_lab.course.checks.tools import call, check, gaussian, need, need_close, need_tensor
from sarsteer_lab.derivation import derive
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.speech import SAMPLE_RATE, read_clip
from workshop.ears import hooks_counted, requests, same
from workshop.steering import pushes
from workshop.symptoms import MADE_AT, clip_of, clips_at, unusable_clip

BUGS = (
    "load_clip",
    "last_states",
    "layer_states",
    "split",
    "sarsteer_vectors",
    "push_layer",
    "controls",
    "answers_under",
    "moves_by_alpha",
    "answered_share",
)
"""The functions of the broken lab, in the order of the notebook."""


@check
def check_load_clip(load_clip: object) -> str:
    """`load_clip(path)`: one channel at 16,000 samples a second, whatever the file has."""
    with tempfile.TemporaryDirectory() as folder:
        for rate in (8000, 24000, MADE_AT, 16000):
            wave = _tone(load_clip, Path(folder), rate, 440)
            heard = np.abs(np.fft.rfft(wave)).argmax() * SAMPLE_RATE / len(wave)
            need(
                abs(heard - 440) < 5,
                f"a tone of 440 Hz in a file of {rate} samples a second sounds at {heard:.0f} Hz: the model hears "
                "another voice",
            )
            need(
                abs(len(wave) - SAMPLE_RATE) < 20,
                f"a second at {rate} samples a second has become {len(wave)} samples",
            )
        high = _tone(load_clip, Path(folder), MADE_AT, 12000)
        need(
            np.abs(high[1000:-1000]).max() < 0.1,
            "a tone of 12,000 Hz has come back as a lower one: 16,000 samples a second cannot hold it, so filter it "
            "out before you take fewer samples (a resampler does both)",
        )
        [request] = requests(1)
        [path] = clips_at(MADE_AT, [request], Path(folder))
        wave, right = np.asarray(call(load_clip, path)), read_clip(clip_of(request))
        n = min(len(wave), len(right))
        alike = np.corrcoef(wave[:n], right[:n])[0, 1]
        need(alike > 0.98, f"a shipped clip comes back changed (correlation {alike:.2f})")
    return "a second is a second again, at every sampling rate"


def _tone(load_clip: object, folder: Path, rate: int, frequency: float) -> np.ndarray:
    """One second of a tone, in two channels, as the function reads it."""
    path = folder / f"tone{rate}.wav"
    times = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * frequency * times)
    soundfile.write(path, np.stack([tone, tone], axis=1), rate, subtype="FLOAT")
    wave = np.asarray(call(load_clip, path))
    need(wave.ndim == 1, f"one channel is wanted; shape {wave.shape} came out")
    return wave


@check
def check_last_states(last_states: object, lalm: LALM) -> str:
    """`last_states(lalm, prompts, layer)`: the last position's state, whoever is in the batch."""
    prompts = [request.spoken() for request in requests(5)]
    right = capture(lalm, prompts)
    for layer in (0, lalm.n_layers // 2):
        found = call(last_states, lalm, prompts, layer)
        found = need_tensor(found, (5, lalm.d_model), "the states")
        good = [same(found[row], right[row, layer], lalm) for row in range(5)]
        need(
            any(good),
            f"layer {layer}: no state is right any more, not even that of the longest prompt",
        )
        need(
            all(good),
            f"layer {layer}: {good.count(False)} of 5 states still depend on who else is in the batch",
        )
        one = call(last_states, lalm, prompts[:1], layer)
        need(same(one, right[:1, layer], lalm), "a prompt that is read alone has another state now")
    return "a request's state no longer depends on its company"


@check
def check_layer_states(layer_states: object, lalm: LALM) -> str:
    """`layer_states(lalm, prompts)`: the states after every layer, the last one too."""
    prompts = [request.spoken() for request in requests(3)]
    right, n = capture(lalm, prompts), lalm.n_layers
    with hooks_counted(lalm) as left:
        found = call(layer_states, lalm, prompts)
        need(not left(), "hooks of yours are still on the model")
    need(
        not isinstance(found, Tensor) or found.shape[1] == n,
        f"{found.shape[1]} layers came out of {n}: a layer is not mended by leaving it away",
    )
    found = need_tensor(found, tuple(right.shape), "the states")
    shifted = same(found[:, 1:], right[:, :-1], lalm)
    need(not shifted, "now every layer has the state of the layer before it")
    need(same(found[:, :-1], right[:, :-1], lalm), "layers that were right have changed")
    need(
        same(found, right, lalm),
        "the last layer's states are still not what the last layer gives: what else have they been through?",
    )
    return "every layer's own output, before the final norm"


@check
def check_split(split: object) -> str:
    """`split(n, n_test, seed)`: numbers to fit on and others to test on."""
    drawn = set()
    for n, n_test in ((20, 8), (120, 40)):
        for seed in range(4):
            train, test = (list(map(int, part)) for part in call(split, n, n_test, seed))
            need(
                (len(train), len(test)) == (n - n_test, n_test),
                f"{len(train)} to fit on and {len(test)} to test on, of {n} with {n_test} to test on",
            )
            both = set(train) & set(test)
            need(
                not both,
                f"{len(both)} of {n_test} test requests were also fitted on: the probe knows them already",
            )
            need(sorted(train + test) == list(range(n)), "some request is in neither part")
            again = call(split, n, n_test, seed)
            need(list(again[1]) == test, "the same seed gives another split")
            drawn.add(tuple(test))
    need(len(drawn) == 8, "every seed gives the same test requests")
    need(
        tuple(range(8)) not in drawn and tuple(range(12, 20)) not in drawn,
        "the test requests are not drawn: requests are sorted, so that one end holds one label only",
    )
    return "what is tested was never seen"


@check
def check_sarsteer_vectors(sarsteer_vectors: object) -> str:
    """`sarsteer_vectors(base, refusing, harmless, k)`: with nothing left in the harmless space."""
    base, shift, harmless = gaussian((12, 3, 40), (12, 3, 40), (14, 3, 40))
    base = base * torch.linspace(3, 0.1, 40)
    harmless = harmless * torch.linspace(0.1, 3, 40)
    for k in (4, 10):
        found = call(sarsteer_vectors, base, base + shift + 1, harmless, k)
        found = need_tensor(found, (3, 40), "the vectors")
        derivation = derive(base, base + shift + 1, harmless, 1.0, k)
        directions = derivation.space.directions
        left = torch.einsum("lkd,ld->lk", directions, found).abs().max()
        need(
            left < 1e-3,
            f"k = {k}: the vectors still have a component of {left:.2f} in the space of harmless requests",
        )
        otherwise = "something else is gone as well: take out the harmless space, and no more"
        need_close(found, derivation.vectors.values, otherwise, within=1e-3)
    return "nothing is left inside, at every layer"


@check
def check_push_layer(push_layer: object, lalm: LALM) -> str:
    """`push_layer(lalm, layer, vector, alpha)`: pushes the state after one layer in a block."""
    prompts, n = [request.spoken() for request in requests(2)], lalm.n_layers
    plain = capture(lalm, prompts)
    vector = plain.mean((0, 1)).roll(1)
    with hooks_counted(lalm) as left:
        for layer in sorted({0, n // 2, n - 1}):
            with call(push_layer, lalm, layer, vector, 0.5):
                moved = capture(lalm, prompts) - plain
            need(not left(), "hooks are left on the model after the block")
            sizes = moved.norm(dim=-1).amax(0)
            below = [number for number in range(layer) if sizes[number] > 0]
            need(
                not below,
                f"layer {layer} is pushed, and the state moves after layer {below and below[0]} already",
            )
            need(sizes[layer] > 0, f"layer {layer} is pushed, and the state after it does not move")
            need(
                same(moved[:, layer], (0.5 * vector).expand(2, -1), lalm),
                f"layer {layer} is pushed, but the state after it does not move by alpha times the vector",
            )
    return "the push arrives where it was sent, at the first layer too"


@check
def check_controls(controls: object) -> str:
    """`controls(direction, seeds)`: a random direction for each seed."""
    [direction] = gaussian((4, 300))
    direction = direction * torch.tensor([1.0, 2, 4, 8])[:, None]
    found = call(controls, direction, [3, 4, 5])
    need(
        isinstance(found, dict) and list(found) == [3, 4, 5],
        "a dictionary is wanted, from each seed to its direction",
    )
    units = {}
    for seed, each in found.items():
        each = need_tensor(each, (4, 300), f"the direction of seed {seed}")
        otherwise = "the lengths are no longer those of the direction, layer by layer"
        need_close(each.norm(dim=-1) / direction.norm(dim=-1), torch.ones(4), otherwise)
        units[seed] = torch.nn.functional.normalize(each, dim=-1)
        need(
            (units[seed] @ units[seed][0]).min() > 0.99,
            "the layers of one control no longer share their direction",
        )
    for one, other in ((3, 4), (3, 5), (4, 5)):
        alike = float(units[one][0] @ units[other][0])
        need(
            alike < 0.5,
            f"seeds {one} and {other} still give the same direction: that is one control, said twice",
        )
    again = call(controls, direction, [5])
    need(torch.equal(again[5], found[5]), "the same seed gives another direction each time")
    return "as many controls as seeds, and each of them can be repeated"


@check
def check_answers_under(answers_under: object, lalm: LALM) -> str:
    """`answers_under(lalm, prompts, vectors, alpha)`: steered answers, and no trace."""
    prompts = [request.spoken() for request in requests(2)]
    vectors = pushes(lalm, prompts)
    with steer(lalm, vectors, 0.3):
        right = lalm.generate(prompts, max_new_tokens=12)
    with unusable_clip() as path, hooks_counted(lalm) as left:
        found = answers_under(lalm, prompts, vectors, 0.3)  # type: ignore[operator]
        need(found == right, "a batch without a bad clip is no longer answered under steering")
        need(not left(), "hooks are left on the model after a batch that went well")
        bad = [*prompts, Prompt("Answer.", str(path))]
        try:
            found = answers_under(lalm, bad, vectors, 0.3)  # type: ignore[operator]
        except ValueError:
            need(False, "the bad clip now stops the whole run: None was promised for its batch")
        need(found is None, "a batch with a bad clip has to give None")
        need(
            not left(),
            f"after a batch with a bad clip {left()} hooks are still on the model: all that follows is steered",
        )
        try:
            answers_under(lalm, prompts, vectors[:, :3], 0.3)  # type: ignore[operator]
        except RuntimeError:
            need(not left(), "another error than that of a bad clip leaves the hooks on the model")
        else:
            need(False, "vectors that do not fit the model are passed over in silence")
    return "whatever happens in a batch, the next one starts from the plain model"


@check
def check_moves_by_alpha(moves_by_alpha: object, lalm: LALM) -> str:
    """`moves_by_alpha(lalm, prompts, vectors, alphas)`: by alpha, how far the last state moves."""
    prompts = [request.spoken() for request in requests(2)]
    vectors, alphas = pushes(lalm, prompts), [0.02, 0.5]
    plain = capture(lalm, prompts)[:, -1]

    def moves(strength: Callable[[float], float]) -> list[float]:
        found = []
        for alpha in alphas:
            with steer(lalm, vectors, strength(alpha)):
                moved = capture(lalm, prompts)[:, -1] - plain
            found.append(float((moved.norm(dim=-1) / plain.norm(dim=-1)).mean()))
        return found

    with hooks_counted(lalm) as left:
        found: Any = call(moves_by_alpha, lalm, prompts, vectors, alphas)
        need(not left(), "hooks are left on the model")
    need(
        isinstance(found, dict) and list(found) == alphas,
        "a dictionary is wanted, alpha to move, in the order of the alphas",
    )
    mistakes = {
        "the state still moves as if at alpha squared": moves(lambda alpha: alpha**2),
        "alpha is gone altogether": moves(lambda alpha: 1.0),
        "the push is turned round": moves(lambda alpha: -alpha),
    }
    otherwise = "the state does not move as under alpha times the vectors"
    need_close(list(found.values()), moves(lambda alpha: alpha), otherwise, mistakes, within=2e-3)
    return "half the strength is half the push"


@check
def check_answered_share(answered_share: object) -> str:
    """`answered_share(outcomes)`: the share answered; broken answers are none."""
    for refused, answered, broken in ((3, 5, 0), (3, 5, 4), (0, 0, 6), (2, 0, 0)):
        outcomes = ["refused"] * refused + ["answered"] * answered + ["broken"] * broken
        n, not_broken = len(outcomes), refused + answered
        share = float(call(answered_share, outcomes))
        mistakes = {
            "requests whose answer is broken are left out of n: they were asked": answered
            / max(1, not_broken)
        }
        otherwise = (
            f"of {n} requests {answered} were answered and {broken} got broken text, and you say "
            f"{share:.0%}"
        )
        need_close(share, answered / n, otherwise, mistakes)
    return "text that has broken down answers nothing"
