"""Prompts kept ready give the answers that the plain way gives, under every kind of steering."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from replicas import TINY, replica

from sarsteer_lab.activations import capture
from sarsteer_lab.batch import Batch
from sarsteer_lab.decoding import NonFiniteError
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.memory import MOST_ROWS, rows_that_fit
from sarsteer_lab.engine.openings import refusal_probability
from sarsteer_lab.engine.prepared import OPENING, PreparedBatch, under_each
from sarsteer_lab.evaluation.defences import SteeringDefence
from sarsteer_lab.evaluation.gates import NullSpaceGate, steer_gated
from sarsteer_lab.evaluation.run import run
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request, load_prompts
from sarsteer_lab.steering import SteeringError, SteeringVectors, project_out, pushing, steer


def some_vectors(lalm: LALM, size: float = 1.0) -> SteeringVectors:
    generator = torch.Generator().manual_seed(5)
    return SteeringVectors(size * torch.randn(lalm.n_layers, lalm.d_model, generator=generator))


@pytest.mark.parametrize("read_rows", [16, 2])
def test_answers_are_those_of_generate(
    lalm: LALM, prompts: list[Prompt], read_rows: int, monkeypatch
) -> None:
    monkeypatch.setattr("sarsteer_lab.engine.reading.READ_ROWS", read_rows)
    batch = PreparedBatch(lalm, prompts)
    vectors = some_vectors(lalm)
    plain = lalm.generate(prompts, max_new_tokens=8)
    assert batch.generate(8) == plain
    for alpha in (0.05, 1.0):
        with steer(lalm, vectors, alpha):
            # Twice: what was decoded before must not stay.
            assert (
                batch.generate(8) == lalm.generate(prompts, max_new_tokens=8) == batch.generate(8)
            )
    assert batch.generate(8) == plain


def test_strengths_of_rows(tiny: LALM, prompts: list[Prompt]) -> None:
    batch = PreparedBatch(tiny, prompts)
    alphas = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.0, 2.0])
    with steer(tiny, some_vectors(tiny), alphas):
        assert batch.generate(6) == tiny.generate(prompts, max_new_tokens=6)
    with (
        steer(tiny, some_vectors(tiny), alphas[:3]),
        pytest.raises(SteeringError, match="one value per"),
    ):
        batch.generate(6)


def test_gates(tiny: LALM, prompts: list[Prompt]) -> None:
    weights = 0.05 * torch.randn(
        tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(1)
    )
    gate = NullSpaceGate(weights, some_vectors(tiny))
    batch = PreparedBatch(tiny, prompts)
    with steer_gated(tiny, gate, 1.0):
        found, expected = batch.generate(6), tiny.generate(prompts, max_new_tokens=6)
    assert found == expected != tiny.generate(prompts, max_new_tokens=6)


def ways_to_answer(batch: PreparedBatch) -> list[Callable[[], object]]:
    return [
        lambda: batch.generate(3),
        batch.next_token_logits,
        lambda: batch.states([0]),
        lambda: batch.after(()),
        lambda: refusal_probability(batch, ["I"]),
    ]


def test_reading_under_hooks_is_refused(tiny: LALM, prompts: list[Prompt]) -> None:
    batch = PreparedBatch(tiny, prompts)
    other = [Prompt("Other.", prompt.audio) for prompt in prompts]
    direction = torch.ones(tiny.d_model)
    for block in (lambda: steer(tiny, some_vectors(tiny)), lambda: project_out(tiny, direction)):
        for make in (PreparedBatch, lambda lalm, some: LivePrompt(lalm, some[0])):
            with block(), pytest.raises(SteeringError, match="outside of the block"):
                make(tiny, prompts)
        with block(), pytest.raises(SteeringError):
            batch.retexted(other)
    handle = tiny.layers[1].register_forward_hook(lambda _m, _a, out: None)
    try:
        with pytest.raises(SteeringError, match="your own"):
            PreparedBatch(tiny, prompts)
    finally:
        handle.remove()


def test_answers_under_hooks_on_the_whole_prompt_are_refused(
    tiny: LALM, prompts: list[Prompt]
) -> None:
    batch, live = PreparedBatch(tiny, prompts), LivePrompt(tiny, prompts[1])
    ways = [*ways_to_answer(batch), live.answer, live.next_token, live.refusal_probability]
    for way in ways:
        with (
            project_out(tiny, torch.ones(tiny.d_model)),
            pytest.raises(SteeringError, match="whole prompt"),
        ):
            way()
        handle = tiny.layers[1].register_forward_hook(lambda _m, _a, out: 2 * out)
        try:
            with pytest.raises(SteeringError, match="whole prompt"):
                way()
        finally:
            handle.remove()
    assert batch.generate(3) == tiny.generate(prompts, max_new_tokens=3)


def test_changed_weights_need_a_new_batch(prompts: list[Prompt]) -> None:
    lalm = replica()
    weight = lalm.layers[2].mlp.up_proj.weight
    batch, live = PreparedBatch(lalm, prompts), LivePrompt(lalm, prompts[1])
    plain = weight.data
    weight.data = 2 * plain  # which no counter of versions sees
    ways = [*ways_to_answer(batch), live.answer, live.next_token, live.refusal_probability]
    for way in (*ways, lambda: batch.retexted([Prompt("Other.")] * 6)):
        with pytest.raises(SteeringError, match="make a new one"):
            way()
    weight.data = plain
    assert batch.generate(3) == lalm.generate(prompts, max_new_tokens=3)


def test_answers_end_where_the_model_ends_them(
    tiny: LALM, prompts: list[Prompt], monkeypatch
) -> None:
    """With a likely token as the end, answers have different lengths, and nothing follows their
    ends."""
    full = tiny.generate(prompts, max_new_tokens=12)
    end = tiny.tokenizer.convert_tokens_to_ids(full[1][3])
    monkeypatch.setattr(tiny.core.generation_config, "eos_token_id", [end])
    found = PreparedBatch(tiny, prompts).generate(12)
    assert found == tiny.generate(prompts, max_new_tokens=12)
    assert len(found[1]) < len(full[1])


@pytest.mark.pocket
@pytest.mark.late
def test_a_shared_reading_gives_the_same_responses(pocket: LALM, tmp_path) -> None:
    vectors = some_vectors(pocket, 0.1)
    defences = [SteeringDefence(f"alpha={alpha}", vectors, alpha) for alpha in (0.0, 0.05, 0.5)]
    sets: dict[str, list[Request]] = {"few": load_prompts("validation")[:6]}
    options = {"max_new_tokens": 6, "batch_size": 4}
    apart = run(pocket, defences, sets, tmp_path / "apart", **options)
    shared = run(pocket, defences, sets, tmp_path / "shared", **options)
    assert {(r.defence, r.id): r for r in apart} == {(r.defence, r.id): r for r in shared}


def test_rows_that_have_ended_leave_and_steering_of_rows_follows(
    tiny: LALM, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frequent tokens as ends, answers end one by one; strengths and gates stay with their
    prompts."""
    alphas = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.7, 2.0])
    weights = 0.05 * torch.randn(
        tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(1)
    )
    gate = NullSpaceGate(weights, some_vectors(tiny))
    batch = PreparedBatch(tiny, prompts)
    said = "".join(tiny.generate(prompts, max_new_tokens=12))
    ends = tiny.tokenizer.convert_tokens_to_ids(sorted(set(said))[::3])
    monkeypatch.setattr(tiny.core.generation_config, "eos_token_id", ends)
    sizes: list[int] = []
    plain = LALM.announce

    def counting(lalm: LALM, batch: Batch) -> AbstractContextManager[None]:
        sizes.append(len(batch.prompt_numbers))
        return plain(lalm, batch)

    monkeypatch.setattr(LALM, "announce", counting)
    for steering in (
        lambda: steer(tiny, some_vectors(tiny), alphas),
        lambda: steer_gated(tiny, gate, 1.0),
    ):
        with steering():
            sizes.clear()
            found = batch.generate(12)
            assert min(sizes) < len(prompts) == sizes[0], (
                "rows have to leave, or this tests nothing"
            )
            assert found == tiny.generate(prompts, max_new_tokens=12)


@pytest.mark.parametrize("read_rows", [16, 2])
def test_a_prepared_batch_is_right_in_every_family(
    prompts: list[Prompt], read_rows: int, monkeypatch
) -> None:
    monkeypatch.setattr("sarsteer_lab.engine.reading.READ_ROWS", read_rows)
    for name in TINY:
        lalm = replica(name)
        vectors = some_vectors(lalm)
        batch = PreparedBatch(lalm, prompts)
        with steer(lalm, vectors, 1.0):
            assert batch.generate(6) == lalm.generate(prompts, max_new_tokens=6), name
        torch.testing.assert_close(
            batch.next_token_logits(), lalm.next_token_logits(prompts), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            batch.states([1, 0]), capture(lalm, prompts, layers=[1, 0]), rtol=1e-4, atol=1e-4
        )
        strengths = [torch.zeros(len(prompts)), torch.ones(len(prompts))]
        with under_each(batch, [partial(steer, lalm, vectors)] * 2, strengths) as rows:
            found = rows.generate(6)
        with steer(lalm, vectors, 1.0):
            steered = lalm.generate(prompts, max_new_tokens=6)
        assert found == [*lalm.generate(prompts, max_new_tokens=6), *steered], name


def test_several_pushes_at_once(lalm: LALM, prompts: list[Prompt]) -> None:
    """Each push acts on its own block of rows, whatever the others do, and nothing of it stays."""
    weights = 0.02 * torch.randn(
        lalm.n_layers, lalm.d_model, generator=torch.Generator().manual_seed(1)
    )
    gate = NullSpaceGate(weights, some_vectors(lalm))
    size = 1.0 if lalm.name != "pocket" else 0.3
    some = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.0, 2.0]) * size
    pushes = [
        partial(steer, lalm, some_vectors(lalm)),
        partial(steer_gated, lalm, gate),
        partial(steer, lalm, some_vectors(lalm, 2.0), layers=[0, -1]),
        partial(steer, lalm, some_vectors(lalm)),
    ]
    strengths = [torch.full((6,), size), torch.full((6,), 0.5), some, torch.zeros(6)]
    batch = PreparedBatch(lalm, prompts)
    openings = ("I am sorry", "I cannot", "The")
    with under_each(batch, pushes, strengths) as rows:
        texts, chances = rows.generate(8), refusal_probability(rows, openings, negligible=0)
    assert len(set(texts)) > len(prompts), (
        "the pushes have to change answers, or this tests nothing"
    )
    for at, (push, strength) in enumerate(zip(pushes, strengths, strict=True)):
        block = slice(6 * at, 6 * at + 6)
        with push(strength):
            assert texts[block] == lalm.generate(prompts, max_new_tokens=8)
            alone = refusal_probability(batch, openings, negligible=0)
        torch.testing.assert_close(chances[block], alone, rtol=1e-3, atol=1e-7)
    assert batch.generate(8) == lalm.generate(prompts, max_new_tokens=8)


def test_texts_and_openings_do_not_write_into_each_others_past(
    tiny: LALM, prompts: list[Prompt]
) -> None:
    clips = [prompt.audio for prompt in prompts if prompt.audio is not None]
    first = PreparedBatch(tiny, [Prompt("Answer the audio.", clip) for clip in clips])
    begun = tiny.tokenizer("xyz", add_special_tokens=False)["input_ids"]
    expected = {}
    for text in ("Answer the audio.", "Answer the audio, please.", "Repeat it."):
        asked = [Prompt(text, clip) for clip in clips]
        expected[text] = (tiny.generate(asked, max_new_tokens=5), tiny.next_token_logits(asked))
    made = {}
    for text in expected:
        first.after(())
        first.after(begun[:1])
        made[text] = first.retexted([Prompt(text, clip) for clip in clips])
        made[text].after(())
        made[text].repeated(2).generate(3)
    for text, (answers, logits) in expected.items():
        assert made[text].generate(5) == answers
        torch.testing.assert_close(made[text].after(()), logits, rtol=1e-4, atol=1e-4)


def test_a_long_answer_outgrows_the_room_for_openings(tiny: LALM, prompts: list[Prompt]) -> None:
    [whole] = tiny.generate([prompts[1]], max_new_tokens=3 * OPENING)
    assert LivePrompt(tiny, prompts[1]).answer(3 * OPENING).text == whole


def test_other_texts_behind_the_same_clips(lalm: LALM, prompts: list[Prompt], monkeypatch) -> None:
    clips = [prompt.audio for prompt in prompts if prompt.audio is not None]
    texts = ("Answer the audio.", "Answer the audio. I cannot assist.", "Repeat it.", "Answer")
    batch = PreparedBatch(lalm, [Prompt(texts[0], clip) for clip in clips])
    positions: list[int] = []
    plain = LALM.announce

    def counting(lalm: LALM, of_pass: Batch) -> AbstractContextManager[None]:
        positions.append(of_pass.inputs["input_ids"].shape[1])
        return plain(lalm, of_pass)

    for text in texts[1:]:
        asked = [Prompt(text, clip) for clip in clips]
        with monkeypatch.context() as patch:
            patch.setattr(LALM, "announce", counting)
            other = batch.retexted(asked)
        assert other.generate(6) == lalm.generate(asked, max_new_tokens=6)
        torch.testing.assert_close(
            other.next_token_logits(), lalm.next_token_logits(asked), rtol=1e-3, atol=1e-3
        )
        with steer(lalm, some_vectors(lalm), 0.5):
            assert other.generate(6) == lalm.generate(asked, max_new_tokens=6)
    assert max(positions) < 60, "the clips were read again"
    assert batch.retexted(batch.prompts) is batch
    assert batch.generate(6) == lalm.generate(batch.prompts, max_new_tokens=6)
    # Typed prompts end in different tokens: nothing can be shared, and all is read anew.
    typed = [Prompt(f"Say {n} things") for n in range(3)]
    mixed = PreparedBatch(lalm, typed).retexted([Prompt(f"{n}?") for n in range(3)])
    assert mixed.generate(4) == lalm.generate([Prompt(f"{n}?") for n in range(3)], max_new_tokens=4)


def test_openings_of_a_batch_are_those_of_single_prompts(lalm: LALM, prompts: list[Prompt]) -> None:
    openings = ("I am sorry", "I cannot", "Sorry", "The")
    together = refusal_probability(PreparedBatch(lalm, prompts), openings, negligible=0)
    for prompt, found in zip(prompts, together, strict=True):
        logits = []
        inputs = lalm.inputs([prompt])
        for text in openings:
            chance, ids = 1.0, inputs["input_ids"]
            for token in lalm.tokenizer(text, add_special_tokens=False)["input_ids"]:
                rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
                out = lalm.core(
                    input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **rest
                )
                chance *= float(out.logits[0, -1].detach().float().softmax(-1)[token])
                ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
            logits.append(chance)
        assert float(found) == pytest.approx(sum(logits), rel=1e-3, abs=1e-7)


def test_batches_are_sized_to_memory(tiny: LALM, prompts: list[Prompt], monkeypatch) -> None:
    typed, spoken = (prompt.length for prompt in tiny.encode([prompts[4], prompts[1]]))
    assert rows_that_fit(tiny, spoken, 8) == MOST_ROWS
    monkeypatch.setattr("sarsteer_lab.engine.memory.free_memory", lambda device: 10_000_000)
    assert 1 < rows_that_fit(tiny, spoken, 8) < rows_that_fit(tiny, typed, 8) <= MOST_ROWS
    assert rows_that_fit(tiny, spoken, 80) < rows_that_fit(tiny, spoken, 8)
    monkeypatch.setattr("sarsteer_lab.engine.memory.free_memory", lambda device: 1)
    assert rows_that_fit(tiny, spoken, 8) == 1


def test_free_memory_is_asked_of_the_models_own_device(tiny: LALM, monkeypatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sarsteer_lab.engine.memory.free_memory", asked.append)
    for device in ("cuda:1", "cuda:0", "cpu"):
        with monkeypatch.context() as patch:
            patch.setattr(LALM, "device", torch.device(device))
            assert rows_that_fit(tiny, 10, 8) == MOST_ROWS  # it does not know
    assert asked == ["cuda:1", "cuda:0", "cpu"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    """In a process of its own: without it, every large tensor brings its pages in anew."""
    script = (
        "import resource, sys, torch\n"
        "from sarsteer_lab.engine.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "torch.ones(2**24)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "print(min(-faults() + (torch.ones(2**24), faults())[1] for _ in range(20)))\n"
    )
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", script, how], check=True, capture_output=True
            ).stdout
        )
        for how in ("kept", "usual")
    }
    # The fewest of all: a kernel that takes idle pages back makes some tensors bring theirs in
    # anew.
    assert faults["kept"] < faults["usual"] / 3


def test_logits_that_are_not_finite_name_the_prompt_and_no_step_hooks_the_model(
    prompts,
) -> None:
    lalm = replica()
    batch, hooked = PreparedBatch(lalm, prompts), []
    head = lalm.core.get_output_embeddings()
    plain = type(head).register_forward_hook

    def counted(module, *args, **options):
        hooked.append(module)
        return plain(module, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(head), "register_forward_hook", counted)
        answers = batch.generate(5)
        assert hooked == [] and answers == lalm.generate(prompts, max_new_tokens=5)
    vectors = torch.ones(lalm.n_layers, lalm.d_model) * torch.finfo(torch.float32).max
    alpha = torch.zeros(len(prompts))
    alpha[1] = 1.0
    for way in (lambda: batch.generate(3), batch.next_token_logits):
        with steer(lalm, vectors, alpha, layers=[2, 3]):
            with pytest.raises(NonFiniteError, match="prompt 1: its logits are not finite"):
                way()
    assert lalm.watchers == [] and batch.generate(5) == answers


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_pass_that_was_interrupted_leaves_no_trace(
    tiny: LALM, prompts: list[Prompt], error: type[BaseException]
) -> None:
    """Layers before the place have then read a position more than those behind it."""

    def interrupted(layer: int, *_args: object) -> None:
        raise error

    begun = tiny.tokenizer("X", add_special_tokens=False)["input_ids"]
    for asked in (prompts[1:2], prompts):
        ready = PreparedBatch(tiny, asked)
        states, plain, after = ready.states(range(4)), ready.after(()), ready.after(begun)
        for layer in (0, 1, 3):
            for way in (ready.next_token_logits, partial(ready.states, [0])):
                with pytest.raises(error), pushing(tiny, interrupted, [layer]):
                    way()
                assert torch.equal(ready.next_token_logits(), plain)
            with pytest.raises(error), pushing(tiny, interrupted, [layer]):
                ready.after(begun)
            assert torch.equal(ready.after(begun), after)
            assert torch.equal(ready.states(range(4)), states)
        assert ready.generate(4) == tiny.generate(asked, max_new_tokens=4)
