"""States of several texts behind the same clips: where they part is found in the ids that the model
gets."""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import replicas
import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.batch import Encoded
from sarsteer_lab.engine import contrast
from sarsteer_lab.engine.contrast import capture_variants, common_tails
from sarsteer_lab.heads import Head, without_heads
from sarsteer_lab.keeping import kept_variants
from sarsteer_lab.lalm import LALM
from sarsteer_lab.patching import Patch, patch
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.steering import steer
from sarsteer_lab.store import Store


def variants_of(make_clip, *texts: str) -> list[list[Prompt]]:
    clips = [make_clip(0.5 + 0.3 * i, i) for i in range(3)]
    return [[Prompt(text, clip) for clip in clips] for text in texts]


def encoded(lalm: LALM, variants: list[list[Prompt]]) -> list[list[Encoded]]:
    return [lalm.encode(prompts) for prompts in variants]


def test_tails_are_the_ends_of_what_the_model_is_given(make_clip, monkeypatch) -> None:
    """Also where the tokenizer never makes special tokens of text, as mistral-common's do not."""
    lalm = replicas.replica("voxtral")
    variants = variants_of(make_clip, "Answer.", "Answer. No.")
    expected = [capture(lalm, variant) for variant in variants]

    def of_text(*args: object, **kwargs: object) -> None:
        raise AssertionError("rendered text is tokenised again")

    monkeypatch.setattr(lalm, "chat", lambda prompt: "")
    monkeypatch.setattr(lalm.tokenizer, "encode", of_text)
    tails = common_tails(lalm, encoded(lalm, variants))
    assert tails is not None
    for tail, variant in zip(tails, variants, strict=True):
        for prompt in variant:
            ids = lalm.inputs([prompt])["input_ids"][0].tolist()
            assert ids[-len(tail) :] == tail and lalm.audio_token_id not in tail
    for states, wanted in zip(capture_variants(lalm, variants), expected, strict=True):
        torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-4)


def test_inputs_are_made_once_for_prompts_with_the_same_texts(
    tiny: LALM, make_clip, monkeypatch
) -> None:
    made = []
    variants = encoded(tiny, variants_of(make_clip, "Answer.", "Answer. No."))
    plain = tiny.inputs
    monkeypatch.setattr(tiny, "inputs", lambda prompts: made.append(prompts) or plain(prompts))
    assert common_tails(tiny, variants) is not None
    assert len(made) == 2


def test_texts_that_part_before_the_clip_share_nothing(tiny: LALM, make_clip) -> None:
    clip = make_clip(0.5, 0)
    others = [[Prompt("a", clip)], [Prompt("a", clip, system="Other.")]]
    assert common_tails(tiny, encoded(tiny, others)) is None
    others = [[Prompt("a", clip), Prompt("b", clip)], [Prompt("c", clip)] * 2]
    assert common_tails(tiny, encoded(tiny, others)) is None


def test_what_the_cache_keeps_stays_and_only_what_it_lacks_is_run(
    tiny: LALM, make_clip, tmp_path: Path, monkeypatch
) -> None:
    """What was computed from kept states is kept too, under their last digits: another batch has
    others."""
    base, refusing, other = variants_of(make_clip, "Answer.", "Answer. No.", "Answer. Never.")
    store, mark = Store(tmp_path), torch.full((tiny.n_layers, tiny.d_model), 7.0)
    read = kept_variants(capture_variants, store, "capture")
    read(tiny, [base, refusing[:2] + base[2:]])
    keys = [path.stem for path in tmp_path.rglob("*.safetensors")]
    for key in keys:
        store.write(key, mark)
    plain, asked = contrast._run_batch, []
    monkeypatch.setattr(
        contrast, "_run_batch", lambda *given: asked.append(given[2]) or plain(*given)
    )
    of_base, of_refusing, of_other = read(tiny, [base, refusing, other])
    assert all(torch.equal(store.read(key), mark) for key in keys)
    assert (of_base == 7).all() and (of_refusing[:2] == 7).all()
    for states, wanted in ((of_refusing[2:], refusing[2:]), (of_other, other)):
        torch.testing.assert_close(states, capture(tiny, wanted), rtol=1e-4, atol=1e-4)
    assert [len(tails) for tails in asked] == [2]  # the base has all it needs


@pytest.mark.parametrize(
    "texts", [("Answer.",), ("Answer.", "Answer."), ("Answer.", "Answer. No.", "Answer. Never.")]
)
@pytest.mark.parametrize("how", ["steered", "patched", "without heads"])
def test_a_model_that_is_steered_gives_what_capture_gives(
    tiny: LALM, make_clip, texts: tuple[str, ...], how: str
) -> None:
    """What acts at the prompt's last position does not act where the shared beginning ends."""
    draw = torch.Generator().manual_seed(2)
    values = torch.randn(tiny.n_layers, tiny.d_model, generator=draw)
    blocks: dict[str, partial[AbstractContextManager[None]]] = {
        "steered": partial(steer, tiny, values, 1.0),
        "patched": partial(patch, tiny, [Patch(1, [-1], values[1])]),
        "without heads": partial(without_heads, tiny, [Head(1, 0), Head(2, 3)]),
    }
    variants = variants_of(make_clip, *texts)
    plain = capture_variants(tiny, variants)
    with blocks[how]():
        found = capture_variants(tiny, variants)
        expected = [capture(tiny, variant) for variant in variants]
    for ours, theirs, untouched in zip(found, expected, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert (theirs - untouched).abs().max() > 1e-2, "it has to do something"
