"""Workshop 8, what looks wrong: each function here runs a function of the lab and the library side
by side.

It prints what comes out of the function as it is now. A bug shows there, and so does a repair. What
is right comes from the library, on the same requests.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sarsteer_lab import REFUSALS, SteeringVectors, capture, course, kept, load_prompts, steer
from sarsteer_lab.derivation import derive
from sarsteer_lab.directions import random_like
from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.safe_space import principal_space, share_in_space
from sarsteer_lab.speech import SAMPLE_RATE, read_clip
from workshop.ears import hooks_counted

TEXT = "examples"
"""The refusal text of workshop 2."""

MADE_AT = 44_100
"""Samples a second of most recordings; the model wants 16,000."""


def clip_of(request: Request) -> str:
    """The path of a request's clip."""
    assert request.clip is not None
    return request.clip


def clips_at(rate: int, requests: Sequence[Request], folder: Path) -> list[Path]:
    """The requests' clips, written anew at another sampling rate."""
    paths = []
    for number, request in enumerate(requests):
        path = folder / f"{number}.wav"
        wave = soxr.resample(read_clip(clip_of(request)), SAMPLE_RATE, rate)
        soundfile.write(path, wave, rate, subtype="FLOAT")
        paths.append(path)
    return paths


def symptom_load_clip(load_clip: Callable[..., Any], lalm: LALM) -> None:
    """What the model repeats of clips made at 44,100 samples a second."""
    requests = load_prompts("validation", "harmless")[:6]
    said = [request.request for request in requests]
    n_words = sum(len(course.hearing.words(words)) for words in said)
    heard = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = clips_at(MADE_AT, requests, Path(folder))
        for name, read in (("yours", load_clip), ("the lab's", read_clip)):
            waves = [np.asarray(read(path), dtype=np.float32) for path in paths]
            seconds = sum(map(len, waves)) / SAMPLE_RATE / len(waves)
            prompts = [Prompt(course.hearing.REPEAT, wave) for wave in waves]
            texts = lalm.generate(prompts, max_new_tokens=20)
            heard[name] = [course.hearing.transcript(text) for text in texts]
            errors = sum(map(course.hearing.word_errors, said, heard[name]))
            print(f"{name:10} {seconds:4.1f} s a clip, {errors:3} word errors in {n_words} words")
    for number in range(2):
        print(f"\nsaid:      {said[number]}")
        for name, texts in heard.items():
            print(f"{name + ':':10} {course.opening_words(texts[number])}")


def middle(lalm: LALM) -> int:
    """The layer at two thirds of the depth."""
    return 2 * lalm.n_layers // 3


def apart(lalm: LALM, prompts: Sequence[Prompt]) -> Tensor:
    """Each prompt's states, (prompt, layer, d_model), read alone, so that nothing is padded."""
    return torch.cat([kept(capture)(lalm, [prompt]) for prompt in prompts])


def symptom_last_states(last_states: Callable[..., Tensor], lalm: LALM) -> None:
    """The cosine of each request's state in a batch with its state when it is read alone."""
    requests = load_prompts("validation", "harmless")[:6]
    prompts = [request.spoken() for request in requests]
    layer = middle(lalm)
    alone = apart(lalm, prompts)[:, layer]
    together = last_states(lalm, prompts, layer)
    library = capture(lalm, prompts)[:, layer]
    print("cosine of a request's state in a batch of six with its state when it is read alone")
    print("padding    yours   the lab's")
    masks = lalm.inputs(prompts)["attention_mask"]
    for row, mask in enumerate(masks):
        cosines = [
            float(torch.cosine_similarity(found[row], alone[row], dim=-1))
            for found in (together, library)
        ]
        print(f"{int((mask == 0).sum()):7}  {cosines[0]:7.3f}  {cosines[1]:7.3f}")


def symptom_layer_states(layer_states: Callable[..., Tensor], lalm: LALM) -> None:
    """Mean length of the states by layer."""
    prompts = [request.spoken() for request in load_prompts("validation", "harmless")[:4]]
    lengths = {
        "yours": layer_states(lalm, prompts).norm(dim=-1).mean(0),
        "the lab's": capture(lalm, prompts).norm(dim=-1).mean(0),
    }
    n = lalm.n_layers
    layers = sorted({0, n // 4, n // 2, *range(max(0, n - 4), n)})
    print("mean length of the state after a layer")
    print("layer      " + "".join(f"{layer:8}" for layer in layers))
    for name, by_layer in lengths.items():
        print(f"{name:10} " + "".join(f"{float(by_layer[layer]):8.1f}" for layer in layers))


def symptom_split(split: Callable[..., Any], lalm: LALM) -> None:
    """How well a probe of the last layer tells spoken harm on requests that it was not fitted on."""
    by_label = course.requests("derive")
    requests = [*by_label["harmful"], *by_label["harmless"]]
    states = kept(capture)(lalm, [request.spoken() for request in requests])[:, -1].cpu().numpy()
    is_harmful = np.array([request.label == "harmful" for request in requests])
    areas: dict[str, list[float]] = {"yours": [], "the lab's": []}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(requests))
        for name, parts in (
            ("yours", split(len(requests), 40, seed)),
            ("the lab's", (order[40:], order[:40])),
        ):
            train, test = (np.asarray(part, dtype=int) for part in parts)
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
            probe.fit(states[train], is_harmful[train])
            scores = probe.decision_function(states[test])
            areas[name].append(roc_area(scores[is_harmful[test]], scores[~is_harmful[test]]))
    print("area under the ROC curve on 40 test requests: a probe of harm, spoken, last layer")
    for name, values in areas.items():
        listed = "  ".join(f"{value:.2f}" for value in values)
        print(f"{name:10} {listed}   mean {np.mean(values):.2f}")


def text_states(lalm: LALM, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """States of n harmful requests without and with the text, and of n harmless ones."""
    read = kept(capture)
    harmful = load_prompts("derive", "harmful")[:n]
    harmless = load_prompts("derive", "harmless")[:n]
    base = read(lalm, [request.spoken() for request in harmful])
    refusing = read(lalm, [request.spoken(refusal=REFUSALS[TEXT]) for request in harmful])
    return base, refusing, read(lalm, [request.spoken() for request in harmless])


def symptom_sarsteer_vectors(sarsteer_vectors: Callable[..., Tensor], lalm: LALM) -> None:
    """How much of the steering vectors lies in the space that was taken out of them."""
    states = text_states(lalm, 16)
    library = derive(*states).vectors.values
    space = principal_space(states[2], 10)
    layers = [lalm.n_layers * part // 4 for part in (1, 2, 3)] + [lalm.n_layers - 1]
    print("share of the vector's squared length that lies in the harmless space, lambda = 1")
    print("layer      " + "".join(f"{layer:8}" for layer in layers))
    for name, vectors in (("yours", sarsteer_vectors(*states)), ("the lab's", library)):
        shares = share_in_space(vectors, space)
        print(f"{name:10} " + "".join(f"{float(shares[layer]):8.1%}" for layer in layers))


def symptom_push_layer(push_layer: Callable[..., Any], lalm: LALM) -> None:
    """Where the state moves when one layer is pushed."""
    prompts = [request.spoken() for request in load_prompts("validation", "harmless")[:2]]
    plain = capture(lalm, prompts)
    vectors = SteeringVectors(plain.mean(0).roll(1, -1))
    n = lalm.n_layers
    for layer in (0, n // 2):
        vector = vectors.values[layer]
        around = sorted({*range(max(0, layer - 1), min(n, layer + 2)), n - 1})
        print(f"push in layer {layer}: how far the state moves, in lengths of the push")
        print("after layer" + "".join(f"{each:8}" for each in around))
        for name, block in (
            ("yours", push_layer(lalm, layer, vector, 0.1)),
            ("the lab's", steer(lalm, vectors, 0.1, layers=[layer])),
        ):
            with block:
                moves = (capture(lalm, prompts) - plain).norm(dim=-1).mean(0)
            sizes = moves / (0.1 * vector.norm())
            print(f"{name:10} " + "".join(f"{float(sizes[each]):8.2f}" for each in around))
        print()


def symptom_controls(controls: Callable[..., dict[int, Tensor]], lalm: LALM) -> None:
    """Mean refusal probability of harmful requests under five random directions."""
    base, refusing, _ = text_states(lalm, 16)
    direction = (refusing - base).mean(0)
    prompts = [request.spoken() for request in load_prompts("validation", "harmful")[:10]]
    found = controls(direction, range(5))
    library = {seed: random_like(direction, seed) for seed in range(5)}
    print("mean refusal probability of ten harmful requests, pushed at alpha 0.2, by seed")
    print("seed       " + "".join(f"{seed:9}" for seed in range(5)) + "   spread")
    for name, directions in (("yours", found), ("the lab's", library)):
        pushes = {seed: (SteeringVectors(each), 0.2) for seed, each in directions.items()}
        values = course.refusal_probability(lalm, prompts, pushes)
        means = np.array([float(values[seed].mean()) for seed in range(5)])
        print(f"{name:10} " + "".join(f"{mean:9.5f}" for mean in means) + f"{means.std():9.5f}")


def symptom_answers_under(answers_under: Callable[..., Any], lalm: LALM) -> None:
    """The plain model's answers before and after a steered batch in which one clip is unusable."""
    prompts = [request.spoken() for request in load_prompts("validation", "harmless")[:6]]
    base, refusing, _ = text_states(lalm, 16)
    vectors = (refusing - base).mean(0)

    def plain() -> list[str]:
        return lalm.generate(prompts, max_new_tokens=12)

    before = plain()
    with hooks_counted(lalm), unusable_clip() as path:
        said = answers_under(lalm, [*prompts[:2], Prompt("Answer.", str(path))], vectors, 0.3)
        after = plain()
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    print(f"the batch with the unusable clip gave {said}")
    print(f"answers of the *plain* model that changed from before it to after it: {changed} of 6")
    for number in range(2):
        print(f"\nbefore: {course.opening_words(before[number])}")
        print(f"after:  {course.opening_words(after[number])}")


class unusable_clip:
    """A clip with 8,000 samples a second, which workshop 0's `read_wave` refuses (a `with` block)."""

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "telephone.wav"
        noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
        soundfile.write(path, noise, 8000)
        return path

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()


def symptom_moves_by_alpha(moves_by_alpha: Callable[..., dict[float, float]], lalm: LALM) -> None:
    """How far the last layer's state moves, by alpha."""
    prompts = [request.spoken() for request in load_prompts("validation", "harmful")[:4]]
    base, refusing, _ = text_states(lalm, 16)
    vectors = (refusing - base).mean(0)
    alphas = (0.05, 0.1, 0.2)
    plain = capture(lalm, prompts)[:, -1]
    library = {}
    for alpha in alphas:
        with steer(lalm, vectors, alpha):
            moved = capture(lalm, prompts)[:, -1] - plain
        library[alpha] = float((moved.norm(dim=-1) / plain.norm(dim=-1)).mean())
    print("how far the last layer's state moves, as a share of its length")
    print("alpha      " + "".join(f"{alpha:8g}" for alpha in alphas))
    for name, moves in (
        ("yours", moves_by_alpha(lalm, prompts, vectors, alphas)),
        ("the lab's", library),
    ):
        print(f"{name:10} " + "".join(f"{moves[alpha]:8.1%}" for alpha in alphas))


def symptom_answered_share(answered_share: Callable[..., float], lalm: LALM) -> None:
    """Share of harmless requests answered, by strength."""
    requests = load_prompts("validation", "harmless")[:12]
    base, refusing, _ = text_states(lalm, 16)
    vectors = SteeringVectors((refusing - base).mean(0))
    alphas = (0.0, 0.1, 0.2, 1.6)
    prompts = [request.spoken() for request in requests]
    rows: dict[str, list[float]] = {"yours": [], "the lab's": []}
    for alpha in alphas:
        said = course.answers(lalm, prompts, vectors=vectors, alpha=alpha, max_new_tokens=16)
        outcomes = course.judge(requests, said)
        rows["yours"].append(answered_share(outcomes))
        rows["the lab's"].append(outcomes.count("answered") / len(outcomes))
    print("share of twelve harmless requests answered, by strength")
    print("alpha      " + "".join(f"{alpha:8g}" for alpha in alphas))
    for name, shares in rows.items():
        print(f"{name:10} " + "".join(f"{share:8.0%}" for share in shares))
