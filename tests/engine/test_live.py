"""One prompt kept ready gives the answers that the plain way gives, steered or not."""

import pytest
import torch
from replicas import replica

from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import SteeringError, SteeringVectors, steer


@pytest.fixture(scope="module")
def vectors(tiny: LALM) -> torch.Tensor:
    return torch.randn(tiny.n_layers, tiny.d_model, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
def test_answers_are_those_of_generate(
    tiny: LALM, prompts: list[Prompt], vectors: torch.Tensor, alpha: float
) -> None:
    for prompt in prompts:
        live = LivePrompt(tiny, prompt)
        with steer(tiny, vectors, alpha):
            expected = tiny.generate([prompt], max_new_tokens=8)[0]
            # Twice, and with something else in between: the kept state must not change.
            assert live.answer(8).text == expected
            live.refusal_probability()
            again = live.answer(8)
        assert again.text == expected
        assert len(again.tokens) == len(again.probabilities) <= 8
        assert again.first[0][1] == pytest.approx(again.probabilities[0])


def test_answers_under_several_strengths_are_those_under_each(
    tiny: LALM, prompts: list[Prompt], vectors: torch.Tensor
) -> None:
    live, alphas = LivePrompt(tiny, prompts[1]), [0.0, 0.3, 2.0]
    found = live.answers(SteeringVectors(vectors), alphas, 8)
    for alpha, (answer, refusal) in zip(alphas, found, strict=True):
        with steer(tiny, vectors, alpha):
            alone = live.answer(8)
            assert refusal == pytest.approx(live.refusal_probability(), rel=1e-3, abs=1e-6)
        assert (answer.text, answer.tokens) == (alone.text, alone.tokens)
        assert answer.probabilities == pytest.approx(alone.probabilities, rel=1e-3)
        assert [token for token, _ in answer.first] == [token for token, _ in alone.first]
    assert len({answer.tokens for answer, _ in found}) > 1


def test_first_token_is_that_of_next_token_logits(
    tiny: LALM, prompts: list[Prompt], vectors: torch.Tensor
) -> None:
    live = LivePrompt(tiny, prompts[1])
    with steer(tiny, vectors, 0.5):
        expected = tiny.next_token_logits([prompts[1]])[0].softmax(-1)
        torch.testing.assert_close(live.next_token(), expected, rtol=1e-4, atol=1e-6)


def test_refusal_probability_multiplies_along_openings(tiny: LALM, prompts: list[Prompt]) -> None:
    live = LivePrompt(tiny, prompts[1])
    ids = tiny.tokenizer("ab", add_special_tokens=False)["input_ids"]
    first = live.next_token()
    # The second token's probability, by the plain way: the first one appended to the prompt.
    inputs = tiny.inputs([prompts[1]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids[:1]])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        second = tiny.core(**inputs, use_cache=False).logits[0, -1].softmax(-1)
    wanted = float(first[ids[0]] * second[ids[1]])
    assert live.refusal_probability(["ab"], negligible=0) == pytest.approx(wanted, rel=1e-3)
    assert live.refusal_probability(["ab", "abc"], negligible=0) == pytest.approx(wanted, rel=1e-3)
    every = [tiny.tokenizer.decode([token]) for token in range(len(first))]
    single = {
        t for t in every if len(tiny.tokenizer(t, add_special_tokens=False)["input_ids"]) == 1
    }
    covered = sum(
        float(first[tiny.tokenizer(t, add_special_tokens=False)["input_ids"][0]]) for t in single
    )
    assert live.refusal_probability(sorted(single), negligible=0) == pytest.approx(
        covered, rel=1e-3
    )
    assert live.refusal_probability([]) == 0
    assert live.refusal_probability(["ab"], negligible=1.1) == 0


def test_strengths(tiny: LALM, prompts: list[Prompt], vectors: torch.Tensor) -> None:
    live = LivePrompt(tiny, prompts[0])
    with steer(tiny, vectors, 0.7):
        expected = live.answer(4)
    with steer(tiny, vectors, torch.tensor([0.7])):
        assert live.answer(4).text == expected.text
    with (
        steer(tiny, vectors, torch.tensor([0.7, 0.1])),
        pytest.raises(SteeringError, match="one value per"),
    ):
        live.answer(2)


@pytest.mark.parametrize("family", ["qwen2_5_omni", "gemma3n"])
def test_a_model_that_cannot_go_on_says_so(family: str, prompts: list[Prompt]) -> None:
    live = LivePrompt(replica(family), prompts[0])
    for ask in (live.answer, live.next_token, live.refusal_probability):
        with pytest.raises(
            ValueError, match="answers cannot be followed token by token: .*lalm.generate"
        ):
            ask()


@pytest.mark.pocket
def test_answers_of_the_pocket_model(pocket: LALM, prompts: list[Prompt]) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(pocket.n_layers, pocket.d_model, generator=generator)
    for prompt in (prompts[0], prompts[1]):
        live = LivePrompt(pocket, prompt)
        for alpha in (0.0, 0.05):
            with steer(pocket, vectors, alpha):
                assert live.answer(8).text == pocket.generate([prompt], max_new_tokens=8)[0]
