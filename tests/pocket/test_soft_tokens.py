"""The projector that says token embeddings, against a few lines of its own arithmetic."""

import pytest
import torch
from torch import Tensor, nn

from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.pocket.assemble import projector_parts
from sarsteer_lab.pocket.soft_tokens import Context, SoftTokenProjector, SoftTokens, TokenHead
from sarsteer_lab.probe.replica import replica
from sarsteer_lab.prompts import load_prompts
from training.understanding.alignment import Aligner
from training.understanding.student import Student

D_MODEL = 6


def head_over(ids: list[int], d_model: int) -> dict[str, Tensor]:
    """A CTC head of random numbers over some tokens; token 3 stands for a blank."""
    generator = torch.Generator().manual_seed(0)
    return {
        "ids": torch.tensor(ids),
        "bias": torch.randn(len(ids), generator=generator),
        "temperature": torch.tensor(0.3),
        "blank.weight": torch.randn(1, d_model, generator=generator),
        "blank.bias": torch.randn(1, generator=generator),
        "silence": torch.tensor(3),
    }


def context(d_model: int) -> Context:
    """One that has learnt something."""
    torch.manual_seed(1)
    made = Context(d_model)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize(("understanding", "spoken_safety"), [(0.25, 0.0), (1.0, 0.0), (0.5, 0.7)])
def test_outputs_move_towards_the_mixture_that_the_head_reads(understanding, spoken_safety):
    torch.manual_seed(0)
    embeddings, linear = torch.randn(12, D_MODEL), nn.Linear(4, D_MODEL)
    head, added = head_over([5, 7, 2], D_MODEL), context(D_MODEL)
    projector = SoftTokenProjector(
        linear,
        TokenHead(head, embeddings),
        added,
        understanding=understanding,
        spoken_safety=spoken_safety,
    )
    features = torch.randn(2, 3, 4)
    mean, outputs = embeddings.mean(0), linear(features)
    expected = torch.zeros(2, 3, D_MODEL)
    blank = torch.zeros(2, 3, 1)
    for clip in range(2):
        for position in range(3):
            centred = outputs[clip, position] - mean
            scores = [head["blank.weight"][0] @ centred + head["blank.bias"][0]]
            for token, bias in zip(head["ids"], head["bias"], strict=True):
                closeness = centred @ (embeddings[token] - mean)
                scores.append(closeness * head["temperature"].exp() + bias)
            chances = torch.stack(scores).softmax(0)
            blank[clip, position] = chances[0]
            expected[clip, position] = chances @ embeddings[[3, 5, 7, 2]]
    meant = expected + spoken_safety * added(expected, blank)
    wanted = (1 - understanding) * outputs + understanding * meant
    torch.testing.assert_close(projector(features), wanted, rtol=1e-4, atol=1e-5)


def test_a_context_sees_four_positions_to_each_side_and_adds_nothing_when_fresh():
    mixture, blank = torch.randn(1, 20, D_MODEL), torch.rand(1, 20, 1)
    assert torch.equal(Context(D_MODEL)(mixture, blank), torch.zeros(1, 20, D_MODEL))
    learnt = context(D_MODEL)
    before = learnt(mixture, blank)
    mixture[0, 10] += 1
    changed = (learnt(mixture, blank) != before).any(-1)[0].nonzero()[:, 0]
    assert changed.tolist() == list(range(6, 15))


def test_dials_at_zero_leave_the_models_own_projector_and_no_trace():
    lalm = replica("qwen2_audio")
    untouched, own = lalm.fingerprint(), lalm.model.model.multi_modal_projector
    head, added = head_over([5, 7, 2], lalm.d_model), context(lalm.d_model)
    soft_tokens = SoftTokens(own, head, added.state_dict())
    fingerprints = []
    random_state = torch.random.get_rng_state()
    for dials in ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0)):
        soft_tokens.turn(lalm.model, *dials)
        fingerprints.append(lalm.fingerprint())
        lalm.key()  # it is no foreign code
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert len({untouched, *fingerprints}) == 4
    soft_tokens.turn(lalm.model, 0.0, 1.0)
    assert lalm.model.model.multi_modal_projector is own
    assert lalm.fingerprint() == untouched
    assert own.linear.weight.requires_grad


@pytest.mark.pocket
def test_the_pocket_models_head_reads_what_training_reads(pocket: LALM):
    """The shipped head is the ears' own."""
    own = pocket.model.model.multi_modal_projector
    embeddings = pocket.core.get_input_embeddings().weight.detach()
    head = TokenHead(projector_parts("understanding"), embeddings)
    aligner = Aligner(Student(pocket))
    features = torch.randn(7, own.linear.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = own(features)
        mixture, _ = head(outputs)
        expected = aligner.head.expected(aligner.head(outputs[None]))[0]
        torch.testing.assert_close(mixture, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.pocket
def test_the_pocket_models_projector_is_its_own_unless_asked_for(pocket: LALM):
    assert pocket.dials == {"safety": 1.0, "understanding": 0.0, "spoken_safety": 0.0}
    untouched = pocket.fingerprint()
    prompts = [request.spoken() for request in load_prompts("validation")[:2]]
    typed = [request.typed() for request in load_prompts("validation")[:2]]
    before, typed_before = (
        pocket.generate(prompts, max_new_tokens=4),
        pocket.next_token_logits(typed),
    )
    pocket.set_dials(understanding=1.0, spoken_safety=1.0)
    assert isinstance(pocket.model.model.multi_modal_projector, SoftTokenProjector)
    assert pocket.fingerprint() != untouched
    assert torch.equal(pocket.next_token_logits(typed), typed_before)  # typed requests: to the bit
    pocket.set_dials(understanding=0.0, spoken_safety=0.0)
    assert pocket.fingerprint() == untouched
    assert pocket.generate(prompts, max_new_tokens=4) == before


@pytest.mark.pocket
@pytest.mark.late
def test_each_dial_is_set_as_the_model_is_loaded(pocket: LALM):
    assert pocket.dials["spoken_safety"] == 0
    lalm = load_lalm("pocket", device="cpu", understanding=0.5, spoken_safety=0.7)
    assert lalm.dials == {"safety": 1.0, "understanding": 0.5, "spoken_safety": 0.7}
