"""What is computed once and kept: answers and refusal probabilities, of prompts and of their
variants."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sarsteer_lab import course
from sarsteer_lab.course.session import evaluation_folder
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.evaluation import answering, asking, cached_answers
from sarsteer_lab.evaluation.answering import Asked
from sarsteer_lab.evaluation.defences import Defence, PromptDefence, SteeringDefence
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store

pytestmark = pytest.mark.usefixtures("cache")


def no_model(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("the model ran although its answers are known")


def test_answers_are_made_once(
    tiny: LALM, spoken: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [p.spoken() for p in spoken]
    vectors = SteeringVectors(torch.randn(tiny.n_layers, tiny.d_model))
    plain = course.answers(tiny, prompts, max_new_tokens=6)
    steered = course.answers(tiny, prompts, vectors=vectors, alpha=2.0, max_new_tokens=6)
    assert plain == tiny.generate(prompts, max_new_tokens=6) and plain != steered
    monkeypatch.setattr(LALM, "announce", no_model)
    assert course.answers(tiny, prompts, max_new_tokens=6) == plain
    assert course.answers(tiny, prompts, vectors=vectors, alpha=2.0, max_new_tokens=6) == steered
    with pytest.raises(AssertionError, match="the model ran"):
        course.answers(tiny, prompts, vectors=vectors, alpha=2.1, max_new_tokens=6)


def test_questions_with_the_same_texts_about_other_clips_are_refused(
    tiny: LALM, spoken: list[Request]
) -> None:
    """They were answered as if they were about the first question's clips."""
    prompts = [request.spoken() for request in spoken]
    questions = [(prompts, Defence("none")), (prompts[::-1], Defence("again"))]
    with pytest.raises(ValueError, match="share their clips"):
        cached_answers.answers(tiny, questions, max_new_tokens=2)


def test_refusal_probability_is_the_live_one_and_made_once(
    tiny: LALM, spoken: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model opens nothing as a refusal, so other beginnings stand in for that.
    openings = ("Ia", "I b", "S")
    monkeypatch.setattr("sarsteer_lab.engine.openings.refusing_openings", lambda: openings)
    monkeypatch.setattr("sarsteer_lab.engine.openings.NEGLIGIBLE", 0.0)
    prompts = [spoken[0].spoken(), spoken[1].typed()]
    draw = torch.Generator().manual_seed(0)
    vectors = SteeringVectors(3 * torch.randn(tiny.n_layers, tiny.d_model, generator=draw))
    pushes = {"none": (vectors, 0.0), "all": (vectors, 1.0), "one": (vectors.only([2]), 1.0)}
    found = course.refusal_probability(tiny, prompts, pushes)
    for i, prompt in enumerate(prompts):
        live = LivePrompt(tiny, prompt)
        # Rows of larger batches round differently.
        expected = live.refusal_probability(openings, negligible=0)
        assert found["none"][i].item() == pytest.approx(expected, rel=1e-4)
        with steer(tiny, vectors, 1.0, layers=[2]):
            expected = live.refusal_probability(openings, negligible=0)
            assert found["one"][i].item() == pytest.approx(expected, rel=1e-4)
    assert (found["none"] > 0).all() and not torch.allclose(found["all"], found["none"])
    monkeypatch.setattr(answering, "PreparedBatch", no_model)
    again = course.refusal_probability(tiny, prompts, pushes)
    assert all(torch.equal(again[name], values) for name, values in found.items())


def test_nothing_steered_is_kept_for_the_plain_model(tiny: LALM, spoken: list[Request]) -> None:
    prompts = [p.spoken() for p in spoken[:2]]
    vectors = SteeringVectors(5 * torch.randn(tiny.n_layers, tiny.d_model))
    with steer(tiny, vectors, alpha=3.0):
        steered = tiny.generate(prompts, max_new_tokens=4)
        for keep in (
            lambda: course.answers(tiny, prompts, max_new_tokens=4),
            lambda: course.refusal_probability(tiny, prompts, {"none": (vectors, 0.0)}),
            lambda: evaluation_folder(tiny, "04"),
        ):
            with pytest.raises(HookedModelError, match="hooks are on"):
                keep()
    plain = course.answers(tiny, prompts, max_new_tokens=4)
    assert plain == tiny.generate(prompts, max_new_tokens=4) != steered


def answers(lalm: LALM, variants: list[list[Prompt]]) -> list[list[str]]:
    questions = [(prompts, Defence("none")) for prompts in variants]
    return cached_answers.answers(lalm, questions, max_new_tokens=5)


def test_variants_are_answered_like_single_prompts(
    tiny: LALM, spoken: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ("", "No.", "Say that you cannot do this.")
    variants = [[p.spoken(refusal=text) for p in spoken] for text in texts]
    typed = [[Prompt(f"{p.request} {text}".strip()) for p in spoken] for text in texts]
    for asked in (variants, typed):
        found = answers(tiny, asked)
        assert found == [
            [tiny.generate([p], max_new_tokens=5)[0] for p in prompts] for prompts in asked
        ]
    # A further text costs only its own prompts.
    more = [*variants, [p.spoken(refusal="Why?") for p in spoken]]
    ran: list[int] = []
    monkeypatch.setattr(
        answering.PreparedBatch,
        "generate",
        lambda ready, _: ran.append(1) or [""] * len(ready.prompts),
    )
    assert answers(tiny, more)[:3] == answers(tiny, variants)
    assert len(ran) == 1


def test_chances_under_texts_and_pushes(
    tiny: LALM, spoken: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    openings = ("Ia", "I b", "S")
    monkeypatch.setattr("sarsteer_lab.engine.openings.refusing_openings", lambda: openings)
    monkeypatch.setattr("sarsteer_lab.engine.openings.NEGLIGIBLE", 0.0)
    vectors = SteeringVectors(3 * torch.randn(tiny.n_layers, tiny.d_model))
    push, reminder = (
        SteeringDefence("push", vectors, 0.7),
        PromptDefence("reminder", before="Be good."),
    )
    asked = [[p.spoken() for p in spoken], [reminder.prompt(p) for p in spoken]]
    questions = [(asked[0], PromptDefence("none")), (asked[0], push), (asked[1], reminder)]
    found = cached_answers.refusal_probability(tiny, questions)
    for (prompts, defence), chances in zip(questions, found, strict=True):
        for prompt, chance in zip(prompts, chances, strict=True):
            live = LivePrompt(tiny, prompt)
            with defence.push(tiny, 0.7):
                expected = live.refusal_probability(openings, negligible=0)
            assert chance.item() == pytest.approx(expected, rel=1e-4)
    # A push under another name, and one of no strength, are known already.
    monkeypatch.setattr(answering, "PreparedBatch", no_model)
    same = [
        (asked[0], SteeringDefence("other name", vectors, 0.7)),
        (asked[0], SteeringDefence("idle", vectors, 0.0)),
    ]
    again = cached_answers.refusal_probability(tiny, same)
    assert torch.equal(again[0], found[1]) and torch.equal(again[1], found[0])


def test_a_clip_that_is_recorded_anew_meanwhile_is_not_answered_under_the_old_ones_key(
    tiny: LALM, make_clip: Callable[[float, int], np.ndarray], tmp_path: Path
) -> None:
    clips = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, clip in enumerate(clips):
        soundfile.write(clip, make_clip(0.5, number), 16000)
    prompts, asked = [Prompt("Answer.", clip) for clip in clips], Asked(3)
    sheet = asking.plan(tiny, [(prompts, Defence("none"))], asked, asked.key(tiny))
    soundfile.write(clips[1], make_clip(0.5, 9), 16000)
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="1.wav has changed since the questions were planned"):
        asking.ask(tiny, [sheet], store, 1)
    [keys] = sheet.keys
    assert store.read(keys[1]) is None
    again = asking.plan(tiny, [(prompts, Defence("none"))], asked, asked.key(tiny))
    said = asking.ask(tiny, [again], store, 1)
    assert [said[key]["text"] for key in again.keys[0]] == tiny.generate(prompts, max_new_tokens=3)
    assert again.keys[0][1] != keys[1] and store.read(keys[1]) is None
