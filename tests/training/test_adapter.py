"""Low-rank adapters trained on text, and how strong the safety adapter ships."""

import copy
import dataclasses
import random
from collections import Counter

import pytest
import torch
from transformers import LlamaForCausalLM

from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.pocket.assemble import merge_delta
from sarsteer_lab.prompts import Request
from training import safety
from training.adapter import Example, answer_loss, export_delta, inject_adapter, roughen, truncated
from training.safety import SCALES, choose_scale


def test_an_adapter_goes_on_from_its_export(tiny_lm: LlamaForCausalLM) -> None:
    first = copy.deepcopy(tiny_lm)
    for parameter in inject_adapter(first, [0, 1]):
        parameter.data = (
            torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 8
        )
    delta = export_delta(first)
    second = copy.deepcopy(tiny_lm)
    inject_adapter(second, [0, 1], delta)
    again = export_delta(second)
    wider = copy.deepcopy(tiny_lm)
    inject_adapter(wider, [0, 1], delta, rank=16)
    wide = export_delta(wider)
    assert delta.keys() == again.keys() == wide.keys()
    for name in {name.rsplit(".", 1)[0] for name in delta}:  # the further directions do nothing yet
        product, before = (d[f"{name}.B"].float() @ d[f"{name}.A"].float() for d in (wide, delta))
        assert wide[f"{name}.A"].shape[0] == 16
        torch.testing.assert_close(product, before, atol=1e-3, rtol=1e-3)
    for name, tensor in delta.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-3, rtol=1e-3)
    assert any(tensor.abs().max() > 0.1 for name, tensor in delta.items() if name.endswith(".B"))


def test_a_truncated_adapter_is_the_nearest_of_its_rank() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 40), torch.randn(30, 8)
    short = truncated({"layer.A": a, "layer.B": b}, 3)
    assert {name: tuple(t.shape) for name, t in short.items()} == {
        "layer.A": (3, 40),
        "layer.B": (30, 3),
    }
    error = torch.linalg.matrix_norm(short["layer.B"].float() @ short["layer.A"].float() - b @ a)
    beyond = torch.linalg.svdvals(b @ a)[3:].norm()  # Eckart-Young: no matrix of rank 3 is nearer
    torch.testing.assert_close(error, beyond, rtol=1e-3, atol=0)
    whole = truncated({"layer.A": a, "layer.B": b}, 8)
    torch.testing.assert_close(
        whole["layer.B"].float() @ whole["layer.A"].float(), b @ a, atol=0.1, rtol=0
    )


def test_answer_loss_equals_one_conversation_at_a_time(tiny_lm: LlamaForCausalLM) -> None:
    examples = [Example([5, 6, 7, 8], [20, 21, 3], "a"), Example([5, 6, 9, 10, 11], [22, 3], "b")]
    with torch.no_grad():
        first, every = answer_loss(tiny_lm, examples, 3)
        alone = []
        for e in examples:
            logits = tiny_lm(input_ids=torch.tensor([e.prompt + e.answer])).logits[
                0, len(e.prompt) - 1 : -1
            ]
            alone.append(
                torch.nn.functional.cross_entropy(logits, torch.tensor(e.answer), reduction="none")
            )
    torch.testing.assert_close(
        first, torch.stack([a[0] for a in alone]).mean(), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(every, torch.cat(alone).mean(), atol=1e-4, rtol=1e-4)


def test_an_adapter_starts_as_nothing_and_ships_as_it_was_trained(
    tiny_lm: LlamaForCausalLM,
) -> None:
    plain, adapted = copy.deepcopy(tiny_lm).bfloat16(), copy.deepcopy(tiny_lm).bfloat16()
    ids = torch.tensor([[5, 6, 7, 8]])
    trained = inject_adapter(adapted, [0, 2])
    assert {p.dtype for p in trained} == {torch.float32}
    assert {name.split(".")[2] for name, p in adapted.named_parameters() if p.requires_grad} == {
        "0",
        "2",
    }
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, plain(input_ids=ids).logits)
        for seed, parameter in enumerate(trained):
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
        merge_delta(merged := copy.deepcopy(plain).float(), export_delta(adapted))
        wanted = adapted.float()(input_ids=ids).logits
        assert not torch.allclose(wanted, tiny_lm(input_ids=ids).logits, atol=0.1)
        # The file is in float16.
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, atol=0.02, rtol=0.02)


def test_roughened_text_is_noisy_only_where_it_stands_for_a_clip(tiny_lm: LlamaForCausalLM) -> None:
    rough = Example([5, 6, 7, 8, 9], [20, 3], "a", heard=(2, 4))
    plain = dataclasses.replace(rough, heard=None)
    other = Example(
        [5, 4, 7], [3], "b"
    )  # shares one token: the cut prefix has to be taken into account
    with torch.no_grad():
        clean = answer_loss(tiny_lm, [plain, other], 3, random.Random(0))
        assert answer_loss(tiny_lm, [plain, other], 3) == clean
        assert answer_loss(tiny_lm, [rough, other], 3) == clean
        assert answer_loss(tiny_lm, [rough, other], 3, random.Random(0)) != clean
    spread = torch.tensor(0.5)
    drawn = torch.stack(
        [roughen(torch.ones(40, 64), spread, random.Random(seed)) for seed in range(30)]
    )
    assert 0.8 < drawn.mean() < 0.9 and 0.15 < drawn.std(dim=(1, 2)).mean() < 0.35


def test_the_safety_scale_is_chosen_by_what_each_scale_does(
    tiny: LALM, tiny_lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = copy.deepcopy(tiny_lm)
    name = "model.language_model.layers.1.mlp.up_proj"
    weight = lm.get_parameter(name.replace("language_model.", "") + ".weight")
    before = weight.clone()
    factors = {f"{name}.A": torch.randn(2, 32), f"{name}.B": torch.randn(64, 2)}
    # Refusals by scale as (harmful, others): the second scale is best, the third refuses
    # everything.
    refused = iter([(0, 0), (1, 0), (1, 1), (0, 1)])
    current: dict[str, tuple[int, int]] = {}

    def judge(self: PhraseJudge, request: str, response: str) -> str:
        if request == "a":
            current["now"] = next(refused)
        return "refused" if current["now"][request != "a"] else "answered"

    monkeypatch.setattr(PhraseJudge, "judge", judge)
    monkeypatch.setattr(safety, "chat_tokens", lambda text, tok: tok(text).input_ids)
    prompts = [
        Request(text, text, label, "topic", "validation")
        for text, label in (("a", "harmful"), ("b", "harmless"))
    ]
    scale, rows = choose_scale(lm, tiny.tokenizer, factors, prompts)
    assert scale == SCALES[1] and [row["score"] for row in rows] == [0, 1, 0, -1]
    wanted = before + SCALES[-1] * factors[f"{name}.B"] @ factors[f"{name}.A"]
    torch.testing.assert_close(weight, wanted, atol=1e-4, rtol=1e-4)


def test_a_scale_that_keeps_the_wanted_shares_goes_before_a_better_score(
    tiny: LALM, tiny_lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [
        Request(f"{label}{i}", f"{label}{i}", label, "topic", "validation")
        for label in ("harmful", "harmless")
        for i in range(20)
    ]
    # Refused of 20 by scale: the second has the better score (0.8 against 0.85), but refuses too
    # much.
    table = {"harmful": (18, 20, 20, 20), "harmless": (2, 3, 9, 20)}
    calls = Counter[str]()

    def judge(self: PhraseJudge, request: str, response: str) -> str:
        label, number = request[: 8 if "less" in request else 7], int(request.lstrip("harmfules"))
        calls[request] += 1
        return "refused" if number < table[label][calls[request] - 1] else "answered"

    monkeypatch.setattr(PhraseJudge, "judge", judge)
    monkeypatch.setattr(safety, "chat_tokens", lambda text, tok: tok(text).input_ids)
    scale, rows = choose_scale(copy.deepcopy(tiny_lm), tiny.tokenizer, {}, prompts)
    assert [row["wanted"] for row in rows] == [True, False, False, False] and scale == SCALES[0]
    assert rows[1]["score"] > rows[0]["score"]
