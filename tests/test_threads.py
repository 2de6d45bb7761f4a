"""Several threads on one model: plain calls wait for each other, a steered model refuses others."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread

import pytest
import torch
from replicas import replica

from sarsteer_lab.activations import capture, capture_answer, capture_positions
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation import cached_answers
from sarsteer_lab.evaluation.defences import Defence, SteeringDefence
from sarsteer_lab.evaluation.gates import NullSpaceGate, steer_gated
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import HookedModelError
from sarsteer_lab.steering import SteeringError, project_out, steer
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors


def some_vectors(lalm: LALM, seed: int = 0) -> SteeringVectors:
    draw = torch.Generator().manual_seed(seed)
    return SteeringVectors(torch.randn(lalm.n_layers, lalm.d_model, generator=draw))


@contextmanager
def elsewhere(block: Callable[[], object]) -> Iterator[None]:
    """While the block lasts another thread is inside of its own, which it leaves at the end."""
    entered, done = Event(), Event()

    def wait_inside() -> None:
        with block():
            entered.set()
            done.wait(60)

    thread = Thread(target=wait_inside)
    thread.start()
    assert entered.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


def blocks(lalm: LALM) -> list[Callable[[], object]]:
    gate = NullSpaceGate(torch.randn(lalm.n_layers, lalm.d_model), some_vectors(lalm))
    return [
        lambda: steer(lalm, some_vectors(lalm), 1.0),
        lambda: steer_gated(lalm, gate, 1.0),
        lambda: project_out(lalm, torch.ones(lalm.d_model)),
    ]


def test_a_model_that_is_steered_refuses_other_threads_in_one_sentence(
    prompts: list[Prompt], tmp_path
) -> None:
    lalm = replica()
    expected = lalm.generate(prompts, max_new_tokens=4)
    batch, live = PreparedBatch(lalm, prompts), LivePrompt(lalm, prompts[1])
    inputs = lalm.inputs(prompts[:1])
    calls: list[Callable[[], object]] = [
        lambda: lalm.generate(prompts, max_new_tokens=4),
        lambda: lalm.next_token_logits(prompts),
        lambda: capture(lalm, prompts),
        lambda: capture_positions(lalm, prompts),
        lambda: capture_answer(lalm, prompts, max_new_tokens=3),
        lambda: capture_variants(lalm, [prompts, prompts]),
        lambda: kept(capture, Store(tmp_path))(lalm, prompts),
        lambda: cached_answers.answers(lalm, [(prompts, Defence("none"))], max_new_tokens=3),
        lambda: batch.generate(3),
        lambda: batch.states([0]),
        batch.next_token_logits,
        live.answer,
        live.next_token,
        live.refusal_probability,
        lambda: PreparedBatch(lalm, prompts),
        lambda: lalm.model(**inputs),
        lambda: lalm.model.generate(**inputs, max_new_tokens=2),
    ]
    for block in blocks(lalm):
        with elsewhere(block):
            for call in calls:
                with pytest.raises(SteeringError, match="another thread steers this model") as said:
                    call()
                assert "\n" not in str(said.value)
            for other in blocks(lalm):
                with pytest.raises(SteeringError, match="another thread"), other():
                    pass
        assert lalm.generate(prompts, max_new_tokens=4) == expected
    assert not list(tmp_path.iterdir())


def test_what_others_try_does_not_touch_who_steers(prompts: list[Prompt]) -> None:
    lalm = replica()
    inputs = lalm.inputs(prompts[:2])
    with steer(lalm, some_vectors(lalm), 1.0):
        expected = lalm.generate(prompts, max_new_tokens=6)
        layer = lalm.layers[0].register_forward_hook(lambda *_: tried())
        refused = []

        def other() -> None:
            try:
                lalm.model(**inputs)
            except SteeringError as error:
                refused.append(error)

        def tried() -> None:
            if len(refused) < 3:
                thread = Thread(target=other)
                thread.start()
                thread.join()

        with layer:
            assert lalm.generate(prompts, max_new_tokens=6) == expected
        assert len(refused) == 3


def test_two_threads_that_steer_get_their_own_answers_or_a_refusal(prompts: list[Prompt]) -> None:
    lalm = replica()
    expected = {}
    for seed in range(4):
        with steer(lalm, some_vectors(lalm, seed), 1.0):
            expected[seed] = lalm.generate(prompts, max_new_tokens=4)

    def ask(number: int) -> bool | None:
        seed = number % 4
        try:
            with steer(lalm, some_vectors(lalm, seed), 1.0):
                return lalm.generate(prompts, max_new_tokens=4) == expected[seed]
        except SteeringError as error:
            assert "another thread" in str(error)
            return None

    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(ask, range(24)))
    assert False not in right and True in right


def test_plain_calls_of_many_threads_wait_for_each_other(prompts: list[Prompt], tmp_path) -> None:
    lalm = replica()
    vectors = some_vectors(lalm)
    batch = PreparedBatch(lalm, prompts)
    calls: list[Callable[[], object]] = [
        lambda: capture(lalm, prompts).tolist(),
        lambda: lalm.generate(prompts, max_new_tokens=4),
        lambda: lalm.next_token_logits(prompts).tolist(),
        lambda: batch.generate(4),
        lambda: [states.tolist() for states in capture_positions(lalm, prompts)],
        lambda: kept(capture, Store(tmp_path))(lalm, prompts).tolist(),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: calls[number % 6](), range(48)))
    assert results == expected * 8
    defences = [Defence("none"), SteeringDefence("push", vectors, 1.0)]
    questions = [(prompts, defence) for defence in defences]
    alone = cached_answers.answers(lalm, questions, max_new_tokens=4)
    assert alone[0] == expected[1] != alone[1]


def test_passes_of_other_threads_are_neither_noted_nor_cut(prompts: list[Prompt]) -> None:
    """Another thread calls the model itself in the middle of a capture, or of an answer."""
    lalm = replica()
    inputs = lalm.inputs(prompts[:1])
    states, logits = capture(lalm, prompts), lalm.next_token_logits(prompts)
    shapes = []

    def other() -> None:
        shapes.append(tuple(lalm.model(**inputs).logits.shape))

    def tried(*_: object) -> None:
        if not shapes:
            shapes.append(())
            thread = Thread(target=other)
            thread.start()
            thread.join()

    for call, expected in ((capture, states), (LALM.next_token_logits, logits)):
        shapes.clear()
        with lalm.layers[-1].register_forward_hook(tried):
            assert torch.equal(call(lalm, prompts), expected)
        assert shapes[1][1] == inputs["input_ids"].shape[1]


def test_what_is_kept_is_looked_at_for_hooks_before_it_is_written(
    prompts: list[Prompt], tmp_path, cache
) -> None:
    """Another thread hooks the model while it is asked."""
    lalm = replica()
    handles = []

    def hooked(*args: object, **options: object) -> object:
        thread = Thread(
            target=lambda: handles.append(
                lalm.layers[1].register_forward_hook(lambda _m, _a, out: 2 * out)
            )
        )
        thread.start()
        thread.join()
        return capture(*args, **options)

    with pytest.raises(HookedModelError):
        kept(hooked, Store(tmp_path))(lalm, prompts)
    assert not list(tmp_path.rglob("*.safetensors"))
    handles.pop().remove()
