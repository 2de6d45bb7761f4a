"""SARSteer on typed requests gives what the plain functions give, prompt by prompt."""

import torch

from sarsteer_lab.activations import capture
from sarsteer_lab.evaluation import curves, typed
from sarsteer_lab.evaluation.defences import Defence, PromptDefence, SteeringDefence
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import REFUSALS, load_prompts
from sarsteer_lab.steering import steer

TEXTS = {name: REFUSALS[name] for name in ("paper", "conditional")}


def of_kind(split: str, label: str, number: int) -> list:
    return load_prompts(split, label)[:number]


def test_states_are_those_of_typed_prompts_with_the_text_behind_the_request(tiny: LALM) -> None:
    harmful, harmless = of_kind("derive", "harmful", 4), of_kind("derive", "harmless", 3)
    states = typed.states(tiny, harmful, harmless, TEXTS)
    for name, text in TEXTS.items():
        for row, request in enumerate(harmful):
            [alone] = capture(tiny, [f"{request.request} {text}"])
            assert torch.allclose(states.refusing[name][row], alone, atol=1e-4)
    for row, request in enumerate(harmless):
        assert torch.allclose(states.harmless[row], capture(tiny, [request.request])[0], atol=1e-4)
    # The shift that the text causes, less its part in the harmless space: method steps 2 to 4.
    shift = (states.refusing["conditional"] - states.harmful).mean(0)
    centred = states.harmless - states.harmless.mean(0)
    vectors = states.sarsteer(k=2, refusal="conditional")
    for layer in range(tiny.n_layers):
        basis = torch.linalg.svd(centred[:, layer], full_matrices=False).Vh[:2]
        left = shift[layer] - basis.T @ (basis @ shift[layer])
        assert torch.allclose(vectors.values[layer], left, atol=1e-4)
    assert vectors.provenance["form"] == "typed"
    assert vectors.provenance["refusal"] == TEXTS["conditional"]


def test_outcomes_are_those_of_single_steered_answers(tiny: LALM) -> None:
    harmful, harmless = of_kind("test", "harmful", 2), of_kind("test", "harmless", 2)
    states = typed.states(tiny, harmful, harmless, TEXTS)
    push = SteeringDefence("push", states.refusal_direction("paper"), 3.0)
    sets = {"bad": harmful, "good": harmless}
    rows = typed.outcomes(tiny, [Defence("none"), push], sets, max_new_tokens=6)
    assert list(rows["set"]) == 2 * ["bad", "bad", "good", "good"]
    for row, request in zip(rows.iloc[:4].itertuples(), [*harmful, *harmless], strict=True):
        assert row.id == request.id
        assert [row.response] == tiny.generate([request.typed()], max_new_tokens=6)
    with steer(tiny, push.vectors, 3.0):
        for row, request in zip(rows.iloc[4:].itertuples(), [*harmful, *harmless], strict=True):
            assert [row.response] == tiny.generate([request.typed()], max_new_tokens=6)
            assert row.outcome == PhraseJudge().judge(request.request, row.response)
    assert set(rows["response"][:4]) != set(rows["response"][4:]), "the push does something"


def test_a_sweep_has_every_point_once_and_can_be_chosen_from(tiny: LALM) -> None:
    harmful, harmless = of_kind("derive", "harmful", 3), of_kind("derive", "harmless", 3)
    states = typed.states(tiny, harmful, harmless, TEXTS)
    variants = curves.grid(states, (0, 1), (2,), ["conditional"])
    sets = {}
    for label in ("harmful", "harmless", "pseudo-harmful"):
        sets[label] = of_kind("validation", label, 2)
    rows = typed.sweep(tiny, variants, (0.1, 0.2), sets, max_new_tokens=4)
    counts = rows.groupby(["variant", "alpha"]).size()
    assert set(counts) == {6} and len(counts) == 1 + 2 * 2
    assert counts.index[-1] == ("none", 0.0)
    variant, layers, alpha = curves.choose(rows)
    assert layers == "all" and (variant, alpha) in counts.index


def test_what_a_prompt_defence_writes_stands_around_the_typed_request(tiny: LALM) -> None:
    [request] = of_kind("test", "harmful", 1)
    reminder = PromptDefence("reminder", before="Be careful.", after="Think first.")
    [row] = typed.outcomes(tiny, [reminder], {"bad": [request]}, max_new_tokens=6).itertuples()
    expected = tiny.generate([f"Be careful. {request.request} Think first."], max_new_tokens=6)
    assert row.response == expected[0]
