"""A model and a tokenizer that do not fit together, or weights that do not, are named plainly."""

import pytest
import torch
from replicas import replica

from sarsteer_lab.activations import capture, capture_answer
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.keeping import kept
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer
from sarsteer_lab.store import Store
from sarsteer_lab.vectors import SteeringVectors

WAYS = [
    lambda lalm, prompts: lalm.generate(prompts, max_new_tokens=3),
    lambda lalm, prompts: lalm.next_token_logits(prompts),
    capture,
    capture_answer,
    lambda lalm, prompts: PreparedBatch(lalm, prompts).generate(3),
]


def plainly(raised) -> str:
    message = str(raised.value)
    assert "\n" not in message and type(raised.value) is ValueError
    return message


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["qwen2_audio", "text_only", "granite_speech"])
def test_a_token_that_the_model_was_not_resized_for_is_named_before_it_runs(family, way):
    lalm = replica(family)
    size = len(lalm.core.get_input_embeddings().weight)
    way(lalm, [Prompt("Name a melon.")])
    while len(lalm.tokenizer) < size:
        lalm.tokenizer.add_tokens(f"<filled {len(lalm.tokenizer)}>")
    lalm.tokenizer.add_tokens("banana")
    number = lalm.tokenizer.convert_tokens_to_ids("banana")
    with pytest.raises(ValueError, match="beyond the model's vocabulary") as raised:
        way(lalm, [Prompt("Name a banana.")])
    assert f"the token {number} ('banana')" in (message := plainly(raised))
    assert str(size) in message and "resize_token_embeddings" in message


def test_after_resizing_the_added_token_is_read(prompts):
    lalm = replica()
    lalm.tokenizer.add_tokens("banana")
    lalm.model.resize_token_embeddings(len(lalm.tokenizer), mean_resizing=False)
    lalm = LALM(lalm.model, lalm.processor, name="resized")
    assert capture(lalm, [Prompt("Name a banana."), *prompts]).isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [True, False])
def test_weights_without_numbers_are_refused(way, whole, prompts):
    made = replica()
    if whole:
        made.model.to("meta")
    else:
        made.layers[1].to("meta")
    lalm = LALM(made.model, made.processor, name="hollow")
    with pytest.raises(ValueError, match="weights hold no numbers") as raised:
        way(lalm, prompts[:2])
    assert "from_pretrained" in plainly(raised)


def test_nothing_is_kept_of_weights_without_numbers(tmp_path, prompts):
    made = replica()
    made.model.to("meta")
    with pytest.raises(ValueError, match="hold no numbers"):
        kept(capture, Store(tmp_path))(LALM(made.model, made.processor, name="hollow"), prompts)
    assert not list(tmp_path.rglob("*.safetensors"))


def odd_layer(lalm):
    lalm.layers[1].to(torch.bfloat16)


def odd_tower(lalm):
    lalm.model.model.audio_tower.to(torch.bfloat16)


def odd_head(lalm):
    lalm.core.get_output_embeddings().to(torch.float64)


@pytest.mark.parametrize("damage", [odd_layer, odd_tower, odd_head])
@pytest.mark.parametrize("steered", [False, True])
def test_dtypes_that_do_not_go_together_are_named(damage, steered, prompts):
    lalm = replica()
    damage(lalm)
    vectors = SteeringVectors(torch.ones(lalm.n_layers, lalm.d_model))
    ways = WAYS[:1] if damage is odd_head else WAYS[:3]
    for way in ways:
        with pytest.raises(ValueError, match="do not go together") as raised:
            with steer(lalm, vectors, 0.1 if steered else 0.0):
                way(lalm, prompts[:2])
        message = plainly(raised)
        assert "in torch.float32" in message and "model.to(torch.float32)" in message
    lalm.model.to(torch.float32)
    with steer(lalm, vectors, 0.1):
        assert capture(lalm, prompts[:2]).isfinite().all()


def test_a_model_that_casts_between_its_dtypes_runs(prompts):
    """Its norms bring embeddings of lower precision to that of the layers."""
    lalm = replica()
    lalm.core.get_input_embeddings().to(torch.bfloat16)
    vectors = SteeringVectors(torch.ones(lalm.n_layers, lalm.d_model))
    plain = capture(lalm, prompts[:1])
    with steer(lalm, vectors, 0.1, layers=[0]):
        steered = capture(lalm, prompts[:1])
    torch.testing.assert_close(steered[:, 0] - plain[:, 0], torch.full((1, lalm.d_model), 0.1))


def test_an_error_of_the_users_own_stays_as_it_is(prompts):
    lalm = replica()
    odd_layer(lalm)

    def fail(*_args):
        raise RuntimeError("mine")

    lalm.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="^mine$"):
        capture(lalm, prompts[:2])
