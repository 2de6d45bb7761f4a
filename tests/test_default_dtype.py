"""torch's default dtype is the user's business: nothing here depends on it."""

import pytest
import torch
from replicas import replica

from sarsteer_lab.activations import capture, capture_answer, capture_positions
from sarsteer_lab.derivation import derive
from sarsteer_lab.engine.contrast import capture_variants
from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.live import answers as live_answers
from sarsteer_lab.engine.prepared import PreparedBatch, under_each
from sarsteer_lab.evaluation.cached_answers import answers, refusal_probability
from sarsteer_lab.evaluation.defences import Defence, SteeringDefence
from sarsteer_lab.steering import project_out, steer
from sarsteer_lab.vectors import SteeringVectors


@pytest.fixture(params=[torch.bfloat16, torch.float64])
def default(request):
    """A setting of torch's default dtype, to be entered."""
    yield request.param
    torch.set_default_dtype(torch.float32)


def everything(lalm, prompts, vectors):
    """All that the core and the engine give for some prompts, and vectors made of it."""
    spoken = [prompt for prompt in prompts if prompt.audio is not None]
    states = capture(lalm, prompts)
    made = derive(states[:3], states[3:], states, k=2).vectors
    alphas = [0.1, 0.7, 0.3, 0.0, 1.3, 0.2]
    found = [states, made.values, (made + vectors.only([1])).values]
    found += [lalm.next_token_logits(prompts), lalm.generate(prompts, max_new_tokens=3)]
    found += [*capture_positions(lalm, spoken, "audio"), *capture_answer(lalm, prompts[:2])]
    found += capture_variants(lalm, [spoken, spoken])
    with steer(lalm, vectors, alphas):
        found.append(lalm.next_token_logits(prompts))
    with project_out(lalm, vectors):
        found.append(lalm.next_token_logits(prompts))
    batch = PreparedBatch(lalm, prompts)
    strengths = torch.tensor(alphas, dtype=torch.float32)
    found += [batch.generate(3), batch.states([0, 2]), batch.next_token_logits()]
    with under_each(batch, [lambda alpha: steer(lalm, vectors, alpha)], [strengths]) as b:
        found += [b.generate(3), [answer for answer, _ in live_answers(b, 3)]]
    found.append(LivePrompt(lalm, prompts[1]).answers(vectors, [0.1, 0.7], 3))
    return found


def test_states_logits_vectors_and_answers_are_the_same(default, prompts):
    lalm, other_lalm = replica(), replica()  # each with a memory of clips of its own
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(lalm.n_layers, lalm.d_model, generator=draw, dtype=torch.float32)
    vectors = SteeringVectors(values)
    expected = everything(lalm, prompts, vectors)
    torch.set_default_dtype(default)
    found = everything(other_lalm, prompts, vectors)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, torch.Tensor):
            assert one.dtype == torch.float32 and torch.equal(one, other)
        else:
            assert one == other


def test_what_is_kept_too(default, spoken, cache, tiny):
    prompts = [request.spoken() for request in spoken]
    vectors = SteeringVectors(torch.ones(tiny.n_layers, tiny.d_model))
    questions = [(prompts, Defence("none")), (prompts, SteeringDefence("push", vectors, 0.7))]
    torch.set_default_dtype(default)
    texts, chances = (
        answers(tiny, questions, max_new_tokens=3),
        refusal_probability(tiny, questions),
    )
    assert all(values.dtype == torch.float32 for values in chances)
    torch.set_default_dtype(torch.float32)
    assert answers(tiny, questions, max_new_tokens=3) == texts
